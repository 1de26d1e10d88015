//! The flags of istio-iptables, and those beside them that say the same in another way.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::config::flag;

const ISTIO: &str = "Redirection (istio-iptables' flags, variables and list syntax)";

/// The flags of istio-iptables that are understood, as they were given. Defaults, annotations and
/// environment are added by [`Config::resolve`](crate::config::Config::resolve), because an empty
/// value and an absent one differ.
#[derive(Args, Clone, Default, PartialEq, Eq, Debug)]
#[command(next_help_heading = ISTIO)]
pub struct IstioArgs {
    /// The proxy's port for outbound connections [default: 15001]
    #[arg(long = flag::ENVOY_PORT.long, short = flag::ENVOY_PORT.short, value_name = "PORT")]
    pub envoy_port: Option<String>,

    /// The proxy's port for inbound connections [default: 15006] [env: INBOUND_CAPTURE_PORT]
    #[arg(
        long = flag::INBOUND_CAPTURE_PORT.long,
        short = flag::INBOUND_CAPTURE_PORT.short,
        value_name = "PORT"
    )]
    pub inbound_capture_port: Option<String>,

    /// The tunnel port (HBONE), never redirected inbound [default: 15008]
    /// [env: INBOUND_TUNNEL_PORT]
    #[arg(
        long = flag::INBOUND_TUNNEL_PORT.long,
        short = flag::INBOUND_TUNNEL_PORT.short,
        value_name = "PORT"
    )]
    pub inbound_tunnel_port: Option<String>,

    /// Users, by name or number, that are the proxy's, hence not redirected. Empty means the user
    /// $ENVOY_USER (istio-proxy if that is not set), or else the default [default: 1337]
    /// [env: PROXY_UID]
    #[arg(long = flag::PROXY_UID.long, short = flag::PROXY_UID.short, value_name = "UIDS")]
    pub proxy_uid: Option<String>,

    /// Groups that are the proxy's, hence not redirected [default: the same as --proxy-uid]
    /// [env: PROXY_GID]
    #[arg(long = flag::PROXY_GID.long, short = flag::PROXY_GID.short, value_name = "GIDS")]
    pub proxy_gid: Option<String>,

    /// Inbound ports that are redirected; '*' means all, empty means none [default: *]
    /// [env: ISTIO_INBOUND_PORTS]
    #[arg(long = flag::INBOUND_PORTS.long, short = flag::INBOUND_PORTS.short, value_name = "PORTS")]
    pub istio_inbound_ports: Option<String>,

    /// Inbound ports that are not redirected, if all others are [default: 15090,15021,15020]
    /// [env: ISTIO_LOCAL_EXCLUDE_PORTS]
    #[arg(
        long = flag::LOCAL_EXCLUDE_PORTS.long,
        short = flag::LOCAL_EXCLUDE_PORTS.short,
        value_name = "PORTS"
    )]
    pub istio_local_exclude_ports: Option<String>,

    /// Outbound address ranges that are redirected; '*' means all, empty means none [default: *]
    /// [env: ISTIO_SERVICE_CIDR]
    #[arg(long = flag::SERVICE_CIDR.long, short = flag::SERVICE_CIDR.short, value_name = "RANGES")]
    pub istio_service_cidr: Option<String>,

    /// Outbound address ranges that are not redirected [default: none]
    /// [env: ISTIO_SERVICE_EXCLUDE_CIDR]
    #[arg(
        long = flag::SERVICE_EXCLUDE_CIDR.long,
        short = flag::SERVICE_EXCLUDE_CIDR.short,
        value_name = "RANGES"
    )]
    pub istio_service_exclude_cidr: Option<String>,

    /// Outbound ports that are redirected whatever the address [default: none]
    /// [env: ISTIO_OUTBOUND_PORTS]
    #[arg(
        long = flag::OUTBOUND_PORTS.long,
        short = flag::OUTBOUND_PORTS.short,
        value_name = "PORTS"
    )]
    pub istio_outbound_ports: Option<String>,

    /// Outbound ports that are never redirected [default: none]
    /// [env: ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE]
    #[arg(
        long = flag::LOCAL_OUTBOUND_PORTS_EXCLUDE.long,
        short = flag::LOCAL_OUTBOUND_PORTS_EXCLUDE.short,
        value_name = "PORTS"
    )]
    pub istio_local_outbound_ports_exclude: Option<String>,

    /// Network interfaces that are not redirected, in either direction; eth+ is every name that
    /// begins with eth [default: none] [env: ISTIO_EXCLUDE_INTERFACES]
    #[arg(
        long = flag::EXCLUDE_INTERFACES.long,
        short = flag::EXCLUDE_INTERFACES.short,
        value_name = "NAMES"
    )]
    pub istio_exclude_interfaces: Option<String>,

    /// Groups, by name or number, whose outbound connections are redirected; '*' means everyone's,
    /// empty means no one's [default: *] [env: ISTIO_OUTBOUND_OWNER_GROUPS]
    #[arg(long = flag::OWNER_GROUPS.long, value_name = "GROUPS")]
    pub outbound_owner_groups: Option<String>,

    /// Groups whose outbound connections are not redirected, if everyone else's are
    /// [default: none] [env: ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE]
    #[arg(long = flag::OWNER_GROUPS_EXCLUDE.long, value_name = "GROUPS")]
    pub outbound_owner_groups_exclude: Option<String>,

    /// The IPv4 range that is localhost: connections to it are not redirected, DNS apart
    /// [default: 127.0.0.1/32] [env: ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR]
    #[arg(long = flag::LOOPBACK_CIDR.long, value_name = "RANGE")]
    pub outbound_ipv4_loopback_cidr: Option<String>,

    /// Redirect DNS queries, UDP and TCP, to the proxy's agent at port 15053: those to the servers
    /// in the pod's resolv.conf [default: false] [env: ISTIO_META_DNS_CAPTURE, else REDIRECT_DNS]
    #[arg(
        long = flag::REDIRECT_DNS.long,
        value_name = "true|false",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub redirect_dns: Option<String>,

    /// With --redirect-dns: those to any server [default: false] [env: CAPTURE_ALL_DNS]
    #[arg(
        long = flag::CAPTURE_ALL_DNS.long,
        value_name = "true|false",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub capture_all_dns: Option<String>,

    /// With --redirect-dns: the file with the DNS servers [default: the pod's own
    /// /etc/resolv.conf]
    #[arg(long, value_name = "FILE")]
    pub resolv_conf: Option<PathBuf>,

    /// Changes nothing: what istio-iptables drops by it does not arise here [default: false]
    /// [env: INVALID_DROP, else DROP_INVALID]
    #[arg(
        long = flag::DROP_INVALID.long,
        value_name = "true|false",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub drop_invalid: Option<String>,

    /// Redirect IPv6 too in a pod whose first address is IPv4 [default: false]
    /// [env: ISTIO_DUAL_STACK, else DUAL_STACK]
    #[arg(
        long = flag::DUAL_STACK.long,
        value_name = "true|false",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub dual_stack: Option<String>,

    #[command(flatten)]
    pub annotations: AnnotationArgs,
}

/// The pod's annotations.
#[derive(Args, Clone, Default, PartialEq, Eq, Debug)]
#[command(next_help_heading = "Annotations")]
pub struct AnnotationArgs {
    /// The pod's annotations, which count as Istio makes arguments of them: more than the
    /// environment, less than flags. A downward API file, or a manifest of the pod or of what makes
    /// it, in YAML or JSON
    #[arg(long = "annotations", value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// Whose way of reading annotations, with its defaults
    #[arg(
        long = "annotation-defaults",
        value_enum,
        value_name = "WHOSE",
        default_value_t,
        requires = "file"
    )]
    pub defaults: AnnotationDefaults,
}

/// What `--annotation-defaults` can be.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum AnnotationDefaults {
    /// The injected init container's
    #[default]
    Init,
    /// The CNI plugin's: outbound port 15020 is left out, DNS is captured to any server, and the
    /// proxy's ids are those in its manifest
    Cni,
}
