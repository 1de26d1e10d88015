//! The decision. Facts in, rule out; no map, no helper, no log.
//!
//! The two functions walk Istio's chains in Istio's order. The kernel asks them at `connect()` and
//! when a SYN looks for a listener; tests and tools ask the same functions.

use crate::{
    addr::{Ip, OrigDst, Port},
    facts::{Inbound, Outbound, Protocol, Tables},
    lists::{IdList, PortLists},
    policy::{Policy, Switches},
    rule::{InboundRule, OutboundRule},
    usual::{rarely, usually},
};

/// 127.0.0.6, which the proxy binds when it delivers inbound connections (Istio's
/// `InboundPassthroughBindIpv4`, pilot/pkg/networking/core/cluster_builder.go).
pub const PASSTHROUGH_V4: Ip = Ip::from_v4(core::net::Ipv4Addr::new(127, 0, 0, 6));
/// `::6`, the same for IPv6.
pub const PASSTHROUGH_V6: Ip = Ip::from_v6(core::net::Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6));

/// Outbound: the interfaces in `OUTPUT`, then the chain `ISTIO_OUTPUT`.
#[inline(always)]
pub fn decide_outbound(policy: &Policy, flow: &Outbound, tables: &impl Tables) -> OutboundRule {
    let Outbound { socket, dst } = flow;
    let OrigDst { ip: dst, port, .. } = *dst;
    let (owner, proxy) = (socket.owner, socket.proxy());
    let switches = policy.switches.among(tables.features());

    if rarely(!dst.is_v4()) && !switches.has(Switches::IPV6) {
        return OutboundRule::NoIpv6Rules;
    }
    let to_lo = rarely(flow.is_to_lo(tables));
    if rarely(switches.has(Switches::INTERFACES)) && policy.excludes(flow.leaves_by(to_lo, tables))
    {
        return OutboundRule::ExcludedInterface;
    }
    let lists = if rarely(switches.has(Switches::OUTBOUND_PORTS)) {
        tables.port_lists(port)
    } else {
        PortLists::NONE
    };
    if rarely(lists.has(PortLists::OUTBOUND_EXCLUDED)) {
        return OutboundRule::ExcludedPort;
    }
    if to_lo && is_passthrough(flow.known_source(to_lo), &dst) {
        return OutboundRule::FromInboundPassthrough;
    }
    let local = Local::new(policy, switches, flow, to_lo);
    match local.for_users().walk(&policy.uids, proxy.uid) {
        OwnerMatch::OwnPod => return OutboundRule::ProxyToOwnPodByUid,
        OwnerMatch::LocalOfAnother => return OutboundRule::LocalNotProxyByUid,
        OwnerMatch::Proxy => return OutboundRule::ProxyByUid,
        OwnerMatch::None => {}
    }
    match local.for_groups().walk(&policy.gids, proxy.gid) {
        OwnerMatch::OwnPod => return OutboundRule::ProxyToOwnPodByGid,
        OwnerMatch::LocalOfAnother => return OutboundRule::LocalNotProxyByGid,
        OwnerMatch::Proxy => return OutboundRule::ProxyByGid,
        OwnerMatch::None => {}
    }
    if rarely(switches.has(Switches::GROUPS_EXCLUDED)) && policy.groups.contains(owner.gid) {
        return OutboundRule::ExcludedGroup;
    }
    if rarely(switches.has(Switches::GROUPS_INCLUDED)) && !policy.groups.contains(owner.gid) {
        return OutboundRule::NotIncludedGroup;
    }
    if rarely(captures_dns(switches, &dst, port, tables)) {
        return OutboundRule::Dns;
    }
    captured_destination(policy, switches, flow, lists, tables)
}

/// What is left once the owner is known to be an application: only the destination counts.
#[inline(always)]
fn captured_destination(
    policy: &Policy,
    switches: Switches,
    flow: &Outbound,
    lists: PortLists,
    tables: &impl Tables,
) -> OutboundRule {
    let dst = &flow.dst.ip;
    if rarely(policy.loopback.contains(dst)) {
        return OutboundRule::Localhost;
    }
    if rarely(switches.has(Switches::OUTBOUND_EXCLUDED_RANGES)) && tables.is_excluded(dst) {
        return OutboundRule::ExcludedRange;
    }
    // `ISTIO_REDIRECT` holds a rule for TCP only.
    if rarely(flow.socket.protocol == Protocol::Udp) {
        return OutboundRule::EndOfChain;
    }
    if rarely(lists.has(PortLists::OUTBOUND_INCLUDED)) {
        return OutboundRule::IncludedPort;
    }
    if usually(switches.has(Switches::OUTBOUND_ALL)) {
        return OutboundRule::Everything;
    }
    if switches.has(Switches::OUTBOUND_RANGES) && tables.is_included(dst) {
        return OutboundRule::IncludedRange;
    }
    OutboundRule::EndOfChain
}

