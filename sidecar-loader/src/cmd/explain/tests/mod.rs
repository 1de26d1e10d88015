//! Verdicts and reasons.

mod agreement;

use sidecar_ebpf_common::lists::Groups;

use super::*;
use crate::{
    cmd::{self, Job, tests::parsed},
    config::{Config, Dns, OwnerGroups},
};

/// The answer under settings that are changed after they are read.
fn explained_with(args: &[&str], change: impl FnOnce(&mut Config)) -> Result<Report> {
    let Job::Command(command) = parsed(&[&["explain"], args].concat())? else {
        panic!("no subcommand")
    };
    let cmd::Command::Explain(args) = *command else {
        panic!("another subcommand")
    };
    let mut policy = Policy::resolve(&args.policy, &|_| None)?;
    change(&mut policy.config);
    by_settings(&args, &policy)
}

fn explained(args: &[&str]) -> Result<Report> {
    explained_with(args, |_| {})
}

fn good(args: &[&str]) -> Report {
    explained(args).unwrap_or_else(|error| panic!("{args:?}: {error:#}"))
}

fn good_with(args: &[&str], change: impl FnOnce(&mut Config)) -> Report {
    explained_with(args, change).unwrap_or_else(|error| panic!("{args:?}: {error:#}"))
}

/// Why a rule does not match; `None` if it is not before the one that decides.
fn why(report: &Report, rule: &str) -> Option<String> {
    let mut passed = report.not_matched.iter();
    let passed = passed.find(|passed| passed.rule == rule);
    passed.map(|passed| passed.why.clone())
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
    let why = |args: &[&str], rule: &str| why(&good(args), rule);
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

#[test]
fn a_dns_query_byte_for_byte() {
    let expected = "\
10.96.0.10:53 over UDP by user 1000, group 1000

verdict   redirect to the proxy's port 15053 (redirect-dns)
rule      dns
iptables  -A ISTIO_OUTPUT_DNS -p udp --dport 53 -j REDIRECT --to-ports 15053
traffic   A DNS query: to the proxy's agent.

Rules before it, and why they do not match
1: 10.96.0.10 is not an address of the pod
2: 10.96.0.10 is not an address of the pod
3: 10.96.0.10 is not an address of the pod
4: user 1000 is not 1337
5: 10.96.0.10 is not an address of the pod
6: 10.96.0.10 is not an address of the pod
7: group 1000 is not 1337
dns: the rule is for TCP
";
    let args = "--udp --uid 1000 --to 10.96.0.10:53 --local 10.244.0.5";
    let args: Vec<_> = args.split(' ').collect();
    let report = good_with(&args, |config| config.dns = Dns::All);
    assert_eq!(table(&report), expected);
    assert_eq!(report.note, None);
}

#[test]
fn with_dns_the_reasons_name_the_exceptions_for_queries() {
    let args = "--uid 1337 --to 10.244.0.5:53 --local 10.244.0.5";
    let args: Vec<_> = args.split(' ').collect();
    let report = good_with(&args, |config| config.dns = Dns::All);
    assert_eq!(report.rule, "4");
    assert_eq!(why(&report, "2").unwrap(), "port 53 is one of 53,15008");
    assert_eq!(why(&report, "3").unwrap(), "port 53 is 53");
}

#[test]
fn udp_that_is_no_query_is_said_to_pass_uncounted() {
    let report = good(&["--udp", "--uid", "1000", "--to", "10.1.2.3:80"]);
    assert_eq!((report.rule, report.port), ("end-of-chain", None));
    assert_eq!(why(&report, "9").unwrap(), "only TCP is redirected");
    assert_eq!(report.iptables, "(end of ISTIO_OUTPUT)");
    let said = table(&report);
    assert!(said.contains("\nnote      UDP that cannot be"), "{said}");
}

#[test]
fn interfaces_decide_where_they_are_excluded() {
    let ask = |more: &[&str]| {
        let args = [&["--uid", "1000", "--to", "10.1.2.3:80"], more].concat();
        good_with(&args, |config| {
            config.excluded_interfaces = vec!["eth1".to_owned(), "net+".to_owned()];
        })
    };
    let behind = ask(&["--out-interface", "net7"]);
    assert_eq!(behind.rule, "excluded-interface");
    assert_eq!(behind.iptables, "-A OUTPUT -o net+ -j RETURN");
    assert_eq!(
        why(&behind, "excluded-interface").unwrap(),
        "it leaves by net7, not by eth1"
    );
    let bound = ask(&["--interface", "eth1", "--out-interface", "eth0"]);
    assert_eq!(bound.rule, "excluded-interface");
    assert!(bound.connection.ends_with(", bound to eth1"));
    let not_said = ask(&["--local", "10.244.0.5"]);
    assert_eq!(
        (not_said.rule, why(&not_said, "excluded-interface").unwrap()),
        ("9", "it is not said to leave by eth1".to_owned())
    );
    let assumed = not_said.assumed.unwrap();
    assert!(assumed.starts_with("no excluded interface leads there"));
    let local = ask(&["--local", "10.1.2.3@eth1"]);
    assert_eq!((local.rule, local.assumed), ("3", None));
}

#[test]
fn a_socket_bound_to_another_device_does_not_find_an_address_of_the_pod() {
    let ask = |interface| {
        let args = "--uid 1000 --to 10.244.0.5:80 --local 10.244.0.5@eth0 --interface";
        let args: Vec<_> = args.split(' ').chain([interface]).collect();
        good(&args)
    };
    assert_eq!(ask("eth0").rule, "3");
    assert_eq!(ask("lo").rule, "3");
    let elsewhere = ask("eth1");
    assert_eq!(
        (elsewhere.rule, why(&elsewhere, "3").unwrap().as_str()),
        (
            "9",
            "the socket is bound to eth1, where 10.244.0.5 is not local"
        )
    );
}

#[test]
fn inbound_goes_by_the_interface_too() {
    let ask = |more: &[&str]| {
        let args = [&["--inbound", "--to", "10.244.0.5:8080"], more].concat();
        let exclude = |config: &mut Config| config.excluded_interfaces = vec!["eth1".to_owned()];
        good_with(&args, exclude)
    };
    let excluded = ask(&["--interface", "eth1"]);
    assert_eq!(excluded.rule, "inbound-excluded-interface");
    assert_eq!(excluded.iptables, "-A PREROUTING -i eth1 -j RETURN");
    assert!(excluded.connection.ends_with("from outside, through eth1"));
    let other = ask(&["--interface", "eth0"]);
    assert_eq!(other.rule, "inbound-all");
    assert_eq!(
        why(&other, "inbound-excluded-interface").unwrap(),
        "it comes in through eth0, not through eth1"
    );
    assert_eq!(ask(&[]).rule, "inbound-all");
}

#[test]
fn groups_are_named_in_the_reasons() {
    let args = ["--uid", "1000", "--gid", "7", "--to", "10.1.2.3:80"];
    let include = |ids: &[u32]| OwnerGroups::Included(Groups::new(ids).unwrap());
    let member = good_with(&args, |config| config.owner_groups = include(&[8, 7]));
    assert_eq!(member.rule, "9");
    assert_eq!(why(&member, "not-included-group").unwrap(), "group 7 is 7");
    let stranger = good_with(&args, |config| config.owner_groups = include(&[8, 9]));
    assert_eq!(
        stranger.iptables,
        "-A ISTIO_OUTPUT -m owner ! --gid-owner 8 -m owner ! --gid-owner 9 -j RETURN"
    );
    let nobody = good_with(&args, |config| config.owner_groups = include(&[]));
    assert_eq!(nobody.iptables, "-A ISTIO_OUTPUT -j RETURN");
}

#[test]
fn the_proxy_s_own_address_is_local_where_ipv6_has_rules() {
    let report = good(&[
        "--uid",
        "1337",
        "--to",
        "[::6]:15002",
        "--dual-stack",
        "--from",
        "::1",
    ]);
    assert_eq!((report.rule, report.port), ("2", Some(15006)));
}

#[test]
fn options_that_make_no_sense_are_refused() {
    for (args, hint) in [
        ("--uid 1 --to 1.1.1.1:1 --local here", "--local"),
        ("--uid 1 --to 1.1.1.1:1 --local 10.0.0.1@", "--local"),
        (
            "--uid 1 --to 1.1.1.1:1 --out-interface lo",
            "--out-interface lo",
        ),
        ("--inbound --to 1.1.1.1:1 --udp", "--udp"),
        (
            "--inbound --to 1.1.1.1:1 --out-interface eth0",
            "--out-interface",
        ),
        ("--uid 1 --to 1.1.1.1:1 --json --output table", "--output"),
    ] {
        let args: Vec<_> = args.split(' ').collect();
        let error = format!("{:#}", explained(&args).unwrap_err());
        assert!(error.contains(hint), "{error}");
    }
}
