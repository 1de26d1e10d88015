//! The same sockets in a pod with the loader and in one with the rules that Istio makes for DNS
//! capture: applications and the agent must be told the same.

use std::{fmt::Debug, net::SocketAddr};

use anyhow::Result;
use sidecar_lab::{Datagrams, Placement, Pod, UdpOptions, pod::PROXY_ID, process::run_command};

use crate::{
    ALL, Dns, KINDS, Kind, SOON,
    support::{Rig, canonical},
};

/// What somebody was told: what about, and what.
type Told = Vec<(String, String)>;

#[test]
fn everybody_is_told_the_same_as_with_iptables() -> Result<()> {
    let ours = Dns::new("dns-ours", &ALL)?;
    let theirs = Rig::new("dns-theirs")?;
    for (family, localhost, passthrough) in [
        ("iptables", "127.0.0.1/32", "127.0.0.6/32"),
        ("ip6tables", "::1/128", "::6/128"),
    ] {
        install(&theirs.pod, family, &rules(localhost, passthrough))?;
    }
    let theirs = Dns::on(theirs)?;
    for kind in KINDS {
        let (ours, theirs) = (observe(&ours, kind)?, observe(&theirs, kind)?);
        assert!(!theirs.is_empty());
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert_eq!(ours, theirs, "the loader's on the left; {kind:?}");
        }
        assert_eq!(ours.len(), theirs.len());
    }
    Ok(())
}

fn observe(dns: &Dns, kind: Kind) -> Result<Told> {
    let mut told = Told::new();
    connected(dns, kind, &mut told);
    unconnected(dns, kind, &mut told);
    bound(dns, kind, &mut told);
    again(dns, kind, &mut told);
    itself(dns, kind, &mut told);
    Ok(told)
}

fn note(told: &mut Told, about: impl Into<String>, what: impl Debug) {
    told.push((about.into(), format!("{what:?}")));
}

/// The sender of an answer, or why there is none.
fn answer(socket: &Datagrams) -> Result<SocketAddr, sidecar_lab::Errno> {
    let answer = socket.receive_within(SOON);
    answer
        .map(|reply| canonical(reply.source))
        .map_err(|error| error.errno())
}

/// The address that the agent saw the latest question come from.
fn seen_from(dns: &Dns, socket: &Datagrams, kind: Kind) -> (String, bool) {
    let server = &dns.udp[usize::from(kind.pod.is_ipv6())];
    let seen = server.log().unwrap().last().unwrap().peer;
    let port = socket.sock_name().unwrap().port();
    (seen.ip().to_string(), seen.port() == port)
}

fn connected(dns: &Dns, kind: Kind, told: &mut Told) {
    let socket = kind.socket(&dns.rig.app);
    socket.connect(kind.server(0)).unwrap();
    note(told, "connected: peer", socket.peer_name().unwrap());
    note(told, "connected: own", socket.sock_name().unwrap().ip());
    socket.send(b"question").unwrap();
    note(told, "connected: answer", answer(&socket));
    note(told, "connected: agent", seen_from(dns, &socket, kind));
    socket.send_to(b"to another", kind.server(1)).unwrap();
    note(told, "connected: answer of another", answer(&socket));
    note(told, "connected: still", socket.peer_name().unwrap());
    socket.send_to(b"by name", kind.server(0)).unwrap();
    note(told, "connected: by name", answer(&socket));
}

fn unconnected(dns: &Dns, kind: Kind, told: &mut Told) {
    let socket = kind.socket(&dns.rig.app);
    for server in [0, 1, 0, 2, 1] {
        socket.send_to(b"question", kind.server(server)).unwrap();
        note(told, format!("unconnected: {server}"), answer(&socket));
        if server == 0 {
            note(told, "unconnected: agent", seen_from(dns, &socket, kind));
        }
    }
    note(told, "unconnected: own", socket.sock_name().unwrap().ip());
    note(
        told,
        "unconnected: peer",
        socket.peer_name().map_err(|e| e.errno()),
    );
}

fn bound(dns: &Dns, kind: Kind, told: &mut Told) {
    let options = UdpOptions {
        bind: Some(SocketAddr::new(kind.pod, 0)),
        ..UdpOptions::default()
    };
    let socket = kind.socket_with(&dns.rig.app, options.clone());
    for server in [0, 1, 2] {
        socket.send_to(b"question", kind.server(server)).unwrap();
        note(told, format!("bound: {server}"), answer(&socket));
    }
    let socket = kind.socket_with(&dns.rig.app, options);
    socket.connect(kind.server(2)).unwrap();
    socket.send(b"question").unwrap();
    note(told, "bound and connected", answer(&socket));
    note(
        told,
        "bound and connected: agent",
        seen_from(dns, &socket, kind),
    );
}

