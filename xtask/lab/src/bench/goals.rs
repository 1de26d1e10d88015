//! What the redirect may cost, and whether a record shows that it does not cost more.

use anyhow::Result;

use super::{
    names::{BASE, CALLS, EMPTY, OURS, Unit},
    record::{Case, Cpus, Direction, Finding, Point, Quantity, Record, Round, Sweep, Work},
    stats::Estimate,
};

#[derive(Clone, Copy, Debug)]
pub struct Goal {
    pub name: &'static str,
    pub subject: Subject,
    pub limit: Limit,
    pub floor: Floor,
}

/// What the kernel takes of it whatever the programs do, where that is measured too.
#[derive(Clone, Copy, Debug)]
pub enum Floor {
    Unknown,
    /// The same of connections that go the same way, with programs that do nothing in the same places,
    /// and with programs there that only make the calls which no redirect can do without.
    Programs,
}

/// Where a record has it.
#[derive(Clone, Copy, Debug)]
pub enum Subject {
    /// Time per operation by that of no redirection, on one CPU; of several cases the worst.
    ToBase {
        work: fn(Work) -> bool,
        direction: Direction,
    },
    /// Time of an outbound connect at the one point by that at the other, of the same arm.
    Along { sweep: Sweep, from: u64, to: u64 },
    /// Of several the one that [`Limit`] likes least.
    Found {
        what: fn(&Quantity) -> bool,
        unit: Unit,
    },
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Met,
    Missed,
    NotMeasured,
}

/// A goal beside what a record shows.
#[derive(Debug)]
pub struct Judged {
    pub goal: &'static Goal,
    pub measured: Option<Measured>,
    /// The same of programs that do nothing.
    pub empty: Option<Measured>,
    /// The same of programs that only make the calls which no redirect can do without.
    pub calls: Option<Measured>,
    /// The same of the other arms that were measured.
    pub others: Vec<(String, Measured)>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Measured {
    /// Which of several cases or programs this is.
    pub of: String,
    pub estimate: Estimate,
    pub unit: Unit,
}

const MIB: f64 = 1_048_576.0;

pub const GOALS: &[Goal] = &[
    Goal {
        name: "outbound connect, one CPU, default policy",
        subject: Subject::ToBase {
            work: |work| work == Work::Connect,
            direction: Direction::Outbound,
        },
        limit: Limit::AtMost(1.10),
        floor: Floor::Programs,
    },
    Goal {
        name: "inbound connect over veth, one CPU",
        subject: Subject::ToBase {
            work: |work| work == Work::Connect,
            direction: Direction::Inbound,
        },
        limit: Limit::AtMost(1.08),
        floor: Floor::Unknown,
    },
    Goal {
        name: "outbound round trip, one CPU",
        subject: Subject::ToBase {
            work: |work| matches!(work, Work::RoundTrip { .. }),
            direction: Direction::Outbound,
        },
        limit: Limit::AtMost(1.02),
        floor: Floor::Unknown,
    },
    Goal {
        name: "inbound round trip, one CPU",
        subject: Subject::ToBase {
            work: |work| matches!(work, Work::RoundTrip { .. }),
            direction: Direction::Inbound,
        },
        limit: Limit::AtMost(1.02),
        floor: Floor::Unknown,
    },
    Goal {
        name: "connect with 10,000 excluded ranges against one with 1",
        subject: Subject::Along {
            sweep: Sweep::ExcludedRanges,
            from: 1,
            to: 10_000,
        },
        limit: Limit::AtMost(1.05),
        floor: Floor::Unknown,
    },
    Goal {
        name: "kernel time of the connect program",
        subject: Subject::Found {
            what: is_connect_run,
            unit: Unit::Nanoseconds,
        },
        limit: Limit::AtMost(200.0),
        floor: Floor::Programs,
    },
    Goal {
        name: "kernel time of all programs, per redirected connection",
        subject: Subject::Found {
            what: |what| *what == Quantity::ProgramsPerConnection,
            unit: Unit::Nanoseconds,
        },
        limit: Limit::AtMost(400.0),
        floor: Floor::Programs,
    },
    Goal {
        name: "kernel memory per open connection",
        subject: Subject::Found {
            what: |what| *what == Quantity::ConnectionMemory,
            unit: Unit::Bytes,
        },
        limit: Limit::AtMost(0.0),
        floor: Floor::Unknown,
    },
    Goal {
        name: "open connections from one pod address",
        subject: Subject::Found {
            what: |what| *what == Quantity::OpenConnections,
            unit: Unit::Count,
        },
        limit: Limit::AtLeast(200_000.0),
        floor: Floor::Unknown,
    },
    Goal {
        name: "kernel memory of an idle pod",
        subject: Subject::Found {
            what: |what| *what == Quantity::PodMemory,
            unit: Unit::Bytes,
        },
        limit: Limit::AtMost(MIB),
        floor: Floor::Unknown,
    },
    Goal {
        name: "attach, programs loaded before",
        subject: Subject::Found {
            what: |what| *what == Quantity::Attach,
            unit: Unit::Nanoseconds,
        },
        limit: Limit::AtMost(20e6),
        floor: Floor::Unknown,
    },
];

/// Of the program for IPv4, as the load is.
fn is_connect_run(what: &Quantity) -> bool {
    matches!(what, Quantity::ProgramRun { program } if program == "connect4")
}

/// Every goal, in order.
pub fn judge(record: &Record) -> Result<Vec<Judged>> {
    GOALS.iter().map(|goal| goal.judge(record)).collect()
}

impl Goal {
    fn judge(&'static self, record: &Record) -> Result<Judged> {
        let measured = self.measured(record, OURS)?;
        let mut others = Vec::new();
        for arm in record.arm_names().filter(|arm| *arm != OURS) {
            if let Some(measured) = self.measured(record, arm)? {
                others.push((arm.to_owned(), measured));
            }
        }
        Ok(Judged {
            goal: self,
            measured,
            empty: self.floor(record, EMPTY)?,
            calls: self.floor(record, CALLS)?,
            others,
        })
    }

