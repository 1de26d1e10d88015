//! The decision. Facts in, rule out; no map, no helper, no log.
//!
//! The two functions walk Istio's chains in Istio's order. The kernel asks them at `connect()` and
//! when a SYN looks for a listener; tests and tools ask the same functions.

use crate::{
    addr::{Ip, OrigDst, Port},
    policy::{IdList, Policy, PortLists, Switches},
    rule::{InboundRule, OutboundRule},
};

/// 127.0.0.6, which the proxy binds when it delivers inbound connections (Istio's
/// `InboundPassthroughBindIpv4`, pilot/pkg/networking/core/cluster_builder.go).
pub const PASSTHROUGH_V4: Ip = Ip::from_v4(core::net::Ipv4Addr::new(127, 0, 0, 6));
/// `::6`, the same for IPv6.
pub const PASSTHROUGH_V6: Ip = Ip::from_v6(core::net::Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6));

/// Who owns a socket, in the numbering of the initial user namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
}

impl Owner {
    /// What the kernel itself owns: no user has this id, so it is "not the proxy".
    pub const NOBODY: Self = Self {
        uid: u32::MAX,
        gid: u32::MAX,
    };
}

/// The address a socket is bound to before it connects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    Unbound,
    Bound(Ip),
}

/// The facts about a TCP connection that is about to be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outbound {
    source: Source,
    dst: OrigDst,
    owner: Owner,
}

impl Outbound {
    /// `asked` is what `connect()` was called with; 0.0.0.0 and `::` become what they mean.
    #[inline(always)]
    pub fn new(owner: Owner, source: Source, asked: OrigDst) -> Self {
        let dst = OrigDst::new(resolve_unspecified(asked.ip, source), asked.port);
        Self { source, dst, owner }
    }

    /// Where the connection goes unless it is redirected.
    #[inline(always)]
    pub const fn dst(&self) -> &OrigDst {
        &self.dst
    }
}

/// The facts about a TCP connection that comes in from outside the pod.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inbound {
    pub dst: Ip,
    pub port: Port,
}

/// What the decision looks up. In the kernel these are maps.
pub trait Tables {
    /// Which port lists name this port.
    fn port_lists(&self, port: Port) -> PortLists;
    /// Whether the address lies in an excluded outbound range.
    fn is_excluded(&self, ip: &Ip) -> bool;
    /// Whether the address lies in an included outbound range.
    fn is_included(&self, ip: &Ip) -> bool;
    /// What `-o lo` means to iptables: the address is local to the pod's network namespace.
    fn is_local(&self, ip: &Ip) -> bool;
}

/// Outbound: the chain `ISTIO_OUTPUT`.
#[inline(always)]
pub fn decide_outbound(policy: &Policy, flow: &Outbound, tables: &impl Tables) -> OutboundRule {
    let Outbound { source, dst, owner } = *flow;
    let OrigDst { ip: dst, port, .. } = dst;
    let switches = policy.switches;

    if !dst.is_v4() && !switches.has(Switches::IPV6) {
        return OutboundRule::NoIpv6Rules;
    }
    let lists = if switches.has(Switches::OUTBOUND_PORTS) {
        tables.port_lists(port)
    } else {
        PortLists::NONE
    };
    if lists.has(PortLists::OUTBOUND_EXCLUDED) {
        return OutboundRule::ExcludedPort;
    }

    let to_lo = dst.is_loopback() || tables.is_local(&dst);
    let localhost = dst == Ip::LOOPBACK_V4 || dst == Ip::LOOPBACK_V6;
    if to_lo && source_is_passthrough(source, &dst) {
        return OutboundRule::FromInboundPassthrough;
    }
    let block = OwnerBlock {
        to_lo,
        to_own_pod: to_lo && !localhost && port != policy.tunnel_port,
        returns_local: to_lo && !switches.has(Switches::LOOPBACK_INCLUDED),
    };
    match block.walk(&policy.uids, owner.uid) {
        OwnerMatch::OwnPod => return OutboundRule::ProxyToOwnPodByUid,
        OwnerMatch::LocalOfAnother => return OutboundRule::LocalNotProxyByUid,
        OwnerMatch::Proxy => return OutboundRule::ProxyByUid,
        OwnerMatch::None => {}
    }
    match block.walk(&policy.gids, owner.gid) {
        OwnerMatch::OwnPod => return OutboundRule::ProxyToOwnPodByGid,
        OwnerMatch::LocalOfAnother => return OutboundRule::LocalNotProxyByGid,
        OwnerMatch::Proxy => return OutboundRule::ProxyByGid,
        OwnerMatch::None => {}
    }
    if localhost {
        return OutboundRule::Localhost;
    }
    if switches.has(Switches::OUTBOUND_EXCLUDED_RANGES) && tables.is_excluded(&dst) {
        return OutboundRule::ExcludedRange;
    }
    if lists.has(PortLists::OUTBOUND_INCLUDED) {
        return OutboundRule::IncludedPort;
    }
    if switches.has(Switches::OUTBOUND_ALL) {
        return OutboundRule::Everything;
    }
    if switches.has(Switches::OUTBOUND_RANGES) && tables.is_included(&dst) {
        return OutboundRule::IncludedRange;
    }
    OutboundRule::EndOfChain
}

