//! `loader validate`: whether connections are redirected where it runs.
//!
//! The contract of Istio's istio-validation (tools/istio-iptables/pkg/validation): listen where the
//! proxy would, connect to an address where nobody listens, and see whether that arrives with its
//! destination still known. It needs no privilege.

use std::{
    io::{self, ErrorKind, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use clap::{ArgAction, Args, Command};
use nix::ifaddrs::getifaddrs;
use rustix::process::geteuid;
use serde::Serialize;
use sidecar_ebpf_common::decide::{PASSTHROUGH_V4, PASSTHROUGH_V6};
use socket2::{Domain, Socket, Type};

use super::{Format, FormatArgs, Outcome, PolicyArgs, warn};
use crate::{
    config::{Config, flag::Environment},
    network::View,
};

const PROBE_PORT: &str = "iptables-probe-port";
const TIMEOUT: &str = "probe-timeout";
/// What istio-validation is told beside the settings: to do what this does anyway.
const IMPLIED: [&str; 2] = ["run-validation", "skip-rule-apply"];
const IMPLIED_VARIABLES: [&str; 2] = ["RUN_VALIDATION", "SKIP_RULE_APPLY"];

/// How often something is tried again until the time is over.
const AGAIN: Duration = Duration::from_millis(50);

/// Checks that connections are redirected here, as istio-validation does
///
/// Run it inside the pod, as the proxy's user, before the proxy starts. It listens on the proxy's
/// ports and needs no privilege.
#[derive(Args, Debug)]
#[command(
    args_override_self = true,
    after_help = "Exit codes: 0 redirected, 126 not redirected, 2 something else went wrong."
)]
pub struct ValidateArgs {
    /// Test IPv6 too [default: if this pod has IPv6 rules, by its addresses and --dual-stack]
    #[arg(long)]
    pub ipv6: bool,

    #[command(flatten)]
    pub format: FormatArgs,

    #[command(flatten)]
    pub policy: PolicyArgs,
}

/// Changes whenever a field changes its meaning or goes away.
const SCHEMA: u32 = 1;

