//! Kinds of sockets: however a TCP connection is made, the rules see it once, and neither end
//! notices. Needs root; leaves nothing behind.

mod destinations;
mod ends;
mod kinds;
mod owner;
mod sources;
#[path = "../support/mod.rs"]
mod support;

use std::net::SocketAddr;

use anyhow::Result;
use sidecar_lab::{
    Agent, ConnectOptions, Level, Placement,
    pod::{APP_ID, POD_IP, POD_IP6, REMOTE_IP, REMOTE_IP6},
};
use support::{Ends, Front, Moved, Rig, connect4, connect6, sk_lookup, to};

const SERVICE: &str = "10.96.0.10:80";

const SERVICE6: &str = "[fd00:96::10]:80";

const BY_9: Moved<'_> = connect4("9");

const BY_9_V6: Moved<'_> = connect6("9");

const INBOUND: Moved<'_> = sk_lookup("inbound-all");

fn rig(hint: &str) -> Result<Rig> {
    let mut rig = Rig::new(hint)?;
    rig.load(&["--dual-stack"])?;
    Ok(rig)
}

fn with(addr: &str, change: impl FnOnce(&mut ConnectOptions)) -> ConnectOptions {
    let mut options = to(addr);
    change(&mut options);
    options
}

#[test]
fn a_process_in_another_namespace_is_left_alone() -> Result<()> {
    let rig = rig("elsewhere")?;
    let place = Placement::new(rig.pod.remote_netns_path(), rig.pod.app_cgroup());
    let elsewhere = Agent::spawn(&place.user(APP_ID, APP_ID))?;
    for (hook, own) in [
        ("connect4", REMOTE_IP.into()),
        ("connect6", REMOTE_IP6.into()),
    ] {
        let own = SocketAddr::new(own, 80);
        let moved = (hook, "bypass:other-netns", 1);
        let ends = rig.delivered(moved, &elsewhere, to(own), &rig.service);
        // It is told nothing about original destinations, as where there is no conntrack.
        ends.client.original_dst(Level::Ip, 28).unwrap_err();
    }
    // Who listens on the proxy's port there is not the proxy.
    let moved = [
        ("bind4", "bypass:other-netns", 1),
        ("bind6", "bypass:other-netns", 1),
    ];
    let _front = rig.expect(&moved, || Front::open(&elsewhere, 15001))?;
    rig.delivered(BY_9, &rig.app, to(SERVICE), &rig.outbound);
    Ok(())
}

#[test]
fn connections_outlive_attaching_and_detaching() -> Result<()> {
    let mut rig = Rig::new("alive")?;
    let connect = |by: &Agent, addr: SocketAddr, at: &Front| -> Result<Ends> {
        let client = by.connect(addr)?;
        let server = at.accept(&client);
        Ok(Ends { client, server })
    };
    let before = [
        connect(&rig.app, SERVICE.parse()?, &rig.service)?,
        connect(&rig.app, SERVICE6.parse()?, &rig.service)?,
        connect(&rig.remote, (POD_IP, 8080).into(), &rig.application)?,
        connect(&rig.remote, (POD_IP6, 8080).into(), &rig.application)?,
        connect(&rig.app, (POD_IP, 8080).into(), &rig.application)?,
    ];
    rig.load(&["--dual-stack"])?;
    for ends in &before {
        rig.expect(&[], || ends.talk());
        assert_eq!(ends.client.peer_name()?, ends.client.peer);
    }
    let own = SocketAddr::new(POD_IP.into(), 8080);
    assert_eq!(before[2].server.original_dst(Level::Ip, 16)?, own);
    let during = [
        rig.delivered(BY_9, &rig.app, to(SERVICE), &rig.outbound),
        rig.delivered(INBOUND, &rig.remote, to((POD_IP, 8080)), &rig.inbound),
        rig.delivered(INBOUND, &rig.remote, to((POD_IP6, 8080)), &rig.inbound),
    ];
    rig.loader = None;
    for ends in before.iter().chain(&during) {
        ends.talk();
        ends.client.shutdown()?;
        assert_eq!(ends.server.recv(1)?, b"");
    }
    // And from here on there is no redirect.
    connect(&rig.app, SERVICE.parse()?, &rig.service)?.talk();
    connect(&rig.remote, (POD_IP, 8080).into(), &rig.application)?.talk();

    // A socket that was made before a loader came connects as that one says.
    let [mut old, ..] = before.map(|ends| ends.client);
    old.disconnect()?;
    rig.load(&[])?;
    rig.expect(&[BY_9], || old.reconnect(SERVICE))?;
    assert_eq!(old.peer_name()?, SERVICE.parse()?);
    rig.outbound.accept(&old);
    Ok(())
}
