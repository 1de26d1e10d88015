//! The decision against a reference that is nothing but the list of rules, each with its matches,
//! walked from the top: written for clarity, and the other way round from `decide`.
#![expect(clippy::unwrap_used, reason = "test data")]

mod support;

use std::net::{IpAddr, Ipv4Addr};

use proptest::{collection::vec, prelude::*, sample::select};
use sidecar_ebpf_common::{
    addr::{OrigDst, Port},
    decide::{decide_inbound, decide_outbound},
    facts::{Caller, Inbound, Outbound, Owner, Protocol, Socket, Source},
    interface::Interface,
    rule::{InboundRule, OutboundRule},
};
use support::{Dns, ETH0, ETH1, LO, Members, Range, Wishes, range};

/// One match of an iptables rule, of those that Istio uses.
enum Match {
    Out(Interface),
    In(Interface),
    Source(IpAddr),
    To(Range),
    NotTo(Range),
    Tcp,
    Udp,
    Port(u16),
    NotPort(u16),
    Uid(u32),
    NotUid(u32),
    Gid(u32),
    NotGid(u32),
}

/// A packet as a rule sees it.
struct Packet {
    protocol: Protocol,
    src: Option<IpAddr>,
    dst: IpAddr,
    port: u16,
    owner: Owner,
    out: Interface,
    come_in: Interface,
}

impl Match {
    fn holds(&self, packet: &Packet) -> bool {
        match *self {
            Self::Out(interface) => packet.out == interface,
            Self::In(interface) => packet.come_in == interface,
            Self::Source(ip) => packet.src == Some(ip),
            Self::To(range) => range.contains(packet.dst),
            Self::NotTo(range) => !range.contains(packet.dst),
            Self::Tcp => packet.protocol == Protocol::Tcp,
            Self::Udp => packet.protocol == Protocol::Udp,
            Self::Port(port) => packet.port == port,
            Self::NotPort(port) => packet.port != port,
            Self::Uid(uid) => packet.owner.uid == uid,
            Self::NotUid(uid) => packet.owner.uid != uid,
            Self::Gid(gid) => packet.owner.gid == gid,
            Self::NotGid(gid) => packet.owner.gid != gid,
        }
    }
}

type Rules<R> = Vec<(Vec<Match>, R)>;

fn first<R>(rules: Rules<R>, packet: &Packet) -> Option<R> {
    let mut rules = rules.into_iter();
    let found = rules.find(|(matches, _)| matches.iter().all(|m| m.holds(packet)));
    found.map(|(_, rule)| rule)
}

fn of_family(v6: bool, ranges: &[Range]) -> Vec<Range> {
    let of_family = ranges.iter().filter(|range| range.addr.is_ipv6() == v6);
    of_family.copied().collect()
}

