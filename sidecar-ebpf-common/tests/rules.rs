//! Each rule by name: when it matches, and which neighbour takes over when it does not.

mod support;

use sidecar_ebpf_common::{
    addr::Port,
    decide::{Outbound, Owner, decide_inbound, decide_outbound},
    rule::{Action, InboundRule as In, OutboundRule as Out},
};
use support::{APP, PROXY, Wishes, inbound, out, out_from, range};

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
fn local_traffic_of_the_application_is_left_alone() {
    let istio = Wishes::istio();
    for dst in ["127.0.0.1", "127.0.0.9", "10.244.0.5", "0.0.0.0"] {
        expect(&istio, out(APP, dst, 8080), Out::LocalNotProxyByUid);
    }
}

#[test]
fn the_proxy_reaches_the_tunnel_port_of_its_own_pod() {
    let istio = Wishes::istio();
    expect(&istio, out(PROXY, "10.244.0.5", 15008), Out::ProxyByUid);
    expect_in(&istio, "10.244.0.5", 15008, In::Tunnel);
}

#[test]
fn only_one_loopback_address_counts_as_localhost() {
    let istio = Wishes::istio();
    expect(&istio, out(PROXY, "127.0.0.9", 80), Out::ProxyToOwnPodByUid);
    expect(
        &istio,
        out_from(PROXY, "127.0.0.1", "127.0.0.6", 15002),
        Out::ProxyToOwnPodByUid,
    );
}

#[test]
fn a_connection_to_nowhere_goes_to_the_socket_s_own_address() {
    let istio = Wishes::istio();
    expect(&istio, out(PROXY, "0.0.0.0", 80), Out::ProxyByUid);
    expect(
        &istio,
        out_from(PROXY, "10.244.0.5", "0.0.0.0", 80),
        Out::ProxyToOwnPodByUid,
    );
}

#[test]
fn ipv6_has_rules_only_if_switched_on() {
    let mut istio = Wishes::istio();
    expect(&istio, out(APP, "2001:db8::1", 80), Out::NoIpv6Rules);
    expect_in(&istio, "fd00:10:244::5", 80, In::NoIpv6Rules);
    istio.ipv6 = true;
    expect(&istio, out(APP, "2001:db8::1", 80), Out::Everything);
    expect(
        &istio,
        out(PROXY, "fd00:10:244::5", 80),
        Out::ProxyToOwnPodByUid,
    );
    expect(
        &istio,
        out_from(PROXY, "::6", "fd00:10:244::5", 80),
        Out::FromInboundPassthrough,
    );
    expect(&istio, out(PROXY, "::", 80), Out::ProxyByUid);
    expect_in(&istio, "fd00:10:244::5", 80, In::Everything);
}

#[test]
fn an_ipv4_mapped_destination_meets_the_ipv4_rules() {
    let istio = Wishes::istio();
    expect(&istio, out(APP, "::ffff:10.1.2.3", 80), Out::Everything);
    expect(
        &istio,
        out(APP, "::ffff:127.0.0.1", 80),
        Out::LocalNotProxyByUid,
    );
}

#[test]
fn the_group_rules_come_to_bear_where_the_uid_rules_do_not_return() {
    // An included loopback range switches rules 3 and 6 off.
    let mut wishes = Wishes::istio();
    wishes.outbound_all = false;
    wishes.included = vec![range("127.0.0.0/8")];
    let by_gid = Owner {
        uid: 1000,
        gid: 1337,
    };
    expect(
        &wishes,
        out(by_gid, "10.244.0.5", 80),
        Out::ProxyToOwnPodByGid,
    );
    expect(&wishes, out(by_gid, "10.1.2.3", 80), Out::ProxyByGid);
    expect(&wishes, out(APP, "127.0.0.1", 80), Out::Localhost);
    expect(&wishes, out(APP, "127.0.0.9", 80), Out::IncludedRange);
    // Without that, what is local and not by the proxy's uid returns at rule 3.
    expect(
        &Wishes::istio(),
        out(by_gid, "10.244.0.5", 80),
        Out::LocalNotProxyByUid,
    );
    expect(
        &Wishes::istio(),
        out(by_gid, "10.1.2.3", 80),
        Out::ProxyByGid,
    );
}

#[test]
fn rule_6_is_reached_when_there_is_no_uid() {
    let wishes = Wishes {
        uids: vec![],
        ..Wishes::istio()
    };
    expect(&wishes, out(APP, "127.0.0.1", 80), Out::LocalNotProxyByGid);
}

#[test]
fn only_the_first_of_several_uids_reaches_its_own_pod_through_the_inbound_port() {
    let wishes = Wishes {
        uids: vec![3, 4],
        ..Wishes::istio()
    };
    let owner = |uid| Owner { uid, gid: 1000 };
    expect(
        &wishes,
        out(owner(3), "10.244.0.5", 80),
        Out::ProxyToOwnPodByUid,
    );
    expect(
        &wishes,
        out(owner(4), "10.244.0.5", 80),
        Out::LocalNotProxyByUid,
    );
    expect(&wishes, out(owner(4), "10.1.2.3", 80), Out::ProxyByUid);
}

#[test]
fn exclusions_come_before_inclusions() {
    let wishes = Wishes {
        outbound_all: false,
        included: vec![range("10.0.0.0/8")],
        excluded: vec![range("10.9.0.0/16")],
        ports_included: vec![8080],
        ports_excluded: vec![9999],
        ..Wishes::istio()
    };
    expect(&wishes, out(APP, "10.1.2.3", 80), Out::IncludedRange);
    expect(&wishes, out(APP, "10.9.2.3", 80), Out::ExcludedRange);
    expect(&wishes, out(APP, "10.9.2.3", 8080), Out::ExcludedRange);
    expect(&wishes, out(APP, "192.0.2.1", 8080), Out::IncludedPort);
    expect(&wishes, out(APP, "10.1.2.3", 9999), Out::ExcludedPort);
    expect(&wishes, out(PROXY, "10.1.2.3", 9999), Out::ExcludedPort);
    expect(&wishes, out(APP, "192.0.2.1", 80), Out::EndOfChain);
}

#[test]
fn a_range_of_one_family_says_nothing_about_the_other() {
    let wishes = Wishes {
        ipv6: true,
        excluded: vec![range("::/0")],
        ..Wishes::istio()
    };
    expect(&wishes, out(APP, "10.1.2.3", 80), Out::Everything);
    expect(&wishes, out(APP, "2001:db8::1", 80), Out::ExcludedRange);
}

#[test]
fn inbound_lists() {
    let mut wishes = Wishes {
        inbound_all: false,
        inbound_included: vec![8080],
        ..Wishes::istio()
    };
    expect_in(&wishes, "10.244.0.5", 8080, In::IncludedPort);
    expect_in(&wishes, "10.244.0.5", 8081, In::EndOfChain);
    // The excluded ports say nothing beside a list.
    expect_in(&wishes, "10.244.0.5", 15090, In::EndOfChain);
    wishes.inbound_included.clear();
    expect_in(&wishes, "10.244.0.5", 8080, In::Off);
}

#[test]
fn the_proxy_s_own_ports_are_captured_from_outside() {
    let istio = Wishes::istio();
    expect_in(&istio, "10.244.0.5", 15001, In::Everything);
    expect_in(&istio, "10.244.0.5", 15006, In::Everything);
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
