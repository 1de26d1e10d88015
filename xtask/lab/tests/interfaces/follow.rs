//! Interfaces, addresses and routes that change while the loader runs.

use std::time::Duration;

use anyhow::Result;
use sidecar_lab::{
    Pod,
    pod::{SECOND_IP, SECOND_IP6},
};

use crate::{
    SECOND, SECOND6, SERVICE, loaded,
    support::{Rig, connect4, connect6, sk_lookup, to},
    until_rule,
};

#[test]
fn an_interface_that_appears_later_is_excluded() -> Result<()> {
    let mut rig = Rig::new("later")?;
    rig.load(&["--dual-stack", "-c", "net+"])?;
    rig.delivered(connect4("9"), &rig.app, to(SECOND), &rig.outbound);
    rig.pod.add_net1()?;
    for (hook, addr) in [("connect4", SECOND), ("connect6", SECOND6)] {
        until_rule(&rig, hook, addr, "excluded-interface")?;
        let moved = (hook, "excluded-interface", 1);
        rig.delivered(moved, &rig.app, to(addr), &rig.service);
    }
    let inbound = sk_lookup("inbound-excluded-interface");
    for ip in [SECOND_IP.into(), std::net::IpAddr::from(SECOND_IP6)] {
        rig.delivered(inbound, &rig.remote, to((ip, 8080)), &rig.application);
    }
    rig.delivered(connect4("9"), &rig.app, to(SERVICE), &rig.outbound);

    // By another name it is another interface.
    rig.pod.ip("link set net1 name other\n")?;
    for (hook, addr) in [("connect4", SECOND), ("connect6", SECOND6)] {
        until_rule(&rig, hook, addr, "9")?;
        rig.delivered((hook, "9", 1), &rig.app, to(addr), &rig.outbound);
    }
    let inbound = sk_lookup("inbound-all");
    rig.delivered(inbound, &rig.remote, to((SECOND_IP, 8080)), &rig.inbound);
    Ok(())
}

/// Excluded means around the proxy, so what does not fit goes to the proxy.
#[test]
fn an_interface_too_many_is_redirected() -> Result<()> {
    let mut rig = Rig::new("many")?;
    // Each pair is two interfaces: sixteen.
    let pairs: String = (0..8)
        .map(|n| format!("link add a{n} type veth peer name b{n}\n"))
        .collect();
    rig.pod.ip(&pairs)?;
    rig.load(&["-c", "a+,b+,net1"])?;
    rig.pod.add_net1()?;
    let loader = rig.loader.as_ref().unwrap();
    loader.wait_for_line("so redirected: net1", Duration::from_secs(3))?;
    rig.delivered(connect4("9"), &rig.app, to(SECOND), &rig.outbound);
    let inbound = sk_lookup("inbound-all");
    rig.delivered(inbound, &rig.remote, to((SECOND_IP, 8080)), &rig.inbound);
    // One that goes makes room.
    rig.pod.ip("link del a0\n")?;
    until_rule(&rig, "connect4", SECOND, "excluded-interface")
}

