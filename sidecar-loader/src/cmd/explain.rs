//! `loader explain`: which rule decides a connection, and why those before it do not.
//!
//! The decision is the one that the programs take (`sidecar_ebpf_common::decide`). The reasons come
//! from the rules as they are listed; both must agree.

use std::{
    io::Write,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde::Serialize;
use sidecar_ebpf_common::{
    addr::{Ip, OrigDst, Port, Prefix},
    decide::{self, Inbound, Outbound, Owner, Source, Tables},
    policy::{self, PortGroup, PortLists, Scope},
    rule::Action,
};

use super::{
    Format, Outcome, PolicyArgs,
    chain::{Family, Listed, Policy, Rule},
    matches::{Facts, Range},
    warn,
};
use crate::config::{Config, flag::Environment};

/// Explains which rule decides about a connection, and why the rules before it do not
///
/// Nothing is attached and no privilege is needed.
#[derive(Args, Debug)]
#[command(
    args_override_self = true,
    after_help = "Exit codes: 0 fine, whatever the verdict; 2 something went wrong."
)]
pub struct ExplainArgs {
    /// The user who made the socket
    #[arg(long, value_name = "N", required_unless_present = "inbound")]
    pub uid: Option<u32>,

    /// The group of who made the socket [default: the same as --uid]
    #[arg(long, value_name = "N")]
    pub gid: Option<u32>,

    /// Where the connection goes
    #[arg(long, value_name = "ADDR:PORT")]
    pub to: SocketAddr,

    /// The address that the socket is bound to before it connects [default: none]
    #[arg(long, value_name = "ADDR")]
    pub from: Option<IpAddr>,

    /// An address of the pod, beside loopback; may be given several times
    #[arg(long, value_name = "ADDR")]
    pub local: Vec<IpAddr>,

    /// A connection that comes from outside the pod
    #[arg(long, conflicts_with_all = ["uid", "gid", "from", "local"])]
    pub inbound: bool,

    /// IPv6 has rules [default: with --dual-stack, or if the first --local is IPv6]
    #[arg(long)]
    pub ipv6: bool,

    /// How it is written
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub output: Format,

    #[command(flatten)]
    pub policy: PolicyArgs,
}

/// Changes whenever a field changes its meaning or goes away.
const SCHEMA: u32 = 1;

#[derive(Serialize, Debug)]
struct Report {
    schema: u32,
    connection: String,
    action: &'static str,
    /// The proxy's port that it is redirected to.
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    rule: &'static str,
    iptables: String,
    traffic: &'static str,
    not_matched: Vec<Passed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    assumed: Option<&'static str>,
}

/// A rule that comes first and does not decide.
#[derive(Serialize, Debug)]
struct Passed {
    rule: &'static str,
    iptables: String,
    why: String,
}

pub fn run(
    args: &ExplainArgs,
    environment: Environment<'_>,
    out: &mut impl Write,
) -> Result<Outcome> {
    let policy = Policy::resolve(&args.policy, environment)?;
    warn(&policy.config);
    let question = Question::new(args, &policy.config);
    let report = if args.inbound {
        question.inbound(&policy)
    } else {
        question.outbound(&policy)
    }?;
    let text = match args.output {
        Format::Table => table(&report),
        Format::Json => serde_json::to_string(&report)? + "\n",
    };
    out.write_all(text.as_bytes())
        .context("writing to stdout")?;
    Ok(Outcome::Fine)
}

/// A connection in a pod.
struct Question {
    owner: Owner,
    from: Option<IpAddr>,
    to: OrigDst,
    locals: Vec<IpAddr>,
    ipv6: bool,
}

impl Question {
    fn new(args: &ExplainArgs, config: &Config) -> Self {
        let uid = args.uid.unwrap_or(Owner::NOBODY.uid);
        let owner = Owner {
            uid,
            gid: args.gid.unwrap_or(uid),
        };
        let v6_first = args.local.first().is_some_and(|&addr| is_v6(addr));
        Self {
            owner,
            from: args.from.map(canonical),
            to: OrigDst::new(args.to.ip().into(), Port(args.to.port())),
            locals: args.local.iter().copied().map(canonical).collect(),
            ipv6: args.ipv6 || config.dual_stack || v6_first,
        }
    }

    fn outbound(&self, policy: &Policy) -> Result<Report> {
        let config = &policy.config;
        let source = self
            .from
            .map_or(Source::Unbound, |addr| Source::Bound(addr.into()));
        let flow = Outbound::new(self.owner, source, self.to);
        let tables = Lists {
            config,
            locals: &self.locals,
        };
        let rule = decide::decide_outbound(&self.policy(config), &flow, &tables);

        let dst: IpAddr = flow.dst().ip.into();
        let family = Family::of(dst);
        let chain = policy.outbound(family, self.has_rules(family));
        let facts = Facts {
            to_local: flow.dst().ip.is_loopback() || tables.is_local(&flow.dst().ip),
            source: self.from,
            dst,
            port: self.to.port.0,
            owner: self.owner,
        };
        let Owner { uid, gid } = self.owner;
        let to = SocketAddr::new(dst, self.to.port.0);
        let mut connection = format!("{to} by user {uid}, group {gid}");
        if let Some(from) = self.from {
            connection += &format!(", from {from}");
        }
        let assumed = "the pod has no addresses but loopback; give them with --local";
        let assumed = self.locals.is_empty().then_some(assumed);
        report(
            "ISTIO_OUTPUT",
            connection,
            rule,
            &chain,
            &facts,
            config,
            assumed,
        )
    }

