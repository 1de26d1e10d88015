//! The source address of a redirected connection is the one that the kernel chooses for the real
//! destination: what the client's `getsockname` says, and the peer that the proxy sees.

use std::net::IpAddr;

use anyhow::Result;
use sidecar_lab::{
    Agent, ConnectOptions, FastOpen, ip_inside,
    pod::{POD_IP, POD_IP6, SECOND_IP, SECOND_IP6},
};

use crate::{
    SECOND, SECOND6, SERVICE, SERVICE6, loaded, mapped,
    support::{Front, Moved, Rig, connect4, connect6, to},
    until_rule, with,
};

/// Connects, and asserts from which address.
#[track_caller]
fn comes_from(
    rig: &Rig,
    source: impl Into<IpAddr>,
    moved: Moved<'_>,
    by: &Agent,
    options: ConnectOptions,
    at: &Front,
) {
    let source = source.into();
    let ends = rig.delivered(moved, by, options, at);
    assert_eq!(ends.client.local.ip().to_canonical(), source, "getsockname");
    assert_eq!(ends.server.peer.ip(), source, "the proxy's peer");
    assert_eq!(ends.client.sock_name().unwrap(), ends.client.local);
}

#[test]
fn of_connections_to_the_own_pod() -> Result<()> {
    // A pod as most are, and one with two interfaces.
    let mut plain = Rig::new("own")?;
    plain.load(&["--dual-stack"])?;
    for rig in [&plain, &loaded("own2", &[])?] {
        for addr in ["127.0.0.9:8080", "127.0.0.6:8080", "127.1.2.3:8080"] {
            let localhost = [127, 0, 0, 1];
            let (by, at) = (&rig.proxy, &rig.inbound);
            comes_from(rig, localhost, connect4("2"), by, to(addr), at);
            comes_from(rig, localhost, connect6("2"), by, mapped(addr), at);
        }
        let (by, at) = (&rig.proxy, &rig.inbound);
        comes_from(rig, POD_IP, connect4("2"), by, to((POD_IP, 8080)), at);
        comes_from(rig, POD_IP6, connect6("2"), by, to((POD_IP6, 8080)), at);
    }
    let rig = loaded("own3", &[])?;
    let (by, at) = (&rig.proxy, &rig.inbound);
    comes_from(
        &rig,
        SECOND_IP,
        connect4("2"),
        by,
        to((SECOND_IP, 8080)),
        at,
    );
    comes_from(
        &rig,
        SECOND_IP6,
        connect6("2"),
        by,
        to((SECOND_IP6, 8080)),
        at,
    );
    Ok(())
}

#[test]
fn of_connections_behind_either_interface() -> Result<()> {
    let rig = loaded("either", &[])?;
    let (by, at) = (&rig.app, &rig.outbound);
    comes_from(&rig, POD_IP, connect4("9"), by, to(SERVICE), at);
    comes_from(&rig, POD_IP, connect6("9"), by, mapped(SERVICE), at);
    comes_from(&rig, POD_IP6, connect6("9"), by, to(SERVICE6), at);
    comes_from(&rig, SECOND_IP, connect4("9"), by, to(SECOND), at);
    comes_from(&rig, SECOND_IP, connect6("9"), by, mapped(SECOND), at);
    comes_from(&rig, SECOND_IP6, connect6("9"), by, to(SECOND6), at);
    let kinds: [fn(&mut ConnectOptions); 5] = [
        |options| options.mptcp = true,
        |options| options.nonblocking = true,
        |options| options.io_uring = true,
        |options| options.fast_open = FastOpen::SendTo,
        |options| options.fast_open = FastOpen::ConnectOption,
    ];
    for change in kinds {
        comes_from(&rig, SECOND_IP, connect4("9"), by, with(SECOND, change), at);
        comes_from(
            &rig,
            SECOND_IP6,
            connect6("9"),
            by,
            with(SECOND6, change),
            at,
        );
    }
    Ok(())
}

