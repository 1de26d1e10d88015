//! From start to end: what the loader waits for, what it gets along with, and that nothing is left.
//! Needs root; leaves nothing behind.
#![expect(clippy::unwrap_used, reason = "in a test it is a failure of the test")]

#[path = "../stage/attach.rs"]
mod attach;
mod begins;
mod ends;
mod neighbours;
mod objects;
#[path = "../stage/mod.rs"]
mod stage;

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;
use serde_json::Value;
use sidecar_lab::{Agent, Conn, Level, Listener, Pod, ip_inside};
use stage::{Stage, addr};

const PATIENCE: Duration = Duration::from_secs(10);
const SERVICE: &str = "10.96.0.10:80";
const SERVICE6: &str = "[fd00:96::10]:80";

/// Addresses and every routing table of the pod's network, but what IPv6 adds by itself to a link
/// that has just come up.
fn network(pod: &Pod) -> Result<String> {
    let mut text = String::new();
    for question in [
        ["-4", "route", "show", "table", "all"].as_slice(),
        &["-6", "route", "show", "table", "all"],
        &["-oneline", "address", "show"],
        &["rule", "show"],
    ] {
        text += &ip_inside(&pod.netns_path(), question, "")?;
    }
    let by_itself = |line: &&str| ["fe80:", "ff00::/8"].iter().any(|own| line.contains(own));
    Ok(text
        .lines()
        .filter(|line| !by_itself(line))
        .map(|line| format!("{line}\n"))
        .collect())
}

fn connections(event: &Value, hook: &str, rule: &str) -> u64 {
    let decisions = event["decisions"].as_array().unwrap().iter();
    let mut of = decisions.filter(|entry| entry["hook"] == hook && entry["rule"] == rule);
    of.next().unwrap()["connections"].as_u64().unwrap()
}

fn passes(client: &Agent, server: &Listener, to: &str) -> Result<(Conn, Conn)> {
    let conn = client.connect(to)?;
    let got = server.accept()?;
    assert_eq!(
        (conn.peer, got.local, got.peer),
        (addr(to), addr(to), conn.local)
    );
    Ok((conn, got))
}

fn goes_both_ways(
    stage: &Stage,
    remote: &Agent,
    [outbound, inbound]: [&Listener; 2],
    service: &str,
    own: SocketAddr,
) -> Result<()> {
    let service = addr(service);
    let (hook, level) = match service {
        SocketAddr::V4(_) => ("connect4", Level::Ip),
        SocketAddr::V6(_) => ("connect6", Level::Ipv6),
    };
    stage.counted(&[(hook, "9", 1), ("sk_lookup", "inbound-all", 1)], || {
        let conn = stage.app.connect(service)?;
        let got = outbound.accept()?;
        assert_eq!((got.peer, conn.peer), (conn.local, service));
        assert_eq!(got.peer.ip(), own.ip(), "its source is the pod's address");
        assert_eq!(got.original_dst(level, 28)?, service);
        let conn = remote.connect(own)?;
        let got = inbound.accept()?;
        assert_eq!((got.peer, got.local), (conn.local, own));
        Ok(())
    })
}