    fn inbound(&self, policy: &Policy) -> Result<Report> {
        let config = &policy.config;
        let flow = Inbound {
            dst: self.to.ip,
            port: self.to.port,
        };
        let tables = Lists {
            config,
            locals: &self.locals,
        };
        let rule = decide::decide_inbound(&self.policy(config), &flow, &tables);

        let dst: IpAddr = self.to.ip.into();
        let chain = policy.inbound(self.has_rules(Family::of(dst)));
        let facts = Facts {
            to_local: true,
            source: None,
            dst,
            port: self.to.port.0,
            owner: Owner::NOBODY,
        };
        let connection = format!("{} from outside", SocketAddr::new(dst, self.to.port.0));
        report(
            "ISTIO_INBOUND",
            connection,
            rule,
            &chain,
            &facts,
            config,
            None,
        )
    }

    fn policy(&self, config: &Config) -> policy::Policy {
        policy::Policy::new(Scope::only(1), config.settings(self.ipv6))
    }

    fn has_rules(&self, family: Family) -> bool {
        family == Family::V4 || self.ipv6
    }
}

fn report<R: Rule + PartialEq>(
    name: &str,
    connection: String,
    decided: R,
    chain: &[Listed<R>],
    facts: &Facts,
    config: &Config,
    assumed: Option<&'static str>,
) -> Result<Report> {
    let mut not_matched = Vec::new();
    let mut first = None;
    for listed in chain {
        let Some(why) = listed.mismatch(facts) else {
            first = Some(listed);
            break;
        };
        not_matched.push(Passed {
            rule: listed.rule.label(),
            iptables: listed.iptables.clone(),
            why,
        });
    }
    let Some(first) = first.filter(|listed| listed.rule == decided) else {
        bail!(
            "{connection}: rule {} decides, but the list of rules says {}; please report this",
            decided.label(),
            first.map_or("nothing", |listed| listed.rule.label())
        );
    };
    let action = decided.action();
    Ok(Report {
        schema: SCHEMA,
        connection,
        action: action.name(),
        port: match action {
            Action::Pass => None,
            Action::ToOutbound => Some(config.outbound_port.0),
            Action::ToInbound => Some(config.inbound_port.0),
        },
        rule: decided.label(),
        iptables: match first.target {
            Some(_) => format!("-A {name} {}", first.iptables),
            None => first.iptables.clone(),
        },
        traffic: decided.help(),
        not_matched,
        assumed,
    })
}

fn table(report: &Report) -> String {
    let verdict = match report.port {
        None => "pass".to_owned(),
        Some(port) => format!("redirect to the proxy's port {port} ({})", report.action),
    };
    let mut text = format!(
        "{}\n\nverdict   {verdict}\nrule      {}\niptables  {}\ntraffic   {}\n",
        report.connection, report.rule, report.iptables, report.traffic
    );
    if let Some(assumed) = report.assumed {
        text += &format!("assumed   {assumed}\n");
    }
    if !report.not_matched.is_empty() {
        text += "\nRules before it, and why they do not match\n";
    }
    for passed in &report.not_matched {
        text += &format!("{}: {}\n", passed.rule, passed.why);
    }
    text
}

/// The programs' tables, from the same lists.
struct Lists<'a> {
    config: &'a Config,
    locals: &'a [IpAddr],
}

impl Tables for Lists<'_> {
    fn port_lists(&self, port: Port) -> PortLists {
        let mut group = PortGroup::default();
        for &(_, list) in self.config.ports.iter().filter(|entry| entry.0 == port) {
            group.add(port, list);
        }
        group.get(port)
    }

    fn is_excluded(&self, ip: &Ip) -> bool {
        any_contains(&self.config.excluded, ip)
    }

    fn is_included(&self, ip: &Ip) -> bool {
        any_contains(&self.config.included, ip)
    }

    fn is_local(&self, ip: &Ip) -> bool {
        self.locals.contains(&(*ip).into())
    }
}

fn any_contains(ranges: &[Prefix], ip: &Ip) -> bool {
    ranges.iter().any(|prefix| {
        let range = Range {
            addr: prefix.ip.into(),
            len: u8::try_from(prefix.len).unwrap_or(u8::MAX),
        };
        range.contains((*ip).into())
    })
}

/// IPv4-mapped addresses are IPv4 addresses to the rules.
fn canonical(addr: IpAddr) -> IpAddr {
    addr.to_canonical()
}

fn is_v6(addr: IpAddr) -> bool {
    canonical(addr).is_ipv6()
}

#[cfg(test)]
mod tests;
