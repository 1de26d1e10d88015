//! What is written for which settings.

use serde_json::Value;

use super::*;
use crate::{
    cmd::{self, Job, tests::parsed},
    config::Dns,
};

fn args(given: &[&str]) -> RulesArgs {
    let Ok(Job::Command(command)) = parsed(&[&["rules"], given].concat()) else {
        panic!("{given:?}: no subcommand")
    };
    let cmd::Command::Rules(args) = *command else {
        panic!("another subcommand")
    };
    args
}

fn written(given: &[&str]) -> String {
    let args = args(given);
    let mut out = Vec::new();
    let outcome = run(&args, &|_| None, &mut out).unwrap();
    assert_eq!(outcome, Outcome::Fine);
    String::from_utf8(out).unwrap()
}

/// The lines of one chain, without what is common to them.
fn chain(text: &str, name: &str) -> Vec<String> {
    let start = format!("-A {name} ");
    let rules = text.lines().filter_map(|line| line.strip_prefix(&start));
    rules.map(str::to_owned).collect()
}

#[test]
fn the_default_rules_row_by_row() {
    let expected = "\
Chain ISTIO_OUTPUT, IPv4
RULE         IPTABLES                                                                                        ACTION
1            -o lo -s 127.0.0.6/32 -j RETURN                                                                 pass
2            -o lo ! -d 127.0.0.1/32 -p tcp ! --dport 15008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT   redirect-inbound (15006)
3            -o lo -m owner ! --uid-owner 1337 -j RETURN                                                     pass
4            -m owner --uid-owner 1337 -j RETURN                                                             pass
5            -o lo ! -d 127.0.0.1/32 -p tcp ! --dport 15008 -m owner --gid-owner 1337 -j ISTIO_IN_REDIRECT   redirect-inbound (15006)
6            -o lo -m owner ! --gid-owner 1337 -j RETURN                                                     pass
7            -m owner --gid-owner 1337 -j RETURN                                                             pass
8            -d 127.0.0.1/32 -j RETURN                                                                       pass
9            -j ISTIO_REDIRECT                                                                               redirect-outbound (15001)

Chain ISTIO_INBOUND
RULE                   IPTABLES                     ACTION
";
    let text = written(&[]);
    let squeeze = |text: &str| {
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        text.lines().map(words).collect::<Vec<_>>().join("\n")
    };
    assert!(squeeze(&text).starts_with(&squeeze(expected)), "{text}");
    let inbound: Vec<_> = text
        .lines()
        .skip_while(|l| *l != "Chain ISTIO_INBOUND")
        .collect();
    let labels: Vec<_> = inbound[2..]
        .iter()
        .filter_map(|l| l.split(' ').next())
        .collect();
    let excluded = "inbound-excluded-port";
    assert_eq!(
        labels,
        [
            "inbound-tunnel",
            excluded,
            excluded,
            excluded,
            "inbound-all"
        ]
    );
}

#[test]
fn the_default_rules_as_iptables_restore_reads_them() {
    let text = written(&["--iptables"]);
    assert!(text.starts_with("*nat\n:ISTIO_INBOUND - [0:0]\n") && text.ends_with("\nCOMMIT\n"));
    assert_eq!(chain(&text, "ISTIO_OUTPUT").len(), 9);
    let inbound = chain(&text, "ISTIO_INBOUND");
    let ports: Vec<_> = inbound.iter().filter_map(|r| r.split(' ').nth(3)).collect();
    assert_eq!(
        ports,
        ["15008", "15090", "15021", "15020", "ISTIO_IN_REDIRECT"]
    );
    assert_eq!(chain(&text, "OUTPUT"), ["-j ISTIO_OUTPUT"]);
    assert_eq!(chain(&text, "PREROUTING"), ["-p tcp -j ISTIO_INBOUND"]);
}

