//! `loader explain`: which rule decides a connection, and why those before it do not.
//!
//! The decision is the one that the programs take (`sidecar_ebpf_common::decide`). The reasons come
//! from the rules as they are listed; both must agree.

use std::{
    io::Write,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use sidecar_ebpf_common::{
    addr::{OrigDst, Port},
    decide::PASSTHROUGH_V6,
    facts::{Caller, Inbound, Owner, Protocol, Socket, Source, Tables},
    interface::Interface,
};

use self::report::{Report, table};
use super::{
    Format, FormatArgs, Outcome, PolicyArgs,
    chain::Policy,
    matches::{Facts, Range, protocol_name},
    pod_view::PodView,
    running::Running,
    subject::Subject,
    warn,
};
use crate::config::flag::Environment;

mod report;
#[cfg(test)]
mod tests;

/// Explains which rule decides about a connection, and why the rules before it do not
///
/// Nothing is attached; no privilege is needed unless a running policy is asked (--cgroup).
#[derive(Args, Debug)]
#[command(
    args_override_self = true,
    after_help = "Exit codes: 0 fine, whatever the verdict; 2 something went wrong."
)]
pub struct ExplainArgs {
    /// The pod's cgroup, or one below it: what is in effect there now, with the pod's real addresses
    /// and routes, in place of settings; needs root
    #[arg(long, value_name = "PATH", conflicts_with_all = ["local", "out_interface", "ipv6"])]
    pub cgroup: Option<PathBuf>,

    /// The user who made the socket
    #[arg(long, value_name = "N", required_unless_present = "inbound")]
    pub uid: Option<u32>,

    /// The group of who made the socket [default: the same as --uid]
    #[arg(long, value_name = "N")]
    pub gid: Option<u32>,

    /// Where the connection goes
    #[arg(long, value_name = "ADDR:PORT")]
    pub to: SocketAddr,

    /// A datagram, not a TCP connection
    #[arg(long)]
    pub udp: bool,

    /// The address that the socket is bound to before it connects [default: none]
    #[arg(long, value_name = "ADDR")]
    pub from: Option<IpAddr>,

    /// The interface that the socket is bound to (SO_BINDTODEVICE); with --inbound, where the
    /// connection comes in [default: none]
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,

    /// The interface that leads to the destination, if that is outside the pod and interfaces are
    /// excluded [default: one that is not excluded]
    #[arg(long, value_name = "NAME")]
    pub out_interface: Option<String>,

    /// An address of the pod, beside loopback, and the interface that has it [default: eth0]; may
    /// be given several times
    #[arg(long, value_name = "ADDR[@INTERFACE]", value_parser = parse_local)]
    pub local: Vec<Local>,

    /// A connection that comes from outside the pod
    #[arg(long, conflicts_with_all = ["uid", "gid", "udp", "from", "out_interface", "local"])]
    pub inbound: bool,

    /// IPv6 has rules [default: with --dual-stack, or if the first --local is IPv6]
    #[arg(long)]
    pub ipv6: bool,

    #[command(flatten)]
    pub format: FormatArgs,

    #[command(flatten)]
    pub policy: PolicyArgs,
}

/// An address of the pod.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Local {
    pub addr: IpAddr,
    pub interface: String,
}

fn parse_local(text: &str) -> Result<Local, String> {
    let (addr, interface) = text.split_once('@').unwrap_or((text, "eth0"));
    let addr: IpAddr = addr.parse().map_err(|_| {
        format!("{addr:?} is not an address; expected one like 10.244.0.5 or 10.244.0.5@eth0")
    })?;
    if interface.is_empty() {
        return Err("expected an interface after the @".to_owned());
    }
    Ok(Local {
        // IPv4-mapped addresses are IPv4 addresses to the rules.
        addr: addr.to_canonical(),
        interface: interface.to_owned(),
    })
}

pub fn run(
    args: &ExplainArgs,
    environment: Environment<'_>,
    out: &mut impl Write,
) -> Result<Outcome> {
    let report = match &args.cgroup {
        Some(cgroup) => {
            args.policy.refuse_beside_cgroup()?;
            by_running(args, &Running::of(cgroup)?)?
        }
        None => {
            let policy = Policy::resolve(&args.policy, environment)?;
            warn(&policy.config);
            by_settings(args, &policy)?
        }
    };
    let text = match args.format.format() {
        Format::Table => table(&report),
        Format::Json => serde_json::to_string(&report)? + "\n",
    };
    out.write_all(text.as_bytes())
        .context("writing to stdout")?;
    Ok(Outcome::Fine)
}

fn by_settings(args: &ExplainArgs, policy: &Policy) -> Result<Report> {
    let v6_first = args.local.first().is_some_and(|local| local.addr.is_ipv6());
    let ipv6 = args.ipv6 || policy.config.dual_stack || v6_first;
    let (pod, interface) = pod(args, ipv6)?;
    let subject = Subject::from_settings(policy, &pod, ipv6)?;
    let (mut report, to_local) = ask(args, &subject, interface, owner(args))?;
    if !args.inbound {
        report.assumed = assumed(args, policy, to_local);
    }
    Ok(report)
}

