//! The same rules in native nftables, in the manner of Istio's own backend: tables
//! `inet istio-proxy-…`, chains in lower case, and a counter in each rule.
//!
//! Both families share a table and its chains; each rule is guarded by its family and keeps its own
//! counter. Its comment says which rule of the rule file it is, so that [`counters_from_json`]
//! finds it again.
//!
//! One thing nftables cannot say: `skuid != 1337` does not hold for a packet without a socket, while
//! iptables' `! --uid-owner 1337` does.

use std::{
    collections::BTreeMap,
    fmt::{Display, Write as _},
};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::{
    matches::{Criterion, Ids, Interface, Match, Net, Ports, Protocol},
    ruleset::{Chain, Family, Policy, Rule, RuleId, Ruleset},
    target::{Masked, Target},
};

#[cfg(test)]
mod tests;

const TABLE_PREFIX: &str = "istio-proxy-";

/// A script for `nft -f` that replaces the tables of an earlier one.
pub fn to_nft(v4: Option<&Ruleset>, v6: Option<&Ruleset>) -> Result<String> {
    let families = [(Family::V4, v4), (Family::V6, v6)];
    let given: Vec<(Family, &Ruleset)> = families
        .into_iter()
        .filter_map(|(family, rules)| Some((family, rules?)))
        .collect();
    let mut script = String::new();
    for table in names(given.iter().flat_map(|(_, rules)| &rules.tables), |table| {
        &table.name
    }) {
        let chains = chains(&given, table)?;
        if !chains.is_empty() {
            let name = format!("inet {TABLE_PREFIX}{table}");
            write!(
                script,
                "add table {name}\nflush table {name}\ntable {name} {{\n{chains}}}\n"
            )?;
        }
    }
    Ok(script)
}

