//! What the report, the goals and the plots ask a record.

use std::collections::BTreeSet;

use anyhow::{Context, Result};

use super::{
    names::{BASE, UNREDIRECTED},
    record::{Case, Finding, Measurement, Point, Quantity, Record, Round, Sweep},
    stats::{self, Estimate},
};

/// One case along a sweep.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Along {
    /// `at` is `None`.
    pub case: Case,
    pub sweep: Sweep,
    /// Ascending.
    pub values: Vec<u64>,
}

impl Along {
    pub(super) fn at(&self, value: u64) -> Case {
        Case {
            at: Some(Point {
                sweep: self.sweep,
                value,
            }),
            ..self.case
        }
    }
}

impl Record {
    /// Those outside of all sweeps, sorted.
    pub(super) fn cases(&self) -> Vec<Case> {
        let cases = self.measurements.iter().map(|measured| measured.case);
        let plain: BTreeSet<Case> = cases.filter(|case| case.at.is_none()).collect();
        plain.into_iter().collect()
    }

    pub(super) fn sweeps(&self) -> Vec<Along> {
        let swept: BTreeSet<(Sweep, Case, u64)> = self
            .measurements
            .iter()
            .filter_map(|measured| {
                let Point { sweep, value } = measured.case.at?;
                let case = Case {
                    at: None,
                    ..measured.case
                };
                Some((sweep, case, value))
            })
            .collect();
        let mut all: Vec<Along> = Vec::new();
        for (sweep, case, value) in swept {
            match all.last_mut() {
                Some(last) if last.sweep == sweep && last.case == case => last.values.push(value),
                _ => all.push(Along {
                    case,
                    sweep,
                    values: vec![value],
                }),
            }
        }
        all
    }

    pub(super) fn find(&self, case: &Case, arm: &str) -> Option<&Measurement> {
        self.measurements
            .iter()
            .find(|measured| measured.case == *case && measured.arm == arm)
    }

    /// The arms that did this, in the record's order.
    pub(super) fn arms_in(&self, case: &Case) -> Vec<&str> {
        self.arm_names()
            .filter(|arm| self.find(case, arm).is_some())
            .collect()
    }

    pub(super) fn arm_names(&self) -> impl Iterator<Item = &str> {
        self.arms.iter().map(|arm| arm.name.as_str())
    }

    /// Against no redirection, pair by pair; `None` if one of the two was not measured.
    pub(super) fn ratio(
        &self,
        case: &Case,
        arm: &str,
        quantity: fn(&Round) -> f64,
    ) -> Result<Option<Estimate>> {
        match (self.find(case, arm), self.find(case, BASE)) {
            (Some(of), Some(to)) => of.compare(to, quantity).map(Some),
            _ => Ok(None),
        }
    }

    pub(super) fn findings<'a>(&'a self, what: &Quantity) -> impl Iterator<Item = &'a Finding> {
        self.findings
            .iter()
            .filter(move |finding| finding.what == *what)
    }

    /// Every quantity that somebody looked at, sorted.
    pub(super) fn quantities(&self) -> Vec<Quantity> {
        let all: BTreeSet<Quantity> = self.findings.iter().map(|f| f.what.clone()).collect();
        all.into_iter().collect()
    }
}

impl Measurement {
    pub(super) fn estimate(&self, quantity: fn(&Round) -> f64) -> Result<Estimate> {
        stats::each(&self.rounds, quantity)
            .and_then(|values| Estimate::of(&values))
            .with_context(|| self.title())
    }

    /// This by `to`, pair by pair.
    pub(super) fn compare(&self, to: &Self, quantity: fn(&Round) -> f64) -> Result<Estimate> {
        stats::ratios(&self.rounds, &to.rounds, quantity)
            .and_then(|ratios| Estimate::of(&ratios))
            .with_context(|| format!("{} against {}", self.title(), to.title()))
    }

    pub(super) fn title(&self) -> String {
        format!("{} in {}", self.case.place(), self.arm)
    }

    /// What the rule counters say against the arm's claim.
    fn disproved(&self) -> Option<String> {
        let proof = &self.proof;
        let expected = if UNREDIRECTED.contains(&self.arm.as_str()) {
            0
        } else {
            proof.connections
        };
        (proof.redirected != expected || proof.connections == 0).then(|| {
            format!(
                "{}: {} connections, of which {} were redirected, says {}",
                self.title(),
                proof.connections,
                proof.redirected,
                proof.by
            )
        })
    }
}

impl Record {
    /// The measurements whose connections did not all go the way their arm claims.
    pub fn disproved(&self) -> Vec<String> {
        self.measurements
            .iter()
            .filter_map(Measurement::disproved)
            .collect()
    }
}

impl Finding {
    pub(super) fn estimate(&self) -> Result<Estimate> {
        Estimate::of(&self.values).with_context(|| format!("{} in {}", self.what, self.arm))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{names::OURS, sample};

    #[test]
    fn cases_and_sweeps_are_told_apart() {
        let record = sample::record();
        assert!(record.cases().iter().all(|case| case.at.is_none()));
        let sweeps = record.sweeps();
        assert_eq!(sweeps.len(), 2);
        assert_eq!(sweeps[0].sweep, Sweep::ExcludedRanges);
        assert_eq!(sweeps[0].values, [1, 10, 100, 1000, 10_000]);
        let at = sweeps[0].at(10_000);
        assert_eq!(record.arms_in(&at).len(), 5);
    }

    #[test]
    fn a_ratio_needs_both() {
        let mut record = sample::record();
        let case = record.cases()[0];
        let ratio = |record: &Record| record.ratio(&case, OURS, Round::per_operation).unwrap();
        let found = ratio(&record).unwrap();
        assert!((1.05..1.10).contains(&found.median), "{found:?}");
        record
            .measurements
            .retain(|measured| measured.case != case || measured.arm != BASE);
        assert_eq!(ratio(&record), None);
    }

    #[test]
    fn a_round_without_operations_names_its_case() {
        let mut record = sample::record();
        let case = record.cases()[0];
        let index = record
            .measurements
            .iter()
            .position(|measured| measured.case == case && measured.arm == OURS);
        record.measurements[index.unwrap()].rounds[3].operations = 0;
        let error = record.ratio(&case, OURS, Round::per_operation).unwrap_err();
        let error = format!("{error:#}");
        assert!(
            error.contains("connect, outbound, one CPU in sidecar-ebpf"),
            "{error}"
        );
        assert!(error.contains("round 3 has no operations"), "{error}");
    }

    #[test]
    fn counters_that_contradict_are_told() {
        let mut record = sample::record();
        assert_eq!(record.disproved(), Vec::<String>::new());
        for measured in &mut record.measurements[..2] {
            measured.proof.redirected += 1;
        }
        record.measurements[2].proof.connections = 0;
        record.measurements[2].proof.redirected = 0;
        assert_eq!(record.disproved().len(), 3);
    }
}