/// `OUTPUT` and `ISTIO_OUTPUT` for one family, in the order in which Istio writes them.
fn chain(wishes: &Wishes, v6: bool) -> Rules<OutboundRule> {
    use Match::*;
    use OutboundRule as Rule;
    let localhost = if v6 {
        range("::1/128")
    } else {
        wishes.loopback()
    };
    let passthrough = if v6 { "::6" } else { "127.0.0.6" }.parse().unwrap();
    let mut rules = Vec::new();
    for &interface in &wishes.interfaces_excluded {
        rules.push((vec![Out(interface)], Rule::ExcludedInterface));
    }
    for &port in &wishes.ports_excluded {
        rules.push((vec![Tcp, Port(port)], Rule::ExcludedPort));
        rules.push((vec![Udp, Port(port)], Rule::ExcludedPort));
    }
    let delivers = vec![Out(LO), Source(passthrough)];
    rules.push((delivers, Rule::FromInboundPassthrough));
    for &uid in &wishes.uids {
        let mut to_own_pod = vec![Out(LO), NotTo(localhost), Tcp, NotPort(15008), Uid(uid)];
        if wishes.dns.is_on() {
            to_own_pod.push(NotPort(53));
        }
        rules.push((to_own_pod, Rule::ProxyToOwnPodByUid));
        if let Some(mut returns) = returns_local(wishes) {
            returns.push(NotUid(uid));
            rules.push((returns, Rule::LocalNotProxyByUid));
        }
        rules.push((vec![Uid(uid)], Rule::ProxyByUid));
    }
    for &gid in &wishes.gids {
        // No exception for DNS.
        let to_own_pod = vec![Out(LO), NotTo(localhost), Tcp, NotPort(15008), Gid(gid)];
        rules.push((to_own_pod, Rule::ProxyToOwnPodByGid));
        if let Some(mut returns) = returns_local(wishes) {
            returns.push(NotGid(gid));
            rules.push((returns, Rule::LocalNotProxyByGid));
        }
        rules.push((vec![Gid(gid)], Rule::ProxyByGid));
    }
    match &wishes.members {
        Members::Everyone => {}
        Members::Only(groups) => {
            let not_any = groups.iter().map(|&gid| NotGid(gid)).collect();
            rules.push((not_any, Rule::NotIncludedGroup));
        }
        Members::AllBut(groups) => {
            let each = groups
                .iter()
                .map(|&gid| (vec![Gid(gid)], Rule::ExcludedGroup));
            rules.extend(each);
        }
    }
    rules.extend(dns_chain(wishes, v6));
    rules.push((vec![To(localhost)], Rule::Localhost));
    for range in of_family(v6, &wishes.excluded) {
        rules.push((vec![To(range)], Rule::ExcludedRange));
    }
    for &port in &wishes.ports_included {
        rules.push((vec![Tcp, Port(port)], Rule::IncludedPort));
    }
    // The rule itself asks for no protocol; the one behind it, in ISTIO_REDIRECT, does.
    if wishes.outbound_all {
        rules.push((vec![Tcp], Rule::Everything));
    } else {
        for range in of_family(v6, &wishes.included) {
            rules.push((vec![Tcp, To(range)], Rule::IncludedRange));
        }
    }
    rules
}

/// Rules 3 and 6 but for the owner, if they are there.
fn returns_local(wishes: &Wishes) -> Option<Vec<Match>> {
    if wishes.loopback_included() {
        None
    } else if wishes.dns.is_on() {
        Some(vec![Match::Out(LO), Match::Tcp, Match::NotPort(53)])
    } else {
        Some(vec![Match::Out(LO)])
    }
}

/// `ISTIO_OUTPUT_DNS`.
fn dns_chain(wishes: &Wishes, v6: bool) -> Rules<OutboundRule> {
    let servers: Vec<Range> = match &wishes.dns {
        Dns::Off => vec![],
        Dns::All => of_family(v6, &[range("0.0.0.0/0"), range("::/0")]),
        Dns::To(servers) => {
            let single = servers.iter().map(|&addr| Range {
                addr,
                len: if addr.is_ipv6() { 128 } else { 32 },
            });
            of_family(v6, &single.collect::<Vec<_>>())
        }
    };
    let mut rules = Vec::new();
    for protocol in [|| Match::Tcp, || Match::Udp] {
        for &server in &servers {
            let matches = vec![protocol(), Match::Port(53), Match::To(server)];
            rules.push((matches, OutboundRule::Dns));
        }
    }
    rules
}

/// The interface that the kernel's routing chooses: lo for what is local. A socket that is bound to
/// a device finds only that device's addresses.
fn leaves_by(wishes: &Wishes, device: Interface, dst: IpAddr) -> Interface {
    let local = if dst.is_loopback() {
        Some(LO)
    } else {
        let found = wishes.locals.iter().find(|(local, _)| *local == dst);
        found.map(|(_, interface)| *interface)
    };
    let mut routes = wishes.routes.iter();
    let route = routes.find(|(range, _)| range.contains(dst));
    match (device, local) {
        (Interface::NONE, Some(_)) | (LO, _) => LO,
        (Interface::NONE, None) => route.map_or(Interface::NONE, |(_, interface)| *interface),
        (device, Some(interface)) if device == interface => LO,
        (device, _) => device,
    }
}

