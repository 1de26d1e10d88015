//! Run time of each program, by the kernel's own statistics.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::sys::{Stats, enable_stats};

use super::{CONNECT, times};
use crate::bench::{
    Arm, Bench, Kind, Settings,
    empty::Empty,
    kernel::Held,
    names::INBOUND,
    options::Only,
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
    let kinds = bench.kinds().into_iter();
    // Whose programs the others run, nobody knows.
    let ours: Vec<Kind> = kinds.filter(|kind| matches!(kind, Kind::Ours)).collect();
    bench.expect_steps(2 * u64::from(times) * ours.len() as u64);
    for kind in ours {
        // All at once, as the pods of a node are: where the code of a program comes to lie makes its run
        // up to twice as long, and what is loaded anew into an empty place lies where it lay before.
        let arms: Result<Vec<_>> = (0..times)
            .map(|_| bench.start(&kind, &Settings::default()))
            .collect();
        for arm in &mut arms? {
            look_at(bench, arm)?;
        }
    }
    Ok(())
}

fn look_at(bench: &mut Bench, arm: &mut Arm) -> Result<()> {
    // The first ones hand out numbers.
    for direction in DIRECTIONS {
        let case = Case {
            direction,
            ..CONNECT
        };
        arm.slice(case, WARM_UP)?;
    }
    for direction in DIRECTIONS {
        bench.step();
        bench.say(&format!("programs of {}", arm.name));
        stretch(bench, arm, direction)?;
    }
    Ok(())
}

/// A few thousand connections with statistics on; they are off again when the file is closed,
/// whatever happens.
fn stretch(bench: &mut Bench, arm: &mut Arm, direction: Direction) -> Result<()> {
    let loader = arm.loader().context("an arm without a loader")?;
    let held = Held::of(loader.pid())?;
    let empty = Empty::attach(&arm.pod.cgroup())?;
    arm.counted()?;
    let (before, empty_before) = (held.runs()?, empty.runs()?);
    let statistics = enable_stats(Stats::RunTime).context("switching the statistics on")?;
    let slice = arm.slice(
        Case {
            direction,
            ..CONNECT
        },
        SLICE,
    )?;
    drop(statistics);
    let (after, empty_after) = (held.runs()?, empty.runs()?);
    let counted = arm.counted()?.unwrap_or_default();
    let redirected = match direction {
        Direction::Outbound => counted.outbound,
        Direction::Inbound => counted.inbound,
    };
    ensure!(
        redirected == slice.connections && redirected > 0,
        "{} connections, {redirected} counted",
        slice.connections
    );
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
    // Inbound, nobody in the pod connects.
    if let Some(each) = empty_after.each_since(empty_before) {
        bench.find(&Quantity::EmptyRun, &arm.name, None, each);
    }
    Ok(())
}

/// Some programs run for both directions, and not for as long.
fn named(program: &str, direction: Direction) -> String {
    match direction {
        Direction::Outbound => program.to_owned(),
        Direction::Inbound => format!("{program}{INBOUND}"),
    }
}
