//! Connects beside connections that stay open, and how many of these one pod address can have.

use anyhow::{Result, ensure};

use super::{CONNECT, sweep};
use crate::bench::{
    Arm, Bench, Settings,
    holders::{Holders, free_ports},
    options::Only,
    record::{Plan, Point, Quantity, Sweep},
};

const POINTS: [u64; 5] = [0, 1_000, 10_000, 50_000, 200_000];
const QUICK_POINTS: [u64; 3] = [0, 1_000, 10_000];

pub(super) fn run(plan: &Plan, bench: &mut Bench) -> Result<()> {
    if !bench.wants(Only::Open) {
        return Ok(());
    }
    let points: &[u64] = if plan.quick { &QUICK_POINTS } else { &POINTS };
    let mut arms = bench.start_all(&Settings::default())?;
    let mut holders: Vec<Holders> = arms.iter().map(|_| Holders::default()).collect();
    for arm in &arms {
        free_ports(arm)?;
    }
    for &value in points {
        bench.expect_steps(arms.len() as u64);
        grow(bench, &mut arms, &mut holders, value)?;
        for arm in &mut arms {
            arm.at = Some(Point {
                sweep: Sweep::OpenConnections,
                value,
            });
        }
        bench.interleave(sweep(plan), &[CONNECT], &mut arms)?;
        for arm in &mut arms {
            // Holders listen where workers do.
            arm.dismiss();
        }
    }
    // What is left here has got as far as it was asked to.
    if !plan.quick {
        for (arm, held) in arms.iter().zip(&holders) {
            found(bench, arm, held.opened);
        }
    }
    Ok(())
}

/// Every arm gets so many; one that cannot have them says how many it had, and is out.
fn grow(
    bench: &mut Bench,
    arms: &mut Vec<Arm>,
    holders: &mut Vec<Holders>,
    value: u64,
) -> Result<()> {
    let mut kept = Vec::new();
    for (mut arm, mut held) in arms.drain(..).zip(holders.drain(..)) {
        bench.step();
        bench.say(&format!("{value} open connections in {}", arm.name));
        let (opened, failed) = (held.opened, held.failed);
        // What was done since is proved already.
        arm.counted()?;
        held.grow(&arm, value)?;
        held.prove(&mut arm, opened)?;
        if held.opened < value {
            ensure!(
                value > 20_000,
                "{}: {} of {value} connections came about, {} did not",
                arm.name,
                held.opened,
                held.failed - failed
            );
            found(bench, &arm, held.opened);
        } else {
            kept.push((arm, held));
        }
    }
    (*arms, *holders) = kept.into_iter().unzip();
    Ok(())
}

fn found(bench: &mut Bench, arm: &Arm, opened: u64) {
    bench.find(&Quantity::OpenConnections, &arm.name, None, opened as f64);
}
