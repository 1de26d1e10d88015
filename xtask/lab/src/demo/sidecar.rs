//! The proxy in the pod, whichever it is.

use std::{
    net::{Ipv4Addr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{
    ProxyKind,
    topology::{ADMIN_PORT, PROXY_METRICS_PORT},
};
use crate::{
    Agent, Pod,
    proxy::{Direction, Onward, ProxyLine, ProxyOptions, Route},
    real::{AccessEntry, Envoy, EnvoyOptions},
};

/// How long the log of a connection may take.
const PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub(super) enum Sidecar {
    Ours(Agent),
    Envoy(Envoy),
}

/// What the proxy saw of one connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Proxied {
    pub(super) listener: Direction,
    pub(super) peer: SocketAddr,
    pub(super) original_dst: Option<SocketAddr>,
    pub(super) upstream: Option<SocketAddr>,
    pub(super) upstream_local: Option<SocketAddr>,
}

impl Sidecar {
    pub(super) fn start(kind: ProxyKind, pod: &Pod, routes: Vec<Route>) -> Result<Self> {
        match kind {
            ProxyKind::Ours => {
                let agent = Agent::spawn(&pod.proxy()).context("the proxy's process")?;
                let options = ProxyOptions {
                    routes,
                    ..ProxyOptions::default()
                };
                agent.serve_proxy(options)?;
                agent.serve_echo((Ipv4Addr::LOCALHOST, ADMIN_PORT))?;
                agent.serve_echo((Ipv4Addr::UNSPECIFIED, PROXY_METRICS_PORT))?;
                Ok(Self::Ours(agent))
            }
            ProxyKind::Envoy => {
                let options = EnvoyOptions {
                    routes,
                    istio_ports: true,
                    ..EnvoyOptions::default()
                };
                Envoy::start(&pod.proxy(), &options).map(Self::Envoy)
            }
        }
    }

    pub(super) fn describe(&self) -> String {
        match self {
            Self::Ours(_) => "a small transparent proxy of this project".to_owned(),
            Self::Envoy(envoy) => {
                // PATH version: COMMIT/VERSION/…
                let version = envoy.version().split_once("version: ");
                let version = version.and_then(|(_, version)| version.split('/').nth(1));
                format!("Envoy {}", version.unwrap_or("of unknown version"))
            }
        }
    }

    /// Who answers on the proxy's own ports, if it keeps a log of them.
    pub(super) fn server(&self) -> Option<&Agent> {
        match self {
            Self::Ours(agent) => Some(agent),
            Self::Envoy(_) => None,
        }
    }

    pub(super) fn pid(&self) -> u32 {
        match self {
            Self::Ours(agent) => agent.pid(),
            Self::Envoy(envoy) => envoy.pid(),
        }
    }

    /// How many connections it has logged so far.
    pub(super) fn mark(&self) -> Result<usize> {
        Ok(self.log()?.len())
    }

    /// The connections since that mark, once there are so many; outbound ones first. Envoy logs
    /// a connection when it ends.
    pub(super) fn since(&self, mark: usize, count: usize) -> Result<Vec<Proxied>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut fresh = self.log()?.split_off(mark);
            if fresh.len() >= count {
                fresh.sort_by_key(|it| it.listener == Direction::Inbound);
                return Ok(fresh);
            }
            if Instant::now() > deadline {
                bail!(
                    "the proxy saw {} of {count} connections: {fresh:?}",
                    fresh.len()
                );
            }
            thread::sleep(POLL);
        }
    }

    fn log(&self) -> Result<Vec<Proxied>> {
        Ok(match self {
            Self::Ours(agent) => agent.proxy_log()?.into_iter().map(Into::into).collect(),
            Self::Envoy(envoy) => envoy.access_log()?.into_iter().map(Into::into).collect(),
        })
    }
}

impl From<ProxyLine> for Proxied {
    fn from(line: ProxyLine) -> Self {
        Self {
            listener: line.listener,
            peer: line.peer,
            original_dst: line.original_dst,
            upstream: line.upstream,
            upstream_local: match line.onward {
                Onward::From(local) => Some(local),
                Onward::Refused(_) => None,
            },
        }
    }
}

impl From<AccessEntry> for Proxied {
    fn from(entry: AccessEntry) -> Self {
        Self {
            listener: entry.listener,
            peer: entry.peer,
            original_dst: Some(entry.original_dst),
            upstream: entry.upstream,
            upstream_local: entry.upstream_local,
        }
    }
}