fn by_running(args: &ExplainArgs, running: &Running) -> Result<Report> {
    let interface = match &args.interface {
        Some(name) => running.interface(name)?,
        None => Interface::NONE,
    };
    let owner = running.owner(owner(args));
    let (mut report, _) = ask(args, &running.subject(), interface, owner)?;
    if running.asks_for_proxy_cgroup() && !args.inbound {
        let assumed = "the process runs in the proxy's cgroup; outside it nobody is the proxy";
        report.assumed = Some(assumed.to_owned());
    }
    Ok(report)
}

/// The report, and whether the destination is local to the pod.
fn ask<T: Tables>(
    args: &ExplainArgs,
    subject: &Subject<'_, T>,
    interface: Interface,
    owner: Owner,
) -> Result<(Report, bool)> {
    let config = &subject.rules.config;
    let to = OrigDst::new(args.to.ip().into(), Port(args.to.port()));
    if args.inbound {
        let flow = Inbound {
            dst: to.ip,
            port: to.port,
            interface,
        };
        let answer = subject.inbound(&flow)?;
        let mut connection = format!("{} from outside", destination(&answer.facts));
        if let Some(name) = &args.interface {
            connection += &format!(", through {name}");
        }
        return Ok((Report::new(connection, &answer, config), true));
    }
    let socket = socket(args, interface, owner);
    let answer = subject.outbound(socket, to)?;
    let connection = connection(args, socket, &answer.facts);
    let mut report = Report::new(connection, &answer, config);
    let is_query = subject.rules.captures_dns() && to.port == Port::DNS;
    if args.udp && !is_query {
        let note = "UDP that cannot be a captured DNS query passes without being counted";
        report.note = Some(note);
    }
    Ok((report, answer.facts.to_local))
}

fn owner(args: &ExplainArgs) -> Owner {
    let uid = args.uid.unwrap_or(Owner::NOBODY.uid);
    Owner {
        uid,
        gid: args.gid.unwrap_or(uid),
    }
}

/// The pod that the options describe, and the interface of `--interface`.
fn pod(args: &ExplainArgs, ipv6: bool) -> Result<(PodView, Interface)> {
    let mut pod = PodView::default();
    if ipv6 {
        // Istio adds it to lo where IPv6 has rules, and so does the loader.
        pod.locals.push((PASSTHROUGH_V6.into(), Interface::LO));
    }
    for local in &args.local {
        let interface = pod.interface(&local.interface);
        pod.locals.push((local.addr, interface));
    }
    if let Some(name) = &args.out_interface {
        ensure!(
            name != "lo",
            "--out-interface lo: only what is local to the pod leaves by lo; name its address with \
             --local"
        );
        let interface = pod.interface(name);
        let everywhere = ["0.0.0.0", "::"].map(|addr| addr.parse::<IpAddr>());
        for addr in everywhere.into_iter().flatten() {
            pod.routes.push((Range { addr, len: 0 }, interface));
        }
    }
    let name = args.interface.as_deref();
    let interface = name.map_or(Interface::NONE, |name| pod.interface(name));
    Ok((pod, interface))
}

fn socket(args: &ExplainArgs, device: Interface, owner: Owner) -> Socket {
    let source = args.from.map(|addr| Source::Bound(addr.into()));
    Socket {
        protocol: if args.udp {
            Protocol::Udp
        } else {
            Protocol::Tcp
        },
        owner,
        source: source.unwrap_or(Source::Unbound),
        device,
        caller: Caller::MayBeProxy,
    }
}

fn destination(facts: &Facts) -> SocketAddr {
    SocketAddr::new(facts.dst, facts.port)
}

fn connection(args: &ExplainArgs, socket: Socket, facts: &Facts) -> String {
    let over = match socket.protocol {
        Protocol::Tcp => String::new(),
        Protocol::Udp => format!(" over {}", protocol_name(socket.protocol)),
    };
    let Owner { uid, gid } = socket.owner;
    let mut text = format!("{}{over} by user {uid}, group {gid}", destination(facts));
    if let Some(from) = args.from.map(|addr| addr.to_canonical()) {
        text += &format!(", from {from}");
    }
    if let Some(name) = &args.interface {
        text += &format!(", bound to {name}");
    }
    text
}

/// What the answer takes for granted.
fn assumed(args: &ExplainArgs, policy: &Policy, to_local: bool) -> Option<String> {
    let mut assumed = Vec::new();
    if args.local.is_empty() {
        assumed.push("the pod has no addresses but loopback; give them with --local");
    }
    let interface_is_known = args.interface.is_some() || args.out_interface.is_some();
    if !policy.config.excluded_interfaces.is_empty() && !to_local && !interface_is_known {
        assumed
            .push("no excluded interface leads there; name the one that does with --out-interface");
    }
    (!assumed.is_empty()).then(|| assumed.join("; "))
}
