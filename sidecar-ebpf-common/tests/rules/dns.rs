//! DNS capture, and UDP.

use super::*;

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
