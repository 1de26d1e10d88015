//! That a redirected connection costs next to nothing: a bound to notice when it does not.
//! `cargo xtask bench` measures it. Needs root; leaves nothing behind.
#![expect(clippy::unwrap_used, reason = "in a test it is a failure of the test")]

use std::time::Duration;

use sidecar_lab::bench::{
    Arm, Kind, Settings,
    record::{Case, Cpus, Direction, Work},
    stats::median,
};

/// The redirect may make a connect this much dearer, on a machine that does other things too.
const LIMIT: f64 = 1.2;
const ROUNDS: usize = 25;
const SLICE: Duration = Duration::from_millis(40);
const CONNECT: Case = Case {
    work: Work::Connect,
    direction: Direction::Outbound,
    cpus: Cpus::One,
    at: None,
};

fn per_connection(arm: &mut Arm) -> f64 {
    let slice = arm.slice(CONNECT, SLICE).unwrap();
    let counted = arm.counted().unwrap().unwrap();
    let expected = if arm.is_redirected() {
        slice.connections
    } else {
        0
    };
    assert_eq!(
        counted.outbound, expected,
        "{} does not do its work",
        arm.name
    );
    slice.round.per_operation()
}

#[test]
fn a_redirected_connect_costs_little_more_than_a_plain_one() {
    let mut plain = Arm::start(&Kind::None, &Settings::default()).unwrap();
    let mut redirected = Arm::start(&Kind::Ours, &Settings::default()).unwrap();
    // One round more than counts: the first warms up.
    let ratios: Vec<f64> = (0..=ROUNDS)
        .map(|_| {
            let plain = per_connection(&mut plain);
            per_connection(&mut redirected) / plain
        })
        .skip(1)
        .collect();
    let ratio = median(&ratios).unwrap();
    assert!(
        ratio <= LIMIT,
        "a redirected connect costs {ratio:.3} times a plain one: {ratios:.2?}"
    );
}
