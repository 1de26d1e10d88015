//! The decision against a reference that is nothing but the list of rules, each with its matches,
//! walked from the top: written for clarity, and the other way round from `decide`.
#![expect(clippy::unwrap_used, reason = "test data")]

mod support;

use std::net::{IpAddr, Ipv4Addr};

use proptest::{collection::vec, prelude::*, sample::select};
use sidecar_ebpf_common::{
    addr::{OrigDst, Port},
    decide::{Inbound, Outbound, Owner, Source, decide_inbound, decide_outbound},
    rule::{InboundRule, OutboundRule},
};
use support::{Range, Wishes, range};

/// One match of an iptables rule, of those that Istio uses.
enum Match {
    OutLo,
    Source(IpAddr),
    To(Range),
    NotTo(Range),
    Port(u16),
    NotPort(u16),
    Uid(u32),
    NotUid(u32),
    Gid(u32),
    NotGid(u32),
}

/// A packet as a rule sees it.
struct Packet {
    src: Option<IpAddr>,
    dst: IpAddr,
    port: u16,
    owner: Owner,
    out_lo: bool,
}

impl Match {
    fn holds(&self, packet: &Packet) -> bool {
        match *self {
            Self::OutLo => packet.out_lo,
            Self::Source(ip) => packet.src == Some(ip),
            Self::To(range) => range.contains(packet.dst),
            Self::NotTo(range) => !range.contains(packet.dst),
            Self::Port(port) => packet.port == port,
            Self::NotPort(port) => packet.port != port,
            Self::Uid(uid) => packet.owner.uid == uid,
            Self::NotUid(uid) => packet.owner.uid != uid,
            Self::Gid(gid) => packet.owner.gid == gid,
            Self::NotGid(gid) => packet.owner.gid != gid,
        }
    }
}

/// `ISTIO_OUTPUT` for one family, in the order in which Istio writes it.
fn chain(wishes: &Wishes, v6: bool) -> Vec<(Vec<Match>, OutboundRule)> {
    use Match::*;
    use OutboundRule as Out;
    let of_family = |ranges: &[Range]| -> Vec<Range> {
        ranges
            .iter()
            .copied()
            .filter(|range| range.addr.is_ipv6() == v6)
            .collect()
    };
    let localhost = range(if v6 { "::1/128" } else { "127.0.0.1/32" });
    let passthrough = if v6 { "::6" } else { "127.0.0.6" }.parse().unwrap();
    let returns_local = !wishes.loopback_included();
    let mut rules = Vec::new();
    for &port in &wishes.ports_excluded {
        rules.push((vec![Port(port)], Out::ExcludedPort));
    }
    rules.push((
        vec![OutLo, Source(passthrough)],
        Out::FromInboundPassthrough,
    ));
    for &uid in &wishes.uids {
        let to_own_pod = vec![OutLo, NotTo(localhost), NotPort(15008), Uid(uid)];
        rules.push((to_own_pod, Out::ProxyToOwnPodByUid));
        if returns_local {
            rules.push((vec![OutLo, NotUid(uid)], Out::LocalNotProxyByUid));
        }
        rules.push((vec![Uid(uid)], Out::ProxyByUid));
    }
    for &gid in &wishes.gids {
        let to_own_pod = vec![OutLo, NotTo(localhost), NotPort(15008), Gid(gid)];
        rules.push((to_own_pod, Out::ProxyToOwnPodByGid));
        if returns_local {
            rules.push((vec![OutLo, NotGid(gid)], Out::LocalNotProxyByGid));
        }
        rules.push((vec![Gid(gid)], Out::ProxyByGid));
    }
    rules.push((vec![To(localhost)], Out::Localhost));
    for range in of_family(&wishes.excluded) {
        rules.push((vec![To(range)], Out::ExcludedRange));
    }
    for &port in &wishes.ports_included {
        rules.push((vec![Port(port)], Out::IncludedPort));
    }
    if wishes.outbound_all {
        rules.push((vec![], Out::Everything));
    } else {
        for range in of_family(&wishes.included) {
            rules.push((vec![To(range)], Out::IncludedRange));
        }
    }
    rules
}

