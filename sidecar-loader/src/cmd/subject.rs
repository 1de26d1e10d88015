//! One policy in one pod, and what it says about a connection: asked of the decision that the
//! programs take, and of the rules as they are listed. Both must agree.

use anyhow::{Context as _, Result, bail};
use sidecar_ebpf_common::{
    addr::{Ip, OrigDst},
    decide,
    facts::{Inbound, Outbound, Socket, Tables},
    lists::MAX_INTERFACES,
    policy,
    rule::{InboundRule, OutboundRule},
};

use super::{
    chain::{Family, Listed, Policy, Rule, decide as first},
    matches::Facts,
    pod_view::{Lists, PodView},
};

/// What is asked. The policy and the tables may come from settings or from a running loader.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a, T> {
    /// As the programs have it.
    pub policy: policy::Policy,
    pub tables: T,
    /// The same, as rules.
    pub rules: &'a Policy,
    pub pod: &'a PodView,
    /// IPv6 has rules.
    pub ipv6: bool,
}

/// What is said about one connection.
#[derive(Debug)]
pub struct Answer<R> {
    /// The rule that decides, as it stands in its chain.
    pub decided: Listed<R>,
    /// Those before it, each with the first of its conditions that is not met.
    pub passed: Vec<(Listed<R>, String)>,
    pub facts: Facts,
}

impl<'a> Subject<'a, Lists<'a>> {
    /// What the programs would be told.
    pub fn from_settings(rules: &'a Policy, pod: &'a PodView, ipv6: bool) -> Result<Self> {
        let config = &rules.config;
        let policy = pod.policy(config, ipv6).with_context(|| {
            format!(
                "--istio-exclude-interfaces: more than {MAX_INTERFACES} interfaces of the pod are \
                 excluded"
            )
        })?;
        Ok(Self {
            policy,
            tables: Lists { config, pod },
            rules,
            pod,
            ipv6,
        })
    }
}

impl<T: Tables> Subject<'_, T> {
    /// About a connection that is made, or a datagram that is sent. `asked` may be 0.0.0.0 or `::`.
    pub fn outbound(&self, socket: Socket, asked: OrigDst) -> Result<Answer<OutboundRule>> {
        let flow = Outbound::new(socket, asked);
        let decided = decide::decide_outbound(&self.policy, &flow, &self.tables);
        let facts = self.pod.outbound_facts(socket, asked, &self.tables);
        let (family, rules) = self.family(&flow.dst().ip);
        answer(decided, &self.rules.outbound(family, rules), facts)
    }

    /// About a connection from outside.
    pub fn inbound(&self, flow: &Inbound) -> Result<Answer<InboundRule>> {
        let decided = decide::decide_inbound(&self.policy, flow, &self.tables);
        let facts = self.pod.inbound_facts(flow);
        let (_, rules) = self.family(&flow.dst);
        answer(decided, &self.rules.inbound(rules), facts)
    }

    /// The family, and whether it has rules.
    fn family(&self, ip: &Ip) -> (Family, bool) {
        if ip.is_v4() {
            (Family::V4, true)
        } else {
            (Family::V6, self.ipv6)
        }
    }
}

fn answer<R: Rule>(decided: R, chain: &[Listed<R>], facts: Facts) -> Result<Answer<R>> {
    let found = first(chain, &facts);
    let Some(found) = found.filter(|listed| listed.rule == decided) else {
        bail!(
            "{}:{}: rule {} decides, but the list of rules says {}; please report this",
            facts.dst,
            facts.port,
            decided.label(),
            found.map_or("nothing", |listed| listed.rule.label())
        );
    };
    let before = chain.iter();
    let passed = before.map_while(|listed| Some((listed.clone(), listed.mismatch(&facts)?)));
    Ok(Answer {
        decided: found.clone(),
        passed: passed.collect(),
        facts,
    })
}
