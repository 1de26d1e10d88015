//! The outbound decision on real connections: which rule counts each of them, where it arrives, and
//! what its two ends are told. Needs root; leaves nothing behind.
#![expect(clippy::unwrap_used, reason = "in a test it is a failure of the test")]

mod addresses;
#[path = "../support/mod.rs"]
mod support;

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::Result;
use sidecar_lab::{
    Agent, Conn, ConnectOptions, Errno, OpResult, UdpExchange,
    pod::{APP_ID, POD_IP, POD_IP6, PROXY_ID, REMOTE_IP, REMOTE_IP6},
};
use support::{Front, Rig, canonical, connect4, connect6, sk_lookup, to};

/// What differs between IPv4 and IPv6.
struct Family {
    hook: &'static str,
    pod: IpAddr,
    remote: IpAddr,
    service: &'static str,
    istiod: &'static str,
    localhost: &'static str,
    /// Where the proxy's inbound connections come from.
    passthrough: &'static str,
}

const V4: Family = Family {
    hook: "connect4",
    pod: IpAddr::V4(POD_IP),
    remote: IpAddr::V4(REMOTE_IP),
    service: "10.96.0.10:80",
    istiod: "10.96.0.1:80",
    localhost: "127.0.0.1:8080",
    passthrough: "127.0.0.6:0",
};

const V6: Family = Family {
    hook: "connect6",
    pod: IpAddr::V6(POD_IP6),
    remote: IpAddr::V6(REMOTE_IP6),
    service: "[fd00:96::10]:80",
    istiod: "[fd00:96::1]:80",
    localhost: "[::1]:8080",
    passthrough: "[::6]:0",
};

impl Family {
    fn of_pod(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.pod, port)
    }

    /// As the proxy goes on to the application with what it has accepted.
    fn passed_through(&self) -> ConnectOptions {
        ConnectOptions {
            from: Some(self.passthrough.parse().unwrap()),
            ..to(self.of_pod(8080))
        }
    }
}

#[test]
fn six_kinds_of_traffic_over_ipv4() -> Result<()> {
    let mut rig = Rig::new("six4")?;
    rig.load(&[])?;
    six_kinds_of_traffic(&rig, &V4)
}

#[test]
fn six_kinds_of_traffic_over_ipv6() -> Result<()> {
    let mut rig = Rig::new("six6")?;
    rig.load(&["--dual-stack"])?;
    six_kinds_of_traffic(&rig, &V6)
}

fn six_kinds_of_traffic(rig: &Rig, family: &Family) -> Result<()> {
    let Rig {
        app,
        proxy,
        remote,
        outbound,
        inbound,
        application,
        service,
        ..
    } = rig;
    let hook = family.hook;

    // 1. Remote to local pod.
    let own = family.of_pod(8080);
    let ends = rig.delivered(sk_lookup("inbound-all"), remote, to(own), inbound);
    assert_eq!(ends.server.peer.ip(), family.remote);
    assert_eq!(ends.server.local, own);
    let ends = rig.delivered((hook, "1", 1), proxy, family.passed_through(), application);
    assert_eq!(
        ends.server.peer.ip(),
        family.passed_through().from.unwrap().ip()
    );

    // 2. Local pod to remote.
    let ends = rig.delivered((hook, "9", 1), app, to(family.service), outbound);
    assert_eq!(ends.client.local.ip(), family.pod);
    assert_eq!(ends.server.peer.ip(), family.pod);
    assert_eq!(ends.server.local.port(), 15001);
    let ends = rig.delivered((hook, "4", 1), proxy, to(family.service), service);
    assert_eq!(ends.server.peer.ip(), family.pod);

    // 3. Prometheus to local pod, and the agent's own scrape of the application.
    for port in [15020, 15021, 15090] {
        let status = Front::open(proxy, port)?;
        let excluded = sk_lookup("inbound-excluded-port");
        rig.delivered(excluded, remote, to(family.of_pod(port)), &status);
    }
    rig.delivered((hook, "4", 1), proxy, to(family.localhost), application);

    // 4. Local pod to its own service.
    rig.delivered((hook, "9", 1), app, to(family.service), outbound);
    let ends = rig.delivered((hook, "2", 1), proxy, to(own), inbound);
    assert_eq!(ends.server.peer.ip(), family.pod);
    rig.delivered((hook, "1", 1), proxy, family.passed_through(), application);

    // 5. Between the proxy's processes over localhost; and if the agent had another uid.
    let admin = Front::open(proxy, 15000)?;
    let localhost = SocketAddr::new(family.localhost.parse::<SocketAddr>()?.ip(), 15000);
    rig.delivered((hook, "4", 1), proxy, to(localhost), &admin);
    rig.delivered((hook, "3", 1), app, to(localhost), &admin);

    // 6. Agent to Istiod; and if it had another uid.
    rig.delivered((hook, "4", 1), proxy, to(family.istiod), service);
    rig.delivered((hook, "9", 1), app, to(family.istiod), outbound);
    Ok(())
}

