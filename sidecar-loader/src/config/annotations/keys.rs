//! The annotations that have to do with redirection (annotation/annotations.yaml in istio/api).

pub(super) const INCLUDE_OUTBOUND_RANGES: &str = "traffic.sidecar.istio.io/includeOutboundIPRanges";
pub(super) const EXCLUDE_OUTBOUND_RANGES: &str = "traffic.sidecar.istio.io/excludeOutboundIPRanges";
pub(super) const INCLUDE_INBOUND_PORTS: &str = "traffic.sidecar.istio.io/includeInboundPorts";
pub(super) const EXCLUDE_INBOUND_PORTS: &str = "traffic.sidecar.istio.io/excludeInboundPorts";
pub(super) const INCLUDE_OUTBOUND_PORTS: &str = "traffic.sidecar.istio.io/includeOutboundPorts";
pub(super) const EXCLUDE_OUTBOUND_PORTS: &str = "traffic.sidecar.istio.io/excludeOutboundPorts";
pub(super) const EXCLUDE_INTERFACES: &str = "traffic.sidecar.istio.io/excludeInterfaces";
/// Deprecated in favour of [`REROUTE_INTERFACES`].
pub(super) const KUBEVIRT_INTERFACES: &str = "traffic.sidecar.istio.io/kubevirtInterfaces";
pub(super) const REROUTE_INTERFACES: &str = "istio.io/reroute-virtual-interfaces";
pub(super) const INTERCEPTION_MODE: &str = "sidecar.istio.io/interceptionMode";
pub(super) const STATUS_PORT: &str = "status.sidecar.istio.io/port";
pub(super) const PROXY_CONFIG: &str = "proxy.istio.io/config";
/// A label too.
pub(super) const INJECT: &str = "sidecar.istio.io/inject";

/// All annotations that begin like this are about redirection.
const TRAFFIC: &str = "traffic.sidecar.istio.io/";
const OF_TRAFFIC: [&str; 8] = [
    INCLUDE_OUTBOUND_RANGES,
    EXCLUDE_OUTBOUND_RANGES,
    INCLUDE_INBOUND_PORTS,
    EXCLUDE_INBOUND_PORTS,
    INCLUDE_OUTBOUND_PORTS,
    EXCLUDE_OUTBOUND_PORTS,
    EXCLUDE_INTERFACES,
    KUBEVIRT_INTERFACES,
];

/// Whether it looks like an annotation about redirection that does not exist.
pub(super) fn is_misspelt(key: &str) -> bool {
    key.starts_with(TRAFFIC) && !OF_TRAFFIC.contains(&key)
}
