//! What both ends of a redirected connection are told of its source, and by which way they are answered.

use std::{
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use sidecar_lab::{Conn, ListenOptions, Listener, inside_netns, pod::POD_IP, process::run};
use sidecar_loader::answers::TOS;

use crate::{
    BY_9, BY_9_V6, SERVICE, SERVICE6, rig,
    support::{Ends, Rig, canonical, connect4, to},
    with,
};

fn both_are_told(source: SocketAddr, client: &Conn, server: &Conn) -> Result<()> {
    assert_eq!(canonical(client.local), source);
    assert_eq!(canonical(client.sock_name()?), source);
    // By `accept()`, then by `getpeername`.
    assert_eq!(canonical(server.peer), source);
    assert_eq!(canonical(server.peer_name()?), source);
    Ok(())
}

#[test]
fn an_ipv4_connection_comes_from_the_pod_s_address() -> Result<()> {
    let rig = rig("source")?;
    for mapped in [false, true] {
        let options = with(SERVICE, |options| options.mapped = mapped);
        let moved = if mapped { BY_9_V6 } else { BY_9 };
        let Ends { client, server } = rig.delivered(moved, &rig.app, options, &rig.outbound);
        both_are_told((POD_IP, client.local.port()).into(), &client, &server)?;
    }
    let Ends { client, server } = rig.delivered(BY_9_V6, &rig.app, to(SERVICE6), &rig.outbound);
    both_are_told(client.local, &client, &server)
}

/// How many routes the kernel has made for packets that leave, in all namespaces, because it keeps none for
/// them (`out_slow_tot`, net/ipv4/route.c).
fn routes_made() -> Result<u64> {
    const FILE: &str = "/proc/net/stat/rt_cache";
    let text = fs::read_to_string(FILE).with_context(|| format!("reading {FILE}"))?;
    let mut lines = text.lines();
    let names = lines.next().context("it is empty")?.split_whitespace();
    let column = names
        .into_iter()
        .position(|name| name == "out_slow_tot")
        .context("no column out_slow_tot")?;
    lines
        .map(|line| {
            let value = line.split_whitespace().nth(column).context("no value")?;
            Ok(u64::from_str_radix(value, 16)?)
        })
        .sum()
}

fn quiet(rig: &Rig) -> Result<()> {
    rig.loader.as_ref().context("no loader")?.wait_until_quiet()
}

const CONNECTIONS: u64 = 300;

/// How many routes the kernel makes for each connection of the application.
fn routes_per_connection(rig: &Rig) -> Result<f64> {
    let before = routes_made()?;
    for _ in 0..CONNECTIONS {
        rig.app.connect(SERVICE)?;
    }
    Ok((routes_made()? - before) as f64 / CONNECTIONS as f64)
}

/// The types of service of the listening sockets, by port.
fn tos_of_listeners(rig: &Rig) -> Result<Vec<(u16, u8)>> {
    let listing = inside_netns(&rig.pod.netns_path(), || run("ss", ["-Hltn", "--tos"], ""))??;
    listing
        .lines()
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let port = words.get(3).and_then(|local| local.rsplit(':').next());
            let tos = words.iter().find_map(|word| word.strip_prefix("tos:"));
            let (port, tos) = port
                .zip(tos)
                .with_context(|| format!("what is {line:?}?"))?;
            let tos = u8::from_str_radix(tos.trim_start_matches("0x"), 16)?;
            Ok((port.parse()?, tos))
        })
        .collect()
}

fn marked(rig: &Rig) -> Result<Vec<u16>> {
    let all = tos_of_listeners(rig)?.into_iter();
    let mut marked: Vec<u16> = all
        .filter(|&(_, tos)| tos == TOS)
        .map(|(port, _)| port)
        .collect();
    marked.dedup();
    Ok(marked)
}

fn dual(rig: &Rig, port: u16) -> Result<Listener> {
    Ok(rig.proxy.listen_with(ListenOptions {
        v6_only: false,
        ..ListenOptions::at(format!("[::]:{port}").parse()?)
    })?)
}

/// Two for each connection, where the answers go to the pod's address by the way of all packets.
#[test]
fn the_kernel_keeps_the_route_of_the_answers() -> Result<()> {
    let mut rig = rig("answers")?;
    for is_dual in [false, true] {
        let _dual = if is_dual {
            rig.outbound.listeners.clear();
            Some(dual(&rig, 15001)?)
        } else {
            None
        };
        quiet(&rig)?;
        let made = routes_per_connection(&rig)?;
        ensure!(made < 0.5, "{made} routes for each connection");
        assert_eq!(marked(&rig)?, [15001]);
    }
    Ok(())
}

/// The proxy's own choice is left alone; then the answers go as any packets.
#[test]
fn a_proxy_with_a_type_of_service_of_its_own_keeps_it() -> Result<()> {
    const CHOSEN: u8 = 0x20;
    let mut rig = rig("chosen")?;
    rig.outbound.listeners.clear();
    let outbound = rig.proxy.listen_with(ListenOptions {
        tos: CHOSEN,
        ..ListenOptions::at("0.0.0.0:15001".parse()?)
    })?;
    quiet(&rig)?;
    assert!(tos_of_listeners(&rig)?.contains(&(15001, CHOSEN)));
    let client = rig.app.connect(SERVICE)?;
    let server = outbound.accept()?;
    both_are_told((POD_IP, client.local.port()).into(), &client, &server)?;
    let made = routes_per_connection(&rig)?;
    ensure!(made > 1.5, "{made} routes for each connection");
    Ok(())
}

#[test]
fn a_route_of_the_answers_that_is_taken_away_comes_back() -> Result<()> {
    let rig = rig("taken")?;
    quiet(&rig)?;
    rig.pod
        .ip(&format!("route del local {POD_IP} dev lo tos {TOS:#04x}\n"))?;
    let deadline = Instant::now() + Duration::from_secs(5);
    while routes_per_connection(&rig)? > 0.5 {
        ensure!(Instant::now() < deadline, "it does not come back");
    }
    Ok(())
}

#[test]
fn nothing_is_left_of_it_when_the_loader_ends() -> Result<()> {
    let mut rig = rig("unmarked")?;
    quiet(&rig)?;
    assert_eq!(marked(&rig)?, [15001]);
    let routes = |rig: &Rig| {
        inside_netns(&rig.pod.netns_path(), || {
            run("ip", ["route", "show", "table", "local"], "")
        })?
    };
    assert!(routes(&rig)?.contains("tos"));
    let loader = rig.loader.take().context("no loader")?;
    assert_eq!(loader.stop()?.code(), Some(0));
    assert_eq!(marked(&rig)?, [0; 0]);
    let left = routes(&rig)?;
    assert!(!left.contains("tos") && !left.contains("127.128"), "{left}");
    Ok(())
}

/// A second route to the pod's address for all packets would take them past such a listener.
#[test]
fn a_listener_bound_to_a_device_gets_what_the_pod_sends_to_its_own_address() -> Result<()> {
    let rig = rig("by-eth0")?;
    quiet(&rig)?;
    let own = rig.app.listen_with(ListenOptions {
        bind_to_device: Some("eth0".to_owned()),
        ..ListenOptions::at((POD_IP, 8090).into())
    })?;
    let client = rig.expect(&[connect4("3")], || rig.app.connect((POD_IP, 8090)))?;
    assert_eq!(own.accept()?.peer, client.local);
    Ok(())
}
