//! The command line: flags and their help. What the values mean is [`config`](crate::config)'s.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, ValueEnum};
use sidecar_ebpf_common::maps::DEFAULT_DESTINATIONS;

pub use self::{
    istio::{AnnotationArgs, AnnotationDefaults, IstioArgs},
    unsupported::UnsupportedArgs,
};

mod istio;
#[cfg(test)]
mod tests;
mod unsupported;

/// Redirects a pod's TCP to its sidecar proxy as Istio's iptables rules would, with eBPF programs.
///
/// Attaches to the pod's cgroup and stays in the foreground. SIGINT or SIGTERM detaches; nothing
/// stays behind.
#[derive(Parser, Debug)]
#[command(
    name = "loader",
    version,
    args_override_self = true,
    after_help = "Exit codes: 0 detached as asked, 2 something went wrong.",
    after_long_help = AFTER_LONG_HELP
)]
pub struct Cli {
    #[command(flatten)]
    pub pod: PodArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub ring: RingArgs,
    #[command(flatten)]
    pub istio: IstioArgs,
    #[command(flatten)]
    pub unsupported: UnsupportedArgs,
}

const AFTER_LONG_HELP: &str = "\
Examples:
  A pod with the defaults of an Istio installation:
    loader --cgroup /sys/fs/cgroup/pod
  Only two ranges outbound, not the database, nothing inbound:
    loader --cgroup /sys/fs/cgroup/pod -i 10.0.0.0/8,fd00::/8 -o 5432 -b ''
  As the pod's annotations say, with the defaults of Istio's CNI plugin:
    loader --cgroup /sys/fs/cgroup/pod --annotations pod.yaml --annotation-defaults cni
  For machines, with metrics:
    loader --cgroup /sys/fs/cgroup/pod --output json --metrics-addr 127.0.0.1:9464

Settings of istio-iptables that are not listed above (TPROXY, virtual interfaces, …) are refused, as
flags, as annotations and as environment variables, unless their value changes nothing.

Exit codes: 0 detached as asked, 2 something went wrong.";

/// Which pod.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Pod")]
pub struct PodArgs {
    /// The pod's cgroup (version 2); programs in it and below it are redirected
    #[arg(long, value_name = "PATH")]
    pub cgroup: PathBuf,

    /// The pod's network namespace, as a file or as a process in it [default: that of the cgroup's
    /// processes]
    #[arg(long, value_name = "PATH|PID", value_parser = parse_netns)]
    pub netns: Option<Netns>,

    /// The proxy's own cgroup. Inside the pod's: a process outside it is not the proxy, whatever its
    /// uid. Beside the pod's: the proxy is not redirected, whatever its uid
    #[arg(long, value_name = "PATH")]
    pub proxy_cgroup: Option<PathBuf>,

    /// Accept the host's own network namespace as the pod's
    #[arg(long)]
    pub allow_host_netns: bool,
}

/// How a network namespace is named.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Netns {
    Path(PathBuf),
    /// The one of this process.
    Pid(u32),
}

/// What is shown, and where counters can be read.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// How counters are shown on stdout [default: table on a terminal, log otherwise]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub output: Option<Format>,

    /// The same as --output json
    #[arg(long, conflicts_with = "output")]
    pub json: bool,

    /// Seconds between two looks at the counters [default: 1 for a table, 10 otherwise]
    #[arg(long, value_name = "SECONDS", value_parser = parse_interval)]
    pub interval: Option<Duration>,

    /// Serve Prometheus metrics under http://ADDR:PORT/metrics; port 0 picks a free one
    #[arg(long, value_name = "ADDR:PORT", value_parser = parse_metrics_addr)]
    pub metrics_addr: Option<SocketAddr>,
}

/// What `--output` can be.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// A live table of rules, like `iptables -L -v`
    Table,
    /// One JSON object per line
    Json,
    /// One line per counter that moved
    Log,
}

impl OutputArgs {
    pub fn format(&self, stdout_is_terminal: bool) -> Format {
        match self.output {
            _ if self.json => Format::Json,
            Some(format) => format,
            None if stdout_is_terminal => Format::Table,
            None => Format::Log,
        }
    }

    pub fn interval(&self, format: Format) -> Duration {
        self.interval.unwrap_or(match format {
            Format::Table => Duration::from_secs(1),
            Format::Json | Format::Log => Duration::from_secs(10),
        })
    }
}

/// The table of destinations.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Destinations")]
pub struct RingArgs {
    /// Slots for destinations (address and port) of redirected connections; a power of two. Half as
    /// many new ones fit into one --destination-hold, more are refused
    #[arg(long, value_name = "N", default_value_t = DEFAULT_DESTINATIONS)]
    pub destinations: u32,

    /// How long a destination is kept after the last connection to it. The default outlasts a
    /// connect() that the kernel gives up (127 s with net.ipv4.tcp_syn_retries=6)
    #[arg(long, value_name = "SECONDS", default_value_t = 128)]
    pub destination_hold: u64,
}

fn parse_netns(text: &str) -> Result<Netns, String> {
    if text.is_empty() {
        return Err("expected a path like /run/netns/NAME, or a process id".to_owned());
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(Netns::Path(text.into()));
    }
    match text.parse() {
        Ok(0) | Err(_) => Err(format!(
            "no process has the id {text}; a file of that name is ./{text}"
        )),
        Ok(pid) => Ok(Netns::Pid(pid)),
    }
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    let seconds: Option<f64> = text.parse().ok().filter(|s| (0.1..=86_400.0).contains(s));
    seconds
        .map(Duration::from_secs_f64)
        .ok_or("expected 0.1 to 86400 seconds".to_owned())
}

fn parse_metrics_addr(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "expected an address and a port, like 127.0.0.1:9464 or [::1]:9464".to_owned())
}