/// What a program has bound stays as it is, address or port.
#[test]
fn of_sockets_that_are_bound() -> Result<()> {
    let rig = loaded("bound", &[])?;
    let (by, at) = (&rig.app, &rig.outbound);
    for (source, addr, moved) in [
        ("10.244.0.5:0", SECOND, connect4("9")),
        ("192.168.77.2:0", SERVICE, connect4("9")),
        ("127.0.0.1:0", SECOND, connect4("9")),
        ("[fd00:10:244::5]:0", SECOND6, connect6("9")),
        ("[fd00:77::2]:0", SERVICE6, connect6("9")),
    ] {
        let from = with(addr, |options| options.from = Some(source.parse().unwrap()));
        let source = from.from.unwrap().ip();
        comes_from(&rig, source, moved, by, from, at);
    }
    // One that has only a port is not bound anew: it comes from the pod's first address.
    let from = with(SECOND, |options| {
        options.from = Some("0.0.0.0:4322".parse().unwrap());
    });
    let ends = rig.delivered(connect4("9"), by, from, at);
    assert_eq!(ends.server.peer, (POD_IP, 4322).into());
    Ok(())
}

/// Many connections to one destination, all at once: the port is chosen for the destination, so
/// they may not run out of ports sooner than unbound ones.
#[test]
fn of_many_connections_at_once() -> Result<()> {
    let rig = loaded("ports", &[])?;
    // Sixteen ports.
    rig.pod
        .sysctl("net.ipv4.ip_local_port_range", "40000 40015")?;
    let mut held = Vec::new();
    for number in 1..=8 {
        for _ in 0..8 {
            let addr = format!("192.0.2.{number}:80");
            let ends = rig.delivered(connect4("9"), &rig.app, to(&addr), &rig.outbound);
            assert_eq!(ends.server.peer.ip(), SECOND_IP);
            held.push(ends);
        }
    }
    Ok(())
}

#[test]
fn with_two_addresses_on_one_interface() -> Result<()> {
    let rig = loaded("two", &[])?;
    rig.pod.add_address([10, 244, 0, 66].into())?;
    until_rule(&rig, "connect4", "10.244.0.66:8080", "3")?;
    // IPv4 talks to its second address from the first.
    let (by, at) = (&rig.proxy, &rig.inbound);
    let own = to("10.244.0.66:8080");
    comes_from(&rig, POD_IP, connect4("2"), by, own, at);
    comes_from(
        &rig,
        POD_IP,
        connect4("9"),
        &rig.app,
        to(SERVICE),
        &rig.outbound,
    );
    // Unless a route says otherwise.
    rig.pod
        .ip("route add 203.0.113.0/24 via 10.244.0.1 src 10.244.0.66\n")?;
    until_source(&rig, "203.0.113.9:80", [10, 244, 0, 66])?;
    let routed = to("203.0.113.9:80");
    comes_from(
        &rig,
        [10, 244, 0, 66],
        connect4("9"),
        &rig.app,
        routed,
        &rig.outbound,
    );
    comes_from(
        &rig,
        POD_IP,
        connect4("9"),
        &rig.app,
        to(SERVICE),
        &rig.outbound,
    );
    Ok(())
}

