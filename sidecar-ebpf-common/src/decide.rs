//! The decision. Facts in, rule out; no map, no helper, no log.
//!
//! The two functions walk Istio's chains in Istio's order. The kernel asks them at `connect()` and
//! when a SYN looks for a listener; tests and tools ask the same functions.

use crate::{
    addr::{Ip, OrigDst, Port},
    interface::Interface,
    lists::{IdList, PortLists},
    policy::{Policy, Switches},
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

/// What the rules tell apart. Other protocols are never captured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    Tcp,
    Udp,
}

/// What is known about the process that connects or sends, apart from the owner of its socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Caller {
    /// The owner decides.
    MayBeProxy,
    /// It runs outside the proxy's cgroup, so it is not the proxy whoever owns its socket.
    Application,
}

/// The socket that connects or sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Socket {
    pub protocol: Protocol,
    pub owner: Owner,
    pub source: Source,
    /// What it is bound to with SO_BINDTODEVICE.
    pub device: Interface,
    pub caller: Caller,
}

impl Socket {
    /// The owner whom the rules for the proxy look at.
    #[inline(always)]
    const fn proxy(&self) -> Owner {
        match self.caller {
            Caller::MayBeProxy => self.owner,
            Caller::Application => Owner::NOBODY,
        }
    }
}

/// The facts about a connection that is about to be made, or a datagram that is about to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outbound {
    socket: Socket,
    dst: OrigDst,
}

impl Outbound {
    /// `asked` is what `connect()` was called with; 0.0.0.0 and `::` become what they mean.
    #[inline(always)]
    pub fn new(socket: Socket, asked: OrigDst) -> Self {
        let dst = OrigDst::new(resolve_unspecified(asked.ip, socket.source), asked.port);
        Self { socket, dst }
    }

    /// Where the connection goes unless it is redirected.
    #[inline(always)]
    pub const fn dst(&self) -> &OrigDst {
        &self.dst
    }

    /// What the socket was bound to before.
    #[inline(always)]
    pub const fn source(&self) -> Source {
        self.socket.source
    }

    /// What `-o lo` asks: whether packets stay in the pod. A socket that is bound to a device finds
    /// only the local addresses of that device (`fib_lookup` with an output interface), except that
    /// one bound to lo never leaves it.
    #[inline(always)]
    pub fn is_to_lo(&self, tables: &impl Tables) -> bool {
        let local = if self.dst.ip.is_loopback() {
            Interface::LO
        } else {
            tables.interface_with(&self.dst.ip)
        };
        let device = self.socket.device;
        if device == Interface::NONE {
            local != Interface::NONE
        } else {
            device == Interface::LO || device == local
        }
    }

    /// The source that packets will have, where it is known before the kernel has chosen one: an
    /// IPv6 socket that is not bound talks to an address of the pod from that same address
    /// (RFC 6724, rule 1; `ipv6_get_saddr_eval`, net/ipv6/addrconf.c).
    #[inline(always)]
    pub fn known_source(&self, to_lo: bool) -> Option<Ip> {
        match self.socket.source {
            Source::Bound(ip) => Some(ip),
            Source::Unbound if to_lo && !self.dst.ip.is_v4() => Some(self.dst.ip),
            Source::Unbound => None,
        }
    }

    #[inline(always)]
    fn leaves_by(&self, to_lo: bool, tables: &impl Tables) -> Interface {
        if to_lo {
            Interface::LO
        } else if self.socket.device == Interface::NONE {
            tables.interface_towards(&self.dst.ip)
        } else {
            self.socket.device
        }
    }
}

/// The facts about a TCP connection that comes in from outside the pod.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inbound {
    pub dst: Ip,
    pub port: Port,
    /// Where it comes in.
    pub interface: Interface,
}

/// What the decision looks up. In the kernel these are maps.
pub trait Tables {
    /// Which port lists name this port.
    fn port_lists(&self, port: Port) -> PortLists;
    /// Whether the address lies in an excluded outbound range.
    fn is_excluded(&self, ip: &Ip) -> bool;
    /// Whether the address lies in an included outbound range.
    fn is_included(&self, ip: &Ip) -> bool;
    /// Whether queries to this DNS server are captured. Asked only if not all are.
    fn is_dns_server(&self, ip: &Ip) -> bool;
    /// The interface that has this address; none if it is not local to the pod's namespace.
    fn interface_with(&self, ip: &Ip) -> Interface;
    /// The interface that leads to this address, which is not local. Asked only if an interface is
    /// excluded.
    fn interface_towards(&self, ip: &Ip) -> Interface;
}

impl<T: Tables> Tables for &T {
    fn port_lists(&self, port: Port) -> PortLists {
        (**self).port_lists(port)
    }

    fn is_excluded(&self, ip: &Ip) -> bool {
        (**self).is_excluded(ip)
    }

    fn is_included(&self, ip: &Ip) -> bool {
        (**self).is_included(ip)
    }

