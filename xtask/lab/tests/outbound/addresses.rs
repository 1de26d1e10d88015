//! Addresses that come and go while the loader runs.

use std::{
    net::{IpAddr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use sidecar_lab::{Errno, Pod, PodOptions, pod::REMOTE_IP};

use crate::{
    V4, V6,
    support::{Front, Rig, connect4, connect6, sk_lookup, to},
};

#[test]
fn an_address_added_while_running_is_local_until_it_is_removed() -> Result<()> {
    let mut rig = Rig::new("second")?;
    rig.load(&["--dual-stack"])?;
    for (family, second) in [(&V4, "10.244.0.66:8080"), (&V6, "[fd00:10:244::66]:8080")] {
        let second: SocketAddr = second.parse()?;
        let hook = family.hook;
        rig.delivered((hook, "9", 1), &rig.app, to(second), &rig.outbound);

        rig.pod.add_address(second.ip())?;
        until(|| rule_of(&rig, hook, second, "3"))?;
        rig.delivered((hook, "3", 1), &rig.app, to(second), &rig.application);
        let inbound = sk_lookup("inbound-all");
        rig.delivered(inbound, &rig.remote, to(second), &rig.inbound);
        rig.delivered((hook, "2", 1), &rig.proxy, to(second), &rig.inbound);
        // The proxy sees the source that the kernel would choose without a redirect: for IPv4 the
        // first address, for IPv6 the newest.
        let service = to(family.service);
        let direct = rig.delivered((hook, "4", 1), &rig.proxy, service.clone(), &rig.service);
        let ends = rig.delivered((hook, "9", 1), &rig.app, service, &rig.outbound);
        assert_eq!(ends.server.peer.ip(), direct.server.peer.ip());

        rig.pod.remove_address(second.ip())?;
        until(|| rule_of(&rig, hook, second, "9"))?;
        rig.delivered((hook, "9", 1), &rig.app, to(second), &rig.outbound);
    }
    Ok(())
}

#[test]
fn whatever_the_kernel_takes_for_local_is_local() -> Result<()> {
    let mut rig = Rig::new("anyip")?;
    rig.load(&[])?;
    let inside = ["10.100.0.0:8080", "10.100.3.255:8080", "10.101.0.1:8080"];
    let outside = ["10.99.255.255:8080", "10.100.4.0:8080", "10.101.0.2:8080"];
    rig.pod
        .ip("route add local 10.100.0.0/22 dev lo\naddr add 10.101.0.1/32 dev lo\n")?;
    for addr in inside {
        until(|| rule_of(&rig, "connect4", addr.parse()?, "3"))?;
        rig.delivered(connect4("3"), &rig.app, to(addr), &rig.application);
        rig.delivered(connect4("2"), &rig.proxy, to(addr), &rig.inbound);
    }
    for addr in outside {
        rig.delivered(connect4("9"), &rig.app, to(addr), &rig.outbound);
    }
    rig.pod
        .ip("route del local 10.100.0.0/22 dev lo\naddr del 10.101.0.1/32 dev lo\n")?;
    for addr in inside {
        until(|| rule_of(&rig, "connect4", addr.parse()?, "9"))?;
        rig.delivered(connect4("9"), &rig.app, to(addr), &rig.outbound);
    }
    Ok(())
}

#[test]
fn the_proxy_sees_the_address_that_the_pod_has_now() -> Result<()> {
    let mut rig = Rig::new("moved")?;
    rig.load(&["--dual-stack"])?;
    let moves = [
        (
            &V4,
            "10.244.0.77",
            "24",
            format!("route add default via {REMOTE_IP}\n"),
        ),
        // The route does not hang on the address here.
        (&V6, "fd00:10:244::77", "64", String::new()),
    ];
    for (family, now, length, route) in moves {
        let was = family.pod;
        rig.pod.ip(&format!("addr del {was}/{length} dev eth0\n"))?;
        // Without any address nothing passes either. The loader notices in its own time.
        for _ in 0..10 {
            let before = rig.counters()?;
            let mut options = to(family.service);
            options.timeout = Duration::from_millis(200);
            let connected = rig.app.connect_with(options);
            let moved = rig.counters()?.since(&before);
            let by_9 = (family.hook.to_owned(), "9".to_owned());
            assert_eq!(moved.get(&by_9), Some(&1), "{moved:?}, {connected:?}");
            thread::sleep(Duration::from_millis(10));
        }
        drain(&rig.outbound);
        let nodad = if was.is_ipv6() { " nodad" } else { "" };
        rig.pod
            .ip(&format!("addr add {now}/{length} dev eth0{nodad}\n{route}"))?;
        let now: IpAddr = now.parse()?;
        until(|| {
            // IPv6 is refused while its range has no route.
            let connected = rig.app.connect(family.service);
            Ok(connected.is_ok_and(|conn| conn.local.ip() == now))
        })?;
        drain(&rig.outbound);
        let moved = (family.hook, "9", 1);
        let ends = rig.delivered(moved, &rig.app, to(family.service), &rig.outbound);
        assert_eq!((ends.server.peer.ip(), ends.client.local.ip()), (now, now));
        // The new address is the pod's own, the old one is nobody's.
        until(|| rule_of(&rig, family.hook, SocketAddr::new(now, 8080), "3"))?;
        until(|| rule_of(&rig, family.hook, family.of_pod(8080), "9"))?;
    }
    for listener in &rig.service.listeners {
        let arrived = listener.accept_within(Duration::ZERO);
        assert_eq!(arrived.unwrap_err().errno(), Errno::ETIME);
    }
    Ok(())
}

/// The loader gives the pod ::6, and the kernel makes it local in its own time.
#[test]
fn the_passthrough_address_is_known_from_the_start() -> Result<()> {
    let mut rig = Rig::new("passthrough")?;
    for _ in 0..8 {
        rig.load(&["--dual-stack"])?;
        rig.delivered(
            connect6("1"),
            &rig.proxy,
            V6.passed_through(),
            &rig.application,
        );
    }
    Ok(())
}

#[test]
fn a_pod_without_ipv6_needs_none() -> Result<()> {
    let mut rig = Rig::on(Pod::with("no6", PodOptions::ipv4_only())?)?;
    for args in [&[][..], &["--dual-stack"]] {
        rig.load(args)?;
        let own = V4.of_pod(8080);
        rig.delivered(connect4("9"), &rig.app, to(V4.service), &rig.outbound);
        rig.delivered(connect4("2"), &rig.proxy, to(own), &rig.inbound);
        rig.delivered(sk_lookup("inbound-all"), &rig.remote, to(own), &rig.inbound);
        let no_rules = connect6("no-ipv6-rules");
        rig.expect(&[no_rules], || rig.app.connect(V6.service))
            .unwrap_err();
    }
    Ok(())
}

/// The redirect's routes are the kernel's to keep and anybody's to remove.
#[test]
fn routes_that_somebody_removes_come_back() -> Result<()> {
    let mut rig = Rig::new("routes")?;
    rig.load(&["--dual-stack"])?;
    for (family, route) in [
        (&V4, "route del local 127.128.0.0/10 dev lo table local\n"),
        (
            &V6,
            "route del local fd73:6964:6563:6172::/64 dev lo table local\n",
        ),
    ] {
        rig.pod.ip(route)?;
        until(|| {
            let connected = rig.app.connect(family.service);
            Ok(connected.is_ok_and(|conn| conn.local.ip() == family.pod))
        })?;
        drain(&rig.outbound);
        let moved = (family.hook, "9", 1);
        let ends = rig.delivered(moved, &rig.app, to(family.service), &rig.outbound);
        assert_eq!(ends.server.peer.ip(), family.pod);
    }
    Ok(())
}

/// Whether a connection of the application is counted under that rule now.
fn rule_of(rig: &Rig, hook: &str, addr: SocketAddr, rule: &str) -> Result<bool> {
    let before = rig.counters()?;
    let mut options = to(addr);
    // Between two looks the address may be nobody's.
    options.timeout = Duration::from_millis(100);
    drop(rig.app.connect_with(options));
    drain(&rig.outbound);
    drain(&rig.application);
    Ok(rig.counters()?.get(hook, rule) > before.get(hook, rule))
}

/// Accepts and closes what nobody waits for any more.
fn drain(front: &Front) {
    for listener in &front.listeners {
        while listener.accept_within(Duration::ZERO).is_ok() {}
    }
}

/// Waits for what the loader learns from the kernel in its own time.
fn until(mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !done()? {
        ensure!(
            start.elapsed() < Duration::from_secs(3),
            "it did not happen in time"
        );
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