fn reference_outbound(wishes: &Wishes, flow: &Probe) -> OutboundRule {
    let dst = IpAddr::from(flow.dst.ip);
    if dst.is_ipv6() && !wishes.ipv6 {
        return OutboundRule::NoIpv6Rules;
    }
    let src = match flow.source {
        Source::Unbound => None,
        Source::Bound(ip) => Some(IpAddr::from(ip)),
    };
    let out_lo = dst.is_loopback() || wishes.locals.contains(&dst);
    let packet = Packet {
        src,
        dst,
        port: flow.dst.port.0,
        owner: flow.owner,
        out_lo,
    };
    chain(wishes, dst.is_ipv6())
        .into_iter()
        .find(|(matches, _)| matches.iter().all(|m| m.holds(&packet)))
        .map_or(OutboundRule::EndOfChain, |(_, rule)| rule)
}

/// An outbound connection, in parts.
#[derive(Clone, Copy, Debug)]
struct Probe {
    owner: Owner,
    source: Source,
    dst: OrigDst,
}

fn reference_inbound(wishes: &Wishes, flow: &Inbound) -> InboundRule {
    let port = flow.port.0;
    if !flow.dst.is_v4() && !wishes.ipv6 {
        InboundRule::NoIpv6Rules
    } else if !wishes.inbound_all && wishes.inbound_included.is_empty() {
        InboundRule::Off
    } else if port == 15008 {
        InboundRule::Tunnel
    } else if wishes.inbound_all && wishes.inbound_excluded.contains(&port) {
        InboundRule::ExcludedPort
    } else if wishes.inbound_all {
        InboundRule::Everything
    } else if wishes.inbound_included.contains(&port) {
        InboundRule::IncludedPort
    } else {
        InboundRule::EndOfChain
    }
}

const ADDRESSES: &[&str] = &[
    "127.0.0.1",
    "127.0.0.6",
    "127.0.0.9",
    "10.244.0.5",
    "10.244.0.66",
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

fn ports() -> impl Strategy<Value = Vec<u16>> {
    vec(select(PORTS), 0..3)
}

prop_compose! {
    fn wishes()(
        ids in (vec(select(IDS), 0..3), vec(select(IDS), 0..3)),
        switches in (any::<bool>(), any::<bool>(), any::<bool>()),
        ranges in (ranges(), ranges()),
        outbound in (ports(), ports()),
        inbound in (ports(), ports()),
        locals in vec(address(), 0..3),
    ) -> Wishes {
        Wishes {
            uids: ids.0,
            gids: ids.1,
            ipv6: switches.0,
            outbound_all: switches.1,
            inbound_all: switches.2,
            included: if switches.1 { vec![] } else { ranges.0 },
            excluded: ranges.1,
            ports_included: outbound.0,
            ports_excluded: outbound.1,
            inbound_included: inbound.0,
            inbound_excluded: inbound.1,
            locals,
        }
    }
}

prop_compose! {
    fn outbound()(
        source in proptest::option::of(address()),
        dst in address(),
        port in select(PORTS),
        uid in select(IDS),
        gid in select(IDS),
    ) -> Probe {
        let source = source
            .filter(|source| source.is_ipv6() == dst.is_ipv6())
            .map_or(Source::Unbound, |ip| Source::Bound(ip.into()));
        let dst = OrigDst::new(dst.into(), Port(port));
        Probe { owner: Owner { uid, gid }, source, dst }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn outbound_is_what_the_chain_says(wishes in wishes(), flow in outbound()) {
        let asked = Outbound::new(flow.owner, flow.source, flow.dst);
        let rule = decide_outbound(&wishes.policy(), &asked, &wishes);
        prop_assert_eq!(rule, reference_outbound(&wishes, &flow));
    }

    #[test]
    fn inbound_is_what_the_chain_says(wishes in wishes(), dst in address(), port in select(PORTS)) {
        let flow = Inbound { dst: dst.into(), port: Port(port) };
        let rule = decide_inbound(&wishes.policy(), &flow, &wishes);
        prop_assert_eq!(rule, reference_inbound(&wishes, &flow));
    }
}
