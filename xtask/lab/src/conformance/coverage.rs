//! What a run has touched: rules by family and protocol, knobs.

use std::collections::BTreeMap;

use serde::Serialize;
use sidecar_ebpf_common::rule::{InboundRule, OutboundRule};

use super::{
    config::Config,
    knobs::KNOBS,
    predict::{self, Prediction},
    probe::Probe,
    rules::Family,
};

/// How many probes a rule decided: IPv4 and IPv6, TCP and UDP each.
#[derive(Clone, Copy, Default, Serialize, Debug)]
pub(super) struct Hits {
    pub tcp4: u64,
    pub udp4: u64,
    pub tcp6: u64,
    pub udp6: u64,
}

impl Hits {
    const fn any(&self) -> bool {
        self.tcp4 + self.udp4 + self.tcp6 + self.udp6 > 0
    }
}

#[derive(Debug)]
pub(super) struct Coverage {
    /// By direction and rule, in the order of the chains.
    pub rules: Vec<(&'static str, &'static str, Hits)>,
    /// How many configurations set a knob.
    pub knobs: Vec<(&'static str, u64)>,
    owners: BTreeMap<&'static str, u64>,
}

impl Coverage {
    pub(super) fn new() -> Self {
        let outbound = OutboundRule::ALL.iter().map(|rule| ("out", rule.label()));
        let inbound = InboundRule::ALL.iter().map(|rule| ("in", rule.label()));
        let rules = outbound.chain(inbound);
        Self {
            rules: rules
                .map(|(way, rule)| (way, rule, Hits::default()))
                .collect(),
            knobs: KNOBS.iter().map(|knob| (knob.flag, 0)).collect(),
            owners: BTreeMap::new(),
        }
    }

    pub(super) fn add_config(&mut self, config: &Config) {
        for (flag, count) in &mut self.knobs {
            *count += u64::from(config.has(flag));
        }
    }

    pub(super) fn add_probe(&mut self, probe: &Probe, prediction: &Prediction) {
        let way = if probe.is_outbound() { "out" } else { "in" };
        if let Some(owner) = probe.owner {
            *self.owners.entry(owner.name).or_default() += 1;
        }
        let row = self
            .rules
            .iter_mut()
            .find(|row| (row.0, row.1) == (way, prediction.rule));
        let Some((_, _, hits)) = row else { return };
        *match (predict::family(probe), probe.kind.is_tcp()) {
            (Family::V4, true) => &mut hits.tcp4,
            (Family::V4, false) => &mut hits.udp4,
            (Family::V6, true) => &mut hits.tcp6,
            (Family::V6, false) => &mut hits.udp6,
        } += 1;
    }

    /// What a full run must not leave out.
    pub(super) fn missing(&self) -> Vec<String> {
        let rules = self.rules.iter().filter(|(_, _, hits)| !hits.any());
        let rules = rules.map(|(way, rule, _)| format!("rule {rule} ({way})"));
        let knobs = self.knobs.iter().filter(|(_, count)| *count == 0);
        let owners = super::owners::CASES.iter();
        let owners = owners.filter(|case| !self.owners.contains_key(case.name));
        rules
            .chain(knobs.map(|(flag, _)| format!("knob --{flag}")))
            .chain(owners.map(|case| format!("owner {}", case.name)))
            .collect()
    }
}
