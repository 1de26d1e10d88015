//! What the rules do with the first packet of a flow: only that one comes to the nat table.

use std::net::IpAddr;

use anyhow::{Context, Result, bail, ensure};

use super::{
    matches::{Criterion, Match, Protocol},
    ruleset::{Chain, Policy, Rule, RuleId, Ruleset, Table},
    target::Target,
};

/// The first packet of a flow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    pub protocol: Protocol,
    pub src: IpAddr,
    pub dst: IpAddr,
    pub sport: u16,
    pub dport: u16,
    pub in_interface: Option<String>,
    pub out_interface: Option<String>,
    /// User and group of its socket; none if it has no socket.
    pub owner: Option<(u32, u32)>,
}

/// Where the packet is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hook {
    Output,
    Prerouting,
}

impl Hook {
    pub fn chain(self) -> &'static str {
        match self {
            Self::Output => "OUTPUT",
            Self::Prerouting => "PREROUTING",
        }
    }
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trace {
    /// Every rule that counts the packet, jumps included, in this order.
    pub matched: Vec<RuleId>,
    pub verdict: Verdict,
    /// The rule that ended it: RETURN, REDIRECT, ACCEPT, DROP. None if the chains ended instead.
    pub last: Option<RuleId>,
    /// The zone of connection tracking that the rules put the flow into.
    pub zone: Option<u16>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Accept,
    Drop,
    Redirect(u16),
}

/// Sends the packet through one table's chain for the hook. A table or a chain that is not there has
/// no rules.
pub fn walk(rules: &Ruleset, table: &str, hook: Hook, packet: &Packet) -> Result<Trace> {
    let mut trace = Trace {
        matched: Vec::new(),
        verdict: Verdict::Accept,
        last: None,
        zone: None,
    };
    let Some(table) = rules.table(table) else {
        return Ok(trace);
    };
    let Some(chain) = table.chain(hook.chain()) else {
        return Ok(trace);
    };
    let walk = Walk { table, packet };
    trace.verdict = match walk.through(chain, &mut trace)? {
        Some(verdict) => verdict,
        None => match chain.policy {
            Some(Policy::Accept) | None => Verdict::Accept,
            Some(Policy::Drop) => Verdict::Drop,
        },
    };
    trace.last = trace
        .matched
        .last()
        .filter(|id| rules.rule(id).is_some_and(|rule| rule.target.is_final()))
        .cloned();
    Ok(trace)
}

struct Walk<'a> {
    table: &'a Table,
    packet: &'a Packet,
}

impl Walk<'_> {
    /// None if the chain has no verdict: it ends, or a rule returns from it.
    fn through(&self, chain: &Chain, trace: &mut Trace) -> Result<Option<Verdict>> {
        for (rule, index) in chain.rules.iter().zip(1..) {
            let id = RuleId::new(&self.table.name, &chain.name, index);
            let named = || format!("{id}: {rule}");
            if !self.holds(rule).with_context(named)? {
                continue;
            }
            trace.matched.push(id.clone());
            match &rule.target {
                Target::Count => {}
                Target::Return => return Ok(None),
                Target::Accept => return Ok(Some(Verdict::Accept)),
                Target::Drop => return Ok(Some(Verdict::Drop)),
                Target::Redirect(port) => return Ok(Some(Verdict::Redirect(*port))),
                // A flow stays in the zone that it was put into first.
                Target::Zone(zone) => trace.zone = trace.zone.or(Some(*zone)),
                Target::Chain(name) => {
                    let next = self.table.chain(name).with_context(named)?;
                    let verdict = self.through(next, trace)?;
                    if verdict.is_some() {
                        return Ok(verdict);
                    }
                }
                Target::Mark(_) | Target::Connmark(_) | Target::Tproxy { .. } => {
                    bail!("{}: the walk knows nothing of marks", named());
                }
            }
        }
        Ok(None)
    }

    /// Whether all conditions of the rule hold. An error only if one that cannot be told decides.
    fn holds(&self, rule: &Rule) -> Result<bool> {
        let mut untold = None;
        for condition in &rule.matches {
            match self.meets(condition) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(error) => untold = Some(error),
            }
        }
        untold.map_or(Ok(true), Err)
    }

    fn meets(&self, condition: &Match) -> Result<bool> {
        let packet = self.packet;
        let through = |name: &Option<String>, wanted: &super::matches::Interface| {
            wanted.covers(name.as_deref().unwrap_or_default())
        };
        let met = match &condition.criterion {
            Criterion::Source(net) => net.contains(packet.src),
            Criterion::Destination(net) => net.contains(packet.dst),
            Criterion::InInterface(name) => through(&packet.in_interface, name),
            Criterion::OutInterface(name) => through(&packet.out_interface, name),
            Criterion::Protocol(protocol) => *protocol == packet.protocol,
            Criterion::SourcePort(ports) => ports.contains(packet.sport),
            Criterion::DestinationPort(ports) => ports.contains(packet.dport),
            Criterion::SourcePorts(list) => list.iter().any(|p| p.contains(packet.sport)),
            Criterion::DestinationPorts(list) => list.iter().any(|p| p.contains(packet.dport)),
            // A packet without a socket has no owner, so it is not this one.
            Criterion::Uid(ids) => packet.owner.is_some_and(|(uid, _)| ids.contains(uid)),
            Criterion::Gid(ids) => packet.owner.is_some_and(|(_, gid)| ids.contains(gid)),
            Criterion::State(states) => {
                ensure!(
                    self.table.name != "raw",
                    "before connection tracking there are no states"
                );
                states.iter().any(|state| state == "NEW")
            }
            Criterion::Comment(_) => true,
            Criterion::Mark(_) | Criterion::Connmark(_) => {
                bail!("the walk knows nothing of marks")
            }
        };
        Ok(met != condition.negated)
    }
}
