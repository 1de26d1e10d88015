//! The parts of the benchmark that look for something else than the time of an operation, once
//! each. Needs root; leaves nothing behind.
#![expect(clippy::unwrap_used, reason = "in a test it is a failure of the test")]

use std::{fs, process::Command};

use sidecar_lab::{
    bench::record::{Finding, Measurement, Quantity, Record, Sweep, Work},
    process::program,
};

const OURS: &str = "sidecar-ebpf";
const EMPTY: &str = "empty-programs";
const CALLS: &str = "needed-calls";
const RULES: [&str; 3] = ["iptables-legacy", "iptables-nft", "nftables"];
const ENVOY: &str = "SIDECAR_ENVOY";

fn command(parts: &[&str]) -> Command {
    let mut command = Command::new(program("bench").unwrap());
    command.args(["--quick", "--rounds", "1", "--output", "json"]);
    command.args(parts.iter().flat_map(|part| ["--only", part]));
    command
}

#[track_caller]
fn record(mut command: Command) -> Record {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn found(record: &Record, what: &Quantity, arm: &str, at: Option<(Sweep, u64)>) -> Vec<f64> {
    let is_it = |it: &&Finding| {
        let place = it.at.map(|at| (at.sweep, at.value));
        it.what == *what && it.arm == arm && place == at
    };
    let finding = record.findings.iter().find(is_it);
    let finding = finding.unwrap_or_else(|| panic!("no {what:?} of {arm}: {:#?}", record.findings));
    assert!(!finding.values.is_empty(), "{finding:?}");
    finding.values.clone()
}

#[track_caller]
fn assert_proved(measured: &Measurement) {
    let proof = &measured.proof;
    let redirected = if measured.arm == "none" {
        0
    } else {
        proof.connections
    };
    assert!(proof.connections > 0, "{measured:?}");
    assert_eq!(proof.redirected, redirected, "{measured:?}");
}

#[test]
fn attaching_takes_time_and_rules_too() {
    let record = record(command(&["attach"]));
    let once = |what: Quantity, arm: &str| match found(&record, &what, arm, None)[..] {
        [nanos] => nanos,
        ref values => panic!("{what:?} of {arm}: {values:?}"),
    };
    for arm in RULES {
        assert!(once(Quantity::Attach, arm) > 0.0);
        assert!(once(Quantity::Detach, arm) > 0.0);
    }
    assert!(once(Quantity::Detach, OURS) > 0.0);
    assert!(once(Quantity::FirstAttach, OURS) > once(Quantity::Attach, OURS));
}

#[test]
fn only_rules_keep_something_for_a_connection() {
    let record = record(command(&["memory"]));
    let kept = |arm: &str| found(&record, &Quantity::ConnectionMemory, arm, None);
    assert_eq!(kept("none"), [0.0]);
    assert_eq!(kept(OURS), [0.0]);
    for arm in RULES {
        assert!(kept(arm)[0] > 100.0, "{:?}", kept(arm));
    }
    let pod = found(&record, &Quantity::PodMemory, OURS, None);
    assert!(pod[0] > 4096.0, "{pod:?}");
}

#[test]
fn each_redirected_connection_runs_the_programs_as_often() {
    let record = record(command(&["programs"]));
    let runs = |program: &str, arm| {
        let program = program.to_owned();
        found(&record, &Quantity::ProgramRuns { program }, arm, None)
    };
    for program in ["connect4", "sk_lookup", "getsockopt", "getpeername4"] {
        for arm in [OURS, EMPTY, CALLS] {
            assert_eq!(runs(program, arm), [1.0], "{program} of {arm}");
        }
    }
    assert_eq!(runs("sk_lookup (inbound)", OURS), [1.0]);
    let of = |what: &Quantity, arm| found(&record, what, arm, None)[0];
    let program = "connect4".to_owned();
    let connect = Quantity::ProgramRun { program };
    let [empty, calls, ours] = [EMPTY, CALLS, OURS].map(|arm| of(&connect, arm));
    assert!(
        empty > 0.0 && empty < calls.min(ours),
        "{empty}, {calls}, {ours}"
    );
    assert!(of(&connect, OURS) < of(&Quantity::ProgramsPerConnection, OURS));
    let switch = fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled").unwrap();
    assert_eq!(switch.trim(), "0", "the statistics are still on");
}

#[test]
fn sweeps_are_proved_at_each_point() {
    let record = record(command(&["lists", "open"]));
    // Five arms at two points, twice, and at three.
    assert_eq!(record.measurements.len(), 5 * (2 + 2 + 3));
    record.measurements.iter().for_each(assert_proved);
}

#[test]
fn full_conntrack_stops_rules_and_nothing_else() {
    const FILE: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
    let before = fs::read_to_string(FILE).unwrap();
    let record = record(command(&["churn"]));
    assert_eq!(fs::read_to_string(FILE).unwrap(), before);
    let full = Some((Sweep::TrackingRoom, 0));
    let failures = |arm: &str, at| found(&record, &Quantity::ChurnFailures, arm, at)[0];
    for arm in ["none", OURS] {
        // A busy machine may be late for one.
        for at in [None, full] {
            assert!(failures(arm, at) < 0.01, "{arm}: {}", failures(arm, at));
        }
    }
    for arm in RULES {
        assert!(failures(arm, full) > 0.5, "{arm}: {}", failures(arm, full));
    }
}

#[test]
fn requests_go_through_either_proxy() {
    let mut haproxy = command(&["http"]);
    haproxy.env_remove(ENVOY);
    let envoy = command(&["http"]);
    assert!(
        std::env::var_os(ENVOY).is_some(),
        "{ENVOY} is not set; `cargo xtask test` sets it"
    );
    for command in [haproxy, envoy] {
        let record = record(command);
        assert_eq!(record.measurements.len(), 5 * 2);
        for measured in &record.measurements {
            assert_eq!(measured.case.work, Work::Http);
            assert_proved(measured);
            assert!(
                measured
                    .rounds
                    .iter()
                    .all(|round| round.p50 > 0 && round.cpu > 0)
            );
        }
    }
}