    fn floor(&self, record: &Record, arm: &str) -> Result<Option<Measured>> {
        match self.floor {
            Floor::Unknown => Ok(None),
            Floor::Programs => self.measured(record, arm),
        }
    }

    fn measured(&self, record: &Record, arm: &str) -> Result<Option<Measured>> {
        let candidates = match self.subject {
            Subject::ToBase { .. } if arm == BASE => Vec::new(),
            Subject::ToBase { work, direction } => to_base(record, arm, work, direction)?,
            Subject::Along { sweep, from, to } => along(record, arm, sweep, [from, to])?,
            Subject::Found { what, .. } => found(record, arm, what)?,
        };
        let worst = candidates
            .into_iter()
            .max_by(|a, b| self.limit.excess(a).total_cmp(&self.limit.excess(b)));
        Ok(worst)
    }
}

fn to_base(
    record: &Record,
    arm: &str,
    work: fn(Work) -> bool,
    direction: Direction,
) -> Result<Vec<Measured>> {
    let mut all = Vec::new();
    let is_it =
        |case: &Case| work(case.work) && case.direction == direction && case.cpus == Cpus::One;
    for case in record.cases().into_iter().filter(is_it) {
        if let Some(estimate) = record.ratio(&case, arm, Round::per_operation)? {
            all.push(Measured {
                of: case.work.to_string(),
                estimate,
                unit: Unit::Ratio,
            });
        }
    }
    Ok(all)
}

fn along(record: &Record, arm: &str, sweep: Sweep, ends: [u64; 2]) -> Result<Vec<Measured>> {
    let [from, to] = ends.map(|value| {
        let case = Case {
            work: Work::Connect,
            direction: Direction::Outbound,
            cpus: Cpus::One,
            at: Some(Point { sweep, value }),
        };
        record.find(&case, arm)
    });
    let (Some(from), Some(to)) = (from, to) else {
        return Ok(Vec::new());
    };
    Ok(vec![Measured {
        of: to.case.work.to_string(),
        estimate: to.compare(from, Round::per_operation)?,
        unit: Unit::Ratio,
    }])
}

/// Outside of sweeps if it was looked at there, else at the lowest value.
fn found(record: &Record, arm: &str, is_it: fn(&Quantity) -> bool) -> Result<Vec<Measured>> {
    let of_arm = || {
        let findings = record.findings.iter();
        findings.filter(|finding| finding.arm == arm && is_it(&finding.what))
    };
    let place = |finding: &Finding| finding.at.map_or(0, |point| point.value);
    let plainest = of_arm().map(|finding| finding.at.is_some()).min();
    let lowest = of_arm()
        .filter(|finding| Some(finding.at.is_some()) == plainest)
        .map(place)
        .min();
    let here = of_arm()
        .filter(|finding| Some(finding.at.is_some()) == plainest && Some(place(finding)) == lowest);
    here.map(|finding| {
        Ok(Measured {
            of: finding.what.to_string(),
            estimate: finding.estimate()?,
            unit: finding.what.unit(),
        })
    })
    .collect()
}

impl Limit {
    pub fn value(self) -> f64 {
        match self {
            Self::AtMost(value) | Self::AtLeast(value) => value,
        }
    }

    /// What exceeds 0 misses the goal. Whole bytes, connections and nanoseconds count; of ratios,
    /// everything does.
    fn excess(self, measured: &Measured) -> f64 {
        let median = match measured.unit {
            Unit::Ratio => measured.estimate.median,
            Unit::Bytes | Unit::Count | Unit::Nanoseconds => measured.estimate.median.round(),
        };
        self.beyond(median)
    }

    fn beyond(self, value: f64) -> f64 {
        match self {
            Self::AtMost(limit) => value - limit,
            Self::AtLeast(limit) => limit - value,
        }
    }
}

impl Judged {
    pub fn verdict(&self) -> Verdict {
        match &self.measured {
            None => Verdict::NotMeasured,
            Some(measured) if self.goal.limit.excess(measured) <= 0.0 => Verdict::Met,
            Some(_) => Verdict::Missed,
        }
    }

    /// Whether the limit lies within the confidence interval, so that another run may say
    /// otherwise.
    pub fn is_close(&self) -> bool {
        let interval = self.measured.as_ref().and_then(|m| m.estimate.interval);
        interval.is_some_and(|interval| {
            (interval.low..=interval.high).contains(&self.goal.limit.value())
                && interval.low < interval.high
        })
    }

    /// The goal's limit, as people write it.
    pub fn limit(&self) -> String {
        let unit = match self.goal.subject {
            Subject::ToBase { .. } | Subject::Along { .. } => None,
            Subject::Found { unit, .. } => Some(unit),
        };
        let show = |value: f64| match unit {
            None => format!("{value:.2}"),
            Some(unit) => unit.show(value),
        };
        match self.goal.limit {
            Limit::AtMost(0.0) => show(0.0),
            Limit::AtMost(value) => format!("≤ {}", show(value)),
            Limit::AtLeast(value) => format!("≥ {}", show(value)),
        }
    }
}

#[cfg(test)]
mod tests;