#[derive(Serialize)]
struct Report {
    schema: u32,
    redirected: bool,
    connections: Vec<Arrived>,
    /// Why one of them did not arrive.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Two flags of istio-iptables that are refused elsewhere mean something here.
pub(super) fn show_flags(command: Command) -> Command {
    command
        .mut_arg(PROBE_PORT, |arg| {
            arg.hide(false)
                .value_name("PORT")
                .action(ArgAction::Set)
                .help("The port that is connected to [default: 15002] [env: IPTABLES_PROBE_PORT]")
        })
        .mut_arg(TIMEOUT, |arg| {
            arg.hide(false)
                .value_name("DURATION")
                .action(ArgAction::Set)
                .help("How long it is tried, like 5s or 500ms [default: 5s] [env: PROBE_TIMEOUT]")
        })
}

pub fn run(
    args: &ValidateArgs,
    environment: Environment<'_>,
    out: &mut impl Write,
) -> Result<Outcome> {
    let mut policy = args.policy.clone();
    let probe_port = own(&mut policy, PROBE_PORT, "IPTABLES_PROBE_PORT", environment);
    let timeout = own(&mut policy, TIMEOUT, "PROBE_TIMEOUT", environment);
    let implied = |long: &str| IMPLIED.contains(&long);
    policy.unsupported.given.retain(|(long, _)| !implied(long));
    let visible = |name: &str| {
        let implied = IMPLIED_VARIABLES.contains(&name);
        (!implied).then(|| environment(name)).flatten()
    };
    let config = policy.resolve(&visible)?;
    warn(&config);
    let port = probe_port.map_or(Ok(15002), |text| parse_port(&text))?;
    let timeout = timeout.map_or(Ok(Duration::from_secs(5)), |text| parse_timeout(&text))?;

    let mut families = vec![Probe::v4(port)];
    if args.ipv6 || has_ipv6_rules(config.dual_stack)? {
        families.push(Probe::v6(port));
    }
    let report = Report::new(&families, &config, timeout);
    if let Some(error) = &report.error {
        log::error!("not redirected: {error}");
    }
    let text = match args.format.format() {
        Format::Table => report.connections.iter().map(Arrived::line).collect(),
        Format::Json => serde_json::to_string(&report)? + "\n",
    };
    out.write_all(text.as_bytes())
        .context("writing to stdout")?;
    Ok(if report.redirected {
        Outcome::Fine
    } else {
        Outcome::NotRedirected
    })
}

impl Report {
    /// One connection for each family, until one does not arrive.
    fn new(families: &[Probe], config: &Config, timeout: Duration) -> Self {
        let mut connections = Vec::new();
        let mut error = None;
        for probe in families {
            match probe.run(config, timeout) {
                Ok(arrived) => connections.push(arrived),
                Err(reason) => {
                    error = Some(format!("{reason:#}"));
                    break;
                }
            }
        }
        Self {
            schema: SCHEMA,
            redirected: error.is_none(),
            connections,
            error,
        }
    }
}

/// As the loader and Istio decide it: by the pod's addresses.
fn has_ipv6_rules(dual_stack: bool) -> Result<bool> {
    let mut view = View::default();
    for interface in getifaddrs().context("asking for this pod's addresses")? {
        let Some(addr) = interface.address else {
            continue;
        };
        if let Some(v4) = addr.as_sockaddr_in() {
            let usable = Some(v4.ip()).filter(|ip| !ip.is_loopback() && !ip.is_link_local());
            view.v4 = view.v4.or(usable);
        } else if let Some(v6) = addr.as_sockaddr_in6() {
            let ip = v6.ip();
            let usable = !ip.is_loopback()
                && !ip.is_unicast_link_local()
                && IpAddr::from(PASSTHROUGH_V6) != IpAddr::V6(ip);
            view.v6 = view.v6.or(usable.then_some(ip));
        }
    }
    // Without any address IPv6 may have rules, and nothing to be redirected.
    Ok(view.v6.is_some() && view.has_ipv6_rules(dual_stack))
}

/// Takes a flag out of those that are refused; its value, or that of its variable.
fn own(
    policy: &mut PolicyArgs,
    flag: &str,
    variable: &str,
    environment: Environment<'_>,
) -> Option<String> {
    let given = &mut policy.unsupported.given;
    let place = given.iter().position(|(long, _)| *long == flag);
    place
        .map(|place| given.remove(place).1)
        .or_else(|| environment(variable).filter(|value| !value.trim().is_empty()))
}

fn parse_port(text: &str) -> Result<u16> {
    let port = text.trim().parse().ok().filter(|&port| port != 0);
    port.with_context(|| format!("--{PROBE_PORT}: {text:?} is not a port; expected 1 to 65535"))
}

/// One number with a unit, as people write Go's durations.
fn parse_timeout(text: &str) -> Result<Duration> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => Some(0.001),
        "s" => Some(1.0),
        "m" => Some(60.0),
        _ => None,
    };
    let seconds = digits.parse::<f64>().ok().zip(unit);
    let seconds = seconds.map(|(number, unit)| number * unit);
    seconds
        .filter(|seconds| (0.001..=3600.0).contains(seconds))
        .map(Duration::from_secs_f64)
        .with_context(|| {
            format!("--{TIMEOUT}: {text:?} is not possible; expected 1ms to 60m, like 5s")
        })
}

/// One connection that must not reach what it aims at.
struct Probe {
    localhost: IpAddr,
    to: SocketAddr,
}

/// What came of it.
#[derive(Serialize, Debug)]
struct Arrived {
    from: SocketAddr,
    to: SocketAddr,
    at: SocketAddr,
    original: SocketAddr,
}

impl Arrived {
    fn line(&self) -> String {
        format!(
            "redirected: a connection from {} to {} arrived at {}, original destination {}\n",
            self.from, self.to, self.at, self.original
        )
    }
}

impl Probe {
    fn v4(port: u16) -> Self {
        Self {
            localhost: Ipv4Addr::LOCALHOST.into(),
            to: SocketAddr::new(PASSTHROUGH_V4.into(), port),
        }
    }

    fn v6(port: u16) -> Self {
        Self {
            localhost: Ipv6Addr::LOCALHOST.into(),
            to: SocketAddr::new(PASSTHROUGH_V6.into(), port),
        }
    }

