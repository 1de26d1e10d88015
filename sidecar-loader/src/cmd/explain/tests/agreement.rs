//! That the list of rules and the decision come to the same, for random settings and connections.

use std::{cell::RefCell, collections::BTreeSet, net::Ipv4Addr};

use proptest::{
    prelude::*,
    test_runner::{RngAlgorithm, TestRng, TestRunner},
};
use sidecar_ebpf_common::{
    lists::Groups,
    rule::{InboundRule, OutboundRule},
};

use super::*;

/// Few values, so that rules and connections meet.
fn port() -> impl Strategy<Value = u16> {
    prop::sample::select(vec![
        53u16, 53, 79, 80, 81, 443, 8080, 15001, 15006, 15008, 15021,
    ])
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

/// Settings that lists of numbers and names make.
#[derive(Clone, Debug)]
struct Lists {
    groups: OwnerGroups,
    loopback: u8,
    interfaces: Vec<String>,
    dns: Dns,
}

impl Lists {
    fn apply(&self, config: &mut Config) {
        config.owner_groups = self.groups.clone();
        config.loopback = (Ipv4Addr::LOCALHOST, self.loopback);
        config.excluded_interfaces.clone_from(&self.interfaces);
        config.dns = self.dns.clone();
    }
}

fn groups() -> impl Strategy<Value = OwnerGroups> {
    let ids = prop::sample::subsequence(vec![0u32, 3, 4, 1000, 1337], 0..3);
    let ids = ids.prop_map(|ids| Groups::new(&ids).unwrap());
    prop_oneof![
        Just(OwnerGroups::All),
        ids.clone().prop_map(OwnerGroups::Included),
        ids.prop_map(OwnerGroups::Excluded),
    ]
}

fn dns() -> impl Strategy<Value = Dns> {
    let server = addr().prop_map(|addr| addr.parse::<IpAddr>().unwrap().to_canonical());
    prop_oneof![
        Just(Dns::Off),
        Just(Dns::All),
        prop::collection::vec(server, 0..4).prop_map(Dns::Servers),
    ]
}

fn interface() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["eth0", "eth1", "net1"])
}

fn lists() -> impl Strategy<Value = Lists> {
    let pattern = prop::sample::select(vec!["eth0", "eth1", "net+", "eth+", "lo", "+"]);
    let interfaces = prop_oneof![
        2 => Just(vec![]),
        1 => prop::collection::vec(pattern.prop_map(str::to_owned), 1..3),
    ];
    let loopback = prop::sample::select(vec![32u8, 31, 8]);
    (groups(), loopback, interfaces, dns()).prop_map(|(groups, loopback, interfaces, dns)| Lists {
        groups,
        loopback,
        interfaces,
        dns,
    })
}

/// Flags of a socket that connects or sends.
fn sockets() -> impl Strategy<Value = Vec<String>> {
    let id = || prop::sample::select(vec!["0", "3", "4", "1000", "1337"]);
    let local = prop::sample::select(vec!["10.244.0.5", "fd00::5"]);
    let local = (local, interface()).prop_map(|(addr, name)| format!("{addr}@{name}"));
    let locals = prop::collection::vec(local, 0..2);
    let device = prop::option::weighted(0.3, prop_oneof![interface(), Just("lo")]);
    let route = prop::option::of(interface());
    let from = prop::option::of(addr());
    (id(), id(), from, locals, device, route, any::<bool>()).prop_map(
        |(uid, gid, from, locals, device, route, udp)| {
            let mut flags = vec!["--uid", uid, "--gid", gid];
            flags.extend(from.iter().flat_map(|from| ["--from", from]));
            flags.extend(locals.iter().flat_map(|local| ["--local", local]));
            flags.extend(device.iter().flat_map(|name| ["--interface", name]));
            flags.extend(route.iter().flat_map(|name| ["--out-interface", name]));
            flags.extend(udp.then_some("--udp"));
            flags.into_iter().map(str::to_owned).collect()
        },
    )
}

/// A connection by its flags, and settings.
#[derive(Clone, Debug)]
struct Asked {
    socket: Vec<String>,
    /// Through which it comes in, if it comes from outside.
    interface: Option<&'static str>,
    to: String,
    settings: Vec<String>,
    lists: Lists,
}

fn questions() -> impl Strategy<Value = Asked> {
    let to = (addr(), port());
    let to = to.prop_map(|(addr, port)| SocketAddr::new(addr.parse().unwrap(), port).to_string());
    let come_in = prop::option::of(interface());
    (sockets(), come_in, to, settings(), lists()).prop_map(
        |(socket, interface, to, settings, lists)| Asked {
            socket,
            interface,
            to,
            settings,
            lists,
        },
    )
}

/// Both directions. Fails if the first rule that matches is another than the one that is decided.
fn rules_of(asked: &Asked) -> Result<[&'static str; 2], TestCaseError> {
    let ask = |of: &[String]| {
        let of = of.iter().chain(&asked.settings).map(String::as_str);
        let args: Vec<_> = ["--to", &asked.to].into_iter().chain(of).collect();
        let report = explained_with(&args, |config| asked.lists.apply(config));
        report.map_err(|error| TestCaseError::fail(format!("{args:?}: {error:#}")))
    };
    let mut inbound = vec!["--inbound".to_owned()];
    let interface = asked.interface.iter();
    inbound.extend(interface.flat_map(|name| ["--interface".to_owned(), (*name).to_owned()]));
    Ok([ask(&asked.socket)?.rule, ask(&inbound)?.rule])
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
        cases: 2000,
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