#[test]
fn lists_keep_their_order_and_families_their_ranges() {
    let args = [
        "-i",
        "fd00::/8,10.1.0.0/16",
        "-x",
        "10.9.0.0/16,::1/128",
        "-o",
        "9000,80:82",
        "-q",
        "7,5",
        "-b",
        "32000,31000",
        "-u",
        "4,3",
        "-g",
        "2",
        "-p",
        "1",
        "-z",
        "2",
        "-e",
        "3",
        "--iptables",
    ];
    let v4 = written(&args);
    assert_eq!(
        chain(&v4, "ISTIO_OUTPUT"),
        [
            "-p tcp --dport 9000 -j RETURN",
            "-p udp --dport 9000 -j RETURN",
            "-p tcp --dport 80:82 -j RETURN",
            "-p udp --dport 80:82 -j RETURN",
            "-o lo -s 127.0.0.6/32 -j RETURN",
            "-o lo ! -d 127.0.0.1/32 -p tcp ! --dport 3 -m owner --uid-owner 4 -j ISTIO_IN_REDIRECT",
            "-o lo -m owner ! --uid-owner 4 -j RETURN",
            "-m owner --uid-owner 4 -j RETURN",
            "-o lo ! -d 127.0.0.1/32 -p tcp ! --dport 3 -m owner --uid-owner 3 -j ISTIO_IN_REDIRECT",
            "-o lo -m owner ! --uid-owner 3 -j RETURN",
            "-m owner --uid-owner 3 -j RETURN",
            "-o lo ! -d 127.0.0.1/32 -p tcp ! --dport 3 -m owner --gid-owner 2 -j ISTIO_IN_REDIRECT",
            "-o lo -m owner ! --gid-owner 2 -j RETURN",
            "-m owner --gid-owner 2 -j RETURN",
            "-d 127.0.0.1/32 -j RETURN",
            "-d 10.9.0.0/16 -j RETURN",
            "-p tcp --dport 7 -j ISTIO_REDIRECT",
            "-p tcp --dport 5 -j ISTIO_REDIRECT",
            "-d 10.1.0.0/16 -j ISTIO_REDIRECT",
        ]
    );
    assert_eq!(
        chain(&v4, "ISTIO_INBOUND"),
        [
            "-p tcp --dport 3 -j RETURN",
            "-p tcp --dport 32000 -j ISTIO_IN_REDIRECT",
            "-p tcp --dport 31000 -j ISTIO_IN_REDIRECT",
        ]
    );
    assert_eq!(
        chain(&v4, "ISTIO_REDIRECT"),
        ["-p tcp -j REDIRECT --to-ports 1"]
    );
    assert_eq!(
        chain(&v4, "ISTIO_IN_REDIRECT"),
        ["-p tcp -j REDIRECT --to-ports 2"]
    );

    let v6 = written(&[args.as_slice(), &["--ipv6"]].concat());
    let output = chain(&v6, "ISTIO_OUTPUT");
    assert_eq!(output[4], "-o lo -s ::6/128 -j RETURN");
    assert_eq!(
        output[14..16],
        ["-d ::1/128 -j RETURN", "-d ::1/128 -j RETURN"]
    );
    assert_eq!(output.last().unwrap(), "-d fd00::/8 -j ISTIO_REDIRECT");
}

#[test]
fn a_loopback_range_takes_rules_3_and_6_away() {
    let text = written(&["-i", "127.0.0.0/8", "--iptables"]);
    let output = chain(&text, "ISTIO_OUTPUT");
    assert!(
        !output.iter().any(|rule| rule.contains("! --uid-owner")),
        "{text}"
    );
    assert!(
        !output.iter().any(|rule| rule.contains("! --gid-owner")),
        "{text}"
    );
    assert_eq!(output.len(), 1 + 2 + 2 + 1 + 1);
}

#[test]
fn without_inbound_capture_nothing_leads_to_its_chain() {
    let text = written(&["-b", "", "--iptables"]);
    assert_eq!(chain(&text, "PREROUTING"), [""; 0]);
    assert_eq!(
        chain(&text, "ISTIO_INBOUND"),
        ["-p tcp --dport 15008 -j RETURN"]
    );
    assert!(written(&["-b", ""]).contains("inbound-off  (no jump to ISTIO_INBOUND)"));
}

