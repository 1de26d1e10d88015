//! Who owns the socket: user, group, cgroup.

use super::*;

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
