//! Each rule by name: when it matches, and which neighbour takes over when it does not.

mod destination;
mod dns;
mod inbound;
mod interfaces;
mod owner;
#[path = "../support/mod.rs"]
mod support;

use sidecar_ebpf_common::{
    addr::Port,
    decide::{decide_inbound, decide_outbound},
    facts::{Caller, Inbound, Outbound, Owner, Socket},
    rule::{Action, InboundRule as In, OutboundRule as Out},
};
use support::{
    APP, Dns, ETH0, ETH1, LO, Members, PROXY, Wishes, inbound, ip, on, out, out_from, range, tcp,
    to, udp, whole_loopback,
};

/// The proxy's group without its user.
const BY_GID: Owner = Owner {
    uid: 1000,
    gid: 1337,
};

#[track_caller]
fn expect(wishes: &Wishes, flow: Outbound, rule: Out) {
    assert_eq!(
        decide_outbound(&wishes.policy(), &flow, wishes),
        rule,
        "{flow:?}"
    );
}

#[track_caller]
fn expect_in(wishes: &Wishes, dst: &str, port: u16, rule: In) {
    assert_eq!(
        decide_inbound(&wishes.policy(), &inbound(dst, port), wishes),
        rule
    );
}

fn dns_of(dns: Dns) -> Wishes {
    Wishes {
        dns,
        ..Wishes::istio()
    }
}

#[test]
fn the_six_kinds_of_traffic_of_a_default_installation() {
    let istio = Wishes::istio();
    // 1: the proxy hands an inbound connection to the application.
    expect(
        &istio,
        out_from(PROXY, "127.0.0.6", "10.244.0.5", 8080),
        Out::FromInboundPassthrough,
    );
    expect_in(&istio, "10.244.0.5", 8080, In::Everything);
    // 2: out through the proxy, and on.
    expect(&istio, out(APP, "10.1.2.3", 80), Out::Everything);
    expect(&istio, out(PROXY, "10.1.2.3", 80), Out::ProxyByUid);
    // 3: scrapes of the agent's ports come in directly; an application's own scrape is local.
    for port in [15090, 15021, 15020] {
        expect_in(&istio, "10.244.0.5", port, In::ExcludedPort);
    }
    expect(&istio, out(PROXY, "127.0.0.1", 9090), Out::ProxyByUid);
    // 4: the own service.
    expect(&istio, out(APP, "10.96.0.10", 80), Out::Everything);
    expect(
        &istio,
        out(PROXY, "10.244.0.5", 80),
        Out::ProxyToOwnPodByUid,
    );
    // 5: between the proxy's processes.
    expect(&istio, out(PROXY, "127.0.0.1", 15000), Out::ProxyByUid);
    // 6: agent to Istiod.
    expect(&istio, out(PROXY, "10.96.0.11", 15012), Out::ProxyByUid);
}

#[test]
fn labels_are_unique_and_numbers_stand_in_order() {
    let labels: Vec<_> = Out::ALL.iter().map(|rule| rule.label()).collect();
    let numbers: Vec<u32> = labels
        .iter()
        .filter_map(|label| label.parse().ok())
        .collect();
    assert_eq!(numbers, (1..=9).collect::<Vec<_>>());
    for (i, label) in labels.iter().enumerate() {
        assert!(!labels[..i].contains(label), "{label} twice");
    }
    assert_eq!(Out::Everything.action(), Action::ToOutbound);
    assert_eq!(Port(15001).to_be_word(), u32::from(15001_u16.to_be()));
}
