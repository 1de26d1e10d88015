//! The README's table of rules is the list of rules.

use sidecar_ebpf_common::rule::{Action, InboundRule, OutboundRule};

fn row(label: &str, iptables: &str, action: Action) -> String {
    format!("| {label} | `{iptables}` | {} |", action.name())
}

#[test]
fn every_rule_stands_in_the_readme() {
    let outbound = OutboundRule::ALL
        .iter()
        .map(|r| row(r.label(), r.iptables(), r.action()));
    let inbound = InboundRule::ALL
        .iter()
        .map(|r| row(r.label(), r.iptables(), r.action()));
    let readme = include_str!("../../README.md");
    let actions = [
        Action::Pass,
        Action::ToOutbound,
        Action::ToInbound,
        Action::ToDns,
    ];
    let ends = actions.map(|action| format!("` | {} |", action.name()));
    let is_rule = |line: &&str| ends.iter().any(|end| line.ends_with(end));
    let table: Vec<&str> = readme.lines().filter(is_rule).collect();
    let rules: Vec<String> = outbound.chain(inbound).collect();
    assert_eq!(table, rules, "the table should be:\n{}", rules.join("\n"));
}