fn reference_outbound(wishes: &Wishes, flow: &Probe) -> OutboundRule {
    let Probe { socket, dst } = *flow;
    let port = dst.port.0;
    let dst = IpAddr::from(dst.ip);
    if dst.is_ipv6() && !wishes.ipv6 {
        return OutboundRule::NoIpv6Rules;
    }
    let src = match socket.source {
        // To an address of its own an IPv6 socket goes from that address.
        Source::Unbound => dst.is_ipv6().then_some(dst),
        Source::Bound(ip) => Some(IpAddr::from(ip)),
    };
    let packet = Packet {
        protocol: socket.protocol,
        src,
        dst,
        port,
        owner: socket.owner,
        out: leaves_by(wishes, socket.device, dst),
        come_in: Interface::NONE,
    };
    first(chain(wishes, dst.is_ipv6()), &packet).unwrap_or(OutboundRule::EndOfChain)
}

/// An outbound connection or datagram, in parts.
#[derive(Clone, Copy, Debug)]
struct Probe {
    socket: Socket,
    dst: OrigDst,
}

/// `PREROUTING` and `ISTIO_INBOUND`.
fn reference_inbound(wishes: &Wishes, flow: &Inbound) -> InboundRule {
    use InboundRule as Rule;
    let is_on = wishes.inbound_all || !wishes.inbound_included.is_empty();
    if !flow.dst.is_v4() && !wishes.ipv6 {
        return Rule::NoIpv6Rules;
    }
    let mut rules = Vec::new();
    for &interface in &wishes.interfaces_excluded {
        rules.push((vec![Match::In(interface)], Rule::ExcludedInterface));
    }
    if is_on {
        rules.push((vec![Match::Tcp, Match::Port(15008)], Rule::Tunnel));
    }
    if wishes.inbound_all {
        for &port in &wishes.inbound_excluded {
            rules.push((vec![Match::Tcp, Match::Port(port)], Rule::ExcludedPort));
        }
        rules.push((vec![Match::Tcp], Rule::Everything));
    } else {
        for &port in &wishes.inbound_included {
            rules.push((vec![Match::Tcp, Match::Port(port)], Rule::IncludedPort));
        }
    }
    let packet = Packet {
        protocol: Protocol::Tcp,
        src: None,
        dst: flow.dst.into(),
        port: flow.port.0,
        owner: Owner::NOBODY,
        out: Interface::NONE,
        come_in: flow.interface,
    };
    let end = if is_on { Rule::EndOfChain } else { Rule::Off };
    first(rules, &packet).unwrap_or(end)
}

const ADDRESSES: &[&str] = &[
    "127.0.0.1",
    "127.0.0.6",
    "127.0.0.9",
    "10.244.0.5",
    "10.244.0.66",
    "192.168.7.5",
    "192.168.7.9",
    "10.1.2.3",
    "10.9.9.9",
    "192.0.2.1",
    "255.255.255.255",
    "::1",
    "::6",
    "fd00:10:244::5",
    "2001:db8::1",
    "2001:db8:9::9",
];
const RANGES: &[&str] = &[
    "10.0.0.0/8",
    "10.9.0.0/16",
    "10.1.2.3/32",
    "0.0.0.0/0",
    "127.0.0.0/8",
    "127.0.0.9/32",
    "2001:db8::/32",
    "2001:db8:9::/48",
    "::/0",
    "::1/128",
    "fd00::/8",
];
const PORTS: &[u16] = &[80, 8080, 15001, 15006, 15008, 15090, 53, 1, 65535];
const IDS: &[u32] = &[0, 3, 4, 1000, 1337];
const LOOPBACKS: &[&str] = &[
    "127.0.0.1/32",
    "127.0.0.0/8",
    "127.0.0.9/24",
    "127.0.0.6/32",
];
const INTERFACES: &[Interface] = &[LO, ETH0, ETH1, Interface(4)];

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        4 => select(ADDRESSES).prop_map(|text| text.parse().unwrap()),
        // Not 0.0.0.0, which is an address only after the kernel has replaced it.
        1 => (1..=u32::MAX).prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
    ]
}

