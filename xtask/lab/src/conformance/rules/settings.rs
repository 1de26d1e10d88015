//! From Istio's rules back to the settings that make them.
//!
//! [`Settings::of_rules`] picks the values out of the rules, then makes the rules of these values
//! anew and compares: so nothing in a rule file can be overlooked.

use std::{fmt::Display, net::IpAddr};

use anyhow::{Context, Result, bail, ensure};

use super::{
    matches::{Criterion, Ids, Interface, Match, Net, Ports, comma_separated},
    ruleset::{Family, Policy, Rule, RuleId, Ruleset},
    target::Target,
};

#[cfg(test)]
mod tests;

/// What istio-iptables can be told and rules can show. Lists are in the order of the rules.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    pub outbound_port: u16,
    pub inbound_port: u16,
    pub tunnel_port: Ports,
    pub uids: Vec<Ids>,
    pub gids: Vec<Ids>,
    pub inbound: Inbound,
    pub included: Included,
    pub excluded: Vec<Net>,
    pub outbound_ports: Vec<Ports>,
    pub outbound_ports_excluded: Vec<Ports>,
    pub interfaces_excluded: Vec<Interface>,
    pub groups: Groups,
    pub loopback: Net,
    pub dns: Option<Dns>,
    pub drop_invalid: bool,
    pub ipv6: bool,
}

/// The ports whose inbound connections go to the proxy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Inbound {
    None,
    AllBut(Vec<Ports>),
    Only(Vec<Ports>),
}

/// The destinations whose connections go to the proxy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Included {
    All,
    Only(Vec<Net>),
}

/// The groups whose traffic is looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Groups {
    AllBut(Vec<Ids>),
    Only(Vec<Ids>),
}

/// The name servers whose traffic goes to the agent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Dns {
    All,
    /// Those of the pod's resolv.conf.
    Servers(Vec<IpAddr>),
}

impl Settings {
    /// The settings that make these rules; an error names a rule that none make.
    pub fn of_rules(v4: &Ruleset, v6: Option<&Ruleset>) -> Result<Self> {
        let families: Vec<(Family, &Ruleset)> = [(Family::V4, Some(v4)), (Family::V6, v6)]
            .into_iter()
            .filter_map(|(family, rules)| Some((family, rules?)))
            .collect();
        for (family, rules) in &families {
            check_supported(rules).with_context(|| format!("the rules for {family}"))?;
        }
        let settings = super::guess::settings(v4, v6)?;
        for (family, rules) in &families {
            let made = settings.rules(*family)?;
            compare(rules, &made).with_context(|| {
                format!(
                    "the rules for {family}, with {}",
                    settings.flags().join(" ")
                )
            })?;
        }
        Ok(settings)
    }