#[test]
fn a_route_that_moves_takes_its_traffic_along() -> Result<()> {
    let rig = loaded("moves", &["-c", "net1"])?;
    let excluded = "excluded-interface";
    for (hook, addr, net, eth0, net1) in [
        (
            "connect4",
            SECOND,
            "192.0.2.0/24",
            "10.244.0.1",
            "192.168.77.1",
        ),
        (
            "connect6",
            SECOND6,
            "2001:db8:77::/48",
            "fd00:10:244::1",
            "fd00:77::1",
        ),
    ] {
        rig.delivered((hook, excluded, 1), &rig.app, to(addr), &rig.service);
        rig.pod.ip(&format!("route replace {net} via {eth0}\n"))?;
        until_rule(&rig, hook, addr, "9")?;
        rig.delivered((hook, "9", 1), &rig.app, to(addr), &rig.outbound);
        rig.pod.ip(&format!("route replace {net} via {net1}\n"))?;
        until_rule(&rig, hook, addr, excluded)?;
        rig.delivered((hook, excluded, 1), &rig.app, to(addr), &rig.service);

        // Of two routes to a prefix the better one counts, whichever came first.
        let better = format!("{net} via {eth0} metric 1");
        let worse = format!("route del {net} via {net1}\nroute add {net} via {net1} metric 9\n");
        rig.pod.ip(&format!("{worse}route add {better}\n"))?;
        until_rule(&rig, hook, addr, "9")?;
        rig.pod.ip(&format!("route del {better}\n"))?;
        until_rule(&rig, hook, addr, excluded)?;

        // Without the route only the default route is left.
        rig.pod
            .ip(&format!("route del {net} via {net1} metric 9\n"))?;
        until_rule(&rig, hook, addr, "9")?;
    }
    Ok(())
}

/// Hops on several interfaces, one of them excluded: nobody knows before which it will be.
#[test]
fn a_route_over_two_interfaces_is_not_excluded() -> Result<()> {
    let rig = loaded("multipath", &["-c", "net1"])?;
    rig.pod.ip(
        "route add 192.0.2.128/25 nexthop via 192.168.77.1 nexthop via 10.244.0.1\n\
         route add 2001:db8:77:8000::/49 nexthop via fd00:77::1 nexthop via fd00:10:244::1\n\
         route add unreachable 192.0.2.64/26\n",
    )?;
    for (hook, addr) in [
        ("connect4", "192.0.2.129:80"),
        ("connect6", "[2001:db8:77:8000::1]:80"),
        ("connect4", "192.0.2.65:80"),
    ] {
        until_rule(&rig, hook, addr, "9")?;
        rig.delivered((hook, "9", 1), &rig.app, to(addr), &rig.outbound);
    }
    rig.delivered(
        connect4("excluded-interface"),
        &rig.app,
        to(SECOND),
        &rig.service,
    );
    // Several hops on the same interface are one way.
    rig.pod.ip("addr add 192.168.78.2/24 dev net1\n\
         route replace 192.0.2.128/25 nexthop via 192.168.77.1 nexthop via 192.168.78.1\n")?;
    until_rule(&rig, "connect4", "192.0.2.129:80", "excluded-interface")
}

#[test]
fn routing_rules_are_warned_of_and_followed_as_far_as_they_can() -> Result<()> {
    let mut rig = Rig::on(Pod::with(
        "rules",
        sidecar_lab::PodOptions::two_interfaces(),
    )?)?;
    rig.load(&["-c", "net1"])?;
    let warning = "policy routing rules";
    let loader = rig.loader.as_ref().unwrap();
    assert!(
        !loader.transcript().contains(warning),
        "{}",
        loader.transcript()
    );
    rig.pod
        .ip("route add 203.0.113.0/24 via 192.168.77.1 table 100\n\
         rule add from all lookup 100 pref 100\n")?;
    let addr = "203.0.113.9:80";
    until_rule(&rig, "connect4", addr, "excluded-interface")?;
    // A rule may cut a piece out of a route.
    rig.pod.ip("route add default via 10.244.0.1 table 101\n\
         rule add to 192.0.2.8/29 lookup 101 pref 101\n")?;
    until_rule(&rig, "connect4", SECOND, "9")?;
    rig.delivered(
        connect4("excluded-interface"),
        &rig.app,
        to("192.0.2.16:80"),
        &rig.service,
    );
    loader.wait_for_line(warning, Duration::from_secs(3))?;
    rig.delivered(
        connect4("excluded-interface"),
        &rig.app,
        to(addr),
        &rig.service,
    );
    rig.delivered(
        connect6("no-ipv6-rules"),
        &rig.app,
        to(SECOND6),
        &rig.service,
    );
    Ok(())
}