/// IPv6 chooses among the addresses of an interface by what they have in common with the
/// destination. What the kernel chooses without a redirect, the proxy's own connections show.
#[test]
fn with_several_ipv6_addresses_on_one_interface() -> Result<()> {
    let rig = loaded("several", &[])?;
    let addresses = ["fd00:10:244::66", "2001:db8:5::5", "fd55::5", "2002:a::5"];
    let mut there = String::new();
    for address in addresses {
        let address: IpAddr = address.parse()?;
        rig.pod
            .ip(&format!("addr add {address}/128 dev eth0 nodad\n"))?;
        there += &format!("route add {address}/128 via fd00:10:244::5 dev eth0\n");
    }
    let destinations = [
        "fd00:96::1",
        "fd00:10:244::1",
        "fd55::1",
        "fd56::1",
        "2001:db8:77::1",
        "2001:db8:5::1",
        "2001:4860::1",
        "2002:a::1",
        "2002:ff::1",
        "2a00::1",
        "3ffe::1",
        "64:ff9b::1",
    ];
    for destination in destinations {
        there += &format!("route replace local {destination}/128 dev lo\n");
    }
    rig.pod.ip("route del 2001:db8:77::/48\n")?;
    ip_inside(&rig.pod.remote_netns_path(), ["-batch", "-"], &there)?;
    let mut seen = std::collections::BTreeSet::new();
    for destination in destinations {
        let addr = format!("[{destination}]:80");
        let direct = rig.delivered(connect6("4"), &rig.proxy, to(&addr), &rig.service);
        let source = direct.server.peer.ip();
        until_source(&rig, &addr, source)?;
        comes_from(
            &rig,
            source,
            connect6("9"),
            &rig.app,
            to(&addr),
            &rig.outbound,
        );
        seen.insert(source);
    }
    // Otherwise nothing was chosen.
    assert!(seen.len() >= 3, "{seen:?}");
    for address in addresses {
        let address: IpAddr = address.parse()?;
        let own = to((address, 8080));
        comes_from(&rig, address, connect6("2"), &rig.proxy, own, &rig.inbound);
    }
    Ok(())
}

#[test]
fn with_a_network_that_is_local() -> Result<()> {
    let mut plain = Rig::new("anyip")?;
    plain.load(&["--dual-stack"])?;
    for rig in [&plain, &loaded("anyip2", &[])?] {
        rig.pod.ip("route add local 10.100.0.0/22 dev lo\n\
             route add local 10.200.0.0/22 dev lo src 10.244.0.5\n")?;
        for addr in ["10.100.1.2:8080", "10.200.1.2:8080"] {
            until_rule(rig, "connect4", addr, "3")?;
            let direct = rig.delivered(connect4("3"), &rig.app, to(addr), &rig.application);
            let source = direct.server.peer.ip();
            let (by, at) = (&rig.proxy, &rig.inbound);
            comes_from(rig, source, connect4("2"), by, to(addr), at);
        }
        // An address outside it is none of its own.
        let (by, at) = (&rig.app, &rig.outbound);
        comes_from(rig, POD_IP, connect4("9"), by, to(SERVICE), at);
    }
    Ok(())
}

#[test]
fn that_changes_with_the_route() -> Result<()> {
    let rig = loaded("route", &[])?;
    for (addr, net, eth0, first, net1, second) in [
        (
            SECOND,
            "192.0.2.0/24",
            "10.244.0.1",
            IpAddr::from(POD_IP),
            "192.168.77.1",
            IpAddr::from(SECOND_IP),
        ),
        (
            SECOND6,
            "2001:db8:77::/48",
            "fd00:10:244::1",
            POD_IP6.into(),
            "fd00:77::1",
            SECOND_IP6.into(),
        ),
    ] {
        until_source(&rig, addr, second)?;
        rig.pod.ip(&format!("route replace {net} via {eth0}\n"))?;
        until_source(&rig, addr, first)?;
        rig.pod.ip(&format!("route replace {net} via {net1}\n"))?;
        until_source(&rig, addr, second)?;
    }
    Ok(())
}

/// Waits until the application's connections to this address come from there.
fn until_source(rig: &Rig, addr: &str, source: impl Into<IpAddr>) -> Result<()> {
    let source = source.into();
    let mut last = None;
    for _ in 0..300 {
        let client = rig.app.connect(addr)?;
        last = Some(rig.outbound.accept(&client).peer.ip());
        if last == Some(source) {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    anyhow::bail!("connections to {addr} come from {last:?}, not from {source}")
}
