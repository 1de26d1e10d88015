//! The run as its suites see it: arms are started here, work in turn, and prove what they did.

use std::{collections::BTreeMap, fmt, time::Duration};

use anyhow::{Context as _, Error, Result};
use indicatif::{ProgressBar, ProgressStyle};

use super::{
    arm::{Arm, Kind, Settings},
    crew::{Arrived, Slice},
    options::{Only, Options},
    record::{ArmInfo, Case, Direction, Finding, Measurement, Plan, Point, Proof, Quantity, Round},
};
use crate::conformance::{Redirected, rng::Rng};

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

/// An arm has not done what it claims, as far as anybody can tell: the run is worth nothing.
#[derive(Debug)]
pub struct Unproven(pub(super) String);

impl fmt::Display for Unproven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unproven {}

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
    /// slices to compare are made beside each other. Each arm's case is at the arm's own point of a
    /// sweep. Every slice is proved.
    pub fn interleave_with(
        &mut self,
        schedule: Schedule,
        cases: &[Case],
        arms: &mut [Arm],
        slice: &mut dyn FnMut(&mut Arm, Case, Duration) -> Result<Slice>,
    ) -> Result<()> {
        let rounds = schedule.warm_up_rounds + schedule.rounds;
        let slices = cases.len() * arms.len();
        self.expect_steps(u64::from(rounds) * slices as u64);
        let mut found = BTreeMap::new();
        for round in 0..rounds {
            if round == 1 {
                self.break_one(arms)?;
            }
            for case in cases {
                let mut order: Vec<&mut Arm> = arms.iter_mut().collect();
                self.rng.shuffle(&mut order);
                for arm in order {
                    self.step();
                    if !arm.covers(case.direction) {
                        continue;
                    }
                    let case = Case {
                        at: arm.at,
                        ..*case
                    };
                    self.say(&format!("round {round}: {} in {}", name(case), arm.name));
                    let (made, proof) = proved(arm, case, |arm| slice(arm, case, schedule.slice))?;
                    let entry = found.entry((case, arm.name.clone()));
                    let entry: &mut Found = entry.or_insert_with(|| Found::new(arm));
                    entry.add(
                        &proof,
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
    fn break_one(&mut self, arms: &[Arm]) -> Result<()> {
        let Some(name) = &self.options.broken else {
            return Ok(());
        };
        let arm = arms.iter().find(|arm| arm.name == *name);
        arm.with_context(|| format!("no arm {name} to break"))?
            .break_it()
    }

    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

struct Found {
    rounds: Vec<Round>,
    proof: Proof,
}

impl Found {
    fn new(arm: &Arm) -> Self {
        Self {
            rounds: Vec::new(),
            proof: Proof {
                connections: 0,
                redirected: 0,
                by: arm.counted_by(),
            },
        }
    }

    fn add(&mut self, proof: &Counts, round: Option<Round>) {
        self.proof.connections += proof.connections;
        self.proof.redirected += proof.redirected;
        self.rounds.extend(round);
    }
}

struct Counts {
    connections: u64,
    redirected: u64,
}

/// Work, and the proof that its connections went where the arm says: every one of them was
/// redirected and is counted as such, or none at all.
fn proved(
    arm: &mut Arm,
    case: Case,
    work: impl FnOnce(&mut Arm) -> Result<Slice>,
) -> Result<(Slice, Counts)> {
    let made = work(arm);
    // Whatever became of the work, what redirects is asked first.
    let counted = arm.counted();
    let counted =
        counted.map_err(|error| error.context(unproven(arm, case, "it cannot be asked")))?;
    let made = made.map_err(|error| {
        let what = format!("a connection did not come about, {}", how_many(counted));
        error.context(unproven(arm, case, &what))
    })?;
    let redirected = check(&made, counted, arm.is_redirected(), case.direction)
        .map_err(|what| Error::new(unproven(arm, case, &what)))?;
    let counts = Counts {
        connections: made.connections,
        redirected,
    };
    Ok((made, counts))
}

fn unproven(arm: &Arm, case: Case, what: &str) -> Unproven {
    let claim = if arm.is_redirected() {
        "lost its redirect"
    } else {
        "is not without redirection"
    };
    Unproven(format!("{} {claim}: {what} ({})", arm.name, name(case)))
}

fn how_many(counted: Option<Redirected>) -> String {
    match counted {
        Some(Redirected { outbound, inbound }) => {
            format!("{outbound} outbound and {inbound} inbound ones are counted")
        }
        None => "and there are no counters".to_owned(),
    }
}

/// How many connections were redirected; an error where that is not what should have been.
fn check(
    made: &Slice,
    counted: Option<Redirected>,
    is_redirected: bool,
    direction: Direction,
) -> Result<u64, String> {
    let connections = made.connections;
    let wanted = if is_redirected { connections } else { 0 };
    if let Some(arrived) = made.arrived {
        check_arrived(arrived, connections, wanted, counted.is_some())?;
    }
    let Some(Redirected { outbound, inbound }) = counted else {
        return match made.arrived {
            Some(_) => Ok(wanted),
            None => Err("nothing tells where its connections went".to_owned()),
        };
    };
    let (redirected, other) = match direction {
        Direction::Outbound => (outbound, inbound),
        Direction::Inbound => (inbound, outbound),
    };
    if redirected != wanted || other != 0 {
        return Err(format!(
            "{connections} connections, {redirected} counted, {other} the other way"
        ));
    }
    Ok(redirected)
}

fn check_arrived(
    arrived: Arrived,
    connections: u64,
    redirected: u64,
    has_counters: bool,
) -> Result<(), String> {
    if arrived.connections != connections {
        return Err(format!(
            "{connections} connections, {} arrived",
            arrived.connections
        ));
    }
    // What has no counter may have no SO_ORIGINAL_DST either.
    if has_counters && arrived.with_original_dst != redirected {
        return Err(format!(
            "{connections} connections, {} of them with an original destination",
            arrived.with_original_dst
        ));
    }
    Ok(())
}

/// A case for people.
pub fn name(case: Case) -> String {
    format!("{:?} {:?}, {:?} cpu", case.work, case.direction, case.cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTED: u64 = 5;

    fn slice(connections: u64, with_original_dst: u64) -> Slice {
        Slice {
            round: Round {
                operations: 1,
                elapsed: 1,
                cpu: 1,
                p50: 1,
                p99: 1,
                p999: 1,
            },
            connections,
            arrived: Some(Arrived {
                connections,
                with_original_dst,
                original_dst: None,
            }),
        }
    }

    fn counted(outbound: u64, inbound: u64) -> Option<Redirected> {
        Some(Redirected { outbound, inbound })
    }

    #[test]
    fn every_connection_is_redirected_or_none() {
        let made = slice(COUNTED, COUNTED);
        let check = |counted| check(&made, counted, true, Direction::Outbound);
        assert_eq!(check(counted(COUNTED, 0)), Ok(COUNTED));
        for wrong in [
            (COUNTED - 1, 0),
            (COUNTED + 1, 0),
            (0, COUNTED),
            (COUNTED, 1),
        ] {
            check(counted(wrong.0, wrong.1)).unwrap_err();
        }
        let direct = slice(COUNTED, 0);
        let check = |counted| super::check(&direct, counted, false, Direction::Inbound);
        assert_eq!(check(counted(0, 0)), Ok(0));
        check(counted(0, 1)).unwrap_err();
    }

    #[test]
    fn the_proxy_sees_every_connection_and_its_destination() {
        for (original, is_redirected) in [(COUNTED - 1, true), (1, false)] {
            let made = slice(COUNTED, original);
            let count = if is_redirected { COUNTED } else { 0 };
            let counted = counted(count, 0);
            check(&made, counted, is_redirected, Direction::Outbound).unwrap_err();
        }
        let mut made = slice(COUNTED, COUNTED);
        made.connections += 1;
        check(&made, counted(COUNTED + 1, 0), true, Direction::Outbound).unwrap_err();
    }

    #[test]
    fn without_counters_the_proxy_must_have_seen_them() {
        let mut made = slice(COUNTED, 0);
        let checked = |made: &Slice| check(made, None, true, Direction::Outbound);
        assert_eq!(checked(&made), Ok(COUNTED));
        made.arrived = None;
        checked(&made).unwrap_err();
    }
}
