//! A real haproxy, Debian's. It asks `SO_ORIGINAL_DST` of AF_INET sockets only, so IPv4 it is.

use std::{
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::{
    AccessEntry, Upstreams, ask, entries, scratch::Scratch, version_line, wait_for_entries,
    wait_until_ready,
};
use crate::{
    process::{Child, Placement},
    proxy::{Direction, INBOUND_PORT, INBOUND_SOURCE, OUTBOUND_PORT},
};

const PROGRAM: &str = "haproxy";
/// The control socket is bound after the listeners, and answers when the threads run.
const READY_REQUEST: &str = "show info\n";
const READY_ANSWER: &str = "Name: HAProxy";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HaproxyOptions {
    /// Threads. Each has a listening socket of its own (`SO_REUSEPORT`) per port.
    pub workers: u32,
    /// Where everything goes, in place of the original destination.
    pub upstreams: Option<Upstreams>,
}

impl Default for HaproxyOptions {
    fn default() -> Self {
        Self {
            workers: 2,
            upstreams: None,
        }
    }
}

/// A running haproxy; dropping it ends it and removes its files.
#[derive(Debug)]
pub struct Haproxy {
    child: Child,
    version: String,
    control: PathBuf,
    _scratch: Scratch,
}

impl Haproxy {
    /// Starts it there, and returns when it listens.
    pub fn start(placement: &Placement, options: &HaproxyOptions) -> Result<Self> {
        let mut asking = Command::new(PROGRAM);
        asking.arg("-v");
        let version = version_line(asking).context("asking haproxy (package haproxy)")?;
        let scratch = Scratch::new(PROGRAM, placement)?;
        let control = scratch.path("control.sock");
        let config = scratch.write("haproxy.cfg", &config(options, &control))?;
        // -db: in the foreground.
        let arguments: [OsString; 3] = ["-db".into(), "-f".into(), config.into()];
        let child = placement.spawn(PROGRAM, arguments)?;
        wait_until_ready(&child, &control, READY_REQUEST, READY_ANSWER)
            .context("starting haproxy")?;
        Ok(Self {
            child,
            version,
            control,
            _scratch: scratch,
        })
    }

    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Such as `HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// How many connections a listener has accepted so far.
    pub fn accepted(&self, direction: Direction) -> Result<u64> {
        let answer =
            ask(&self.control, "show stat\n").context("asking haproxy for its counters")?;
        let mut lines = answer
            .lines()
            .map(|line| line.split(',').collect::<Vec<_>>());
        let names = lines.next().context("no counters")?;
        let column = names.iter().position(|&name| name == "stot");
        let column = column.context("no counter of sessions")?;
        let name = direction.to_string();
        let line =
            lines.find(|it| it.first() == Some(&name.as_str()) && it.get(1) == Some(&"FRONTEND"));
        let count = line
            .as_ref()
            .and_then(|line| line.get(column)?.parse().ok());
        count.with_context(|| format!("no listener {name} in {answer}"))
    }

    /// The connections that have ended so far.
    pub fn access_log(&self) -> Result<Vec<AccessEntry>> {
        entries(&self.child, parse)
    }

    /// Waits until at least that many connections have ended, counted from the start.
    pub fn wait_for_access(&self, count: usize, timeout: Duration) -> Result<Vec<AccessEntry>> {
        wait_for_entries(count, timeout, || self.access_log())
    }
}

/// A server at `0.0.0.0:0` means the destination of the client's connection, which haproxy takes
/// from `SO_ORIGINAL_DST`; where that fails, it is the listener's own address.
fn config(options: &HaproxyOptions, control: &Path) -> String {
    let workers = options.workers;
    let frontend = |direction: Direction, port: u16, server: &str| {
        if let Some(upstreams) = options.upstreams {
            let to = upstreams.of(direction);
            // It is asked for, and not used.
            return format!(
                "listen {direction}\n\
                 \x20   bind 0.0.0.0:{port} shards {workers}\n\
                 \x20   no log\n\
                 \x20   tcp-request content set-var(sess.dst) fc_dst\n\
                 \x20   server fixed {to}{server}\n"
            );
        }
        format!(
            "listen {direction}\n\
             \x20   bind 0.0.0.0:{port} shards {workers}\n\
             \x20   tcp-request content reject if {{ fc_dst_port {port} }}\n\
             \x20   server original 0.0.0.0:0{server}\n"
        )
    };
    let outbound = frontend(Direction::Outbound, OUTBOUND_PORT, "");
    let source = format!(" source {INBOUND_SOURCE}");
    let inbound = frontend(Direction::Inbound, INBOUND_PORT, &source);
    format!(
        "global\n\
         \x20   log stdout format raw local0\n\
         \x20   nbthread {workers}\n\
         \x20   maxconn 1000\n\
         \x20   stats socket {control}\n\
         defaults\n\
         \x20   mode tcp\n\
         \x20   log global\n\
         \x20   timeout connect 5s\n\
         \x20   timeout client 60s\n\
         \x20   timeout server 60s\n\
         \x20   log-format '{LOG_FORMAT}'\n\
         {outbound}{inbound}",
        control = control.display()
    )
}

/// haproxy has `-` for what it does not have, so addresses stay text here.
const LOG_FORMAT: &str = r#"{"listener":"%f","original_dst":"%[fc_dst]:%[fc_dst_port]","peer":"%[fc_src]:%[fc_src_port]","upstream":"%si:%sp","upstream_local":"%bi:%bp","received":%U,"sent":%B,"flags":"%ts"}"#;

#[derive(Deserialize)]
struct LogLine {
    listener: Direction,
    original_dst: SocketAddr,
    peer: SocketAddr,
    upstream: String,
    upstream_local: String,
    received: u64,
    sent: u64,
    flags: String,
}

fn parse(line: &str) -> Result<AccessEntry> {
    let line: LogLine = serde_json::from_str(line).context("not an access log entry")?;
    Ok(AccessEntry {
        listener: line.listener,
        original_dst: line.original_dst,
        direct_local: None,
        peer: line.peer,
        upstream: address(&line.upstream)?,
        upstream_local: address(&line.upstream_local)?,
        received: line.received,
        sent: line.sent,
        flags: Some(line.flags).filter(|flags| flags != "--"),
    })
}

fn address(text: &str) -> Result<Option<SocketAddr>> {
    if text == "-:-" {
        return Ok(None);
    }
    let address = text.parse();
    Ok(Some(
        address.with_context(|| format!("the address {text:?}"))?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_log_is_an_entry() {
        let line = r#"{"listener":"inbound","original_dst":"10.0.0.2:8080","peer":"10.0.0.1:46956","upstream":"10.0.0.2:8080","upstream_local":"127.0.0.6:33414","received":4,"sent":54,"flags":"--"}"#;
        let entry = parse(line).unwrap();
        assert_eq!(entry.listener, Direction::Inbound);
        assert_eq!(entry.upstream_local, "127.0.0.6:33414".parse().ok());
        assert_eq!(entry.flags, None);
        let refused = r#"{"listener":"outbound","original_dst":"10.0.0.2:15001","peer":"10.0.0.1:46956","upstream":"-:-","upstream_local":"-:-","received":0,"sent":0,"flags":"PR"}"#;
        let entry = parse(refused).unwrap();
        assert_eq!((entry.upstream, entry.flags), (None, Some("PR".to_owned())));
        assert!(parse("Proxy outbound started.").is_err());
    }
}
