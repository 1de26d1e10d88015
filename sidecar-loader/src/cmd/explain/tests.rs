//! Verdicts, reasons, and that both come to the same.

use std::{cell::RefCell, collections::BTreeSet};

use proptest::{
    prelude::*,
    test_runner::{RngAlgorithm, TestRng, TestRunner},
};
use sidecar_ebpf_common::rule::{InboundRule, OutboundRule};

use super::*;
use crate::cmd::{self, Job, tests::parsed};

fn explained(args: &[&str]) -> Result<Report> {
    let Job::Command(command) = parsed(&[&["explain"], args].concat())? else {
        panic!("no subcommand")
    };
    let cmd::Command::Explain(args) = *command else {
        panic!("another subcommand")
    };
    let policy = Policy::resolve(&args.policy, &|_| None)?;
    let question = Question::new(&args, &policy.config);
    if args.inbound {
        question.inbound(&policy)
    } else {
        question.outbound(&policy)
    }
}

fn good(args: &[&str]) -> Report {
    explained(args).unwrap_or_else(|error| panic!("{args:?}: {error:#}"))
}

#[test]
fn an_application_s_call_elsewhere_byte_for_byte() {
    let expected = "\
10.1.2.3:80 by user 1000, group 1000

verdict   redirect to the proxy's port 15001 (redirect-outbound)
rule      9
iptables  -A ISTIO_OUTPUT -j ISTIO_REDIRECT
traffic   All outbound traffic is captured.

Rules before it, and why they do not match
1: 10.1.2.3 is not an address of the pod
2: 10.1.2.3 is not an address of the pod
3: 10.1.2.3 is not an address of the pod
4: user 1000 is not 1337
5: 10.1.2.3 is not an address of the pod
6: 10.1.2.3 is not an address of the pod
7: group 1000 is not 1337
8: 10.1.2.3 is not 127.0.0.1
";
    let args = [
        "--uid",
        "1000",
        "--to",
        "10.1.2.3:80",
        "--local",
        "10.244.0.5",
    ];
    assert_eq!(table(&good(&args)), expected);
}

#[test]
fn what_is_not_known_is_said() {
    let said = table(&good(&["--uid", "1000", "--to", "10.1.2.3:80"]));
    assert!(
        said.contains("\nassumed   the pod has no addresses but loopback"),
        "{said}"
    );
}

#[test]
fn the_reason_is_the_first_condition_that_fails() {
    let why = |args: &[&str], rule: &str| {
        let report = good(args);
        let passed = report.not_matched.iter().find(|passed| passed.rule == rule);
        passed.map(|passed| passed.why.clone())
    };
    let own = [
        "--uid",
        "1000",
        "--to",
        "10.244.0.5:80",
        "--local",
        "10.244.0.5",
    ];
    assert_eq!(why(&own, "2").unwrap(), "user 1000 is not 1337");
    assert_eq!(why(&own, "3"), None, "it decides");
    let tunnel = [
        "--uid",
        "1337",
        "--to",
        "10.244.0.5:15008",
        "--local",
        "10.244.0.5",
    ];
    assert_eq!(why(&tunnel, "2").unwrap(), "port 15008 is 15008");
    assert_eq!(why(&tunnel, "3").unwrap(), "user 1337 is 1337");
    let ranges = [
        "--uid",
        "1000",
        "--to",
        "9.9.9.9:80",
        "-i",
        "10.0.0.0/8",
        "-o",
        "8000:8010",
    ];
    assert_eq!(
        why(&ranges, "included-range").unwrap(),
        "9.9.9.9 is not in 10.0.0.0/8"
    );
    assert_eq!(
        why(&ranges, "excluded-port").unwrap(),
        "port 80 is not in 8000:8010"
    );
}

#[test]
fn inbound_goes_by_the_port() {
    let status = good(&["--inbound", "--to", "10.244.0.5:15021"]);
    assert_eq!(
        (status.rule, status.action),
        ("inbound-excluded-port", "pass")
    );
    assert_eq!(
        status.iptables,
        "-A ISTIO_INBOUND -p tcp --dport 15021 -j RETURN"
    );
    let rules: Vec<_> = status
        .not_matched
        .iter()
        .map(|passed| passed.why.as_str())
        .collect();
    assert_eq!(
        rules,
        ["port 15021 is not 15008", "port 15021 is not 15090"]
    );
    let app = good(&["--inbound", "--to", "10.244.0.5:8080", "-z", "16006"]);
    assert_eq!((app.rule, app.port), ("inbound-all", Some(16006)));
}

#[test]
fn several_addresses_and_repeated_flags_are_taken() {
    let args = [
        "--uid",
        "1337",
        "--to",
        "[fd00::5]:80",
        "--local",
        "fd00::5",
        "--local",
        "10.0.0.1",
    ];
    let report = good(&args);
    assert_eq!((report.rule, report.port), ("2", Some(15006)));
    let error = explained(&["--to", "10.0.0.1:80"]).unwrap_err().to_string();
    assert!(error.contains("--uid"), "{error}");
    let error = explained(&["--uid", "1", "--to", "10.0.0.1"])
        .unwrap_err()
        .to_string();
    assert!(error.contains("--to"), "{error}");
}

