//! Excluded interfaces, and sockets that are bound to a device.

use super::*;

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
