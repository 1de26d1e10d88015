//! The run as its suites see it: arms are started here, work in turn, and prove what they did.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use super::{
    arm::{Arm, Settings},
    crew::Slice,
    kind::Kind,
    options::{Only, Options},
    proof::{Counts, proved},
    record::{ArmInfo, Case, Finding, Measurement, Plan, Point, Proof, Quantity, Round},
};
use crate::conformance::rng::Rng;

/// A part of the run.
pub type Suite = fn(&Plan, &mut Bench) -> Result<()>;

/// How many rounds of what length.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    pub warm_up_rounds: u32,
    pub rounds: u32,
    /// How long one arm works at one case in one round.
    pub slice: Duration,
}

impl From<&Plan> for Schedule {
    fn from(plan: &Plan) -> Self {
        Self {
            warm_up_rounds: plan.warm_up_rounds,
            rounds: plan.rounds,
            slice: Duration::from_nanos(plan.slice),
        }
    }
}

pub struct Bench {
    options: Options,
    kinds: Vec<Kind>,
    rng: Rng,
    bar: ProgressBar,
    pub arms: Vec<ArmInfo>,
    pub measurements: Vec<Measurement>,
    pub findings: Vec<Finding>,
}

impl Bench {
    /// A session without any arm yet; these kinds are to be compared.
    pub fn new(options: &Options, kinds: Vec<Kind>, seed: u64) -> Result<Self> {
        // It draws on a terminal only.
        let bar = ProgressBar::new(0);
        let style = "{elapsed_precise} [{bar:30}] {pos}/{len}, {eta_precise} to go  {wide_msg}";
        bar.set_style(ProgressStyle::with_template(style)?.progress_chars("##."));
        Ok(Self {
            options: options.clone(),
            kinds,
            rng: Rng::new(seed),
            bar,
            arms: Vec::new(),
            measurements: Vec::new(),
            findings: Vec::new(),
        })
    }

    /// What is to be compared: without redirection first, further ones last.
    pub fn kinds(&self) -> Vec<Kind> {
        self.kinds.clone()
    }

    pub fn wants(&self, what: Only) -> bool {
        self.options.wants(what)
    }

    /// Starts an arm.
    pub fn start(&mut self, kind: &Kind, settings: &Settings) -> Result<Arm> {
        self.say(&format!("starting {}", kind.name()));
        self.mention(kind);
        Arm::start(kind, settings)
    }

    /// Has the record say what the arm's name stands for.
    pub(super) fn mention(&mut self, kind: &Kind) {
        let info = kind.info();
        if self.arms.iter().all(|known| known.name != info.name) {
            self.arms.push(info);
        }
    }

    /// Adds what one look has found to what earlier ones have.
    pub(super) fn find(&mut self, what: &Quantity, arm: &str, at: Option<Point>, value: f64) {
        let known = self
            .findings
            .iter_mut()
            .find(|it| it.what == *what && it.arm == arm && it.at == at);
        match known {
            Some(finding) => finding.values.push(value),
            None => self.findings.push(Finding {
                what: what.clone(),
                arm: arm.to_owned(),
                at,
                values: vec![value],
            }),
        }
    }

    /// One of each kind, with the same settings.
    pub fn start_all(&mut self, settings: &Settings) -> Result<Vec<Arm>> {
        let kinds = self.kinds();
        let arms = kinds.iter().map(|kind| self.start(kind, settings));
        arms.collect()
    }

    /// What the run is at, beside the progress bar.
    pub fn say(&self, what: &str) {
        self.bar.set_message(what.to_owned());
    }

    /// So many steps more are to be done; [`Bench::step`] does one.
    pub fn expect_steps(&self, count: u64) {
        self.bar.inc_length(count);
    }

    pub fn step(&self) {
        self.bar.inc(1);
    }

    /// Lets all arms work at all cases by [`Arm::slice`].
    pub fn interleave(
        &mut self,
        schedule: Schedule,
        cases: &[Case],
        arms: &mut [Arm],
    ) -> Result<()> {
        self.interleave_with(schedule, cases, arms, &mut Arm::slice)
    }

