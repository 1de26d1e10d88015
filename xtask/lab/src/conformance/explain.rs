//! The list of rules that `loader rules` prints and `loader explain` reads: its first rule whose
//! conditions hold must be the rule that is decided, and must stand in the rules' text as a rule
//! that the interpreter went through.

use anyhow::{Context as _, Result, ensure};
use sidecar_loader::cmd::{
    chain::{self, Listed},
    matches::Facts,
};

use super::{
    config::Resolved,
    predict::{self, listed_family},
    probe::Probe,
    rules::{self, Family, Rule, Ruleset, Trace},
};

type Mismatch = dyn Fn(&Facts) -> Option<String> + Send + Sync;

/// A rule of the list.
struct Row {
    label: &'static str,
    /// Its first condition that the probe does not meet.
    mismatch: Box<Mismatch>,
    /// What it is in the rules' text; `None` if it stands for the absence of a rule.
    text: Option<Rule>,
}

/// The lists of one configuration.
pub(super) struct Listing {
    outbound4: Vec<Row>,
    outbound6: Vec<Row>,
    inbound4: Vec<Row>,
    inbound6: Vec<Row>,
}

impl Listing {
    pub(super) fn new(resolved: &Resolved) -> Result<Self> {
        let ipv6 = resolved.ipv6();
        let policy = &resolved.policy;
        let outbound = |family, has| rows(policy.outbound(listed_family(family), has));
        Ok(Self {
            outbound4: outbound(Family::V4, true)?,
            outbound6: outbound(Family::V6, ipv6)?,
            inbound4: rows(policy.inbound(true))?,
            inbound6: rows(policy.inbound(ipv6))?,
        })
    }

    /// An error if the list says something else than the decision or the text.
    pub(super) fn check(
        &self,
        decided: &str,
        probe: &Probe,
        facts: &Facts,
        rules: &Ruleset,
        trace: &Trace,
    ) -> Result<()> {
        // Inbound the list is one of rules for TCP.
        if !probe.is_outbound() && !probe.kind.is_tcp() {
            return Ok(());
        }
        let family = predict::family(probe);
        let list = match (probe.is_outbound(), family) {
            (true, Family::V4) => &self.outbound4,
            (true, Family::V6) => &self.outbound6,
            (false, Family::V4) => &self.inbound4,
            (false, Family::V6) => &self.inbound6,
        };
        let first = list.iter().find(|row| (row.mismatch)(facts).is_none());
        let first = first.context("no rule of the list holds")?;
        ensure!(
            first.label == decided,
            "rule {decided} decides; in the list it is {}",
            first.label
        );
        if let Some(text) = &first.text {
            let matched = trace.matched.iter().filter_map(|id| rules.rule(id));
            ensure!(
                matched.into_iter().any(|rule| rule.same_as(text)),
                "rule {decided} decides, which is {text}; the rules' text went another way: {:?}",
                trace
                    .matched
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
            );
        }
        Ok(())
    }
}

fn rows<R>(list: Vec<Listed<R>>) -> Result<Vec<Row>>
where
    R: chain::Rule + Send + Sync + 'static,
{
    list.into_iter()
        .map(|listed| {
            let text = listed
                .target
                .map(|_| parsed(&listed.iptables()))
                .transpose()?;
            Ok(Row {
                label: listed.rule.label(),
                text,
                mismatch: Box::new(move |facts| listed.mismatch(facts)),
            })
        })
        .collect()
}

/// One rule of the text.
fn parsed(rule: &str) -> Result<Rule> {
    let text = format!(
        "*nat\n:ISTIO_REDIRECT - [0:0]\n:ISTIO_IN_REDIRECT - [0:0]\n:ISTIO_OUTPUT_DNS - [0:0]\n\
         :ISTIO_OUTPUT - [0:0]\n-A ISTIO_OUTPUT {rule}\nCOMMIT\n"
    );
    let rules = rules::parse(&text).with_context(|| format!("the listed rule {rule:?}"))?;
    let id = rules::RuleId::new("nat", "ISTIO_OUTPUT", 1);
    rules.rule(&id).cloned().context("a rule that is not there")
}
