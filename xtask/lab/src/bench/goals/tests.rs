use super::*;
use crate::bench::{record::Measurement, sample};

fn verdicts(record: &Record) -> Vec<(&'static str, Verdict)> {
    let judged = judge(record).unwrap();
    let named = judged.iter().map(|j| (j.goal.name, j.verdict()));
    named.collect()
}

fn of<'a>(judged: &'a [Judged], name: &str) -> &'a Judged {
    let found = judged.iter().find(|judged| judged.goal.name.contains(name));
    found.expect("a goal of that name")
}

#[test]
fn a_record_that_misses_one() {
    let missed: Vec<&str> = verdicts(&sample::record())
        .into_iter()
        .filter(|(_, verdict)| *verdict != Verdict::Met)
        .map(|(name, _)| name)
        .collect();
    assert_eq!(
        missed,
        ["kernel time of all programs, per redirected connection"]
    );
}

#[test]
fn floors_are_of_the_programs_that_they_are_called_by() {
    const NAMES: [&str; 3] = ["outbound connect", "connect program", "all programs"];
    let mut record = sample::record();
    let floors = |record: &Record, name: &str| {
        let judged = judge(record).unwrap();
        let judged = of(&judged, name);
        [&judged.empty, &judged.calls]
            .map(|floor| floor.as_ref().map(|floor| floor.estimate.median))
    };
    for name in NAMES {
        assert_eq!(floors(&record, name), [None, None], "{name}");
    }
    let base = record.find(&record.cases()[0], BASE).unwrap().clone();
    for (arm, run, all) in [(EMPTY, 60.0, 180.0), (CALLS, 110.0, 300.0)] {
        record.measurements.push(Measurement {
            arm: arm.into(),
            ..base.clone()
        });
        let program = "connect4".to_owned();
        for (what, value) in [
            (Quantity::ProgramRun { program }, run),
            (Quantity::ProgramsPerConnection, all),
        ] {
            record.findings.push(Finding {
                what,
                arm: arm.into(),
                at: None,
                values: vec![value],
            });
        }
    }
    let found = NAMES.map(|name| floors(&record, name).map(Option::unwrap));
    assert_eq!(found, [[1.0, 1.0], [60.0, 110.0], [180.0, 300.0]]);
    assert_eq!(floors(&record, "inbound connect"), [None, None]);
}

/// Each goal is missed by a record made to miss it.
#[test]
fn each_goal_can_be_missed() {
    for worse in GOALS {
        let mut record = sample::record();
        spoil(&mut record, worse);
        let judged = judge(&record).unwrap();
        let judged = of(&judged, worse.name);
        assert_eq!(judged.verdict(), Verdict::Missed, "{}", worse.name);
    }
}

fn spoil(record: &mut Record, goal: &Goal) {
    let ours = record.measurements.iter_mut().filter(|m| m.arm == OURS);
    for measured in ours {
        let case = measured.case;
        let hit = match goal.subject {
            Subject::ToBase { work, direction } => {
                case.at.is_none() && work(case.work) && case.direction == direction
            }
            Subject::Along {
                sweep, to: value, ..
            } => case.at == Some(Point { sweep, value }),
            Subject::Found { .. } => false,
        };
        if hit {
            for round in &mut measured.rounds {
                round.elapsed = round.elapsed * 12 / 10;
            }
        }
    }
    let Subject::Found { what, .. } = goal.subject else {
        return;
    };
    let hit = |f: &&mut Finding| f.arm == OURS && what(&f.what);
    for finding in record.findings.iter_mut().filter(hit) {
        for value in &mut finding.values {
            *value = match goal.limit {
                Limit::AtMost(limit) => limit + 1.0,
                Limit::AtLeast(limit) => limit - 1.0,
            };
        }
    }
}

#[test]
fn what_is_missing_is_neither_met_nor_missed() {
    let mut record = sample::record();
    record.measurements.clear();
    record.findings.clear();
    let verdicts = verdicts(&record);
    assert_eq!(verdicts.len(), GOALS.len());
    assert!(verdicts.iter().all(|(_, v)| *v == Verdict::NotMeasured));
}

#[test]
fn the_worst_of_several_cases_counts() {
    let mut record = sample::record();
    for measured in &mut record.measurements {
        if measured.case.work == (Work::RoundTrip { bytes: 1024 }) && measured.arm == OURS {
            for round in &mut measured.rounds {
                round.elapsed = round.elapsed * 11 / 10;
            }
        }
    }
    let judged = judge(&record).unwrap();
    let judged = of(&judged, "outbound round trip, one CPU");
    assert_eq!(judged.verdict(), Verdict::Missed);
    let measured = judged.measured.as_ref().unwrap();
    assert_eq!(measured.of, "round trip of 1 KiB");
}

#[test]
fn the_others_stand_beside_it() {
    let judged = judge(&sample::record()).unwrap();
    let arms = |name| -> Vec<&str> {
        let others = &of(&judged, name).others;
        others.iter().map(|(arm, _)| arm.as_str()).collect()
    };
    assert_eq!(
        arms("outbound connect"),
        ["iptables-legacy", "iptables-nft", "nftables"]
    );
    assert_eq!(arms("open connections"), ["iptables-nft"]);
}

#[test]
fn an_attach_of_a_sweep_does_not_count_where_there_is_a_plain_one() {
    let judged = judge(&sample::record()).unwrap();
    let attach = of(&judged, "attach").measured.as_ref().unwrap();
    assert_eq!(attach.estimate.median, 9.1e6);
}

#[test]
fn limits_as_people_write_them() {
    let judged = judge(&sample::record()).unwrap();
    for (name, limit) in [
        ("outbound connect", "≤ 1.10"),
        ("connect program", "≤ 200 ns"),
        ("per open connection", "0 bytes"),
        ("open connections", "≥ 200,000"),
        ("idle pod", "≤ 1.00 MiB"),
        ("attach", "≤ 20.0 ms"),
    ] {
        assert_eq!(of(&judged, name).limit(), limit);
    }
}