#[test]
fn json_has_the_same_rows() {
    let json: Value =
        serde_json::from_str(&written(&["--dual-stack", "--output", "json"])).unwrap();
    assert_eq!(
        (&json["schema"], &json["outbound_port"]),
        (&1.into(), &15001.into())
    );
    let chains = json["chains"].as_array().unwrap();
    let names: Vec<_> = chains
        .iter()
        .map(|chain| (chain["chain"].as_str().unwrap(), chain["family"].as_str()))
        .collect();
    assert_eq!(
        names,
        [
            ("ISTIO_OUTPUT", Some("IPv4")),
            ("ISTIO_OUTPUT", Some("IPv6")),
            ("ISTIO_INBOUND", None)
        ]
    );
    let nine = &chains[1]["rules"][8];
    assert_eq!(
        (&nine["rule"], &nine["action"]),
        (&"9".into(), &"redirect-outbound".into())
    );
}

#[test]
fn json_has_a_short_name() {
    assert_eq!(written(&["--json"]), written(&["--output", "json"]));
    for with in [["--json", "--iptables"], ["--json", "--output=json"]] {
        let error = parsed(&[&["rules"], with.as_slice()].concat()).unwrap_err();
        assert!(error.to_string().contains("--json"), "{error}");
    }
}

#[test]
fn rules_of_other_chains_stand_where_the_way_leads_through_them() {
    let given = args(&["-i", "10.0.0.0/8"]);
    let mut policy = Policy::resolve(&given.policy, &|_| None).unwrap();
    policy.config.dns = Dns::All;
    policy.config.excluded_interfaces = vec!["eth1".to_owned()];
    let report = report(&policy, false);
    let text = table(&report);
    let line = |start: &str| {
        let mut lines = text.lines().filter(|line| line.starts_with(start));
        let words = lines
            .next()
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        words.unwrap_or_else(|| panic!("{start}: {text}")).join(" ")
    };
    assert_eq!(
        line("excluded-interface "),
        "excluded-interface OUTPUT: -o eth1 -j RETURN pass"
    );
    assert_eq!(
        line("inbound-excluded-interface "),
        "inbound-excluded-interface PREROUTING: -i eth1 -j RETURN pass"
    );
    assert_eq!(
        line("dns "),
        "dns ISTIO_OUTPUT_DNS: -p tcp --dport 53 -j REDIRECT --to-ports 15053 redirect-dns (15053)"
    );
    assert_eq!(
        line("end-of-chain "),
        "end-of-chain (end of ISTIO_OUTPUT) pass"
    );
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["dns_port"], 15053);
    let first = &json["chains"][0]["rules"][0];
    assert_eq!(
        (&first["rule"], &first["chain"]),
        (&"excluded-interface".into(), &"OUTPUT".into())
    );
    assert_eq!(json["chains"][0]["rules"][1].get("chain"), None);
}

#[test]
fn the_end_of_a_chain_is_shown_where_something_can_get_there() {
    let ends = |change: fn(&mut Policy), given: &[&str]| {
        let given = args(given);
        let mut policy = Policy::resolve(&given.policy, &|_| None).unwrap();
        change(&mut policy);
        let report = report(&policy, false);
        let rules = report.chains.iter().flat_map(|chain| &chain.rules);
        let ends = rules
            .map(|row| row.rule)
            .filter(|rule| rule.ends_with("end-of-chain"));
        ends.collect::<Vec<_>>()
    };
    let nothing: fn(&mut Policy) = |_| {};
    assert_eq!(ends(nothing, &[]), [""; 0]);
    assert_eq!(
        ends(nothing, &["-i", "10.0.0.0/8", "-b", "80"]),
        ["end-of-chain", "inbound-end-of-chain"]
    );
    // UDP comes to the end.
    assert_eq!(
        ends(|policy| policy.config.dns = Dns::All, &[]),
        ["end-of-chain"]
    );
}
