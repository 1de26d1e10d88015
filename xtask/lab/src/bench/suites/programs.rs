//! Run time of each program, by the kernel's own statistics.

use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::sys::{Stats, enable_stats};

use super::{CONNECT, times};
use crate::bench::{
    Arm, Bench, Kind, Settings,
    names::INBOUND,
    options::Only,
    proof::proved,
    record::{Case, Direction, Plan, Quantity},
};

const SLICE: Duration = Duration::from_millis(300);
const WARM_UP: Duration = Duration::from_millis(100);
const DIRECTIONS: [Direction; 2] = [Direction::Outbound, Direction::Inbound];

pub(super) fn run(plan: &Plan, bench: &mut Bench) -> Result<()> {
    if !bench.wants(Only::Programs) {
        return Ok(());
    }
    let times = times(plan, 3, 21);
    // Whose programs the others run, nobody knows.
    let kinds = [Kind::Ours, Kind::EmptyPrograms, Kind::NeededCalls];
    // All at once, as the pods of a node are: where the code of a program comes to lie makes its run up
    // to twice as long, and what is loaded anew into an empty place lies where it lay before.
    let arms: Result<Vec<_>> = (0..times)
        .flat_map(|_| &kinds)
        .map(|kind| bench.start(kind, &Settings::default()))
        .collect();
    let mut arms = arms?;
    bench.expect_steps(arms.len() as u64);
    for arm in &mut arms {
        bench.step();
        bench.say(&format!("programs of {}", arm.name));
        look_at(bench, arm)?;
    }
    Ok(())
}

fn look_at(bench: &mut Bench, arm: &mut Arm) -> Result<()> {
    let cases = DIRECTIONS.map(|direction| Case {
        direction,
        ..CONNECT
    });
    let cases: Vec<Case> = cases.into_iter().filter(|case| arm.covers(*case)).collect();
    // The first connections hand out numbers.
    for case in &cases {
        proved(arm, *case, |arm| arm.slice(*case, WARM_UP))?;
    }
    for case in cases {
        stretch(bench, arm, case)?;
    }
    Ok(())
}

/// A few thousand connections with statistics on, proved as any others; the statistics are off again
/// when their file is closed, whatever happens.
fn stretch(bench: &mut Bench, arm: &mut Arm, case: Case) -> Result<()> {
    let direction = case.direction;
    let held = arm.programs()?;
    let before = held.runs()?;
    let (slice, _) = proved(arm, case, |arm| {
        let _statistics = enable_stats(Stats::RunTime).context("switching the statistics on")?;
        arm.slice(case, SLICE)
    })?;
    let after = held.runs()?;
    let connections = slice.connections as f64;
    let mut all = 0.0;
    for (id, runs) in &after {
        let before = before
            .get(id)
            .context("a program that was not there before")?;
        let (count, nanos) = (runs.count - before.count, runs.nanos - before.nanos);
        if count == 0 {
            continue;
        }
        let (count, nanos) = (count as f64, nanos as f64);
        all += nanos / connections;
        let program = named(&runs.name, direction);
        let run = Quantity::ProgramRun {
            program: program.clone(),
        };
        bench.find(&run, &arm.name, None, nanos / count);
        bench.find(
            &Quantity::ProgramRuns { program },
            &arm.name,
            None,
            count / connections,
        );
    }
    let sum = match direction {
        Direction::Outbound => Quantity::ProgramsPerConnection,
        Direction::Inbound => Quantity::ProgramsPerInboundConnection,
    };
    bench.find(&sum, &arm.name, None, all);
    Ok(())
}

/// Some programs run for both directions, and not for as long.
fn named(program: &str, direction: Direction) -> String {
    match direction {
        Direction::Outbound => program.to_owned(),
        Direction::Inbound => format!("{program}{INBOUND}"),
    }
}