#[test]
fn an_ipv4_mapped_destination_meets_the_ipv4_rules() -> Result<()> {
    let mut rig = Rig::new("mapped")?;
    rig.load(&[])?;
    let Rig {
        app,
        proxy,
        outbound,
        inbound,
        application,
        service,
        ..
    } = &rig;
    let mapped = |options: ConnectOptions| ConnectOptions {
        mapped: true,
        ..options
    };
    let own = V4.of_pod(8080);

    let ends = rig.delivered(connect6("9"), app, mapped(to(V4.service)), outbound);
    assert_eq!(ends.client.peer.ip().to_string(), "::ffff:10.96.0.10");
    assert_eq!(ends.client.local.ip().to_string(), "::ffff:10.244.0.5");
    assert_eq!(ends.server.peer.ip(), V4.pod);

    let passed_through = mapped(V4.passed_through());
    rig.delivered(connect6("1"), proxy, passed_through, application);
    rig.delivered(connect6("2"), proxy, mapped(to(own)), inbound);
    rig.delivered(connect6("3"), app, mapped(to(own)), application);
    rig.delivered(connect6("3"), app, mapped(to(V4.localhost)), application);
    rig.delivered(connect6("4"), proxy, mapped(to(V4.service)), service);
    Ok(())
}

#[test]
fn without_dual_stack_ipv6_has_no_rules() -> Result<()> {
    let mut rig = Rig::new("single")?;
    rig.load(&[])?;
    let Rig {
        app,
        proxy,
        remote,
        application,
        service,
        ..
    } = &rig;
    let no_rules = connect6("no-ipv6-rules");
    let own = V6.of_pod(8080);
    let ends = rig.delivered(no_rules, app, to(V6.service), service);
    assert_eq!(ends.server.peer.ip(), V6.pod);
    rig.delivered(no_rules, proxy, to(V6.service), service);
    rig.delivered(no_rules, proxy, to(own), application);
    rig.delivered(no_rules, app, to(V6.localhost), application);
    rig.delivered(sk_lookup("no-ipv6-rules"), remote, to(own), application);
    Ok(())
}

#[test]
fn local_destinations_of_the_application_are_left_alone() -> Result<()> {
    let mut rig = Rig::new("local")?;
    rig.load(&["--dual-stack"])?;
    let Rig {
        app, application, ..
    } = &rig;
    let other_loopback = "127.0.0.9:8080".parse()?;
    for local in [V4.of_pod(8080), V4.localhost.parse()?, other_loopback] {
        rig.delivered(connect4("3"), app, to(local), application);
    }
    for local in [V6.of_pod(8080), V6.localhost.parse()?] {
        rig.delivered(connect6("3"), app, to(local), application);
    }
    Ok(())
}

#[test]
fn the_proxy_comes_back_in_unless_to_localhost_itself() -> Result<()> {
    let mut rig = Rig::new("hairpin")?;
    rig.load(&[])?;
    let Rig {
        proxy,
        inbound,
        application,
        ..
    } = &rig;
    let back_in = connect4("2");
    for port in [8080, 15001, 15006, 15090] {
        rig.delivered(back_in, proxy, to(V4.of_pod(port)), inbound);
    }
    // Only 127.0.0.1/32 is localhost to the rules.
    rig.delivered(back_in, proxy, to("127.0.0.9:8080"), inbound);
    rig.delivered(connect4("4"), proxy, to("127.0.0.1:8080"), application);
    // The tunnel port is the proxy's own.
    let tunnel = Front::open(proxy, 15008)?;
    rig.delivered(connect4("4"), proxy, to(V4.of_pod(15008)), &tunnel);
    Ok(())
}

