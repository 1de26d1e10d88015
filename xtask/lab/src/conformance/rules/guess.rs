//! The values that Istio's rules show. Rules that show none are passed over here:
//! [`Settings::of_rules`] makes the rules of these values anew and compares.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};

use super::{
    matches::{Criterion, Ids, Interface, Net, Ports, Protocol},
    ruleset::{Family, Rule, Ruleset},
    settings::{Dns, Groups, Inbound, Included, Settings},
    target::Target,
};

pub(super) fn settings(v4: &Ruleset, v6: Option<&Ruleset>) -> Result<Settings> {
    let mut output = Output::of(v4, Family::V4);
    let mut everything = vec![any(Family::V4)];
    if let Some(v6) = v6 {
        let Output {
            included, excluded, ..
        } = Output::of(v6, Family::V6);
        output.included.extend(included);
        output.excluded.extend(excluded);
        everything.push(any(Family::V6));
    }
    Ok(Settings {
        outbound_port: redirected_to(v4, "ISTIO_REDIRECT")?,
        inbound_port: redirected_to(v4, "ISTIO_IN_REDIRECT")?,
        tunnel_port: rules(v4, "nat", "ISTIO_INBOUND")
            .first()
            .and_then(tcp_port)
            .context("nat/ISTIO_INBOUND/1 is missing, which is for the tunnel's port")?,
        loopback: output
            .loopback
            .context("nat/ISTIO_OUTPUT has no rule for the proxy's user")?,
        inbound: inbound(v4),
        included: if output.included == everything {
            Included::All
        } else {
            Included::Only(output.included_with_hidden(v6.is_some()))
        },
        groups: output.groups(),
        excluded: output.excluded,
        outbound_ports: output.ports,
        outbound_ports_excluded: output.ports_excluded,
        interfaces_excluded: interfaces_excluded(v4),
        uids: output.uids,
        gids: output.gids,
        dns: dns(v4, v6),
        drop_invalid: !rules(v4, "mangle", "ISTIO_DROP").is_empty(),
        ipv6: v6.is_some(),
    })
}

/// What nat/ISTIO_OUTPUT shows.
#[derive(Default)]
struct Output {
    uids: Vec<Ids>,
    gids: Vec<Ids>,
    loopback: Option<Net>,
    /// Local traffic of others than the proxy is left alone.
    keeps_local: bool,
    groups_returned: Vec<Ids>,
    groups_only: Option<Vec<Ids>>,
    excluded: Vec<Net>,
    included: Vec<Net>,
    ports: Vec<Ports>,
    ports_excluded: Vec<Ports>,
}

impl Output {
    fn of(ruleset: &Ruleset, family: Family) -> Self {
        let mut output = Self::default();
        let mut past_loopback = false;
        for rule in rules(ruleset, "nat", "ISTIO_OUTPUT") {
            let (holding, not) = conditions(rule);
            match (holding.as_slice(), not.as_slice(), jump(rule)) {
                ([.., Criterion::Uid(uid)], [Criterion::Destination(net), ..], IN_REDIRECT) => {
                    output.uids.push(*uid);
                    output.loopback = Some(*net);
                }
                ([.., Criterion::Gid(gid)], [Criterion::Destination(_), ..], IN_REDIRECT) => {
                    output.gids.push(*gid);
                }
                ([Criterion::OutInterface(_), ..], [.., Criterion::Uid(_)], RETURN) => {
                    output.keeps_local = true;
                }
                ([Criterion::Gid(gid)], [], RETURN) => output.groups_returned.push(*gid),
                ([], [Criterion::Gid(_), ..], RETURN) => {
                    output.groups_only = Some(not.iter().filter_map(|c| gid(c)).collect());
                }
                ([], [], RETURN) if !past_loopback => output.groups_only = Some(Vec::new()),
                ([Criterion::Destination(_)], [], RETURN) if !past_loopback => past_loopback = true,
                // iptables does not keep a range of everything.
                ([], [], RETURN) => output.excluded.push(any(family)),
                ([Criterion::Destination(net)], [], RETURN) => output.excluded.push(*net),
                ([], [], REDIRECT) => output.included.push(any(family)),
                ([Criterion::Destination(net)], [], REDIRECT) => output.included.push(*net),
                (_, [], RETURN) => output.ports_excluded.extend(tcp_port(rule)),
                (_, [], REDIRECT) => output.ports.extend(tcp_port(rule)),
                _ => {}
            }
        }
        output
    }

    fn groups(&self) -> Groups {
        match &self.groups_only {
            Some(groups) => Groups::Only(groups.clone()),
            // The first of them are the proxy's own.
            None => Groups::AllBut(
                self.groups_returned
                    .iter()
                    .skip(self.gids.len())
                    .copied()
                    .collect(),
            ),
        }
    }

