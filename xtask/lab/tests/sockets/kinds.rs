//! Ways to connect.

use std::{fs, net::SocketAddr};

use anyhow::Result;
use sidecar_lab::{ConnectOptions, Errno, FastOpen, Level, inside_netns, pod::POD_IP};

use crate::{
    BY_9, BY_9_V6, INBOUND, SERVICE, SERVICE6, rig,
    support::{Rig, connect4, to},
    with,
};

#[test]
fn mptcp_clients() -> Result<()> {
    let rig = rig("mptcp")?;
    let mptcp = |addr: &str| with(addr, |options| options.mptcp = true);
    rig.delivered(BY_9, &rig.app, mptcp(SERVICE), &rig.outbound);
    rig.delivered(BY_9_V6, &rig.app, mptcp(SERVICE6), &rig.outbound);
    let mapped = with(SERVICE, |options| {
        (options.mptcp, options.mapped) = (true, true)
    });
    rig.delivered(BY_9_V6, &rig.app, mapped, &rig.outbound);
    rig.delivered(connect4("4"), &rig.proxy, mptcp(SERVICE), &rig.service);
    rig.delivered(
        connect4("2"),
        &rig.proxy,
        mptcp("10.244.0.5:8080"),
        &rig.inbound,
    );
    rig.delivered(
        connect4("3"),
        &rig.app,
        mptcp("10.244.0.5:8080"),
        &rig.application,
    );
    rig.delivered(INBOUND, &rig.remote, mptcp("10.244.0.5:8080"), &rig.inbound);
    Ok(())
}

#[test]
fn tcp_fast_open() -> Result<()> {
    let rig = rig("fastopen")?;
    let fast = |addr: &str, how| with(addr, |options| options.fast_open = how);
    let passive = || netstat(&rig, "TCPFastOpenPassive");
    let start = passive()?;
    // The first connection to an address fetches the cookie, the others send data with the SYN.
    for how in [FastOpen::SendTo, FastOpen::SendTo, FastOpen::ConnectOption] {
        rig.delivered(BY_9, &rig.app, fast(SERVICE, how), &rig.outbound);
        rig.delivered(BY_9_V6, &rig.app, fast(SERVICE6, how), &rig.outbound);
        rig.delivered(
            connect4("4"),
            &rig.proxy,
            fast("10.96.0.11:80", how),
            &rig.service,
        );
    }
    assert_eq!(passive()? - start, 4, "data with a redirected SYN");
    for how in [
        FastOpen::ConnectOption,
        FastOpen::ConnectOption,
        FastOpen::SendTo,
    ] {
        rig.delivered(
            INBOUND,
            &rig.remote,
            fast("10.244.0.5:8080", how),
            &rig.inbound,
        );
        let own6 = "[fd00:10:244::5]:8080";
        rig.delivered(INBOUND, &rig.remote, fast(own6, how), &rig.inbound);
    }
    assert_eq!(passive()? - start, 8, "data with an inbound SYN");
    Ok(())
}

fn netstat(rig: &Rig, name: &str) -> Result<u64> {
    let text = inside_netns(&rig.pod.netns_path(), || {
        fs::read_to_string("/proc/thread-self/net/netstat")
    })??;
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(' ').collect()).collect();
    let value = lines.chunks(2).find_map(|pair| {
        let at = pair.first()?.iter().position(|found| *found == name)?;
        pair.get(1)?.get(at)?.parse().ok()
    });
    Ok(value.unwrap_or_else(|| panic!("no {name} in {text}")))
}

#[test]
fn io_uring_and_nonblocking_connects() -> Result<()> {
    let rig = rig("uring")?;
    for change in [
        (|options| options.io_uring = true) as fn(&mut ConnectOptions),
        |options| options.nonblocking = true,
    ] {
        rig.delivered(BY_9, &rig.app, with(SERVICE, change), &rig.outbound);
        rig.delivered(BY_9_V6, &rig.app, with(SERVICE6, change), &rig.outbound);
        rig.delivered(
            connect4("4"),
            &rig.proxy,
            with(SERVICE, change),
            &rig.service,
        );
        let own = with("10.244.0.5:8080", change);
        rig.delivered(connect4("2"), &rig.proxy, own, &rig.inbound);
    }
    Ok(())
}

#[test]
fn a_socket_connects_again_after_af_unspec() -> Result<()> {
    let rig = rig("again")?;
    for (hook, own, other, first) in [
        ("connect4", "10.244.0.5:8080", "10.96.0.11:80", to(SERVICE)),
        (
            "connect6",
            "[fd00:10:244::5]:8080",
            "[fd00:96::11]:80",
            to(SERVICE6),
        ),
    ] {
        let ends = rig.delivered((hook, "9", 1), &rig.app, first, &rig.outbound);
        let mut client = ends.client;
        let level = if hook == "connect4" {
            Level::Ip
        } else {
            Level::Ipv6
        };
        // To another destination, past the proxy, and through it again.
        for (to, rule, at) in [
            (other, "9", &rig.outbound),
            (own, "3", &rig.application),
            (other, "9", &rig.outbound),
        ] {
            rig.expect(&[], || client.disconnect())?;
            assert_eq!(client.peer_name().unwrap_err().errno(), Errno::ENOTCONN);
            rig.expect(&[(hook, rule, 1)], || client.reconnect(to))?;
            let to: SocketAddr = to.parse()?;
            assert_eq!(client.peer_name()?, to);
            assert_eq!(at.accept(&client).original_dst(level, 28)?, to);
        }
    }
    Ok(())
}

/// The source that a redirected attempt has had is not that of the next one, past the proxy.
#[test]
fn a_socket_that_was_refused_connects_elsewhere() -> Result<()> {
    let mut rig = rig("refused")?;
    let clients = [
        ("connect4", "10.96.0.10:80", "10.244.0.5:8080"),
        (
            "connect6",
            "[::ffff:10.96.0.10]:80",
            "[::ffff:10.244.0.5]:8080",
        ),
    ]
    .map(|(hook, service, own)| {
        let options = with(SERVICE, |options| options.mapped = hook == "connect6");
        let ends = rig.delivered((hook, "9", 1), &rig.app, options, &rig.outbound);
        (hook, service, own, ends.client)
    });
    rig.outbound.listeners.clear();
    for (hook, service, own, mut client) in clients {
        client.disconnect()?;
        let refused = [(hook, "9", 1), ("sk_lookup", "refusal:no-listener", 1)];
        let error = rig.expect(&refused, || client.reconnect(service));
        assert_eq!(error.unwrap_err().errno(), Errno::ECONNREFUSED);
        rig.expect(&[(hook, "3", 1)], || client.reconnect(own))?;
        let server = rig.application.accept(&client);
        assert_eq!(server.peer.ip(), POD_IP);
    }
    Ok(())
}