fn again(dns: &Dns, kind: Kind, told: &mut Told) {
    let socket = kind.socket(&dns.rig.app);
    for server in [0, 1] {
        socket.connect(kind.server(server)).unwrap();
        socket.send(b"question").unwrap();
        note(told, format!("again: {server}"), answer(&socket));
    }
    socket.disconnect().unwrap();
    note(
        told,
        "again: nobody",
        socket.peer_name().map_err(|e| e.errno()),
    );
    // An IPv6 socket goes on to hear its last peer only (`__udp_disconnect`, net/ipv4/udp.c, leaves
    // `sk_v6_daddr`). The agent is every server's.
    let heard: &[usize] = if kind.ipv6 { &[1] } else { &[2, 0] };
    for &server in heard {
        socket.send_to(b"question", kind.server(server)).unwrap();
        note(
            told,
            format!("again: unconnected {server}"),
            answer(&socket),
        );
    }
    socket.connect(kind.server(2)).unwrap();
    note(told, "again: own", socket.sock_name().unwrap().ip());
    socket.send(b"question").unwrap();
    note(told, "again: 2", answer(&socket));
}

/// Servers at addresses of the pod, none of which is there.
fn itself(dns: &Dns, kind: Kind, told: &mut Told) {
    let servers: &[&str] = if kind.pod.is_ipv4() {
        &[
            "127.0.0.1:53",
            "127.0.0.53:53",
            "10.244.0.5:53",
            "0.0.0.0:53",
        ]
    } else {
        &["[::1]:53", "[fd00:10:244::5]:53", "[::]:53"]
    };
    for server in servers {
        let socket = kind.socket(&dns.rig.app);
        socket.send_to(b"question", *server).unwrap();
        note(told, format!("itself: {server}"), answer(&socket));
        note(
            told,
            format!("itself: {server}: agent"),
            seen_from(dns, &socket, kind),
        );
        let socket = kind.socket(&dns.rig.app);
        socket.connect(*server).unwrap();
        note(
            told,
            format!("itself: {server}: own"),
            socket.sock_name().unwrap().ip(),
        );
        note(told, format!("itself: {server}: peer"), socket.peer_name());
        socket.send(b"question").unwrap();
        note(told, format!("itself: {server}: answer"), answer(&socket));
        note(
            told,
            format!("itself: {server}: asked"),
            seen_from(dns, &socket, kind),
        );
    }
}

fn install(pod: &Pod, family: &str, text: &str) -> Result<()> {
    let place = Placement {
        netns: Some(pod.netns_path()),
        ..Placement::default()
    };
    let program = format!("{family}-legacy-restore");
    run_command(place.command(&program, ["--noflush"])?, text).map(drop)
}

/// As istio-iptables makes them with DNS capture of all servers.
fn rules(localhost: &str, passthrough: &str) -> String {
    let owner = |kind: &str, inbound: &str| {
        format!(
            "-A ISTIO_OUTPUT -o lo ! -d {localhost} -p tcp {inbound} -m owner --{kind}-owner {PROXY_ID} -j ISTIO_IN_REDIRECT\n\
             -A ISTIO_OUTPUT -o lo -p tcp ! --dport 53 -m owner ! --{kind}-owner {PROXY_ID} -j RETURN\n\
             -A ISTIO_OUTPUT -m owner --{kind}-owner {PROXY_ID} -j RETURN\n"
        )
    };
    let zones = |kind: &str| {
        format!(
            "-A ISTIO_OUTPUT_DNS -p udp --dport 53 -m owner --{kind}-owner {PROXY_ID} -j CT --zone 1\n\
             -A ISTIO_OUTPUT_DNS -p udp --sport 15053 -m owner --{kind}-owner {PROXY_ID} -j CT --zone 2\n"
        )
    };
    format!(
        "*nat\n\
         :ISTIO_REDIRECT - [0:0]\n\
         :ISTIO_IN_REDIRECT - [0:0]\n\
         :ISTIO_OUTPUT - [0:0]\n\
         :ISTIO_OUTPUT_DNS - [0:0]\n\
         -A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001\n\
         -A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006\n\
         -A OUTPUT -j ISTIO_OUTPUT\n\
         -A ISTIO_OUTPUT -o lo -s {passthrough} -j RETURN\n\
         {by_uid}{by_gid}\
         -A ISTIO_OUTPUT -j ISTIO_OUTPUT_DNS\n\
         -A ISTIO_OUTPUT -d {localhost} -j RETURN\n\
         -A ISTIO_OUTPUT -j ISTIO_REDIRECT\n\
         -A ISTIO_OUTPUT_DNS -p tcp --dport 53 -j REDIRECT --to-ports 15053\n\
         -A ISTIO_OUTPUT_DNS -p udp --dport 53 -j REDIRECT --to-ports 15053\n\
         COMMIT\n\
         *raw\n\
         :ISTIO_INBOUND - [0:0]\n\
         :ISTIO_OUTPUT_DNS - [0:0]\n\
         -A OUTPUT -j ISTIO_OUTPUT_DNS\n\
         -A PREROUTING -j ISTIO_INBOUND\n\
         {zones_by_uid}{zones_by_gid}\
         -A ISTIO_OUTPUT_DNS -p udp --dport 53 -j CT --zone 2\n\
         -A ISTIO_INBOUND -p udp --sport 53 -j CT --zone 1\n\
         COMMIT\n",
        by_uid = owner("uid", "-m multiport ! --dports 53,15008"),
        by_gid = owner("gid", "! --dport 15008"),
        zones_by_uid = zones("uid"),
        zones_by_gid = zones("gid"),
    )
}
