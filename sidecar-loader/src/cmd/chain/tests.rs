//! Rules that settings put in, take away or change, as text and as conditions.

use std::{collections::BTreeSet, net::Ipv4Addr};

use sidecar_ebpf_common::{facts::Owner, lists::Groups};

use super::*;
use crate::{
    cmd::{self, Job, tests::parsed},
    config::{OwnerGroups, Written},
};

fn policy(args: &[&str]) -> Policy {
    let Ok(Job::Command(command)) = parsed(&[&["rules"], args].concat()) else {
        panic!("{args:?}: no subcommand")
    };
    let cmd::Command::Rules(args) = *command else {
        panic!("another subcommand")
    };
    Policy::resolve(&args.policy, &|_| None).unwrap()
}

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn servers(list: &[&str]) -> Dns {
    Dns::Servers(list.iter().map(|text| addr(text)).collect())
}

/// The lines of one table, without those that make chains.
fn table(policy: &Policy, family: Family, name: &str) -> Vec<String> {
    let text = policy.iptables(family, true);
    let head = format!("*{name}");
    let lines = text.lines().skip_while(|line| *line != head).skip(1);
    let lines = lines.take_while(|line| *line != "COMMIT");
    let rules = lines.filter(|line| !line.starts_with(':'));
    rules.map(str::to_owned).collect()
}

fn chain(policy: &Policy, family: Family, name: &str) -> Vec<String> {
    let start = format!("-A {name} ");
    let lines = table(policy, family, "nat");
    let rules = lines.iter().filter_map(|line| line.strip_prefix(&start));
    rules.map(str::to_owned).collect()
}

#[test]
fn dns_capture_byte_for_byte() {
    let mut policy = policy(&["-b", ""]);
    policy.config.dns = Dns::All;
    let expected = "\
*nat
:ISTIO_INBOUND - [0:0]
:ISTIO_REDIRECT - [0:0]
:ISTIO_IN_REDIRECT - [0:0]
:ISTIO_OUTPUT - [0:0]
:ISTIO_OUTPUT_DNS - [0:0]
-A ISTIO_INBOUND -p tcp --dport 15008 -j RETURN
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -o lo -s 127.0.0.6/32 -j RETURN
-A ISTIO_OUTPUT -o lo ! -d 127.0.0.1/32 -p tcp -m multiport ! --dports 53,15008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -o lo -p tcp ! --dport 53 -m owner ! --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -o lo ! -d 127.0.0.1/32 -p tcp ! --dport 15008 -m owner --gid-owner 1337 -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -o lo -p tcp ! --dport 53 -m owner ! --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -j ISTIO_OUTPUT_DNS
-A ISTIO_OUTPUT_DNS -p tcp --dport 53 -j REDIRECT --to-ports 15053
-A ISTIO_OUTPUT_DNS -p udp --dport 53 -j REDIRECT --to-ports 15053
-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN
-A ISTIO_OUTPUT -j ISTIO_REDIRECT
COMMIT
*raw
:ISTIO_OUTPUT_DNS - [0:0]
:ISTIO_INBOUND - [0:0]
-A OUTPUT -j ISTIO_OUTPUT_DNS
-A ISTIO_OUTPUT_DNS -p udp --dport 53 -m owner --uid-owner 1337 -j CT --zone 1
-A ISTIO_OUTPUT_DNS -p udp --sport 15053 -m owner --uid-owner 1337 -j CT --zone 2
-A ISTIO_OUTPUT_DNS -p udp --dport 53 -m owner --gid-owner 1337 -j CT --zone 1
-A ISTIO_OUTPUT_DNS -p udp --sport 15053 -m owner --gid-owner 1337 -j CT --zone 2
-A PREROUTING -j ISTIO_INBOUND
-A ISTIO_OUTPUT_DNS -p udp --dport 53 -j CT --zone 2
-A ISTIO_INBOUND -p udp --sport 53 -j CT --zone 1
COMMIT
";
    assert_eq!(policy.iptables(Family::V4, true), expected);
    assert_eq!(policy.iptables(Family::V6, false), "");
}