/// Few values, so that rules and connections meet.
fn port() -> impl Strategy<Value = u16> {
    prop::sample::select(vec![79u16, 80, 81, 443, 8080, 15001, 15006, 15008, 15021])
}

fn ports() -> impl Strategy<Value = String> {
    let item = (port(), any::<bool>()).prop_map(|(port, range)| {
        if range {
            format!("{port}:{}", port.saturating_add(2))
        } else {
            port.to_string()
        }
    });
    prop::collection::vec(item, 0..3).prop_map(|items| items.join(","))
}

fn addr() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "10.1.2.3",
        "10.244.0.5",
        "9.9.9.9",
        "127.0.0.1",
        "127.0.0.6",
        "127.9.9.9",
        "0.0.0.0",
        "::1",
        "::6",
        "::",
        "fd00::5",
        "fd00::9",
        "2001:db8::1",
        "::ffff:10.1.2.3",
        "::ffff:127.0.0.1",
    ])
}

fn ranges() -> impl Strategy<Value = String> {
    let item = prop::sample::select(vec![
        "10.0.0.0/8",
        "10.1.2.3/32",
        "10.1.9.9/16",
        "0.0.0.0/0",
        "127.0.0.0/8",
        "9.9.9.9/31",
        "::/0",
        "fd00::/8",
        "::1/128",
        "2001:db8::7/64",
        "::ffff:10.0.0.0/104",
    ]);
    prop::collection::vec(item, 0..4).prop_map(|items| items.join(","))
}

fn ids() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["1337", "3,4", "1000", "0,1337", "4,3,4", ","])
        .prop_map(str::to_owned)
}

fn or_all(list: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    prop_oneof![Just("*".to_owned()), list]
}

fn settings() -> impl Strategy<Value = Vec<String>> {
    let lists = (
        or_all(ranges()),
        ranges(),
        ports(),
        ports(),
        or_all(ports()),
        ports(),
    );
    (lists, ids(), ids(), any::<bool>()).prop_map(|(lists, uids, gids, ipv6)| {
        let (included, excluded, ports, not_ports, inbound, not_inbound) = lists;
        let mut args = vec![];
        for (flag, value) in [
            ("-i", included),
            ("-x", excluded),
            ("-q", ports),
            ("-o", not_ports),
            ("-b", inbound),
            ("-d", not_inbound),
            ("-u", uids),
            ("-g", gids),
        ] {
            args.extend([flag.to_owned(), value]);
        }
        if ipv6 {
            args.push("--dual-stack".to_owned());
        }
        args
    })
}

/// A connection by its flags, and settings.
fn questions() -> impl Strategy<Value = (Vec<String>, String, Vec<String>)> {
    let id = || prop::sample::select(vec!["0", "3", "4", "1000", "1337"]);
    let local = prop::sample::select(vec!["10.244.0.5", "fd00::5"]);
    let locals = prop::collection::vec(local, 0..2);
    let from = prop::option::of(addr());
    (settings(), id(), id(), addr(), port(), from, locals).prop_map(
        |(settings, uid, gid, to, port, from, locals)| {
            let to = SocketAddr::new(to.parse().unwrap(), port).to_string();
            let mut socket = vec!["--uid", uid, "--gid", gid];
            socket.extend(from.iter().flat_map(|from| ["--from", from]));
            socket.extend(locals.iter().flat_map(|local| ["--local", local]));
            let socket = socket.into_iter().map(str::to_owned).collect();
            (socket, to, settings)
        },
    )
}

/// Both directions. Fails if the first rule that matches is another than the one that is decided.
fn rules_of(
    (socket, to, settings): &(Vec<String>, String, Vec<String>),
) -> Result<[&'static str; 2], TestCaseError> {
    let ask = |of: &[String]| {
        let of = of.iter().chain(settings).map(String::as_str);
        let args: Vec<_> = ["--to", to].into_iter().chain(of).collect();
        let report = explained(&args);
        report.map_err(|error| TestCaseError::fail(format!("{args:?}: {error:#}")))
    };
    Ok([ask(socket)?.rule, ask(&["--inbound".to_owned()])?.rule])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn the_list_of_rules_says_what_is_decided(question in questions()) {
        rules_of(&question)?;
    }
}

#[test]
fn every_rule_is_met_by_such_questions() {
    let met = RefCell::new(BTreeSet::new());
    let config = ProptestConfig {
        cases: 1500,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let mut runner =
        TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let result = runner.run(&questions(), |question| {
        met.borrow_mut().extend(rules_of(&question)?);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    let outbound = OutboundRule::ALL.iter().map(|rule| rule.label());
    let inbound = InboundRule::ALL.iter().map(|rule| rule.label());
    let all: BTreeSet<_> = outbound.chain(inbound).collect();
    assert_eq!(met.into_inner(), all);
}
