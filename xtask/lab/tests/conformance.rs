//! A slice of the conformance run; and that a run finds what is wrong. Needs root; leaves nothing
//! behind.
#![expect(clippy::unwrap_used, reason = "in a test it is a failure of the test")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{self, Command},
};

use serde_json::Value;
use sidecar_lab::process::program;

/// A folder that is removed again.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let folder = format!("sidecar-lab-{}-{name}", process::id());
        let folder = std::env::temp_dir().join(folder);
        fs::create_dir(&folder).unwrap();
        Self(folder)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

struct Ended {
    code: Option<i32>,
    report: Value,
    stderr: String,
}

fn run(args: &[&str]) -> Ended {
    let mut command = Command::new(program("conformance").unwrap());
    let output = command
        .args(args)
        .args(["--output", "json"])
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    Ended {
        code: output.status.code(),
        report: serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("no report: {error}; it said\n{stderr}")),
        stderr,
    }
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap()
}

#[test]
fn a_slice_shows_no_difference() {
    let slice = run(&["--quick"]);
    let report = &slice.report;
    assert_eq!(slice.code, Some(0), "{report:#}\n{}", slice.stderr);
    let legs = report["legs"].as_array().unwrap();
    let names: Vec<_> = legs.iter().map(|leg| text(leg, "leg")).collect();
    assert_eq!(
        names,
        [
            "decision/interpreter",
            "iptables-legacy",
            "iptables-nft",
            "nftables",
            "sidecar-ebpf"
        ]
    );
    for leg in legs {
        assert!(leg["probes"].as_u64().unwrap() >= 1800, "{leg}");
        assert_eq!(leg["differences"], 0, "{leg}");
    }
    // A counter that stands still agrees with every other such.
    for leg in &legs[1..] {
        assert!(leg["counted"].as_u64().unwrap() > 1000, "{leg}");
    }
    for entry in report["accepted"].as_array().unwrap() {
        assert_eq!(entry["is_true"], true, "{entry}");
    }
}

/// Runs a few probes against real rules in which something is replaced.
fn altered(scratch: &Scratch, alter: &str) -> Ended {
    let kept = scratch.file("regressions.txt");
    let kept = kept.to_str().unwrap();
    let size = ["--configs", "2", "--probes", "400", "--seed", "1"];
    run(&[&size[..], &["--regressions", kept, "--alter", alter]].concat())
}

fn differing_leg<'a>(ended: &'a Ended, leg: &str) -> &'a Value {
    assert_eq!(ended.code, Some(1), "{:#}\n{}", ended.report, ended.stderr);
    let found = ended.report["differences"].as_array().unwrap();
    let found = found.iter().find(|found| text(found, "leg") == leg);
    found.unwrap_or_else(|| panic!("nothing about {leg}: {:#}", ended.report))
}

#[test]
fn another_port_in_the_rules_is_found_shrunk_and_kept() {
    let scratch = Scratch::new("port");
    let alter = "--to-ports 15001=--to-ports 15002";
    let ended = altered(&scratch, alter);
    for leg in ["iptables-legacy", "iptables-nft", "nftables"] {
        let found = differing_leg(&ended, leg);
        assert!(
            text(found, "what").contains("proxy:15001 must answer"),
            "{found}"
        );
    }
    let found = differing_leg(&ended, "iptables-legacy");
    assert_eq!(text(found, "config"), "(defaults)");
    let (config, probe) = (text(found, "config"), text(found, "probe"));
    assert_eq!(
        text(found, "command"),
        format!("cargo xtask conformance --case '{config}' --probe '{probe}'")
    );
    let kept = fs::read_to_string(scratch.file("regressions.txt")).unwrap();
    assert!(kept.contains(&format!("{config} | {probe} | ")), "{kept}");

    let case = ["--case", config, "--probe", probe];
    let again = run(&[&case[..], &["--alter", alter]].concat());
    assert_eq!(again.code, Some(1), "{:#}", again.report);
    let unaltered = run(&case);
    assert_eq!(unaltered.code, Some(0), "{:#}", unaltered.report);
}

#[test]
fn a_rule_that_makes_no_difference_but_in_counters_is_missed() {
    let scratch = Scratch::new("counters");
    // What comes from 127.0.0.6 meets rule 3 or 4 instead.
    let ended = altered(&scratch, "-s 127.0.0.6/32=-s 127.0.0.7/32");
    let found = differing_leg(&ended, "iptables-nft");
    assert!(
        text(found, "what").contains("it counted otherwise"),
        "{found}"
    );
    assert!(text(found, "probe").contains("from=127.0.0.6"), "{found}");
}

fn write_rules(file: &Path, more: &str) {
    let loader = sidecar_lab::loader::run(&["rules", "--iptables", "--proxy-uid=3,4"]).unwrap();
    let rules = loader.stdout.replace("COMMIT", &format!("{more}COMMIT"));
    fs::write(file, rules).unwrap();
}

#[test]
fn rule_files_are_run_or_refused_by_name() {
    let scratch = Scratch::new("rules");
    write_rules(&scratch.file("plain"), "");
    write_rules(
        &scratch.file("virtual"),
        "-I PREROUTING 1 -i eth7 -j RETURN\n",
    );
    let folder = scratch.0.to_str().unwrap();
    let ended = run(&["--rules", folder, "--configs", "1", "--probes", "200"]);
    assert_eq!(ended.code, Some(0), "{:#}\n{}", ended.report, ended.stderr);
    let configs = ended.report["configs"].as_array().unwrap();
    let names: Vec<_> = configs.iter().map(|it| text(it, "config")).collect();
    assert_eq!(names, ["plain"]);
    assert!(!text(&ended.report["refused"], "virtual").is_empty());
}