    fn run(&self, config: &Config, timeout: Duration) -> Result<Arrived> {
        let deadline = Instant::now() + timeout;
        let listen = |port| listen(SocketAddr::new(self.localhost, port));
        let listeners = [
            listen(config.outbound_port.0)?,
            listen(config.inbound_port.0)?,
        ];
        let client = self
            .connect(deadline)
            .map_err(|error| anyhow!("{error:#}; {}", self.advice(config)))?;
        let from = local_addr(&client)?;
        loop {
            for listener in &listeners {
                if let Some(socket) = accept_from(listener, from)? {
                    return self.check(&socket, listener, from);
                }
            }
            ensure!(
                Instant::now() < deadline,
                "the connection from {from} to {} was accepted, but not at {}: somebody else \
                 listens there; {}",
                self.to,
                self.listened_at(config),
                "give a port where nobody listens with --iptables-probe-port"
            );
            thread::sleep(AGAIN);
        }
    }

    fn connect(&self, deadline: Instant) -> Result<Socket> {
        loop {
            let error = match self.try_connect(deadline) {
                Ok(socket) => return Ok(socket),
                Err(error) => error,
            };
            // Rules may be on their way; an address that the pod does not have is not.
            if Instant::now() + AGAIN >= deadline || error.kind() == ErrorKind::AddrNotAvailable {
                return Err(error)
                    .with_context(|| format!("connecting from {} to {}", self.localhost, self.to));
            }
            thread::sleep(AGAIN);
        }
    }

    fn try_connect(&self, deadline: Instant) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(self.to), Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(self.localhost, 0).into())?;
        let left = deadline.saturating_duration_since(Instant::now());
        socket.connect_timeout(&self.to.into(), left.max(Duration::from_millis(1)))?;
        Ok(socket)
    }

    fn check(&self, socket: &Socket, listener: &Socket, from: SocketAddr) -> Result<Arrived> {
        let at = local_addr(listener)?;
        let original = if self.to.is_ipv4() {
            socket.original_dst_v4()
        } else {
            socket.original_dst_v6()
        };
        let original = original
            .with_context(|| format!("the connection arrived at {at}, but SO_ORIGINAL_DST"))?;
        let original = original
            .as_socket()
            .context("SO_ORIGINAL_DST: no address")?;
        if original.port() != self.to.port() {
            bail!(
                "the connection from {from} to {} arrived at {at} with the original destination \
                 {original}; something else redirects it first",
                self.to
            );
        }
        Ok(Arrived {
            from,
            to: self.to,
            at,
            original,
        })
    }

    fn listened_at(&self, config: &Config) -> String {
        let at = |port| SocketAddr::new(self.localhost, port);
        format!(
            "{} or {}",
            at(config.outbound_port.0),
            at(config.inbound_port.0)
        )
    }

    /// What may be the matter when nothing arrives.
    fn advice(&self, config: &Config) -> String {
        let uid = geteuid().as_raw();
        let mut proxies = config.uids.iter();
        let who = if proxies.any(|id| id == uid) {
            "no loader redirects this pod, nor do iptables rules; see what the loader or the CNI \
             plugin says"
                .to_owned()
        } else {
            let ids: Vec<_> = config.uids.iter().map(|id| id.to_string()).collect();
            format!(
                "only the proxy's own connections to its pod are redirected to the proxy: run it \
                 as user {} (this is user {uid})",
                ids.join(" or ")
            )
        };
        format!("so nothing arrived at {}: {who}", self.listened_at(config))
    }
}

fn listen(at: SocketAddr) -> Result<Socket> {
    let listen = || {
        let socket = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&at.into())?;
        socket.listen(128)?;
        socket.set_nonblocking(true)?;
        Ok::<_, io::Error>(socket)
    };
    listen().with_context(|| {
        format!("cannot listen at {at}; it takes the proxy's place, so run it before the proxy")
    })
}

/// Others may be redirected here meanwhile; they are not what is waited for.
fn accept_from(listener: &Socket, from: SocketAddr) -> Result<Option<Socket>> {
    loop {
        match listener.accept() {
            Ok((socket, peer)) if peer.as_socket() == Some(from) => return Ok(Some(socket)),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error).context("accepting the connection"),
        }
    }
}

fn local_addr(socket: &Socket) -> Result<SocketAddr> {
    let addr = socket.local_addr().context("a socket's own address")?;
    addr.as_socket().context("a socket without an address")
}

#[cfg(test)]
mod tests;