#[test]
fn each_dns_server_has_its_rules_in_its_family() {
    let mut policy = policy(&[]);
    policy.config.dns = servers(&["10.96.0.10", "fd00::a", "10.96.0.11"]);
    let dns = |family| chain(&policy, family, "ISTIO_OUTPUT_DNS");
    assert_eq!(
        dns(Family::V4),
        [
            "-p tcp --dport 53 -d 10.96.0.10/32 -j REDIRECT --to-ports 15053",
            "-p tcp --dport 53 -d 10.96.0.11/32 -j REDIRECT --to-ports 15053",
            "-p udp --dport 53 -d 10.96.0.10/32 -j REDIRECT --to-ports 15053",
            "-p udp --dport 53 -d 10.96.0.11/32 -j REDIRECT --to-ports 15053",
        ]
    );
    assert_eq!(dns(Family::V6).len(), 2);
    let zones = table(&policy, Family::V6, "raw");
    assert_eq!(
        zones[6..],
        [
            "-A ISTIO_OUTPUT_DNS -p udp --dport 53 -d fd00::a/128 -j CT --zone 2",
            "-A ISTIO_INBOUND -p udp --sport 53 -s fd00::a/128 -j CT --zone 1",
        ]
    );
}

#[test]
fn a_family_without_dns_server_has_the_exceptions_all_the_same() {
    let mut policy = policy(&[]);
    policy.config.dns = servers(&["10.96.0.10"]);
    let output = chain(&policy, Family::V6, "ISTIO_OUTPUT");
    assert!(output[1].contains("! --dports 53,15008"), "{output:?}");
    assert!(output[2].contains("-p tcp ! --dport 53"), "{output:?}");
    assert!(!output.contains(&"-j ISTIO_OUTPUT_DNS".to_owned()));
    let zones = table(&policy, Family::V6, "raw");
    assert_eq!(zones.len(), 1 + 4, "{zones:?}");
    // No server at all: no trace of DNS.
    policy.config.dns = servers(&[]);
    assert_eq!(table(&policy, Family::V4, "raw"), [""; 0]);
    assert!(!policy.iptables(Family::V4, true).contains("53,"));
}

#[test]
fn a_chain_is_made_even_if_it_stays_empty() {
    let mut policy = policy(&["-u", ",", "-g", ","]);
    policy.config.dns = servers(&["10.96.0.10"]);
    let text = policy.iptables(Family::V6, true);
    let raw = "*raw\n:ISTIO_OUTPUT_DNS - [0:0]\n-A OUTPUT -j ISTIO_OUTPUT_DNS\nCOMMIT\n";
    assert!(text.ends_with(raw), "{text}");
}

#[test]
fn interfaces_are_excluded_before_anything_else_in_both_directions() {
    let mut policy = policy(&[]);
    policy.config.excluded_interfaces = vec!["eth1".to_owned(), "net+".to_owned()];
    for family in [Family::V4, Family::V6] {
        assert_eq!(
            table(&policy, family, "nat")[..4],
            [
                "-A PREROUTING -i eth1 -j RETURN",
                "-A OUTPUT -o eth1 -j RETURN",
                "-A PREROUTING -i net+ -j RETURN",
                "-A OUTPUT -o net+ -j RETURN",
            ]
        );
    }
}

#[test]
fn owner_groups_stand_between_rule_7_and_dns() {
    let mut policy = policy(&[]);
    policy.config.dns = Dns::All;
    let groups = |ids: &[u32]| Groups::new(ids).unwrap();
    let mut between = |groups| {
        policy.config.owner_groups = groups;
        let output = chain(&policy, Family::V4, "ISTIO_OUTPUT");
        let dns = output.iter().position(|rule| rule == "-j ISTIO_OUTPUT_DNS");
        output[7..dns.unwrap()].to_vec()
    };
    assert_eq!(between(OwnerGroups::All), [""; 0]);
    assert_eq!(
        between(OwnerGroups::Excluded(groups(&[888, 21]))),
        [
            "-m owner --gid-owner 888 -j RETURN",
            "-m owner --gid-owner 21 -j RETURN"
        ]
    );
    assert_eq!(between(OwnerGroups::Excluded(groups(&[]))), [""; 0]);
    assert_eq!(
        between(OwnerGroups::Included(groups(&[888, 21]))),
        ["-m owner ! --gid-owner 888 -m owner ! --gid-owner 21 -j RETURN"]
    );
    assert_eq!(between(OwnerGroups::Included(groups(&[]))), ["-j RETURN"]);
}

