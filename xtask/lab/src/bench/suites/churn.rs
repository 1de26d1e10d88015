//! Connections that come and go: how many in a second, and how many do not come about, also where
//! conntrack has hardly any room.

use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::times;
use crate::{
    Agent, ChurnPlan, Churned,
    bench::{
        Arm, Bench, Kind, Settings,
        arm::Front,
        holders::{Holders, free_ports, targets},
        kernel::{self, TrackLimit},
        options::Only,
        proof::Unproven,
        record::{Plan, Point, Quantity, Sweep},
    },
};

const THREADS: u32 = 4;
/// On one machine a connect takes microseconds; the kernel sends what was dropped again after a
/// second.
const PATIENCE: Duration = Duration::from_millis(20);
/// Enough that the machine's own connections do not matter.
const HELD: u64 = 5_000;
/// For how many more connections conntrack has room.
const ROOM: [u64; 2] = [1_000, 0];

pub(super) fn run(plan: &Plan, bench: &mut Bench) -> Result<()> {
    if !bench.wants(Only::Churn) {
        return Ok(());
    }
    let rounds = times(plan, 2, 10);
    let time = Duration::from_millis(if plan.quick { 200 } else { 1_000 });
    let mut arms = bench.start_all(&Settings::default())?;
    let mut all = Vec::new();
    for arm in arms.drain(..) {
        free_ports(&arm)?;
        let mut holders = Holders::default();
        holders.grow(&arm, HELD)?;
        ensure!(holders.opened == HELD, "{}: {holders:?}", arm.name);
        let front = arm.listen(&Agent::spawn(&arm.pod.app())?)?;
        all.push((front, holders, arm));
    }
    let rooms = ROOM.map(Some);
    let points = [None].into_iter().chain(rooms);
    let points: Vec<_> = points.collect();
    bench.expect_steps(u64::from(rounds) * (all.len() * points.len()) as u64);
    for room in points {
        for _ in 0..rounds {
            for (front, _, arm) in &mut all {
                bench.step();
                bench.say(&format!("connections come and go in {}", arm.name));
                one(bench, front, arm, room, time)?;
            }
        }
    }
    Ok(())
}

fn one(
    bench: &mut Bench,
    front: &Front,
    arm: &mut Arm,
    room: Option<u64>,
    time: Duration,
) -> Result<()> {
    arm.counted()?;
    let limit = room.map(|room| limit(arm, room)).transpose()?;
    let churned = front.outbound.churn(ChurnPlan {
        targets: targets(arm),
        threads: THREADS,
        time,
        patience: PATIENCE,
    })?;
    drop(limit);
    prove(arm, churned, room)?;
    let at = room.map(|value| Point {
        sweep: Sweep::TrackingRoom,
        value,
    });
    let rate = churned.connections as f64 / churned.elapsed.as_secs_f64();
    let attempts = (churned.connections + churned.failed).max(1);
    let failures = churned.failed as f64 / attempts as f64;
    bench.find(&Quantity::ChurnRate, &arm.name, at, rate);
    bench.find(&Quantity::ChurnFailures, &arm.name, at, failures);
    Ok(())
}

/// Leaves so much room in the namespace of the arm. Where nothing is tracked, the limit is what it
/// would be if each connection were.
fn limit(arm: &Arm, room: u64) -> Result<TrackLimit> {
    let tracked = kernel::tracked(&arm.pod.netns_path())?;
    TrackLimit::set(tracked.max(HELD) + room)
}

/// A connection that did not come about may have met the rule or not. One that has the ports of an
/// earlier one that conntrack still knows is redirected as that was, and counted nowhere: of rules,
/// `SO_ORIGINAL_DST` has to say that all were redirected.
fn prove(arm: &mut Arm, churned: Churned, room: Option<u64>) -> Result<()> {
    let Some(counted) = arm.counted()? else {
        return Ok(());
    };
    let most = churned.connections + churned.failed;
    let least = match (room, arm.kind()) {
        (Some(_), _) => 0,
        (None, Kind::Rules(_)) => 1,
        (None, _) => churned.connections,
    };
    let is_right = if arm.is_redirected() {
        (least..=most).contains(&counted.outbound) && churned.redirected >= churned.connections
    } else {
        (counted.outbound, churned.redirected) == (0, 0)
    };
    if is_right {
        return Ok(());
    }
    bail!(Unproven(format!(
        "{} lost its redirect: {churned:?}, {counted:?} counted",
        arm.name
    )))
}
