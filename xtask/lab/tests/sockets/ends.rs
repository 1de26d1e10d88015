//! What both ends of a redirected connection are told of its source, and what it is.

use std::{fs, net::SocketAddr};

use anyhow::Result;
use sidecar_ebpf_common::number::STAND_IN;
use sidecar_lab::{Agent, Conn, ConnectOptions, ListenOptions, pod::POD_IP};

use crate::{
    BY_9, BY_9_V6, SERVICE, SERVICE6, rig,
    support::{Ends, canonical},
    with,
};

/// Whether the kernel has a connection between that port of the stand-in and somebody, and none between
/// that port of the pod's address and anybody.
pub(crate) fn comes_from_stand_in(process: &Agent, port: u16) -> Result<bool> {
    let mut sockets = String::new();
    for table in ["tcp", "tcp6"] {
        sockets += &fs::read_to_string(format!("/proc/{}/net/{table}", process.pid()))?;
    }
    // As /proc has it: the address as the word that it is in memory.
    let is_there = |ip: std::net::Ipv4Addr| {
        let word = u32::from_ne_bytes(ip.octets());
        sockets.contains(&format!("{word:08X}:{port:04X} "))
    };
    Ok(is_there(STAND_IN) && !is_there(POD_IP))
}

fn both_are_told(source: SocketAddr, client: &Conn, server: &Conn) -> Result<()> {
    assert_eq!(canonical(client.local), source);
    assert_eq!(canonical(client.sock_name()?), source);
    // By `accept()`, then by `getpeername`.
    assert_eq!(canonical(server.peer), source);
    assert_eq!(canonical(server.peer_name()?), source);
    Ok(())
}

#[test]
fn an_ipv4_connection_comes_from_the_pod_s_address_by_all_that_is_told() -> Result<()> {
    let rig = rig("source")?;
    for mapped in [false, true] {
        let options = with(SERVICE, |options| options.mapped = mapped);
        let moved = if mapped { BY_9_V6 } else { BY_9 };
        let Ends { client, server } = rig.delivered(moved, &rig.app, options, &rig.outbound);
        both_are_told((POD_IP, client.local.port()).into(), &client, &server)?;
        assert!(comes_from_stand_in(&rig.app, client.local.port())?);
    }
    // IPv6 needs none.
    let Ends { client, server } =
        rig.delivered(BY_9_V6, &rig.app, crate::to(SERVICE6), &rig.outbound);
    both_are_told(client.local, &client, &server)?;
    assert!(!comes_from_stand_in(&rig.app, client.local.port())?);
    Ok(())
}

#[test]
fn a_proxy_with_one_socket_for_both_families_is_told_the_same() -> Result<()> {
    let mut rig = rig("dual")?;
    rig.outbound.listeners.clear();
    let both = rig.proxy.listen_with(ListenOptions {
        v6_only: false,
        ..ListenOptions::at("[::]:15001".parse()?)
    })?;
    for mapped in [false, true] {
        let options = ConnectOptions {
            mapped,
            ..crate::to(SERVICE)
        };
        let client = rig.app.connect_with(options)?;
        let server = both.accept()?;
        assert_eq!(server.peer.ip(), POD_IP.to_ipv6_mapped());
        both_are_told((POD_IP, client.local.port()).into(), &client, &server)?;
        assert!(comes_from_stand_in(&rig.app, client.local.port())?);
    }
    Ok(())
}

/// A socket that has its address already keeps it, and so the cost of it.
#[test]
fn a_socket_bound_to_the_pod_s_address_has_that_source() -> Result<()> {
    let rig = rig("real")?;
    let options = with(SERVICE, |options| options.from = Some((POD_IP, 0).into()));
    let Ends { client, server } = rig.delivered(BY_9, &rig.app, options, &rig.outbound);
    both_are_told((POD_IP, client.local.port()).into(), &client, &server)?;
    assert!(!comes_from_stand_in(&rig.app, client.local.port())?);
    Ok(())
}
