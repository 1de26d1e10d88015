//! `loader rules`: the rules that settings make.

use std::{io::Write, path::PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Serialize;
use sidecar_ebpf_common::rule::{InboundRule, OutboundRule};

use super::{
    Format, FormatArgs, Outcome, PolicyArgs, aligned,
    chain::{self, Family, Listed, Policy, Rule},
    running::Running,
    warn,
};
use crate::config::{DNS_PORT, Inbound, flag::Environment};

/// Shows the rules that these settings make, in order, with their values
///
/// Nothing is attached; no privilege is needed unless a running policy is asked (--cgroup).
#[derive(Args, Debug)]
#[command(
    args_override_self = true,
    after_help = "Exit codes: 0 fine, 2 something went wrong."
)]
pub struct RulesArgs {
    /// The pod's cgroup, or one below it: what is in effect there now, in place of settings; needs
    /// root. Users and groups are as the kernel counts them
    #[arg(long, value_name = "PATH", conflicts_with = "ipv6")]
    pub cgroup: Option<PathBuf>,

    #[command(flatten)]
    pub format: FormatArgs,

    /// As text for `iptables-restore --noflush`; with --ipv6 for `ip6tables-restore --noflush`
    #[arg(long, conflicts_with_all = ["output", "json"])]
    pub iptables: bool,

    /// IPv6 has rules: the pod's first address is IPv6
    #[arg(long)]
    pub ipv6: bool,

    #[command(flatten)]
    pub policy: PolicyArgs,
}

/// Changes whenever a field changes its meaning or goes away.
const SCHEMA: u32 = 1;

#[derive(Serialize)]
struct Report {
    schema: u32,
    /// The port behind `redirect-outbound`.
    outbound_port: u16,
    /// The port behind `redirect-inbound`.
    inbound_port: u16,
    /// The port behind `redirect-dns`, if DNS is captured.
    #[serde(skip_serializing_if = "Option::is_none")]
    dns_port: Option<u16>,
    chains: Vec<Chain>,
}

#[derive(Serialize)]
struct Chain {
    chain: &'static str,
    /// `None`: the same for both.
    #[serde(skip_serializing_if = "Option::is_none")]
    family: Option<&'static str>,
    rules: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    rule: &'static str,
    /// The chain that it stands in, if that is another one, through which the way leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    chain: Option<&'static str>,
    iptables: String,
    action: &'static str,
}

pub fn run(
    args: &RulesArgs,
    environment: Environment<'_>,
    out: &mut impl Write,
) -> Result<Outcome> {
    let policy = match &args.cgroup {
        Some(cgroup) => {
            args.policy.refuse_beside_cgroup()?;
            Running::of(cgroup)?.rules().clone()
        }
        None => Policy::resolve(&args.policy, environment)?,
    };
    warn(&policy.config);
    let text = match args.format.format() {
        _ if args.iptables && args.ipv6 => policy.iptables(Family::V6, true),
        _ if args.iptables => policy.iptables(Family::V4, true),
        Format::Table => table(&report(&policy, args.ipv6)),
        Format::Json => serde_json::to_string(&report(&policy, args.ipv6))? + "\n",
    };
    out.write_all(text.as_bytes())
        .context("writing to stdout")?;
    Ok(Outcome::Fine)
}

fn report(policy: &Policy, ipv6: bool) -> Report {
    let config = &policy.config;
    let output = |family| {
        let mut rules = policy.outbound(family, true);
        // Without DNS capture only TCP is looked at, and that does not get beyond rule 9.
        if config.outbound_all && !policy.captures_dns() {
            rules.retain(|listed| listed.rule != OutboundRule::EndOfChain);
        }
        Chain::new(chain::Chain::IstioOutput, Some(family), &rules)
    };
    let mut chains = vec![output(Family::V4)];
    if ipv6 || config.dual_stack {
        chains.push(output(Family::V6));
    }
    let mut inbound = policy.inbound(true);
    if config.inbound == Inbound::All {
        inbound.retain(|listed| listed.rule != InboundRule::EndOfChain);
    }
    chains.push(Chain::new(chain::Chain::Inbound, None, &inbound));
    Report {
        schema: SCHEMA,
        outbound_port: config.outbound_port.0,
        inbound_port: config.inbound_port.0,
        dns_port: policy.captures_dns().then_some(DNS_PORT.0),
        chains,
    }
}

impl Chain {
    fn new<R: Rule>(chain: chain::Chain, family: Option<Family>, rules: &[Listed<R>]) -> Self {
        let row = |listed: &Listed<R>| Row {
            rule: listed.rule.label(),
            chain: (listed.chain != chain && listed.target.is_some())
                .then_some(listed.chain.name()),
            iptables: listed.iptables(),
            action: listed.rule.action().name(),
        };
        Self {
            chain: chain.name(),
            family: family.map(Family::name),
            rules: rules.iter().map(row).collect(),
        }
    }
}

/// All chains in line with each other.
fn table(report: &Report) -> String {
    let mut rows = Vec::new();
    for chain in &report.chains {
        let heads = ["RULE", "IPTABLES", "ACTION"].map(str::to_owned);
        rows.push(heads);
        for row in &chain.rules {
            let port = match row.action {
                "redirect-outbound" => Some(report.outbound_port),
                "redirect-inbound" => Some(report.inbound_port),
                "redirect-dns" => report.dns_port,
                _ => None,
            };
            let port = port.map(|port| format!(" ({port})")).unwrap_or_default();
            let chain = row
                .chain
                .map(|chain| format!("{chain}: "))
                .unwrap_or_default();
            rows.push([
                row.rule.to_owned(),
                chain + &row.iptables,
                row.action.to_owned() + &port,
            ]);
        }
    }
    let lines = aligned(&rows);
    let mut lines = lines.lines();
    let mut text = String::new();
    for (number, chain) in report.chains.iter().enumerate() {
        let gap = if number > 0 { "\n" } else { "" };
        let family = chain
            .family
            .map(|family| format!(", {family}"))
            .unwrap_or_default();
        text += &format!("{gap}Chain {}{family}\n", chain.chain);
        for line in lines.by_ref().take(chain.rules.len() + 1) {
            text += &format!("{line}\n");
        }
    }
    text
}

#[cfg(test)]
mod tests;