/// Each name once, in the order in which they first come.
fn names<'a, T: 'a>(
    items: impl Iterator<Item = &'a T>,
    name: impl Fn(&'a T) -> &'a String,
) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for item in items {
        let name = name(item).as_str();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// All chains of a table; those that every table has only if they do something.
fn chains(given: &[(Family, &Ruleset)], table: &str) -> Result<String> {
    let tables: Vec<_> = given
        .iter()
        .filter_map(|(family, rules)| Some((*family, rules.table(table)?)))
        .collect();
    let mut text = String::new();
    for name in names(
        tables.iter().flat_map(|(_, table)| &table.chains),
        |chain| &chain.name,
    ) {
        let chains: Vec<(Family, &Chain)> = tables
            .iter()
            .filter_map(|(family, table)| Some((*family, table.chain(name)?)))
            .collect();
        let policies: Vec<Policy> = chains
            .iter()
            .filter_map(|(_, chain)| chain.policy)
            .collect();
        ensure!(
            !policies.contains(&Policy::Drop),
            "{table}/{name}: the policy DROP would be for both families, and is not translated"
        );
        let is_built_in = !policies.is_empty();
        if is_built_in && chains.iter().all(|(_, chain)| chain.rules.is_empty()) {
            continue;
        }
        writeln!(text, "  chain {} {{", chain_name(name))?;
        if is_built_in {
            writeln!(text, "    {}", base(table, name)?)?;
        }
        for (family, chain) in chains {
            for (rule, index) in chain.rules.iter().zip(1..) {
                let id = RuleId::new(table, name, index);
                let line = translate(family, &id, rule).with_context(|| format!("{id}: {rule}"))?;
                writeln!(text, "    {line}")?;
            }
        }
        writeln!(text, "  }}")?;
    }
    Ok(text)
}

fn chain_name(name: &str) -> String {
    name.to_lowercase().replace('_', "-")
}

/// Where the kernel calls the chain, with the priorities that iptables has.
fn base(table: &str, chain: &str) -> Result<String> {
    let (kind, priority) = match (table, chain) {
        ("raw", _) => ("filter", -300),
        // A changed mark needs a new route.
        ("mangle", "OUTPUT") => ("route", -150),
        ("mangle", _) => ("filter", -150),
        ("nat", "PREROUTING" | "OUTPUT") => ("nat", -100),
        ("nat", _) => ("nat", 100),
        ("filter", _) => ("filter", 0),
        _ => bail!("the table {table} has no place in nftables"),
    };
    let hook = chain_name(chain);
    Ok(format!(
        "type {kind} hook {hook} priority {priority}; policy accept;"
    ))
}

fn translate(family: Family, id: &RuleId, rule: &Rule) -> Result<String> {
    let mut words = vec![match family {
        Family::V4 => "meta nfproto ipv4".to_owned(),
        Family::V6 => "meta nfproto ipv6".to_owned(),
    }];
    for condition in &rule.matches {
        words.extend(expression(condition, rule)?);
    }
    words.push("counter".to_owned());
    words.extend(statement(&rule.target)?);
    words.push(format!("comment \"{family} {id}\""));
    Ok(words.join(" "))
}

/// None for a comment, whose place is taken.
fn expression(condition: &Match, rule: &Rule) -> Result<Option<String>> {
    let not = if condition.negated { "!= " } else { "" };
    let port = |side: &str, ports: &dyn Display| -> Result<String> {
        Ok(format!("{} {side} {not}{ports}", transport(rule)?))
    };
    let interface = |side: &str, name: &Interface| -> Result<String> {
        Ok(format!("{side} {not}\"{}\"", pattern(name)?))
    };
    Ok(Some(match &condition.criterion {
        Criterion::Source(net) => format!("{} saddr {not}{net}", layer(net)),
        Criterion::Destination(net) => format!("{} daddr {not}{net}", layer(net)),
        Criterion::InInterface(name) => interface("iifname", name)?,
        Criterion::OutInterface(name) => interface("oifname", name)?,
        Criterion::Protocol(protocol) => format!("meta l4proto {not}{}", protocol.0),
        Criterion::SourcePort(ports) => port("sport", &range(*ports))?,
        Criterion::DestinationPort(ports) => port("dport", &range(*ports))?,
        Criterion::SourcePorts(list) => port("sport", &set(list))?,
        Criterion::DestinationPorts(list) => port("dport", &set(list))?,
        Criterion::Uid(ids) => format!("meta skuid {not}{}", id_range(*ids)),
        Criterion::Gid(ids) => format!("meta skgid {not}{}", id_range(*ids)),
        Criterion::Mark(mark) => masked("meta mark", condition.negated, *mark),
        Criterion::Connmark(mark) => masked("ct mark", condition.negated, *mark),
        Criterion::State(states) => {
            let states = states.join(",").to_lowercase();
            // Not `ct state != a,b`, which asks for other bits.
            if condition.negated {
                format!("ct state and ({}) == 0", states.replace(',', " | "))
            } else {
                format!("ct state {states}")
            }
        }
        Criterion::Comment(_) => return Ok(None),
    }))
}

fn layer(net: &Net) -> &'static str {
    match Family::of(net.address) {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// The protocol whose ports the rule means.
fn transport(rule: &Rule) -> Result<&'static str> {
    let of = |protocol| {
        rule.matches
            .iter()
            .any(|m| !m.negated && m.criterion == Criterion::Protocol(protocol))
    };
    if of(Protocol::TCP) {
        Ok("tcp")
    } else if of(Protocol::UDP) {
        Ok("udp")
    } else {
        bail!("ports of neither tcp nor udp")
    }
}

fn pattern(name: &Interface) -> Result<String> {
    ensure!(
        !name.0.contains(['"', '*', '\\']),
        "nft cannot take this name of an interface"
    );
    Ok(match name.0.strip_suffix('+') {
        Some(start) => format!("{start}*"),
        None => name.0.clone(),
    })
}

fn range(ports: Ports) -> String {
    ports.to_string().replace(':', "-")
}

fn set(list: &[Ports]) -> String {
    let items: Vec<String> = list.iter().map(|ports| range(*ports)).collect();
    format!("{{ {} }}", items.join(", "))
}

fn id_range(ids: Ids) -> String {
    ids.to_string()
}

fn masked(what: &str, negated: bool, mark: Masked) -> String {
    let compared = if negated { "!=" } else { "==" };
    format!("{what} and {:#x} {compared} {:#x}", mark.mask, mark.value)
}

fn statement(target: &Target) -> Result<Option<String>> {
    Ok(Some(match target {
        Target::Count => return Ok(None),
        Target::Return => "return".to_owned(),
        Target::Accept => "accept".to_owned(),
        Target::Drop => "drop".to_owned(),
        Target::Redirect(port) => format!("redirect to :{port}"),
        Target::Zone(zone) => format!("ct zone set {zone}"),
        Target::Chain(name) => format!("jump {}", chain_name(name)),
        Target::Mark(_) | Target::Connmark(_) | Target::Tproxy { .. } => {
            bail!("marks are not translated to nftables")
        }
    }))
}

/// The packets that each rule counted, from `nft -j list ruleset`.
pub fn counters_from_json(text: &str) -> Result<BTreeMap<(Family, RuleId), u64>> {
    let listing: Listing = serde_json::from_str(text).context("what nft -j list ruleset prints")?;
    let ours = listing
        .nftables
        .into_iter()
        .filter_map(|item| item.rule)
        .filter(|rule| rule.table.starts_with(TABLE_PREFIX));
    let mut counters = BTreeMap::new();
    for rule in ours {
        let place = rule.place().with_context(|| {
            format!(
                "the rule {} in the chain {} of {}",
                rule.handle, rule.chain, rule.table
            )
        })?;
        let counter = rule
            .expr
            .iter()
            .find_map(|expression| expression.counter.as_ref());
        let packets = counter
            .with_context(|| format!("{} {} has no counter", place.0, place.1))?
            .packets;
        if let Some(_twice) = counters.insert(place.clone(), packets) {
            bail!("{} {} is there twice", place.0, place.1);
        }
    }
    Ok(counters)
}

#[derive(Deserialize)]
struct Listing {
    nftables: Vec<Item>,
}

/// A table, a chain, a rule, or the version of nft: only rules are of interest.
#[derive(Deserialize)]
struct Item {
    rule: Option<ListedRule>,
}

#[derive(Deserialize)]
struct ListedRule {
    table: String,
    chain: String,
    handle: u64,
    comment: Option<String>,
    expr: Vec<Expression>,
}

#[derive(Deserialize)]
struct Expression {
    counter: Option<Counter>,
}

#[derive(Deserialize)]
struct Counter {
    packets: u64,
}

impl ListedRule {
    /// What [`translate`] put into the comment.
    fn place(&self) -> Result<(Family, RuleId)> {
        let comment = self.comment.as_deref().unwrap_or_default();
        let (family, id) = comment
            .split_once(' ')
            .with_context(|| format!("its comment {comment:?} names no rule"))?;
        Ok((family.parse()?, id.parse()?))
    }
}
