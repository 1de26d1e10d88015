//! UDP sockets that connect to a server, as the resolver of the C library does.

use anyhow::Result;
use sidecar_lab::{Errno, UdpOptions};

use crate::{ALL, Dns, KINDS, Kind, SOON, V4, V6, hears, refused_as, support::canonical};

#[test]
fn both_ends_see_what_they_see_without_a_redirect() -> Result<()> {
    let dns = Dns::new("dns-connected", &ALL)?;
    for kind in KINDS {
        let socket = kind.socket(&dns.rig.app);
        let (server, before) = (kind.server(0), dns.asked());
        let moved = [(kind.connect, "dns", 1)];
        dns.rig.expect(&moved, || socket.connect(server))?;
        dns.rig.expect(&[], || -> Result<()> {
            assert_eq!(canonical(socket.peer_name()?), server, "getpeername");
            let local = canonical(socket.sock_name()?);
            assert_eq!(local.ip(), kind.pod, "getsockname");
            socket.send(b"question")?;
            hears(&socket, b"question", server);
            assert_eq!(dns.was_asked(&before, b"question"), local);
            // With its own name, too.
            socket.send(b"and another")?;
            hears(&socket, b"and another", server);
            Ok(())
        })?;
    }
    assert!(dns.asked_for_real().is_empty());
    Ok(())
}

/// The hook for IPv4, on a socket of the other family.
#[test]
fn an_ipv6_socket_may_be_given_an_ipv4_address() -> Result<()> {
    let dns = Dns::new("dns-as-is", &ALL)?;
    let socket = crate::MAPPED.socket(&dns.rig.app);
    let (server, before) = (V4.server(0), dns.asked());
    let moved = [("connect4", "dns", 1)];
    dns.rig.expect(&moved, || socket.connect_as_it_is(server))?;
    assert_eq!(canonical(socket.peer_name()?), server);
    let local = canonical(socket.sock_name()?);
    assert_eq!(local.ip(), V4.pod);
    socket.send(b"question")?;
    hears(&socket, b"question", server);
    assert_eq!(dns.was_asked(&before, b"question"), local);
    Ok(())
}

#[test]
fn a_socket_connects_again() -> Result<()> {
    let dns = Dns::new("dns-again", &ALL)?;
    for kind in KINDS {
        let ask = |socket: &sidecar_lab::Datagrams, server| -> Result<()> {
            assert_eq!(canonical(socket.peer_name()?), server);
            socket.send(b"question")?;
            hears(socket, b"question", server);
            Ok(())
        };
        let socket = kind.socket(&dns.rig.app);
        let dns_rule = [(kind.connect, "dns", 1)];
        for server in [kind.server(0), kind.server(1)] {
            dns.rig.expect(&dns_rule, || socket.connect(server))?;
            ask(&socket, server)?;
        }
        socket.disconnect()?;
        refused_as(socket.peer_name(), Errno::ENOTCONN);
        dns.rig
            .expect(&dns_rule, || socket.connect(kind.server(2)))?;
        ask(&socket, kind.server(2))?;

        // Past the agent, to the port of somebody who is no DNS server.
        let elsewhere = (kind.server(0).ip(), 5353).into();
        let _echo = dns.rig.remote.udp_echo((kind.server(0).ip(), 5353))?;
        dns.rig.expect(&[], || socket.connect(elsewhere))?;
        ask(&socket, elsewhere)?;
        // To the agent by its own name: nothing of the server before is left.
        let agent = format!("{}:15053", kind.localhost).parse()?;
        let local = kind.socket(&dns.rig.app);
        local.connect(kind.server(0))?;
        dns.rig.expect(&[], || local.connect(agent))?;
        ask(&local, agent)?;
    }
    assert!(dns.asked_for_real().is_empty());
    Ok(())
}

#[test]
fn a_socket_that_is_bound_keeps_its_source() -> Result<()> {
    let dns = Dns::new("dns-bound", &ALL)?;
    dns.rig.pod.add_address([10, 244, 0, 66].into())?;
    dns.rig.pod.add_address("fd00:10:244::66".parse()?)?;
    let bound = |kind: Kind, addr: &str| {
        kind.socket_with(
            &dns.rig.app,
            UdpOptions {
                bind: Some(addr.parse().unwrap()),
                ..UdpOptions::default()
            },
        )
    };
    for (kind, source, seen) in [
        (V4, "10.244.0.66:0", "10.244.0.66"),
        (V4, "10.244.0.66:4321", "10.244.0.66"),
        (V6, "[fd00:10:244::66]:0", "fd00:10:244::66"),
        (crate::MAPPED, "10.244.0.66:0", "10.244.0.66"),
        // Bound to a port only, the kernel chooses the address, and for the agent chooses this.
        (V4, "0.0.0.0:4322", "127.0.0.1"),
    ] {
        let socket = bound(kind, source);
        let (server, before) = (kind.server(0), dns.asked());
        dns.rig
            .expect(&[(kind.connect, "dns", 1)], || socket.connect(server))?;
        socket.send(source.as_bytes())?;
        hears(&socket, source.as_bytes(), server);
        let peer = dns.was_asked(&before, source.as_bytes());
        assert_eq!(peer, canonical(socket.sock_name()?));
        assert_eq!(peer.ip(), seen.parse::<std::net::IpAddr>()?, "{source}");
    }
    Ok(())
}

#[test]
fn without_the_agent_a_connected_socket_hears_of_it() -> Result<()> {
    let mut rig = crate::Rig::new("dns-nobody")?;
    rig.load(&ALL)?;
    for kind in KINDS {
        let socket = kind.socket(&rig.app);
        rig.expect(&[(kind.connect, "dns", 1)], || {
            socket.connect(kind.server(0))
        })?;
        socket.send(b"question")?;
        refused_as(socket.receive(), Errno::ECONNREFUSED);
    }
    Ok(())
}

#[test]
fn a_connected_socket_hears_its_own_server_only() -> Result<()> {
    let dns = Dns::new("dns-one", &ALL)?;
    for kind in KINDS {
        let socket = kind.socket(&dns.rig.app);
        socket.connect(kind.server(0))?;
        let asked = [(kind.sendmsg, "dns", 1)];
        dns.rig
            .expect(&asked, || socket.send_to(b"its own", kind.server(0)))?;
        hears(&socket, b"its own", kind.server(0));
        let before = dns.asked();
        dns.rig
            .expect(&asked, || socket.send_to(b"another", kind.server(1)))?;
        refused_as(socket.receive_within(SOON), Errno::ETIME);
        dns.was_asked(&before, b"another");
        assert_eq!(canonical(socket.peer_name()?), kind.server(0));
        socket.send(b"its own again")?;
        hears(&socket, b"its own again", kind.server(0));
    }
    Ok(())
}
