//! A small benchmark; and that a run in which an arm does not do what it claims is worth nothing.
//! Needs root; leaves nothing behind.
#![expect(clippy::unwrap_used, reason = "in a test it is a failure of the test")]

use std::{
    env, fs,
    path::PathBuf,
    process::{self, Command},
};

use serde_json::{Value, json};
use sidecar_lab::{
    bench::record::{Direction, Record},
    process::program,
};

const FLOORS: [&str; 2] = ["same-path", "empty-programs"];
const CALLS: &str = "needed-calls";
const OWN_LOAD: [&str; 6] = [
    "--only",
    "connect",
    "--only",
    "round-trip",
    "--only",
    "bulk",
];

struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ended {
    #[track_caller]
    fn record(&self) -> Record {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        serde_json::from_str(&self.stdout).unwrap()
    }

    /// The run came to nothing, and says why.
    #[track_caller]
    fn fails_with(&self, words: &[&str]) {
        assert_eq!(self.code, Some(1), "{}", self.stderr);
        assert_eq!(self.stdout, "");
        for word in words {
            assert!(self.stderr.contains(word), "no {word:?} in {}", self.stderr);
        }
    }
}

fn run(args: &[&str]) -> Ended {
    let output = Command::new(program("bench").unwrap())
        .args(args)
        .args(["--rounds", "2", "--output", "json"])
        .output()
        .unwrap();
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A file that is removed again.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, content: &Value) -> Self {
        let file = format!("sidecar-lab-{}-{name}.json", process::id());
        let file = env::temp_dir().join(file);
        fs::write(&file, content.to_string()).unwrap();
        Self(file)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn every_connection_of_a_run_is_proved() {
    let record = run(&OWN_LOAD).record();
    let arms: Vec<_> = record.arms.iter().map(|arm| arm.name.as_str()).collect();
    assert_eq!(
        arms,
        [
            "none",
            "iptables-legacy",
            "iptables-nft",
            "nftables",
            "sidecar-ebpf",
            FLOORS[0],
            FLOORS[1],
            CALLS,
        ]
    );
    // Four kinds of work, two directions, one processor and two; of the last arms one kind and direction.
    assert_eq!(record.measurements.len(), 5 * 16 + 3 * 2);
    for measured in &record.measurements {
        let proof = &measured.proof;
        assert!(proof.connections >= 3, "{measured:?}");
        let redirected = if measured.arm == "none" || FLOORS.contains(&measured.arm.as_str()) {
            0
        } else {
            proof.connections
        };
        assert_eq!(proof.redirected, redirected, "{measured:?}");
        assert_eq!(measured.rounds.len(), 2, "{measured:?}");
        for round in &measured.rounds {
            assert!(round.operations > 0 && round.elapsed > 0, "{measured:?}");
            assert!(
                round.p50 <= round.p99 && round.p99 <= round.p999,
                "{measured:?}"
            );
        }
        assert!(
            measured.rounds.iter().any(|round| round.cpu > 0),
            "{measured:?}"
        );
    }
}

#[test]
fn an_arm_that_loses_its_redirect_ends_the_run() {
    for arm in [
        "iptables-legacy",
        "iptables-nft",
        "nftables",
        "sidecar-ebpf",
        CALLS,
    ] {
        let ended = run(&["--only", "connect", "--break", arm]);
        ended.fails_with(&[arm, "lost its redirect"]);
    }
}

#[test]
fn rules_in_the_arm_without_redirection_end_the_run() {
    let ended = run(&["--only", "connect", "--break", "none"]);
    ended.fails_with(&["none is not without redirection", "redirect to :15001"]);
}

const IPTABLES: &str = "nsenter --net=$NETNS iptables-nft -w -t nat";
const COUNT: &str = "nsenter --net=$NETNS iptables-nft -t nat -vxnL";

/// An arm of rules, as somebody else might write it.
fn further(name: &str) -> Value {
    json!({
        "name": name,
        "description": "two rules",
        "setup": [
            format!("{IPTABLES} -A OUTPUT -p tcp --dport 80 -j REDIRECT --to-ports $OUTBOUND_PORT"),
            format!("{IPTABLES} -A PREROUTING -p tcp -j REDIRECT --to-ports $INBOUND_PORT"),
        ],
        "teardown": [format!("{IPTABLES} -F")],
    })
}

#[test]
fn further_arms_are_run_beside_ours() {
    let mut counted = further("counted");
    counted["counter"] = json!({
        "outbound": format!("{COUNT} OUTPUT | awk '/REDIRECT/ {{ print $1 }}'"),
        "inbound": format!("{COUNT} PREROUTING | awk '/REDIRECT/ {{ print $1 }}'"),
    });
    let mut outbound = further("outbound_only");
    outbound["directions"] = json!(["outbound"]);
    outbound["setup"].as_array_mut().unwrap().pop();
    let loader = sidecar_lab::loader::binary().unwrap();
    let stays = json!({
        "name": "stays",
        "description": "a loader of its own",
        "run": format!("{} --cgroup $CGROUP --netns $NETNS --output json", loader.display()),
        "ready": "\"ready\"",
    });
    let file = Scratch::new("arms", &json!([counted, outbound, stays]));
    let record = run(&["--only", "connect", "--arms", file.path()]).record();
    for (arm, cases) in [("counted", 4), ("outbound_only", 2), ("stays", 4)] {
        let measured = record.measurements.iter().filter(|it| it.arm == arm);
        let measured: Vec<_> = measured.collect();
        assert_eq!(measured.len(), cases, "{arm}");
        for measured in measured {
            let proof = &measured.proof;
            assert_eq!(proof.redirected, proof.connections, "{measured:?}");
            assert_eq!(
                proof.by.contains("no counter"),
                arm != "counted",
                "{proof:?}"
            );
            let is_outbound = measured.case.direction == Direction::Outbound;
            assert!(is_outbound || arm != "outbound_only", "{measured:?}");
        }
    }
}

#[test]
fn a_further_arm_that_counts_otherwise_ends_the_run() {
    let mut arm = further("liar");
    arm["counter"] = json!({ "outbound": "echo 7", "inbound": "echo 7" });
    let file = Scratch::new("liar", &json!([arm]));
    let ended = run(&["--only", "connect", "--arms", file.path()]);
    ended.fails_with(&["liar lost its redirect", " connections, 0 counted"]);
}

#[test]
fn a_further_arm_that_redirects_nothing_ends_the_run() {
    let arm = json!({ "name": "idle", "description": "nothing", "setup": ["true"] });
    let file = Scratch::new("idle", &json!([arm]));
    let ended = run(&["--only", "connect", "--arms", file.path()]);
    ended.fails_with(&["idle lost its redirect", "Connection refused"]);
}

#[test]
fn a_file_that_is_not_understood_is_refused() {
    for arm in [
        json!({ "name": "none", "description": "taken", "setup": ["true"] }),
        json!({ "name": "a b", "description": "no word", "setup": ["true"] }),
        json!({ "name": "x", "description": "does nothing" }),
        json!({ "name": "x", "description": "a typo", "setup": ["true"], "conter": "y" }),
    ] {
        let file = Scratch::new("refused", &json!([arm]));
        let ended = run(&["--arms", file.path()]);
        assert_eq!(ended.code, Some(2), "{}", ended.stderr);
        assert!(ended.stderr.contains(file.path()), "{}", ended.stderr);
    }
}