#[test]
fn another_loopback_range_stands_in_rules_2_5_and_8_of_ipv4() {
    let mut policy = policy(&[]);
    policy.config.loopback = (Ipv4Addr::LOCALHOST, 8);
    let output = chain(&policy, Family::V4, "ISTIO_OUTPUT");
    assert_eq!(output[7], "-d 127.0.0.1/8 -j RETURN");
    for rule in [1, 4] {
        assert!(output[rule].starts_with("-o lo ! -d 127.0.0.1/8 -p tcp "));
    }
    let output = chain(&policy, Family::V6, "ISTIO_OUTPUT");
    assert_eq!(output[7], "-d ::1/128 -j RETURN");
}

/// Settings that make every kind of rule.
fn everything() -> Policy {
    let mut policy = policy(&[
        "-u",
        "3,4",
        "-g",
        "5",
        "-i",
        "10.0.0.0/8,fd00::/8",
        "-x",
        "10.9.0.0/16",
        "-q",
        "1:5,7",
        "-o",
        "9:",
        "-b",
        "80,:90",
    ]);
    policy.config.excluded_interfaces = vec!["eth1".to_owned()];
    policy.config.owner_groups = OwnerGroups::Excluded(Groups::new(&[7]).unwrap());
    policy.config.dns = servers(&["10.96.0.10", "fd00::a"]);
    policy
}

#[test]
fn every_rule_but_the_absent_ones_has_its_line_in_the_text() {
    let policy = everything();
    for family in [Family::V4, Family::V6] {
        let text = policy.iptables(family, true);
        let mut lines: Vec<_> = text.lines().collect();
        let outbound = policy.outbound(family, true);
        let inbound = policy.inbound(true);
        let listed = outbound
            .iter()
            .map(|listed| (listed.target, listed.line()))
            .chain(inbound.iter().map(|listed| (listed.target, listed.line())));
        for (target, line) in listed {
            let place = lines.iter().position(|candidate| *candidate == line);
            assert_eq!(place.is_some(), target.is_some(), "{line}");
            // Two rules have two lines.
            place.map(|place| lines.remove(place));
        }
    }
}

#[test]
fn settings_without_their_text_make_the_same_rules_in_numerical_order() {
    let written = everything();
    let mut numerical = written.clone();
    let config = &mut numerical.config;
    config.written = Written::numerical(&config.ports, &config.excluded, &config.included);
    let lines = |policy: &Policy| {
        let text = policy.iptables(Family::V4, true);
        text.lines().map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let (written, numerical) = (lines(&written), lines(&numerical));
    assert!(numerical.contains("-A ISTIO_OUTPUT -p tcp --dport 9:65535 -j RETURN"));
    assert!(numerical.contains("-A ISTIO_INBOUND -p tcp --dport 0:90 -j ISTIO_IN_REDIRECT"));
    // Port 80 is within 0:90, and so not mentioned again.
    assert_eq!(written.difference(&numerical).count(), 1);
    assert_eq!(numerical.difference(&written).count(), 0);
}

fn facts(protocol: Protocol) -> Facts {
    Facts {
        protocol,
        to_local: false,
        device: None,
        out_interface: None,
        in_interface: None,
        source: None,
        dst: addr("10.1.2.3"),
        port: 80,
        owner: Owner {
            uid: 1000,
            gid: 1000,
        },
    }
}

#[test]
fn udp_is_counted_on_rule_9_but_not_decided_there() {
    let chain = policy(&[]).outbound(Family::V4, true);
    let tcp = decide(&chain, &facts(Protocol::Tcp)).unwrap();
    assert_eq!(tcp.rule, OutboundRule::Everything);
    let udp = facts(Protocol::Udp);
    assert!(tcp.is_counted(&udp));
    assert_eq!(tcp.mismatch(&udp).unwrap(), "only TCP is redirected");
    let decided = decide(&chain, &udp).unwrap();
    assert_eq!(decided.rule, OutboundRule::EndOfChain);
    assert_eq!(decided.line(), "(end of ISTIO_OUTPUT)");
    assert!(!decided.is_counted(&udp));
}

#[test]
fn a_query_is_decided_in_the_chain_of_dns() {
    let mut policy = policy(&[]);
    policy.config.dns = servers(&["10.96.0.10", "10.1.2.3"]);
    let query = Facts {
        port: 53,
        ..facts(Protocol::Udp)
    };
    let chain = policy.outbound(Family::V4, true);
    assert_eq!(
        decide(&chain, &query).unwrap().line(),
        "-A ISTIO_OUTPUT_DNS -p udp --dport 53 -d 10.1.2.3/32 -j REDIRECT --to-ports 15053"
    );
}