fn ranges() -> impl Strategy<Value = Vec<Range>> {
    vec(select(RANGES).prop_map(range), 0..4)
}

/// Port 53 more often: rules differ there.
fn port() -> impl Strategy<Value = u16> {
    prop_oneof![2 => select(PORTS), 1 => Just(53)]
}

fn ports() -> impl Strategy<Value = Vec<u16>> {
    vec(select(PORTS), 0..3)
}

fn interface() -> impl Strategy<Value = Interface> {
    select(INTERFACES)
}

fn ids() -> impl Strategy<Value = Vec<u32>> {
    vec(select(IDS), 0..3)
}

fn members() -> impl Strategy<Value = Members> {
    prop_oneof![
        2 => Just(Members::Everyone),
        1 => ids().prop_map(Members::Only),
        1 => ids().prop_map(Members::AllBut),
    ]
}

fn dns() -> impl Strategy<Value = Dns> {
    prop_oneof![
        2 => Just(Dns::Off),
        1 => vec(address(), 0..4).prop_map(Dns::To),
        1 => Just(Dns::All),
    ]
}

prop_compose! {
    fn wishes()(
        ids in (ids(), ids(), members()),
        switches in (any::<bool>(), any::<bool>(), any::<bool>()),
        ranges in (ranges(), ranges()),
        outbound in (ports(), ports()),
        inbound in (ports(), ports()),
        loopback in proptest::option::of(select(LOOPBACKS).prop_map(range)),
        dns in dns(),
        interfaces_excluded in vec(interface(), 0..2),
        locals in vec((address(), interface()), 0..3),
        // Nothing outside the pod is reached by lo.
        routes in vec((select(RANGES).prop_map(range), select(&INTERFACES[1..])), 0..4),
    ) -> Wishes {
        Wishes {
            uids: ids.0,
            gids: ids.1,
            members: ids.2,
            ipv6: switches.0,
            outbound_all: switches.1,
            inbound_all: switches.2,
            included: if switches.1 { vec![] } else { ranges.0 },
            excluded: ranges.1,
            ports_included: outbound.0,
            ports_excluded: outbound.1,
            inbound_included: inbound.0,
            inbound_excluded: inbound.1,
            loopback,
            dns,
            interfaces_excluded,
            locals,
            routes,
        }
    }
}

prop_compose! {
    fn outbound()(
        protocol in select(&[Protocol::Tcp, Protocol::Udp]),
        source in proptest::option::of(address()),
        device in proptest::option::of(interface()),
        dst in address(),
        port in port(),
        uid in select(IDS),
        gid in select(IDS),
    ) -> Probe {
        let source = source
            .filter(|source| source.is_ipv6() == dst.is_ipv6())
            .map_or(Source::Unbound, |ip| Source::Bound(ip.into()));
        let socket = Socket {
            protocol,
            owner: Owner { uid, gid },
            source,
            device: device.unwrap_or(Interface::NONE),
            caller: Caller::MayBeProxy,
        };
        Probe { socket, dst: OrigDst::new(dst.into(), Port(port)) }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn outbound_is_what_the_chain_says(wishes in wishes(), flow in outbound()) {
        let asked = Outbound::new(flow.socket, flow.dst);
        let rule = decide_outbound(&wishes.policy(), &asked, &wishes);
        prop_assert_eq!(rule, reference_outbound(&wishes, &flow));
    }

    #[test]
    fn inbound_is_what_the_chain_says(
        wishes in wishes(),
        dst in address(),
        port in select(PORTS),
        interface in interface(),
    ) {
        let flow = Inbound { dst: dst.into(), port: Port(port), interface };
        let rule = decide_inbound(&wishes.policy(), &flow, &wishes);
        prop_assert_eq!(rule, reference_inbound(&wishes, &flow));
    }
}
