//! Each rule by name: when it matches, and which neighbour takes over when it does not.

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
    expect(
        &wishes,
        out(BY_GID, "10.244.0.5", 80),
        Out::ProxyToOwnPodByGid,
    );
    expect(&wishes, out(BY_GID, "10.1.2.3", 80), Out::ProxyByGid);
    expect(&wishes, out(APP, "127.0.0.1", 80), Out::Localhost);
    expect(&wishes, out(APP, "127.0.0.9", 80), Out::IncludedRange);
    // Without that, what is local and not by the proxy's uid returns at rule 3.
    expect(
        &Wishes::istio(),
        out(BY_GID, "10.244.0.5", 80),
        Out::LocalNotProxyByUid,
    );
    expect(
        &Wishes::istio(),
        out(BY_GID, "10.1.2.3", 80),
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
fn a_wider_loopback_range_counts_for_rules_2_5_and_8() {
    let mut wishes = Wishes {
        loopback: Some(whole_loopback()),
        ..Wishes::istio()
    };
    // Rule 2 no longer sends it in, so the self-test's connection passes.
    for dst in ["127.0.0.1", "127.0.0.6", "127.9.9.9"] {
        expect(&wishes, out(PROXY, dst, 80), Out::ProxyByUid);
    }
    expect(
        &wishes,
        out(PROXY, "10.244.0.5", 80),
        Out::ProxyToOwnPodByUid,
    );
    wishes.outbound_all = false;
    wishes.included = vec![range("127.0.0.0/8")];
    expect(&wishes, out(BY_GID, "127.9.9.9", 80), Out::ProxyByGid);
    expect(&wishes, out(APP, "127.9.9.9", 80), Out::Localhost);
    // It is an IPv4 range.
    wishes.ipv6 = true;
    expect(&wishes, out(PROXY, "::1", 80), Out::ProxyByUid);
}

fn dns_of(dns: Dns) -> Wishes {
    Wishes {
        dns,
        ..Wishes::istio()
    }
}

fn resolver(addr: &str) -> Dns {
    Dns::To(vec![ip(addr).into()])
}

#[test]
fn dns_queries_of_the_application_go_to_the_agent() {
    let all = dns_of(Dns::All);
    for dst in ["10.96.0.10", "127.0.0.53", "127.0.0.1", "10.244.0.5"] {
        for socket in [tcp(APP), udp(APP)] {
            expect(&all, to(socket, dst, 53), Out::Dns);
        }
    }
    assert_eq!(Out::Dns.action(), Action::ToDns);
    expect(&all, to(udp(PROXY), "10.96.0.10", 53), Out::ProxyByUid);
    expect(&all, out(PROXY, "10.96.0.10", 53), Out::ProxyByUid);
    expect(&all, out(APP, "10.96.0.10", 54), Out::Everything);
    expect(&all, to(udp(APP), "10.96.0.10", 54), Out::EndOfChain);
    expect(&all, to(udp(APP), "127.0.0.1", 54), Out::Localhost);
    let off = Wishes::istio();
    expect(&off, out(APP, "10.96.0.10", 53), Out::Everything);
    expect(&off, to(udp(APP), "10.96.0.10", 53), Out::EndOfChain);
    expect(&off, to(udp(APP), "127.0.0.1", 53), Out::LocalNotProxyByUid);
}

#[test]
fn only_queries_to_the_servers_that_are_known_are_captured() {
    let one = Wishes {
        ipv6: true,
        ..dns_of(resolver("10.96.0.10"))
    };
    expect(&one, to(udp(APP), "10.96.0.10", 53), Out::Dns);
    expect(&one, to(udp(APP), "8.8.8.8", 53), Out::EndOfChain);
    expect(&one, out(APP, "8.8.8.8", 53), Out::Everything);
    // What is local and no such server is not returned by rules 3 and 6, which leave queries out.
    expect(&one, out(APP, "127.0.0.1", 53), Out::Localhost);
    expect(&one, out(APP, "10.244.0.5", 53), Out::Everything);
    // The family without a server has the exceptions too.
    expect(&one, out(APP, "fd00:10:244::5", 53), Out::Everything);
    expect(&one, to(udp(APP), "2001:db8::53", 53), Out::EndOfChain);
    // No server at all: as if DNS were not captured.
    let none = dns_of(Dns::To(vec![]));
    expect(&none, out(APP, "127.0.0.1", 53), Out::LocalNotProxyByUid);
}

#[test]
fn with_dns_rule_2_leaves_queries_out_and_rule_5_does_not() {
    let all = dns_of(Dns::All);
    expect(&all, out(PROXY, "10.244.0.5", 53), Out::ProxyByUid);
    expect(&all, out(PROXY, "10.244.0.5", 80), Out::ProxyToOwnPodByUid);
    expect(&all, out(BY_GID, "10.244.0.5", 53), Out::ProxyToOwnPodByGid);
    expect(&all, to(udp(BY_GID), "10.244.0.5", 53), Out::ProxyByGid);
    expect(&all, out(BY_GID, "10.244.0.5", 80), Out::LocalNotProxyByUid);
}

#[test]
fn with_dns_the_second_of_several_uids_still_asks_servers_of_its_own_pod() {
    let wishes = Wishes {
        uids: vec![3, 4],
        ..dns_of(Dns::All)
    };
    let second = Owner { uid: 4, gid: 1000 };
    // The first uid's rule 3 returns what is local, but for queries.
    expect(
        &wishes,
        out(second, "10.244.0.5", 80),
        Out::LocalNotProxyByUid,
    );
    expect(&wishes, out(second, "10.244.0.5", 53), Out::ProxyByUid);
    expect(&wishes, to(udp(second), "10.244.0.5", 53), Out::ProxyByUid);
}

#[test]
fn udp_is_redirected_for_dns_only() {
    let wishes = Wishes {
        ports_included: vec![80],
        ports_excluded: vec![9999],
        excluded: vec![range("10.9.0.0/16")],
        ..dns_of(Dns::All)
    };
    expect(&wishes, to(udp(APP), "10.1.2.3", 9999), Out::ExcludedPort);
    expect(&wishes, to(udp(PROXY), "10.244.0.5", 80), Out::ProxyByUid);
    expect(&wishes, to(udp(APP), "10.9.2.3", 80), Out::ExcludedRange);
    expect(&wishes, to(udp(APP), "10.1.2.3", 80), Out::EndOfChain);
    let port_excluded = Wishes {
        ports_excluded: vec![53],
        ..dns_of(Dns::All)
    };
    expect(
        &port_excluded,
        to(udp(APP), "10.1.2.3", 53),
        Out::ExcludedPort,
    );
}

#[test]
fn groups_that_are_excluded_or_not_included_pass_before_dns() {
    let member = |gid| Owner { uid: 1000, gid };
    let mut wishes = Wishes {
        members: Members::AllBut(vec![7, 8]),
        ..dns_of(Dns::All)
    };
    for socket in [tcp(member(8)), udp(member(8))] {
        expect(&wishes, to(socket, "10.96.0.10", 53), Out::ExcludedGroup);
    }
    expect(&wishes, out(member(9), "10.96.0.10", 53), Out::Dns);
    expect(&wishes, out(member(9), "10.1.2.3", 80), Out::Everything);
    wishes.members = Members::Only(vec![7, 8]);
    expect(&wishes, out(member(8), "10.1.2.3", 80), Out::Everything);
    expect(&wishes, out(member(8), "10.96.0.10", 53), Out::Dns);
    expect(
        &wishes,
        out(member(9), "10.1.2.3", 80),
        Out::NotIncludedGroup,
    );
    // An empty list includes nobody.
    wishes.members = Members::Only(vec![]);
    expect(
        &wishes,
        out(member(8), "10.1.2.3", 80),
        Out::NotIncludedGroup,
    );
    // The proxy's own rules and what is local come first.
    expect(&wishes, out(PROXY, "10.1.2.3", 80), Out::ProxyByUid);
    expect(
        &wishes,
        out(member(8), "127.0.0.1", 80),
        Out::LocalNotProxyByUid,
    );
}

#[test]
fn nothing_that_leaves_or_comes_in_by_an_excluded_interface_is_captured() {
    let wishes = Wishes {
        interfaces_excluded: vec![ETH1],
        ports_excluded: vec![9999],
        ..dns_of(Dns::All)
    };
    for port in [80, 53, 9999] {
        for owner in [APP, PROXY] {
            expect(
                &wishes,
                out(owner, "192.168.7.9", port),
                Out::ExcludedInterface,
            );
        }
    }
    expect(
        &wishes,
        to(udp(APP), "192.168.7.9", 53),
        Out::ExcludedInterface,
    );
    expect(&wishes, out(APP, "10.1.2.3", 80), Out::Everything);
    // The pod's own address on that interface is reached by lo.
    expect(
        &wishes,
        out(APP, "192.168.7.5", 80),
        Out::LocalNotProxyByUid,
    );
    let by = |interface| Inbound {
        interface,
        ..inbound("192.168.7.5", 8080)
    };
    let decide = |interface| decide_inbound(&wishes.policy(), &by(interface), &wishes);
    assert_eq!(decide(ETH1), In::ExcludedInterface);
    assert_eq!(decide(ETH0), In::Everything);
}

#[test]
fn an_excluded_interface_counts_before_inbound_capture_is_off() {
    let wishes = Wishes {
        inbound_all: false,
        interfaces_excluded: vec![ETH0],
        ..Wishes::istio()
    };
    expect_in(&wishes, "10.244.0.5", 80, In::ExcludedInterface);
    expect_in(&wishes, "fd00:10:244::5", 80, In::NoIpv6Rules);
}

#[test]
fn lo_can_be_excluded_too() {
    let wishes = Wishes {
        interfaces_excluded: vec![LO],
        ..Wishes::istio()
    };
    for dst in ["127.0.0.1", "10.244.0.5"] {
        expect(&wishes, out(PROXY, dst, 80), Out::ExcludedInterface);
    }
    expect(&wishes, out(PROXY, "10.1.2.3", 80), Out::ProxyByUid);
}

#[test]
fn a_socket_bound_to_a_device_finds_that_device_s_addresses_only() {
    let istio = Wishes::istio();
    let bound = |device, dst| to(on(device, tcp(APP)), dst, 80);
    expect(&istio, bound(ETH0, "10.244.0.5"), Out::LocalNotProxyByUid);
    expect(&istio, bound(ETH1, "10.244.0.5"), Out::Everything);
    expect(&istio, bound(ETH0, "127.0.0.1"), Out::Localhost);
    expect(&istio, bound(LO, "127.0.0.1"), Out::LocalNotProxyByUid);
    expect(&istio, bound(LO, "10.1.2.3"), Out::LocalNotProxyByUid);
    let excluded = Wishes {
        interfaces_excluded: vec![ETH1],
        ..Wishes::istio()
    };
    // Wherever the routes lead.
    expect(&excluded, bound(ETH1, "10.1.2.3"), Out::ExcludedInterface);
    expect(&excluded, bound(ETH0, "192.168.7.9"), Out::Everything);
    assert_eq!(
        *bound(ETH0, "10.1.2.3").dst(),
        *out(APP, "10.1.2.3", 80).dst()
    );
    assert_eq!(bound(ETH0, "0.0.0.0").dst().ip, ip("127.0.0.1"));
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

/// An unbound IPv6 socket talks to `::6` from `::6`, an IPv4 one to 127.0.0.6 from 127.0.0.1.
#[test]
fn the_proxy_s_own_source_is_chosen_by_the_kernel_too() {
    let mut istio = Wishes::istio();
    istio.ipv6 = true;
    istio.locals.push(("::6".parse().unwrap(), LO));
    for owner in [APP, PROXY] {
        let flow = out(owner, "::6", 15002);
        expect(&istio, flow, Out::FromInboundPassthrough);
    }
    let flow = out(PROXY, "127.0.0.6", 15002);
    expect(&istio, flow, Out::ProxyToOwnPodByUid);
    // Unless it is no address of the pod.
    istio.locals.pop();
    expect(&istio, out(PROXY, "::6", 15002), Out::ProxyByUid);
}

#[test]
fn outside_the_proxy_s_cgroup_nobody_is_the_proxy() {
    let mut istio = Wishes::istio();
    let outsider = |owner| Socket {
        caller: Caller::Application,
        ..tcp(owner)
    };
    for owner in [PROXY, BY_GID, APP] {
        let elsewhere = to(outsider(owner), "10.1.2.3", 80);
        expect(&istio, elsewhere, Out::Everything);
        let own_pod = to(outsider(owner), "10.244.0.5", 80);
        expect(&istio, own_pod, Out::LocalNotProxyByUid);
    }
    // Its group is what it is.
    istio.members = Members::AllBut(vec![1337]);
    let elsewhere = to(outsider(PROXY), "10.1.2.3", 80);
    expect(&istio, elsewhere, Out::ExcludedGroup);
}
