//! What is given up: a round trip of one byte. `--nocapture` prints it.
#![expect(clippy::print_stdout, reason = "a measurement")]

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::pair::Pair;

const ROUNDS: usize = 21;
const TRIPS: u32 = 1_000;

fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu).unwrap();
    sched_setaffinity(Pid::from_raw(0), &set).unwrap();
}

/// One side's part of the trips.
fn trips(mut socket: &TcpStream, asks: bool) {
    let mut bytes = [b'x'];
    for _ in 0..TRIPS {
        if asks {
            socket.write_all(&bytes).unwrap();
        }
        socket.read_exact(&mut bytes).unwrap();
        if !asks {
            socket.write_all(&bytes).unwrap();
        }
    }
}

fn time(pair: &Pair, cpus: [usize; 2]) -> Duration {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pin(cpus[1]);
            trips(&pair.receiver, false);
        });
        let asker = scope.spawn(|| {
            pin(cpus[0]);
            let begun = Instant::now();
            trips(&pair.sender, true);
            begun.elapsed()
        });
        asker.join().unwrap()
    })
}

/// Middle, quartiles and ends of all rounds but the first, which warms up.
fn spread(values: &[f64]) -> String {
    let mut values = values[1..].to_vec();
    values.sort_by(f64::total_cmp);
    let at = |part: f64| values[((values.len() - 1) as f64 * part).round() as usize];
    format!(
        "{:.3} (quartiles {:.3} to {:.3}, all {:.3} to {:.3})",
        at(0.5),
        at(0.25),
        at(0.75),
        at(0.0),
        at(1.0)
    )
}

fn measure(name: &str, cpus: [usize; 2]) {
    let (plain, one_way, joined) = (Pair::plain(), Pair::joined_one_way(), Pair::joined());
    let (mut micros, mut one_way_ratios, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..=ROUNDS {
        let base = time(&plain, cpus).as_secs_f64();
        one_way_ratios.push(time(&one_way, cpus).as_secs_f64() / base);
        ratios.push(time(&joined, cpus).as_secs_f64() / base);
        micros.push(base * 1e6 / f64::from(TRIPS));
    }
    println!("{name}, a byte there and back");
    println!("  plain TCP, microseconds: {}", spread(&micros));
    println!("  one way joined, ratio: {}", spread(&one_way_ratios));
    println!("  both ways joined, ratio: {}", spread(&ratios));
    let bytes = u64::from(TRIPS) * (ROUNDS as u64 + 1);
    assert_eq!(
        (one_way.handed_over(), joined.handed_over()),
        (bytes, 2 * bytes),
        "a byte did not go the way that was timed"
    );
}

#[test]
fn a_round_trip_would_be_faster() {
    measure("on one processor", [0, 0]);
    measure("across two processors", [0, 1]);
}
