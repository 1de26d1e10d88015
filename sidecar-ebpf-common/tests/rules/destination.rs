//! Where the connection goes: local or not, family, port, range.

use super::*;

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