    /// As the loader's command line takes them, one word each. The servers of a resolv.conf are
    /// not among them: see [`Self::dns_servers`].
    pub fn flags(&self) -> Vec<String> {
        let (inbound, inbound_excluded) = match &self.inbound {
            Inbound::None => (String::new(), String::new()),
            Inbound::AllBut(ports) => ("*".to_owned(), comma_separated(ports)),
            Inbound::Only(ports) => (comma_separated(ports), String::new()),
        };
        let included = match &self.included {
            Included::All => "*".to_owned(),
            Included::Only(nets) => comma_separated(nets),
        };
        let mut flags = Vec::new();
        let mut flag = |name: &str, value: &dyn Display| flags.push(format!("--{name}={value}"));
        flag("envoy-port", &self.outbound_port);
        flag("inbound-capture-port", &self.inbound_port);
        flag("inbound-tunnel-port", &self.tunnel_port);
        flag("proxy-uid", &comma_separated(&self.uids));
        flag("proxy-gid", &comma_separated(&self.gids));
        flag("istio-inbound-ports", &inbound);
        flag("istio-local-exclude-ports", &inbound_excluded);
        flag("istio-service-cidr", &included);
        flag(
            "istio-service-exclude-cidr",
            &comma_separated(&self.excluded),
        );
        flag(
            "istio-outbound-ports",
            &comma_separated(&self.outbound_ports),
        );
        flag(
            "istio-local-outbound-ports-exclude",
            &comma_separated(&self.outbound_ports_excluded),
        );
        if !self.interfaces_excluded.is_empty() {
            flag(
                "istio-exclude-interfaces",
                &comma_separated(&self.interfaces_excluded),
            );
        }
        match &self.groups {
            Groups::AllBut(groups) if groups.is_empty() => {}
            Groups::AllBut(groups) => {
                flag("outbound-owner-groups-exclude", &comma_separated(groups))
            }
            Groups::Only(groups) => flag("outbound-owner-groups", &comma_separated(groups)),
        }
        if self.loopback.to_string() != DEFAULT_LOOPBACK {
            flag("outbound-ipv4-loopback-cidr", &self.loopback);
        }
        let mut switch = |name: &str, on: bool| flags.extend(on.then(|| format!("--{name}")));
        switch("redirect-dns", self.dns.is_some());
        switch("capture-all-dns", self.dns == Some(Dns::All));
        switch("drop-invalid", self.drop_invalid);
        switch("dual-stack", self.ipv6);
        flags
    }

    /// What the pod's resolv.conf must have for these settings.
    pub fn dns_servers(&self) -> &[IpAddr] {
        match &self.dns {
            Some(Dns::Servers(servers)) => servers,
            Some(Dns::All) | None => &[],
        }
    }
}

pub(super) const DEFAULT_LOOPBACK: &str = "127.0.0.1/32";

/// What can be told to be out of reach before anything is guessed.
fn check_supported(rules: &Ruleset) -> Result<()> {
    for (id, rule) in rules.rules() {
        if let Target::Mark(_) | Target::Connmark(_) | Target::Tproxy { .. } = rule.target {
            bail!("{id} needs TPROXY mode, which is not supported: {rule}");
        }
        ensure!(
            !is_virtual(rules, &id, rule),
            "{id} is for a virtual interface (--kube-virt-interfaces), which is not supported: {rule}"
        );
    }
    for table in &rules.tables {
        let dropping = table
            .chains
            .iter()
            .find(|chain| chain.policy == Some(Policy::Drop));
        if let Some(chain) = dropping {
            bail!("{}/{} has the policy DROP", table.name, chain.name);
        }
    }
    Ok(())
}

/// Whether the rule makes what comes from an interface outbound traffic. For an excluded interface
/// there is a rule in the other direction as well.
fn is_virtual(rules: &Ruleset, id: &RuleId, rule: &Rule) -> bool {
    let is_first = |m: &Match| matches!(m.criterion, Criterion::InInterface(_));
    if id.table != "nat" || id.chain != "PREROUTING" || !rule.matches.iter().any(is_first) {
        return false;
    }
    let [
        Match {
            criterion: Criterion::InInterface(name),
            ..
        },
    ] = rule.matches.as_slice()
    else {
        return true;
    };
    let back = Match {
        criterion: Criterion::OutInterface(name.clone()),
        negated: false,
    };
    rule.target != Target::Return
        || !rules
            .rules()
            .any(|(_, other)| other.matches == [back.clone()])
}

/// The first rule that differs is named.
fn compare(given: &Ruleset, made: &Ruleset) -> Result<()> {
    for (id, rule) in given.rules() {
        let expected = made.rule(&id);
        ensure!(
            expected.is_some_and(|expected| expected.same_as(rule)),
            "{id} is {:?}, where {} is made of these settings",
            rule.to_string(),
            expected.map_or("no rule".to_owned(), |made| format!(
                "{:?}",
                made.to_string()
            ))
        );
    }
    match made.rules().find(|(id, _)| given.rule(id).is_none()) {
        Some((id, rule)) => bail!("{id} is missing: {rule}"),
        None => Ok(()),
    }
}