    /// Round by round all cases, in each case all arms in random order, one slice each, so that
    /// slices to compare are made beside each other. Of several pods of an arm one works in each round,
    /// in turn. Each arm's case is at the arm's own point of a sweep. Every slice is proved.
    pub fn interleave_with(
        &mut self,
        schedule: Schedule,
        cases: &[Case],
        arms: &mut [Arm],
        slice: &mut dyn FnMut(&mut Arm, Case, Duration) -> Result<Slice>,
    ) -> Result<()> {
        let rounds = schedule.warm_up_rounds + schedule.rounds;
        let slices = cases.len() * in_turn(arms, 0).len();
        self.expect_steps(u64::from(rounds) * slices as u64);
        let mut found = BTreeMap::new();
        for round in 0..rounds {
            if round == 1 {
                self.break_one(arms)?;
            }
            for case in cases {
                let mut order = in_turn(arms, round as usize);
                self.rng.shuffle(&mut order);
                for arm in order {
                    self.step();
                    if !arm.covers(*case) {
                        continue;
                    }
                    let case = Case {
                        at: arm.at,
                        ..*case
                    };
                    self.say(&format!("round {round}: {} in {}", case.place(), arm.name));
                    let (made, counts) = proved(arm, case, |arm| slice(arm, case, schedule.slice))?;
                    let entry = found.entry((case, arm.name.clone()));
                    let entry: &mut Found = entry.or_insert_with(|| Found::new(arm));
                    entry.add(
                        &counts,
                        (round >= schedule.warm_up_rounds).then_some(made.round),
                    );
                }
            }
        }
        let made = found.into_iter().map(|((case, arm), found)| Measurement {
            case,
            arm,
            rounds: found.rounds,
            proof: found.proof,
        });
        self.measurements.extend(made);
        Ok(())
    }

    /// Does what `--break` asks for.
    fn break_one(&self, arms: &mut [Arm]) -> Result<()> {
        let Some(name) = &self.options.broken else {
            return Ok(());
        };
        let broken = arms.iter_mut().filter(|arm| arm.name == *name);
        let broken: Vec<&mut Arm> = broken.collect();
        ensure!(!broken.is_empty(), "no arm {name} to break");
        broken.into_iter().try_for_each(Arm::break_it)
    }

    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// One pod of each arm, another one in the next round.
fn in_turn(arms: &mut [Arm], round: usize) -> Vec<&mut Arm> {
    let same: Vec<_> = arms.iter().map(|arm| (arm.name.clone(), arm.at)).collect();
    let has_turn = has_turn(&same, round);
    let all = arms.iter_mut().zip(has_turn);
    all.filter_map(|(arm, has_turn)| has_turn.then_some(arm))
        .collect()
}

/// Of those that are equal one.
fn has_turn<T: PartialEq>(all: &[T], round: usize) -> Vec<bool> {
    let is_it = |(place, it): (usize, &T)| {
        let count = |some: &[T]| some.iter().filter(|other| *other == it).count();
        all.get(..place).map(count) == Some(round % count(all))
    };
    all.iter().enumerate().map(is_it).collect()
}

struct Found {
    rounds: Vec<Round>,
    proof: Proof,
}

impl Found {
    fn new(arm: &Arm) -> Self {
        Self {
            rounds: Vec::new(),
            proof: Proof::of(arm),
        }
    }

    fn add(&mut self, counts: &Counts, round: Option<Round>) {
        self.proof.add(counts);
        self.rounds.extend(round);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_take_turns() {
        let all = ["a", "b", "a", "c", "a", "b"];
        let turns = |round| {
            let turns = has_turn(&all, round);
            let turns = turns.iter().enumerate().filter(|(_, has)| **has);
            turns.map(|(place, _)| place).collect::<Vec<_>>()
        };
        assert_eq!(turns(0), [0, 1, 3]);
        assert_eq!(turns(1), [2, 3, 5]);
        assert_eq!(turns(2), [1, 3, 4]);
        assert_eq!(turns(6), turns(0));
    }
}
