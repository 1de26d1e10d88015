//! Real transparent proxies: [`Envoy`] and [`Haproxy`], configured as Istio's sidecar is.
//!
//! Both send outbound connections (port 15001) on to the destination that `SO_ORIGINAL_DST` names,
//! and inbound ones (port 15006) the same way, but from 127.0.0.6 (IPv6: `::6`, which the pod's
//! `lo` must have, as Istio gives it). Their access logs are the oracle of the tests. A connection
//! whose original destination is the listener's own port is refused, for it would loop for ever.

mod bootstrap;
mod envoy;
mod haproxy;
pub(crate) mod scratch;

use std::{
    io::{Read, Write},
    net::SocketAddr,
    os::unix::net::UnixStream,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

pub use envoy::{Envoy, EnvoyOptions};
pub use haproxy::{Haproxy, HaproxyOptions};

use crate::{
    process::{Child, Stream, run_command},
    proxy::Direction,
};

/// Where a proxy sends everything, whatever its original destination: for load, where arms with and
/// without redirection are to have the same work. No access log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upstreams {
    pub outbound: SocketAddr,
    pub inbound: SocketAddr,
}

impl Upstreams {
    fn of(self, direction: Direction) -> SocketAddr {
        match direction {
            Direction::Outbound => self.outbound,
            Direction::Inbound => self.inbound,
        }
    }
}

/// How long a proxy may take to open its listeners.
const START_PATIENCE: Duration = Duration::from_secs(20);
/// How long a proxy may take to answer on its control socket.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(20);

/// One line of an access log. Proxies write it when the connection has ended.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct AccessEntry {
    pub listener: Direction,
    /// What `SO_ORIGINAL_DST` answered; where that failed, the socket's own address.
    pub original_dst: SocketAddr,
    /// Where the connection really arrived; haproxy cannot tell.
    pub direct_local: Option<SocketAddr>,
    pub peer: SocketAddr,
    /// Where the proxy connected to; `None` if it did not.
    pub upstream: Option<SocketAddr>,
    pub upstream_local: Option<SocketAddr>,
    /// Bytes from the client.
    pub received: u64,
    /// Bytes to the client.
    pub sent: u64,
    /// What went wrong, in the proxy's own letters; `None` if nothing did.
    pub flags: Option<String>,
}

/// The entries that a proxy has written to its stdout so far.
fn entries(child: &Child, parse: impl Fn(&str) -> Result<AccessEntry>) -> Result<Vec<AccessEntry>> {
    let lines = child.lines();
    lines
        .iter()
        .filter(|line| line.from == Stream::Stdout)
        .map(|line| parse(&line.text).with_context(|| format!("the access log line {}", line.text)))
        .collect()
}

/// Waits until a log has at least that many entries.
fn wait_for_entries(
    count: usize,
    timeout: Duration,
    read: impl Fn() -> Result<Vec<AccessEntry>>,
) -> Result<Vec<AccessEntry>> {
    let deadline = Instant::now() + timeout;
    loop {
        let log = read()?;
        if log.len() >= count {
            return Ok(log);
        }
        ensure!(
            Instant::now() < deadline,
            "{} of {count} access log entries after {timeout:?} (one comes when its connection \
             ends): {log:#?}",
            log.len()
        );
        thread::sleep(POLL);
    }
}

/// Waits until the proxy answers a request on its control socket with that text.
fn wait_until_ready(child: &Child, control: &Path, request: &str, ready: &str) -> Result<()> {
    let deadline = Instant::now() + START_PATIENCE;
    loop {
        let why = match ask(control, request) {
            Ok(answer) if answer.contains(ready) => return Ok(()),
            Ok(answer) => format!("it answers {answer:?}"),
            Err(error) => format!("{}: {error}", control.display()),
        };
        if !child.is_alive()? {
            bail!("it ended while starting; it said:\n{}", child.transcript());
        }
        ensure!(
            Instant::now() < deadline,
            "it is not ready after {START_PATIENCE:?} ({why}); it said:\n{}",
            child.transcript()
        );
        thread::sleep(POLL);
    }
}

fn ask(control: &Path, request: &str) -> std::io::Result<String> {
    let mut socket = UnixStream::connect(control)?;
    socket.set_read_timeout(Some(ANSWER_PATIENCE))?;
    socket.write_all(request.as_bytes())?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The first line that a program says about its version.
fn version_line(mut command: Command) -> Result<String> {
    command.env("LC_ALL", "C");
    let text = run_command(command, "")?;
    let line = text.lines().map(str::trim).find(|line| !line.is_empty());
    Ok(line.context("it says no version")?.to_owned())
}
