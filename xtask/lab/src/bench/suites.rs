//! What a run measures, part by part.

mod attach;
mod churn;
mod http;
mod lists;
mod memory;
mod open;
mod paths;
mod programs;

use std::time::Duration;

use super::{
    record::{Case, Cpus, Direction, Plan, Work},
    session::{Schedule, Suite},
};

pub(super) const ALL: [Suite; 8] = [
    paths::run,
    http::run,
    attach::run,
    memory::run,
    programs::run,
    lists::run,
    open::run,
    churn::run,
];

/// What sweeps go through: the connect whose cost everything else is compared with.
const CONNECT: Case = Case {
    work: Work::Connect,
    direction: Direction::Outbound,
    cpus: Cpus::One,
    at: None,
};

/// How often something is looked at that is not done in slices.
fn times(plan: &Plan, quick: u32, full: u32) -> u32 {
    plan.rounds.min(if plan.quick { quick } else { full })
}

/// A sweep has many arms, so fewer rounds of each must do.
fn sweep(plan: &Plan) -> Schedule {
    let slice = Duration::from_nanos(plan.slice);
    let (warm_up_rounds, rounds) = if plan.quick {
        (1, plan.rounds.min(3))
    } else {
        (2, plan.rounds.min(20))
    };
    Schedule {
        warm_up_rounds,
        rounds,
        slice: slice.min(Duration::from_millis(50)),
    }
}
