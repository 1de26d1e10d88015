//! Who there is, and where: a pod with an application, a proxy and an agent; and in the rest of
//! the cluster another service, Istiod and Prometheus.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, ensure};

use super::{ProxyKind, sidecar::Sidecar, step};
use crate::{Agent, Conn, Counters, Loader, Pod, Seen, pod::POD_IP, proxy::Route};

/// The proxy's own administration, for the pod alone.
pub(super) const ADMIN_PORT: u16 = 15000;
/// What the proxy tells Prometheus about itself.
pub(super) const PROXY_METRICS_PORT: u16 = 15090;
/// What the agent tells Prometheus: its own, the proxy's and the application's metrics.
const AGENT_METRICS_PORT: u16 = 15020;

pub(super) const APP: SocketAddr = at(POD_IP, 8080);
/// The application's metrics, which the agent collects.
pub(super) const APP_METRICS: SocketAddr = at(Ipv4Addr::LOCALHOST, 9090);
pub(super) const AGENT_METRICS: SocketAddr = at(POD_IP, AGENT_METRICS_PORT);
pub(super) const PROXY_METRICS: SocketAddr = at(POD_IP, PROXY_METRICS_PORT);
pub(super) const ADMIN: SocketAddr = at(Ipv4Addr::LOCALHOST, ADMIN_PORT);

/// Another pod's service.
pub(super) const SERVICE: SocketAddr = at(Ipv4Addr::new(10, 96, 0, 10), 80);
/// The pod's own service: its only endpoint is [`APP`]. Only the proxy knows that.
pub(super) const OWN_SERVICE: SocketAddr = at(Ipv4Addr::new(10, 96, 0, 20), 80);
pub(super) const ISTIOD: SocketAddr = at(Ipv4Addr::new(10, 96, 0, 2), 15012);

/// The user and group of an agent that does not run as the proxy's.
pub(super) const OTHER_ID: u32 = 2000;

/// Understood by our echo servers (any bytes are) and by Envoy.
const REQUEST: &[u8] = b"GET /stats/prometheus HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n";

const fn at(ip: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(ip), port)
}

/// Everything that runs. The fields are dropped in this order: the loader detaches while the pod
/// is still there.
#[derive(Debug)]
pub(super) struct Lab {
    pub(super) loader: Option<Loader>,
    pub(super) sidecar: Sidecar,
    pub(super) app: Agent,
    /// The process beside the proxy that Istio calls pilot-agent, with the proxy's user.
    pub(super) agent: Agent,
    /// The same program under a user of its own.
    pub(super) other_agent: Agent,
    pub(super) remote: Agent,
    pub(super) istiod: Agent,
    pub(super) prometheus: Agent,
    pub(super) pod: Pod,
}

impl Lab {
    /// Everything but the loader.
    pub(super) fn start(proxy: ProxyKind) -> Result<Self> {
        step("making a pod: network namespaces, a veth between them, cgroups");
        let pod = Pod::new("demo")?;
        step("starting the application, the agent and the rest of the cluster");
        let spawn = |what: &str, place| Agent::spawn(&place).with_context(|| what.to_owned());
        let app = spawn("the application", pod.app())?;
        app.serve_echo((Ipv4Addr::UNSPECIFIED, APP.port()))?;
        app.serve_echo((Ipv4Addr::UNSPECIFIED, APP_METRICS.port()))?;
        let agent = spawn("the agent", pod.proxy())?;
        agent.serve_echo((Ipv4Addr::UNSPECIFIED, AGENT_METRICS_PORT))?;
        let other_agent = spawn("the other agent", pod.proxy().user(OTHER_ID, OTHER_ID))?;
        let remote = spawn("the other pod", pod.remote())?;
        remote.serve_echo(SERVICE)?;
        let istiod = spawn("Istiod", pod.remote())?;
        istiod.serve_echo(ISTIOD)?;
        let prometheus = spawn("Prometheus", pod.remote())?;
        step("starting the proxy");
        let own = Route {
            service: OWN_SERVICE,
            endpoint: APP,
        };
        let sidecar = Sidecar::start(proxy, &pod, vec![own])?;
        Ok(Self {
            loader: None,
            sidecar,
            app,
            agent,
            other_agent,
            remote,
            istiod,
            prometheus,
            pod,
        })
    }

    /// Attaches a loader with these arguments, after the one before has detached.
    pub(super) fn attach(&mut self, arguments: &[&str]) -> Result<()> {
        self.detach()?;
        let told = arguments.join(" ");
        step(
            format!(
                "attaching: loader --cgroup {} {told}",
                self.pod.cgroup().display()
            )
            .trim(),
        );
        self.loader = Some(Loader::start(&self.pod, arguments)?);
        Ok(())
    }

    pub(super) fn detach(&mut self) -> Result<()> {
        if let Some(loader) = self.loader.take() {
            let status = loader.stop().context("stopping the loader")?;
            ensure!(
                status.success(),
                "the loader ended with {status}; it said:\n{}",
                loader.transcript()
            );
        }
        Ok(())
    }

    pub(super) fn counters(&self) -> Result<Counters> {
        self.loader
            .as_ref()
            .context("no loader is attached")?
            .counters()
    }
}

/// Connects, asks, reads the first bytes of the answer. The connection stays open with what is
/// returned.
pub(super) fn ask(from: &Agent, to: SocketAddr) -> Result<Conn> {
    let conn = from.connect(to)?;
    conn.send(REQUEST)?;
    let answer = conn.recv(REQUEST.len())?;
    ensure!(
        !answer.is_empty(),
        "{to} closed the connection without an answer"
    );
    Ok(conn)
}

/// The connection that a server has seen since it had seen `mark` of them.
pub(super) fn seen_since(server: &Agent, mark: usize) -> Result<Seen> {
    let fresh = server.echo_log()?.split_off(mark);
    ensure!(
        fresh.len() == 1,
        "the server saw {} connections instead of one: {fresh:?}",
        fresh.len()
    );
    fresh.into_iter().next().context("just counted")
}