#[test]
fn uid_or_gid_makes_the_proxy() -> Result<()> {
    let mut rig = Rig::new("owner")?;
    rig.load(&[])?;
    let by_uid = Agent::spawn(&rig.pod.app().user(PROXY_ID, APP_ID))?;
    let by_gid = Agent::spawn(&rig.pod.app().user(APP_ID, PROXY_ID))?;
    let own = V4.of_pod(8080);
    rig.delivered(connect4("4"), &by_uid, to(V4.service), &rig.service);
    rig.delivered(connect4("2"), &by_uid, to(own), &rig.inbound);
    rig.delivered(connect4("7"), &by_gid, to(V4.service), &rig.service);
    // The third rule takes all local traffic of other uids before the gids are asked.
    rig.delivered(connect4("3"), &by_gid, to(own), &rig.application);
    Ok(())
}

#[test]
fn without_the_proxy_nothing_passes() -> Result<()> {
    let mut rig = Rig::new("closed")?;
    rig.load(&["--dual-stack"])?;
    rig.outbound.listeners.clear();
    rig.inbound.listeners.clear();
    let nobody = sk_lookup("refusal:no-listener");
    for family in [&V4, &V6] {
        let (hook, own) = (family.hook, family.of_pod(8080));
        let by = |rule| [(hook, rule, 1), nobody];
        assert_refused(rig.expect(&by("9"), || rig.app.connect(family.service)));
        assert_refused(rig.expect(&by("2"), || rig.proxy.connect(own)));
        let inbound = [sk_lookup("inbound-all"), nobody];
        assert_refused(rig.expect(&inbound, || rig.remote.connect(own)));
    }
    let mapped = ConnectOptions {
        mapped: true,
        ..to(V4.service)
    };
    let by_9 = [connect6("9"), nobody];
    assert_refused(rig.expect(&by_9, || rig.app.connect_with(mapped)));
    for front in [&rig.service, &rig.application] {
        for listener in &front.listeners {
            let arrived = listener.accept_within(Duration::from_millis(20));
            assert_eq!(arrived.unwrap_err().errno(), Errno::ETIME);
        }
    }

    // As soon as it is back, so is everything else.
    rig.outbound = Front::open(&rig.proxy, 15001)?;
    rig.inbound = Front::open(&rig.proxy, 15006)?;
    for family in [&V4, &V6] {
        rig.delivered(
            (family.hook, "9", 1),
            &rig.app,
            to(family.service),
            &rig.outbound,
        );
        let inbound = sk_lookup("inbound-all");
        rig.delivered(inbound, &rig.remote, to(family.of_pod(8080)), &rig.inbound);
    }
    Ok(())
}

#[test]
fn udp_and_icmp_are_untouched() -> Result<()> {
    let mut rig = Rig::new("datagrams")?;
    rig.load(&["--dual-stack"])?;
    for server in [
        "10.96.0.10:53",
        "10.96.0.10:80",
        "[fd00:96::10]:53",
        "[fd00:96::10]:80",
    ] {
        let server: SocketAddr = server.parse()?;
        let _echo = rig.remote.udp_echo(server)?;
        for connected in [false, true] {
            let exchange = UdpExchange {
                connected,
                ..UdpExchange::to(server)
            };
            let reply = rig.expect(&[], || rig.app.udp_exchange(exchange))?;
            assert_eq!(reply.source, server);
        }
        rig.expect(&[], || rig.app.ping(server.ip()))?;
    }
    for own in [V4.of_pod(53), V6.of_pod(53)] {
        let _echo = rig.app.udp_echo(own)?;
        for agent in [&rig.remote, &rig.proxy, &rig.app] {
            rig.expect(&[], || agent.udp_exchange(UdpExchange::to(own)))?;
            rig.expect(&[], || agent.ping(own.ip()))?;
        }
    }
    Ok(())
}

#[test]
fn a_destination_keeps_its_name_from_connection_to_connection() -> Result<()> {
    let mut rig = Rig::new("many")?;
    rig.load(&[])?;
    let destinations = [
        "10.96.0.10:80",
        "10.96.0.10:81",
        "10.96.0.11:80",
        "203.0.113.9:443",
    ];
    let mut open = Vec::new();
    for _ in 0..3 {
        for destination in destinations {
            let moved = connect4("9");
            open.push(rig.delivered(moved, &rig.app, to(destination), &rig.outbound));
        }
    }
    for (ends, destination) in open.iter().zip(destinations.iter().cycle()) {
        assert_eq!(ends.client.peer_name()?, destination.parse()?);
        assert_eq!(canonical(ends.client.sock_name()?), ends.server.peer);
        ends.talk();
    }
    Ok(())
}

fn assert_refused(connected: OpResult<Conn>) {
    assert_eq!(connected.unwrap_err().errno(), Errno::ECONNREFUSED);
}
