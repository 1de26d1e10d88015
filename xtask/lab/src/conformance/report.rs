//! What a run says at its end: a table for people, or JSON.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;

use super::{accepted::ACCEPTED, coverage::Coverage};

/// Changes whenever a field of the JSON changes its meaning or goes away.
pub(super) const SCHEMA: u32 = 1;

/// The result of a run. As JSON: one object with these fields.
#[derive(Serialize, Debug)]
pub(super) struct Report {
    pub schema: u32,
    pub seed: u64,
    pub seconds: f64,
    /// By leg, the two without a kernel first.
    pub legs: Vec<LegReport>,
    pub configs: Vec<ConfigReport>,
    pub differences: Vec<Found>,
    pub accepted: Vec<AcceptedReport>,
    pub rules: Vec<RuleReport>,
    /// Knob and how many configurations set it.
    pub knobs: BTreeMap<String, u64>,
    /// Rules, knobs and owners that a full run should have touched and did not.
    pub uncovered: Vec<String>,
    /// Rule files that use what is refused, with the reason.
    pub refused: BTreeMap<String, String>,
    pub passed: bool,
}

#[derive(Serialize, Default, Debug)]
pub(super) struct LegReport {
    pub leg: String,
    pub configs: u64,
    pub probes: u64,
    /// By how much the counters of rules moved, in all.
    pub counted: u64,
    pub differences: u64,
}

#[derive(Serialize, Debug)]
pub(super) struct ConfigReport {
    pub config: String,
    pub probes: u64,
    /// How many different rules decided.
    pub rules: u64,
    pub differences: u64,
}

/// A difference, and the least that still shows it.
#[derive(Serialize, Debug)]
pub(super) struct Found {
    pub leg: String,
    pub what: String,
    pub config: String,
    pub probe: String,
    /// How many more came from the same configuration.
    pub others: u64,
    pub command: String,
}

#[derive(Serialize, Debug)]
pub(super) struct AcceptedReport {
    pub name: &'static str,
    pub reason: &'static str,
    /// Probes of this run that come under it.
    pub probes: u64,
    /// Whether it was seen in a probe made for it, if that was tried.
    pub is_true: Option<bool>,
}

#[derive(Serialize, Debug)]
pub(super) struct RuleReport {
    pub direction: &'static str,
    pub rule: &'static str,
    #[serde(flatten)]
    pub probes: super::coverage::Hits,
}

pub(crate) fn accepted(
    counts: &BTreeMap<&'static str, u64>,
    shown: Option<&[&'static str]>,
) -> Vec<AcceptedReport> {
    let entries = ACCEPTED.iter().map(|entry| AcceptedReport {
        name: entry.name,
        reason: entry.reason,
        probes: counts.get(entry.name).copied().unwrap_or(0),
        is_true: shown.map(|shown| shown.contains(&entry.name)),
    });
    entries.collect()
}

pub(crate) fn rules(coverage: &Coverage) -> Vec<RuleReport> {
    let rows = coverage
        .rules
        .iter()
        .map(|&(direction, rule, probes)| RuleReport {
            direction,
            rule,
            probes,
        });
    rows.collect()
}

impl Report {
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).expect("a String takes everything");
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "{:<22} {:>8} {:>9} {:>10} {:>12}",
            "leg", "configs", "probes", "counted", "differences"
        )?;
        for leg in &self.legs {
            let LegReport {
                leg,
                configs,
                probes,
                counted,
                differences,
            } = leg;
            writeln!(
                out,
                "{leg:<22} {configs:>8} {probes:>9} {counted:>10} {differences:>12}"
            )?;
        }
        writeln!(
            out,
            "\n{:<28} {:>8} {:>8} {:>8} {:>8}",
            "rule", "tcp4", "udp4", "tcp6", "udp6"
        )?;
        for row in &self.rules {
            let name = format!("{:<4}{}", row.direction, row.rule);
            let hits = row.probes;
            writeln!(
                out,
                "{name:<28} {:>8} {:>8} {:>8} {:>8}",
                hits.tcp4, hits.udp4, hits.tcp6, hits.udp6
            )?;
        }
        writeln!(out, "\n{:<38} {:>8}", "knob", "configs")?;
        for (flag, configs) in &self.knobs {
            writeln!(out, "--{flag:<36} {configs:>8}")?;
        }
        writeln!(
            out,
            "\n{:<34} {:>8}  still true",
            "accepted difference", "probes"
        )?;
        for entry in &self.accepted {
            let is_true = match entry.is_true {
                Some(true) => "yes",
                Some(false) => "NO: take it off the list",
                None => "not tried",
            };
            writeln!(out, "{:<34} {:>8}  {is_true}", entry.name, entry.probes)?;
        }
        writeln!(
            out,
            "\n{:>7} {:>6} {:>12}  configuration",
            "probes", "rules", "differences"
        )?;
        for config in &self.configs {
            let ConfigReport {
                config,
                probes,
                rules,
                differences,
            } = config;
            writeln!(out, "{probes:>7} {rules:>6} {differences:>12}  {config}")?;
        }
        for (file, why) in &self.refused {
            writeln!(out, "refused: {file}: {why}")?;
        }
        for uncovered in &self.uncovered {
            writeln!(out, "NOT COVERED: {uncovered}")?;
        }
        for found in &self.differences {
            writeln!(out, "\nDIFFERENCE in {}: {}", found.leg, found.what)?;
            if found.others > 0 {
                writeln!(out, "  and {} more in the same configuration", found.others)?;
            }
            writeln!(out, "  {}", found.command)?;
        }
        let verdict = if self.passed {
            "no difference"
        } else {
            "FAILED"
        };
        writeln!(
            out,
            "\n{verdict}; seed {}, {:.0} s",
            self.seed, self.seconds
        )
    }
}