    fn is_dns_server(&self, ip: &Ip) -> bool {
        (**self).is_dns_server(ip)
    }

    fn interface_with(&self, ip: &Ip) -> Interface {
        (**self).interface_with(ip)
    }

    fn interface_towards(&self, ip: &Ip) -> Interface {
        (**self).interface_towards(ip)
    }
}

/// Outbound: the interfaces in `OUTPUT`, then the chain `ISTIO_OUTPUT`.
#[inline(always)]
pub fn decide_outbound(policy: &Policy, flow: &Outbound, tables: &impl Tables) -> OutboundRule {
    let Outbound { socket, dst } = flow;
    let OrigDst { ip: dst, port, .. } = *dst;
    let (owner, proxy) = (socket.owner, socket.proxy());
    let switches = policy.switches;

    if !dst.is_v4() && !switches.has(Switches::IPV6) {
        return OutboundRule::NoIpv6Rules;
    }
    let to_lo = flow.is_to_lo(tables);
    if switches.has(Switches::INTERFACES) && policy.excludes(flow.leaves_by(to_lo, tables)) {
        return OutboundRule::ExcludedInterface;
    }
    let lists = if switches.has(Switches::OUTBOUND_PORTS) {
        tables.port_lists(port)
    } else {
        PortLists::NONE
    };
    if lists.has(PortLists::OUTBOUND_EXCLUDED) {
        return OutboundRule::ExcludedPort;
    }
    if to_lo && is_passthrough(flow.known_source(to_lo), &dst) {
        return OutboundRule::FromInboundPassthrough;
    }
    let local = Local::new(policy, flow, to_lo);
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
    if switches.has(Switches::GROUPS_EXCLUDED) && policy.groups.contains(owner.gid) {
        return OutboundRule::ExcludedGroup;
    }
    if switches.has(Switches::GROUPS_INCLUDED) && !policy.groups.contains(owner.gid) {
        return OutboundRule::NotIncludedGroup;
    }
    if captures_dns(policy, &dst, port, tables) {
        return OutboundRule::Dns;
    }
    captured_destination(policy, flow, lists, tables)
}

/// What is left once the owner is known to be an application: only the destination counts.
#[inline(always)]
fn captured_destination(
    policy: &Policy,
    flow: &Outbound,
    lists: PortLists,
    tables: &impl Tables,
) -> OutboundRule {
    let switches = policy.switches;
    let dst = &flow.dst.ip;
    if policy.loopback.contains(dst) {
        return OutboundRule::Localhost;
    }
    if switches.has(Switches::OUTBOUND_EXCLUDED_RANGES) && tables.is_excluded(dst) {
        return OutboundRule::ExcludedRange;
    }
    // `ISTIO_REDIRECT` holds a rule for TCP only.
    if flow.socket.protocol == Protocol::Udp {
        return OutboundRule::EndOfChain;
    }
    if lists.has(PortLists::OUTBOUND_INCLUDED) {
        return OutboundRule::IncludedPort;
    }
    if switches.has(Switches::OUTBOUND_ALL) {
        return OutboundRule::Everything;
    }
    if switches.has(Switches::OUTBOUND_RANGES) && tables.is_included(dst) {
        return OutboundRule::IncludedRange;
    }
    OutboundRule::EndOfChain
}

/// Whether `ISTIO_OUTPUT_DNS` redirects it.
#[inline(always)]
fn captures_dns(policy: &Policy, dst: &Ip, port: Port, tables: &impl Tables) -> bool {
    policy.switches.has(Switches::DNS)
        && port == Port::DNS
        && (policy.switches.has(Switches::DNS_ALL) || tables.is_dns_server(dst))
}

/// Inbound: `PREROUTING` and `ISTIO_INBOUND`.
#[inline(always)]
pub fn decide_inbound(policy: &Policy, flow: &Inbound, tables: &impl Tables) -> InboundRule {
    let switches = policy.switches;
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
    fn new(policy: &Policy, flow: &Outbound, to_lo: bool) -> Self {
        let dns = policy.switches.has(Switches::DNS);
        let is_tcp = flow.socket.protocol == Protocol::Tcp;
        let port = flow.dst.port;
        let returns = to_lo && !policy.switches.has(Switches::LOOPBACK_INCLUDED);
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
/// first rule is reached, as in Istio.
struct OwnerBlock {
    to_own_pod: bool,
    returns: bool,
}

impl OwnerBlock {
    #[inline(always)]
    fn walk<const N: usize>(&self, ids: &IdList<N>, id: u32) -> OwnerMatch {
        for proxy in ids.iter() {
            let is_proxy = id == proxy;
            if is_proxy {
                return if self.to_own_pod {
                    OwnerMatch::OwnPod
                } else {
                    OwnerMatch::Proxy
                };
            }
            if self.returns {
                return OwnerMatch::LocalOfAnother;
            }
        }
        OwnerMatch::None
    }
}