    /// A loopback range among the included ones switches a rule off, in both families; where IPv6
    /// has no rules, that is all that can be seen of its ranges.
    fn included_with_hidden(&self, ipv6: bool) -> Vec<Net> {
        let mut included = self.included.clone();
        if !self.keeps_local && !ipv6 && !included.iter().any(Net::is_loopback) {
            included.push(Net {
                address: Ipv6Addr::LOCALHOST.into(),
                prefix: 128,
            });
        }
        included
    }
}

const RETURN: &str = "RETURN";
const REDIRECT: &str = "ISTIO_REDIRECT";
const IN_REDIRECT: &str = "ISTIO_IN_REDIRECT";

fn jump(rule: &Rule) -> &str {
    match &rule.target {
        Target::Return => RETURN,
        Target::Chain(name) => name,
        Target::Count
        | Target::Accept
        | Target::Drop
        | Target::Redirect(_)
        | Target::Zone(_)
        | Target::Mark(_)
        | Target::Connmark(_)
        | Target::Tproxy { .. } => "",
    }
}

fn rules<'a>(ruleset: &'a Ruleset, table: &str, chain: &str) -> &'a [Rule] {
    ruleset
        .table(table)
        .and_then(|table| table.chain(chain))
        .map_or(&[], |chain| &chain.rules)
}

/// What must hold, and what must not.
fn conditions(rule: &Rule) -> (Vec<&Criterion>, Vec<&Criterion>) {
    let with = |negated| {
        let matches = rule.matches.iter().filter(move |m| m.negated == negated);
        matches.map(|m| &m.criterion).collect()
    };
    (with(false), with(true))
}

fn any(family: Family) -> Net {
    Net {
        address: match family {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        },
        prefix: 0,
    }
}

fn gid(criterion: &Criterion) -> Option<Ids> {
    if let Criterion::Gid(gid) = criterion {
        Some(*gid)
    } else {
        None
    }
}

/// The port, if the rule asks for nothing else.
fn tcp_port(rule: &Rule) -> Option<Ports> {
    match conditions(rule).0.as_slice() {
        [
            Criterion::Protocol(Protocol::TCP),
            Criterion::DestinationPort(port),
        ] => Some(*port),
        _ => None,
    }
}

fn redirected_to(ruleset: &Ruleset, chain: &str) -> Result<u16> {
    match rules(ruleset, "nat", chain) {
        [
            Rule {
                target: Target::Redirect(port),
                ..
            },
        ] => Ok(*port),
        _ => anyhow::bail!("nat/{chain} is not one REDIRECT to a port"),
    }
}

fn inbound(ruleset: &Ruleset) -> Inbound {
    let is_jump = |rule: &Rule| jump(rule) == "ISTIO_INBOUND";
    if !rules(ruleset, "nat", "PREROUTING").iter().any(is_jump) {
        return Inbound::None;
    }
    let chain = rules(ruleset, "nat", "ISTIO_INBOUND");
    let ports = |target| {
        let rules = chain.iter().filter(move |rule| jump(rule) == target);
        rules.filter_map(tcp_port)
    };
    let only: Vec<Ports> = ports(IN_REDIRECT).collect();
    if only.is_empty() {
        // The first one is for the tunnel.
        Inbound::AllBut(ports(RETURN).skip(1).collect())
    } else {
        Inbound::Only(only)
    }
}

fn interfaces_excluded(ruleset: &Ruleset) -> Vec<Interface> {
    rules(ruleset, "nat", "OUTPUT")
        .iter()
        .filter_map(|rule| match conditions(rule).0.as_slice() {
            [Criterion::OutInterface(name)] => Some(name.clone()),
            _ => None,
        })
        .collect()
}

fn dns(v4: &Ruleset, v6: Option<&Ruleset>) -> Option<Dns> {
    if rules(v4, "raw", "ISTIO_OUTPUT_DNS").is_empty() {
        return None;
    }
    let mut servers: Vec<IpAddr> = Vec::new();
    for ruleset in [Some(v4), v6].into_iter().flatten() {
        for rule in rules(ruleset, "nat", "ISTIO_OUTPUT_DNS") {
            match conditions(rule).0.as_slice() {
                [
                    Criterion::Destination(server),
                    Criterion::Protocol(Protocol::TCP),
                    ..,
                ] => {
                    servers.push(server.address);
                }
                [Criterion::Protocol(Protocol::TCP), ..] => return Some(Dns::All),
                _ => {}
            }
        }
    }
    if servers.is_empty() {
        // Where IPv6 has no rules, nothing more can be seen of its servers than that there is one.
        servers.push(Ipv6Addr::LOCALHOST.into());
    }
    Some(Dns::Servers(servers))
}
