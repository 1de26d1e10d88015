//! A record as a run might make it, for tests.

use super::{
    names::{BASE, OURS},
    record::{
        ArmInfo, Case, Cpus, Direction, Environment, FORMAT, Finding, Measurement, Plan, Point,
        Proof, Quantity, Record, Round, Sweep, Work,
    },
};

pub(super) const ROUNDS: u32 = 25;

/// Each arm: its name, and a connect's and a round trip's time by that of no redirection.
const ARMS: [(&str, f64, f64); 5] = [
    (BASE, 1.0, 1.0),
    ("iptables-legacy", 1.42, 1.24),
    ("iptables-nft", 1.51, 1.27),
    ("nftables", 1.38, 1.22),
    (OURS, 1.07, 1.004),
];

pub(super) fn record() -> Record {
    let mut measurements = Vec::new();
    for direction in [Direction::Outbound, Direction::Inbound] {
        for cpus in [Cpus::One, Cpus::Two] {
            let case = |work| Case {
                work,
                direction,
                cpus,
                at: None,
            };
            for (arm, connect, round_trip) in ARMS {
                measurements.push(measurement(case(Work::Connect), arm, 21_000.0 * connect));
                for (bytes, time) in [(1, 4_800.0), (1024, 5_300.0)] {
                    let case = case(Work::RoundTrip { bytes });
                    measurements.push(measurement(case, arm, time * round_trip));
                }
                measurements.push(measurement(case(Work::Bulk), arm, 210_000.0 * round_trip));
                measurements.push(measurement(case(Work::Http), arm, 61_000.0 * connect));
            }
        }
    }
    for value in [1, 10, 100, 1000, 10_000] {
        for (arm, connect, _) in &ARMS {
            let grows = if arm.contains("tables") { 14.0 } else { 0.002 };
            let time = 21_000.0 * connect + grows * value as f64;
            measurements.push(measurement(swept(Sweep::ExcludedRanges, value), arm, time));
        }
    }
    for value in [0, 1000, 10_000, 50_000, 200_000] {
        for (arm, connect, _) in [ARMS[0], ARMS[2], ARMS[4]] {
            if arm != "iptables-nft" || value < 64_000 {
                let case = swept(Sweep::OpenConnections, value);
                measurements.push(measurement(case, arm, 21_000.0 * connect));
            }
        }
    }
    let arms = ARMS.map(|(name, ..)| ArmInfo {
        name: name.into(),
        description: format!("what {name} stands for"),
    });
    Record {
        format: FORMAT,
        environment: environment(),
        plan: Plan {
            seed: 1,
            quick: false,
            rounds: ROUNDS,
            warm_up_rounds: 2,
            pods: 2,
            slice: 250_000_000,
        },
        arms: arms.into(),
        measurements,
        findings: findings(),
    }
}

fn environment() -> Environment {
    Environment {
        date: "2026-01-02T03:04:05Z".into(),
        commit: "0123abc".into(),
        kernel: "6.18.0".into(),
        cpu: "Example CPU @ 2.00GHz".into(),
        cpus: 2,
        memory: 8 << 30,
        stolen: 0.0125,
        tools: vec![("iptables-nft".into(), "1.8.9".into())],
    }
}

fn swept(sweep: Sweep, value: u64) -> Case {
    Case {
        work: Work::Connect,
        direction: Direction::Outbound,
        cpus: Cpus::One,
        at: Some(Point { sweep, value }),
    }
}

/// Rounds about a time per operation, some per cent more or less, with an outlier.
pub(super) fn measurement(case: Case, arm: &str, time: f64) -> Measurement {
    let rounds = (0..ROUNDS).map(|number| {
        // All arms share what a round brings; each has a little of its own.
        let shared = f64::from(number * 7 % 11) / 100.0;
        let own = f64::from(number * (arm.len() as u32 * 3 + 1) % 13) / 1000.0;
        let outlier = if number == 11 { 1.0 } else { 0.0 };
        let time = time * (1.0 + shared + own + outlier);
        let operations = (2.5e8 / time) as u64;
        Round {
            operations,
            elapsed: (operations as f64 * time) as u64,
            cpu: (operations as f64 * time * 0.97) as u64,
            p50: (time * 0.98) as u64,
            p99: (time * 1.6) as u64,
            p999: (time * 4.0) as u64,
        }
    });
    let connections = 10_000;
    Measurement {
        case,
        arm: arm.into(),
        rounds: rounds.collect(),
        proof: Proof {
            connections,
            redirected: if arm == BASE { 0 } else { connections },
            counted_beyond: 0,
            by: format!("the counters of {arm}"),
        },
    }
}

fn findings() -> Vec<Finding> {
    let program = || "connect4".to_owned();
    let mut all = Vec::new();
    let mut found = |what, arm: &str, values: &[f64]| {
        all.push(Finding {
            what,
            arm: arm.into(),
            at: None,
            values: values.into(),
        });
    };
    found(Quantity::Attach, OURS, &[9.1e6, 9.4e6, 8.8e6]);
    found(Quantity::Attach, "iptables-nft", &[14.1e6, 15.0e6]);
    found(Quantity::PodMemory, OURS, &[700_000.0]);
    found(Quantity::ConnectionMemory, OURS, &[0.0]);
    found(Quantity::ConnectionMemory, "iptables-nft", &[320.0]);
    found(Quantity::OpenConnections, OURS, &[200_000.0]);
    found(Quantity::OpenConnections, "iptables-nft", &[64_511.0]);
    found(Quantity::ProgramRun { program: program() }, OURS, &[187.0]);
    found(Quantity::ProgramRuns { program: program() }, OURS, &[1.0]);
    found(Quantity::ProgramsPerConnection, OURS, &[431.0]);
    for (value, times) in [
        (1, [9e6, 9.3e6]),
        (100, [9.2e6, 9.5e6]),
        (10_000, [21e6, 22e6]),
    ] {
        for (arm, by) in [(OURS, 1.0), ("iptables-nft", 1.0 + value as f64 / 2000.0)] {
            all.push(Finding {
                what: Quantity::Attach,
                arm: arm.into(),
                at: Some(Point {
                    sweep: Sweep::ExcludedRanges,
                    value,
                }),
                values: times.map(|time| time * by).into(),
            });
        }
    }
    all
}