/// Whether `ISTIO_OUTPUT_DNS` redirects it.
#[inline(always)]
fn captures_dns(switches: Switches, dst: &Ip, port: Port, tables: &impl Tables) -> bool {
    switches.has(Switches::DNS)
        && port == Port::DNS
        && (switches.has(Switches::DNS_ALL) || tables.is_dns_server(dst))
}

/// Inbound: `PREROUTING` and `ISTIO_INBOUND`.
#[inline(always)]
pub fn decide_inbound(policy: &Policy, flow: &Inbound, tables: &impl Tables) -> InboundRule {
    let switches = policy.switches.among(tables.features());
    if !flow.dst.is_v4() && !switches.has(Switches::IPV6) {
        return InboundRule::NoIpv6Rules;
    }
    if switches.has(Switches::INTERFACES) && policy.excludes(flow.interface) {
        return InboundRule::ExcludedInterface;
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

#[inline(always)]
fn is_passthrough(source: Option<Ip>, dst: &Ip) -> bool {
    let wanted = if dst.is_v4() {
        PASSTHROUGH_V4
    } else {
        PASSTHROUGH_V6
    };
    source == Some(wanted)
}

/// What one block of owner rules says.
enum OwnerMatch {
    OwnPod,
    LocalOfAnother,
    Proxy,
    None,
}

/// What rules 2, 3, 5 and 6 ask about the destination. With DNS capture, queries are not kept from
/// the rules behind by 2, 3 and 6; 5 has no such exception in Istio.
#[derive(Clone, Copy)]
struct Local {
    /// Rule 5 holds but for the owner.
    to_own_pod: bool,
    /// Rules 3 and 6 hold but for the owner.
    returns: bool,
    is_captured_dns: bool,
}

impl Local {
    #[inline(always)]
    fn new(policy: &Policy, switches: Switches, flow: &Outbound, to_lo: bool) -> Self {
        let dns = switches.has(Switches::DNS);
        let is_tcp = flow.socket.protocol == Protocol::Tcp;
        let port = flow.dst.port;
        let returns = to_lo && !switches.has(Switches::LOOPBACK_INCLUDED);
        Self {
            to_own_pod: to_lo
                && is_tcp
                && port != policy.tunnel_port
                && !policy.loopback.contains(&flow.dst.ip),
            returns: returns && (!dns || is_tcp && port != Port::DNS),
            is_captured_dns: dns && port == Port::DNS,
        }
    }

    #[inline(always)]
    const fn for_users(self) -> OwnerBlock {
        OwnerBlock {
            to_own_pod: self.to_own_pod && !self.is_captured_dns,
            returns: self.returns,
        }
    }

    #[inline(always)]
    const fn for_groups(self) -> OwnerBlock {
        OwnerBlock {
            to_own_pod: self.to_own_pod,
            returns: self.returns,
        }
    }
}

/// Rules 2 to 4 (uids) and 5 to 7 (gids): the same three rules for each id of a list, block by
/// block. So with ids "3,4" the second rule for 3 returns all local traffic of 4 before 4's own
/// first rule is reached, as in Istio: where there is a second rule, only the first id counts.
struct OwnerBlock {
    to_own_pod: bool,
    returns: bool,
}

impl OwnerBlock {
    #[inline(always)]
    fn walk<const N: usize>(&self, ids: &IdList<N>, id: u32) -> OwnerMatch {
        let is_proxy = if rarely(self.returns) {
            match ids.first() {
                Some(first) if first == id => true,
                Some(_) => return OwnerMatch::LocalOfAnother,
                None => false,
            }
        } else {
            rarely(ids.contains(id))
        };
        match (is_proxy, self.to_own_pod) {
            (true, true) => OwnerMatch::OwnPod,
            (true, false) => OwnerMatch::Proxy,
            (false, _) => OwnerMatch::None,
        }
    }
}
