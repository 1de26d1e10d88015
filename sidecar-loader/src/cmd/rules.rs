//! `loader rules`: the rules that settings make.

use std::io::Write;

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Serialize;
use sidecar_ebpf_common::rule::InboundRule;

use super::{
    Format, Outcome, PolicyArgs, aligned,
    chain::{Family, Listed, Policy, Rule},
    warn,
};
use crate::config::{Inbound, flag::Environment};

/// Shows the rules that these settings make, in order, with their values
///
/// Nothing is attached and no privilege is needed.
#[derive(Args, Debug)]
#[command(
    args_override_self = true,
    after_help = "Exit codes: 0 fine, 2 something went wrong."
)]
pub struct RulesArgs {
    /// How they are written
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub output: Format,

    /// As text for `iptables-restore --noflush`; with --ipv6 for `ip6tables-restore --noflush`
    #[arg(long, conflicts_with = "output")]
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
    iptables: String,
    action: &'static str,
}

pub fn run(
    args: &RulesArgs,
    environment: Environment<'_>,
    out: &mut impl Write,
) -> Result<Outcome> {
    let policy = Policy::resolve(&args.policy, environment)?;
    warn(&policy.config);
    let text = match args.output {
        _ if args.iptables && args.ipv6 => iptables(&policy, Family::V6),
        _ if args.iptables => iptables(&policy, Family::V4),
        Format::Table => table(&report(&policy, args.ipv6)),
        Format::Json => serde_json::to_string(&report(&policy, args.ipv6))? + "\n",
    };
    out.write_all(text.as_bytes())
        .context("writing to stdout")?;
    Ok(Outcome::Fine)
}

fn report(policy: &Policy, ipv6: bool) -> Report {
    let config = &policy.config;
    let mut chains = vec![Chain::new(
        "ISTIO_OUTPUT",
        Some(Family::V4),
        &policy.outbound(Family::V4, true),
    )];
    if ipv6 || config.dual_stack {
        let rules = policy.outbound(Family::V6, true);
        chains.push(Chain::new("ISTIO_OUTPUT", Some(Family::V6), &rules));
    }
    chains.push(Chain::new("ISTIO_INBOUND", None, &policy.inbound(true)));
    Report {
        schema: SCHEMA,
        outbound_port: config.outbound_port.0,
        inbound_port: config.inbound_port.0,
        chains,
    }
}

impl Chain {
    fn new<R: Rule>(chain: &'static str, family: Option<Family>, rules: &[Listed<R>]) -> Self {
        let row = |listed: &Listed<R>| Row {
            rule: listed.rule.label(),
            iptables: listed.iptables.clone(),
            action: listed.rule.action().name(),
        };
        Self {
            chain,
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
            let action = match row.action {
                "redirect-outbound" => format!("{} ({})", row.action, report.outbound_port),
                "redirect-inbound" => format!("{} ({})", row.action, report.inbound_port),
                action => action.to_owned(),
            };
            rows.push([row.rule.to_owned(), row.iptables.clone(), action]);
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

/// In the order in which istio-iptables writes its lines.
fn iptables(policy: &Policy, family: Family) -> String {
    let config = &policy.config;
    let (outbound_port, inbound_port) = (config.outbound_port.0, config.inbound_port.0);
    let inbound = appended("ISTIO_INBOUND", &policy.inbound_chain());
    // The tunnel's rule comes before the redirects are defined, the others after.
    let (tunnel, inbound): (Vec<_>, Vec<_>) = inbound
        .into_iter()
        .partition(|(rule, _)| *rule == InboundRule::Tunnel);
    let mut lines = vec!["*nat".to_owned()];
    for chain in [
        "ISTIO_INBOUND",
        "ISTIO_REDIRECT",
        "ISTIO_IN_REDIRECT",
        "ISTIO_OUTPUT",
    ] {
        lines.push(format!(":{chain} - [0:0]"));
    }
    lines.extend(tunnel.into_iter().map(|(_, line)| line));
    let redirect = |chain, port| format!("-A {chain} -p tcp -j REDIRECT --to-ports {port}");
    lines.push(redirect("ISTIO_REDIRECT", outbound_port));
    lines.push(redirect("ISTIO_IN_REDIRECT", inbound_port));
    if config.inbound != Inbound::Off {
        lines.push("-A PREROUTING -p tcp -j ISTIO_INBOUND".to_owned());
    }
    lines.extend(inbound.into_iter().map(|(_, line)| line));
    let outbound = appended("ISTIO_OUTPUT", &policy.outbound(family, true));
    lines.push("-A OUTPUT -j ISTIO_OUTPUT".to_owned());
    lines.extend(outbound.into_iter().map(|(_, line)| line));
    lines.push("COMMIT\n".to_owned());
    lines.join("\n")
}

/// The rules that are really there.
fn appended<R: Rule>(chain: &str, rules: &[Listed<R>]) -> Vec<(R, String)> {
    let real = rules.iter().filter(|listed| listed.target.is_some());
    real.map(|listed| (listed.rule, format!("-A {chain} {}", listed.iptables)))
        .collect()
}

#[cfg(test)]
mod tests;