/// Inbound: `PREROUTING` and `ISTIO_INBOUND`.
#[inline(always)]
pub fn decide_inbound(policy: &Policy, flow: &Inbound, tables: &impl Tables) -> InboundRule {
    let switches = policy.switches;
    if !flow.dst.is_v4() && !switches.has(Switches::IPV6) {
        return InboundRule::NoIpv6Rules;
    }
    let all = switches.has(Switches::INBOUND_ALL);
    if !all && !switches.has(Switches::INBOUND_PORTS) {
        return InboundRule::Off;
    }
    if flow.port == policy.tunnel_port {
        return InboundRule::Tunnel;
    }
    let lists = tables.port_lists(flow.port);
    if all {
        if lists.has(PortLists::INBOUND_EXCLUDED) {
            InboundRule::ExcludedPort
        } else {
            InboundRule::Everything
        }
    } else if lists.has(PortLists::INBOUND_INCLUDED) {
        InboundRule::IncludedPort
    } else {
        InboundRule::EndOfChain
    }
}

/// `connect()` to 0.0.0.0 or `::` means the socket's own address, or loopback if it has none; the
/// kernel turns it into that after the hook (`ip_route_output_key_hash_rcu`, net/ipv4/route.c;
/// `tcp_v6_connect`, net/ipv6/tcp_ipv6.c, which knows loopback only).
#[inline(always)]
fn resolve_unspecified(dst: Ip, source: Source) -> Ip {
    if !dst.is_unspecified() {
        return dst;
    }
    if !dst.is_v4() {
        return match source {
            Source::Bound(ip) if ip.is_v4() => Ip::LOOPBACK_V4,
            Source::Bound(_) | Source::Unbound => Ip::LOOPBACK_V6,
        };
    }
    match source {
        Source::Bound(ip) if ip.is_v4() => ip,
        Source::Bound(_) | Source::Unbound => Ip::LOOPBACK_V4,
    }
}

#[inline(always)]
fn source_is_passthrough(source: Source, dst: &Ip) -> bool {
    match source {
        Source::Unbound => false,
        Source::Bound(ip) if dst.is_v4() => ip == PASSTHROUGH_V4,
        Source::Bound(ip) => ip == PASSTHROUGH_V6,
    }
}

/// What one block of owner rules says.
enum OwnerMatch {
    OwnPod,
    LocalOfAnother,
    Proxy,
    None,
}

/// Rules 2 to 4 (uids) and 5 to 7 (gids): the same three rules for each id of a list, block by
/// block. So with ids "3,4" the second rule for 3 returns all local traffic of 4 before 4's own
/// first rule is reached, as in Istio.
struct OwnerBlock {
    to_lo: bool,
    to_own_pod: bool,
    returns_local: bool,
}

impl OwnerBlock {
    #[inline(always)]
    fn walk(&self, ids: &IdList, id: u32) -> OwnerMatch {
        for proxy in ids.iter() {
            let is_proxy = id == proxy;
            if is_proxy {
                return if self.to_own_pod {
                    OwnerMatch::OwnPod
                } else {
                    OwnerMatch::Proxy
                };
            }
            if self.returns_local && self.to_lo {
                return OwnerMatch::LocalOfAnother;
            }
        }
        OwnerMatch::None
    }
}
