//! Destinations that are not what they seem.

use std::net::SocketAddr;

use anyhow::Result;
use sidecar_lab::{Agent, ConnectOptions, Errno, Level, ip_inside, pod::POD_IP6};

use crate::{
    BY_9, BY_9_V6, SERVICE, SERVICE6, rig,
    support::{Front, Moved, Rig, canonical, connect4, connect6, sk_lookup, to},
    with,
};

#[test]
fn the_unspecified_address_is_the_sockets_own_or_localhost() -> Result<()> {
    let rig = rig("unspecified")?;
    let cases = [
        (
            "connect4",
            "3",
            "0.0.0.0:8080",
            None,
            "127.0.0.1:8080",
            &rig.app,
            &rig.application,
        ),
        (
            "connect6",
            "3",
            "[::]:8080",
            None,
            "[::1]:8080",
            &rig.app,
            &rig.application,
        ),
        (
            "connect4",
            "4",
            "0.0.0.0:8080",
            None,
            "127.0.0.1:8080",
            &rig.proxy,
            &rig.application,
        ),
        (
            "connect6",
            "4",
            "[::]:8080",
            None,
            "[::1]:8080",
            &rig.proxy,
            &rig.application,
        ),
        (
            "connect4",
            "2",
            "0.0.0.0:8080",
            Some("10.244.0.5:0"),
            "10.244.0.5:8080",
            &rig.proxy,
            &rig.inbound,
        ),
        (
            "connect4",
            "1",
            "0.0.0.0:8080",
            Some("127.0.0.6:0"),
            "127.0.0.6:8080",
            &rig.proxy,
            &rig.application,
        ),
    ];
    for (hook, rule, addr, from, meant, by, at) in cases {
        let options = with(addr, |options| {
            options.from = from.map(|from| from.parse().unwrap())
        });
        reaches(&rig, (hook, rule, 1), by, options, meant.parse()?, at)?;
    }
    // The kernel knows no [::] for a socket that is bound to an IPv4 address.
    let options = with("[::]:8080", |options| {
        options.from = "[::ffff:10.244.0.5]:0".parse().ok();
    });
    let localhost = "127.0.0.1:8080".parse()?;
    reaches(
        &rig,
        connect6("3"),
        &rig.app,
        options.clone(),
        localhost,
        &rig.application,
    )?;
    reaches(
        &rig,
        connect6("4"),
        &rig.proxy,
        options,
        localhost,
        &rig.application,
    )?;
    let mapped = with("0.0.0.0:8080", |options| options.mapped = true);
    reaches(
        &rig,
        connect6("3"),
        &rig.app,
        mapped,
        localhost,
        &rig.application,
    )?;
    let mut mapped = with("0.0.0.0:8080", |options| options.mapped = true);
    mapped.from = "10.244.0.5:0".parse().ok();
    let own = "10.244.0.5:8080".parse()?;
    reaches(&rig, connect6("2"), &rig.proxy, mapped, own, &rig.inbound)?;
    Ok(())
}

/// Where the connection is said to go differs from what was asked for.
fn reaches(
    rig: &Rig,
    moved: Moved<'_>,
    by: &Agent,
    options: ConnectOptions,
    meant: SocketAddr,
    at: &Front,
) -> Result<()> {
    let client = rig.expect(&[moved], || by.connect_with(options))?;
    let server = at.accept(&client);
    assert_eq!(canonical(client.peer_name()?), meant);
    let level = if meant.is_ipv4() {
        Level::Ip
    } else {
        Level::Ipv6
    };
    assert_eq!(server.original_dst(level, 28)?, meant);
    Ok(())
}

#[test]
fn an_application_may_not_aim_at_the_redirects_own_range() -> Result<()> {
    let rig = rig("range")?;
    // Something to ride on.
    let _open = rig.delivered(BY_9, &rig.app, to(SERVICE), &rig.outbound);
    let _open6 = rig.delivered(BY_9_V6, &rig.app, to(SERVICE6), &rig.outbound);
    let mapped = |addr| with(addr, |options| options.mapped = true);
    for (hook, options) in [
        ("connect4", to("127.128.0.0:15001")),
        ("connect4", to("127.128.0.5:15001")),
        ("connect4", to("127.191.255.255:8080")),
        ("connect6", mapped("127.128.0.5:15001")),
        ("connect6", to("[fd73:6964:6563:6172::]:15001")),
        ("connect6", to("[fd73:6964:6563:6172::5]:15001")),
        ("connect6", to("[fd73:6964:6563:6172:ffff::5]:15006")),
    ] {
        let moved = (hook, "refusal:redirect-range", 1);
        let refused = rig.expect(&[moved], || rig.app.connect_with(options));
        assert_eq!(refused.unwrap_err().errno(), Errno::EPERM);
    }
    for (hook, source) in [
        ("bind4", "127.128.0.0:0"),
        ("bind4", "127.191.255.255:0"),
        ("bind6", "[fd73:6964:6563:6172::]:0"),
    ] {
        let moved = (hook, "refusal:redirect-range", 1);
        let addr = if hook == "bind4" { SERVICE } else { SERVICE6 };
        let options = with(addr, |options| options.from = source.parse().ok());
        let refused = rig.expect(&[moved], || rig.app.connect_with(options));
        assert_eq!(refused.unwrap_err().errno(), Errno::EPERM);
    }
    // Its neighbours are what they always were.
    for addr in ["127.127.255.255:8080", "127.192.0.0:8080"] {
        rig.delivered(connect4("3"), &rig.app, to(addr), &rig.application);
    }
    rig.delivered(
        BY_9_V6,
        &rig.app,
        to("[fd73:6964:6563:6173::5]:80"),
        &rig.outbound,
    );
    Ok(())
}

/// Who sends packets for the IPv6 range to the pod; for the IPv4 range the kernel drops them.
#[test]
fn nobody_outside_reaches_the_redirects_own_range() -> Result<()> {
    let rig = rig("foreign")?;
    let ends = rig.delivered(BY_9_V6, &rig.app, to(SERVICE6), &rig.outbound);
    let rewritten = ends.server.sock_name()?;
    assert_eq!(rewritten, "[fd73:6964:6563:6172::]:15001".parse()?);
    let route = format!("route add fd73:6964:6563:6172::/64 via {POD_IP6}\n");
    ip_inside(&rig.pod.remote_netns_path(), ["-batch", "-"], &route)?;
    for port in [15001, 15006, 8080] {
        let moved = sk_lookup("refusal:foreign-source");
        let refused = rig.expect(&[moved], || rig.remote.connect((rewritten.ip(), port)));
        assert_eq!(refused.unwrap_err().errno(), Errno::ECONNREFUSED);
    }
    Ok(())
}
