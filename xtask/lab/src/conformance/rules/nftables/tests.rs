//! What is written for nft, and what is read back. With the feature `kernel` and root, nft itself
//! takes it and the kernel counts.

use super::{
    super::{Family, RuleId, Ruleset, parse},
    counters_from_json, to_nft,
};

#[cfg(feature = "kernel")]
mod kernel;

fn rules(text: &str) -> Ruleset {
    parse(text).unwrap()
}

fn id(text: &str) -> RuleId {
    text.parse().unwrap()
}

#[test]
fn both_families_share_chains_and_keep_their_rules_apart() {
    let v4 = rules(
        "*nat\n:INPUT ACCEPT [0:0]\n-N ISTIO_REDIRECT\n-N UNUSED\n\
         -A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001\n\
         -A OUTPUT -o lo ! -d 127.0.0.1 -p tcp -m multiport ! --dports 53,60:61 -m owner --uid-owner 3 -j ISTIO_REDIRECT\n\
         -A OUTPUT -p udp --dport 60:61 -m owner ! --gid-owner 4 -m comment --comment x -j RETURN\n\
         COMMIT\n",
    );
    let v6 = rules("*nat\n-A OUTPUT ! -s ::1 -o eth+\nCOMMIT\n");
    assert_eq!(
        to_nft(Some(&v4), Some(&v6)).unwrap(),
        r#"add table inet istio-proxy-nat
flush table inet istio-proxy-nat
table inet istio-proxy-nat {
  chain istio-redirect {
    meta nfproto ipv4 meta l4proto 6 counter redirect to :15001 comment "v4 nat/ISTIO_REDIRECT/1"
  }
  chain unused {
  }
  chain output {
    type nat hook output priority -100; policy accept;
    meta nfproto ipv4 ip daddr != 127.0.0.1/32 oifname "lo" meta l4proto 6 tcp dport != { 53, 60-61 } meta skuid 3 counter jump istio-redirect comment "v4 nat/OUTPUT/1"
    meta nfproto ipv4 meta l4proto 17 udp dport 60-61 meta skgid != 4 counter return comment "v4 nat/OUTPUT/2"
    meta nfproto ipv6 ip6 saddr != ::1/128 oifname "eth*" counter comment "v6 nat/OUTPUT/1"
  }
}
"#
    );
}

#[test]
fn zones_are_set_before_connection_tracking() {
    let v4 = rules("*raw\n-A PREROUTING -p udp --sport 53 -j CT --zone 1\nCOMMIT\n");
    let script = to_nft(Some(&v4), None).unwrap();
    assert!(script.contains("type filter hook prerouting priority -300; policy accept;"));
    assert!(script.contains("udp sport 53 counter ct zone set 1 comment"));
}

#[test]
fn no_rules_are_no_script() {
    assert_eq!(to_nft(None, None).unwrap(), "");
    let empty = rules("*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n");
    assert_eq!(to_nft(Some(&empty), Some(&empty)).unwrap(), "");
}

#[test]
fn what_nftables_says_otherwise_is_refused_with_the_rule() {
    for (text, reason) in [
        (
            "*mangle\n-A OUTPUT -j MARK --set-mark 1\nCOMMIT\n",
            "mangle/OUTPUT/1",
        ),
        (
            "*mangle\n-A OUTPUT -p tcp -j TPROXY --on-port 1\nCOMMIT\n",
            "mangle/OUTPUT/1",
        ),
        ("*filter\n:OUTPUT DROP [0:0]\nCOMMIT\n", "policy DROP"),
    ] {
        let error = format!("{:#}", to_nft(Some(&rules(text)), None).unwrap_err());
        assert!(error.contains(reason), "{error}");
    }
}

/// As nft 1.0.6 prints it.
fn listing(comment: &str) -> String {
    format!(
        r#"{{"nftables": [
  {{"metainfo": {{"version": "1.0.6", "json_schema_version": 1}}}},
  {{"table": {{"family": "inet", "name": "istio-proxy-nat", "handle": 2}}}},
  {{"chain": {{"family": "inet", "table": "istio-proxy-nat", "name": "output", "handle": 1}}}},
  {{"rule": {{"family": "ip", "table": "other", "chain": "output", "handle": 9, "expr": []}}}},
  {{"rule": {{"family": "inet", "table": "istio-proxy-nat", "chain": "output", "handle": 5,
    "comment": "v4 nat/OUTPUT/1", "expr": [
      {{"match": {{"op": "==", "left": {{"meta": {{"key": "nfproto"}}}}, "right": "ipv4"}}}},
      {{"counter": {{"packets": 7, "bytes": 420}}}}, {{"return": null}}]}}}},
  {{"rule": {{"family": "inet", "table": "istio-proxy-nat", "chain": "output", "handle": 6,
    "comment": "{comment}", "expr": [{{"counter": {{"packets": 8, "bytes": 480}}}}]}}}}
]}}"#
    )
}

#[test]
fn counters_come_by_the_rules_they_were_made_for() {
    let counters = counters_from_json(&listing("v6 nat/OUTPUT/1")).unwrap();
    let expected = [
        ((Family::V4, id("nat/OUTPUT/1")), 7),
        ((Family::V6, id("nat/OUTPUT/1")), 8),
    ];
    assert_eq!(counters, expected.into());
}

#[test]
fn a_rule_in_our_table_that_we_did_not_make_is_an_error() {
    for comment in [
        "",
        "v4",
        "v5 nat/OUTPUT/1",
        "v4 nat/OUTPUT",
        "v4 nat/OUTPUT/1",
    ] {
        assert!(counters_from_json(&listing(comment)).is_err(), "{comment}");
    }
}
