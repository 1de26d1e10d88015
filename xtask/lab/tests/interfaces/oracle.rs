//! The same connections in a pod with iptables and in one with the programs: they arrive at the same
//! listener, from the same address, and are counted by the same rule.

use std::{net::IpAddr, time::Duration};

use anyhow::Result;
use sidecar_lab::{
    ConnectOptions, Placement,
    iptables::{Backend, IstioRules, OUTPUT_CHAIN, install_istio_rules},
    process::run_command,
};

use crate::{
    SECOND, SECOND6, SERVICE, SERVICE6, by_device, mapped,
    support::{Rig, canonical, to},
    two_interfaces, with,
};

#[derive(Clone, Copy, Debug)]
enum By {
    App,
    Proxy,
    Remote,
}

/// What became of a connection.
#[derive(PartialEq, Eq, Debug)]
struct Outcome {
    /// Who got it, and from which address.
    arrived: Option<(&'static str, IpAddr)>,
    /// The client's `getsockname` and `getpeername`.
    client: Option<(IpAddr, std::net::SocketAddr)>,
    /// The rule of the chain that counted it; none for what never came to it.
    rule: Option<usize>,
}

fn cases() -> Vec<(By, ConnectOptions)> {
    let bound = |addr: &str, source: &str| {
        let source = source.parse().unwrap();
        with(addr, |options| options.from = Some(source))
    };
    let mut cases = Vec::new();
    for addr in [SERVICE, SERVICE6, SECOND, SECOND6] {
        cases.extend([(By::App, to(addr)), (By::Proxy, to(addr))]);
    }
    cases.extend([(By::App, mapped(SERVICE)), (By::App, mapped(SECOND))]);
    for own in [
        "127.0.0.1:8080",
        "127.0.0.9:8080",
        "10.244.0.5:8080",
        "10.244.0.66:8080",
        "192.168.77.2:8080",
        "[::1]:8080",
        "[fd00:10:244::5]:8080",
        "[fd00:10:244::66]:8080",
        "[fd00:77::2]:8080",
    ] {
        cases.extend([(By::App, to(own)), (By::Proxy, to(own))]);
        if !own.contains("127.") && !own.contains("::1]") {
            cases.push((By::Remote, to(own)));
        }
    }
    cases.extend([
        (By::Proxy, mapped("127.0.0.9:8080")),
        (By::App, to("192.168.77.1:80")),
        (By::App, to("[fd00:77::1]:80")),
        (By::App, bound(SECOND, "10.244.0.5:0")),
        (By::App, bound(SERVICE, "192.168.77.2:0")),
        (By::App, bound(SERVICE, "10.244.0.66:0")),
        (By::App, bound(SERVICE6, "[fd00:77::2]:0")),
        (By::App, by_device(SECOND, "net1")),
        (By::Proxy, by_device(SECOND, "net1")),
        (By::App, by_device("127.0.0.1:8080", "eth0")),
        (By::App, by_device("192.168.77.2:8080", "net1")),
        (By::Proxy, by_device("127.0.0.1:8080", "net1")),
        (By::App, by_device("10.244.0.5:8080", "lo")),
        (By::App, by_device(SERVICE, "lo")),
        (By::Proxy, by_device(SERVICE, "lo")),
        (By::App, by_device("[fd00:77::2]:8080", "eth0")),
        (By::App, by_device("[::1]:8080", "eth0")),
    ]);
    for (_, options) in &mut cases {
        options.timeout = Duration::from_millis(500);
    }
    cases
}

fn observe(rig: &Rig, by: By, options: &ConnectOptions, counts: &dyn Fn() -> Vec<u64>) -> Outcome {
    let before = counts();
    let agent = match by {
        By::App => &rig.app,
        By::Proxy => &rig.proxy,
        By::Remote => &rig.remote,
    };
    let client = agent.connect_with(options.clone()).ok();
    let after = counts();
    let arrived = client.as_ref().and_then(|client| {
        let from = canonical(client.local);
        let fronts = [
            ("outbound", &rig.outbound),
            ("inbound", &rig.inbound),
            ("application", &rig.application),
            ("service", &rig.service),
        ];
        fronts.into_iter().find_map(|(name, front)| {
            let mut listeners = front.listeners.iter();
            let listener = listeners.find(|listener| listener.addr.is_ipv4() == from.is_ipv4())?;
            let server = listener.accept_within(Duration::from_millis(20)).ok()?;
            assert_eq!(server.peer, from, "another connection");
            Some((name, server.peer.ip()))
        })
    });
    Outcome {
        arrived,
        client: client.map(|client| (canonical(client.local).ip(), canonical(client.peer))),
        rule: (0..before.len()).find(|&rule| after[rule] > before[rule]),
    }
}

/// The rules that may count, in the order of iptables' own: the excluded interface, then 1 to 9.
const RULES: [&str; 10] = [
    "excluded-interface",
    "1",
    "2",
    "3",
    "4",
    "5",
    "6",
    "7",
    "8",
    "9",
];

fn by_loader(rig: &Rig) -> Vec<u64> {
    let counters = rig.counters().unwrap();
    let count = |rule: &str| counters.get("connect4", rule) + counters.get("connect6", rule);
    RULES.iter().map(|rule| count(rule)).collect()
}

/// A SYN that is not answered is counted once: conntrack knows the flow from then on.
fn by_iptables(rules: &IstioRules, excluded: bool) -> Vec<u64> {
    let both = |chain| {
        let v4 = rules.counters(chain).unwrap();
        let v6 = rules.counters6(chain).unwrap();
        let sums = v4.into_iter().zip(v6).map(|(v4, v6)| v4 + v6);
        sums.collect::<Vec<_>>()
    };
    let first = if excluded { both("OUTPUT")[0] } else { 0 };
    [vec![first], both(OUTPUT_CHAIN)].concat()
}

fn exclude_net1(rig: &Rig) -> Result<()> {
    let place = Placement {
        netns: Some(rig.pod.netns_path()),
        ..Placement::default()
    };
    for program in ["iptables-nft", "ip6tables-nft"] {
        for (chain, direction) in [("PREROUTING", "-i"), ("OUTPUT", "-o")] {
            let args = [
                "-t", "nat", "-I", chain, "1", direction, "net1", "-j", "RETURN",
            ];
            run_command(place.command(program, args)?, "")?;
        }
    }
    Ok(())
}

fn compare(hint: &str, excluded: bool) -> Result<()> {
    let mut ours = two_interfaces(hint)?;
    let theirs = two_interfaces(&format!("{hint}-iptables"))?;
    for rig in [&ours, &theirs] {
        rig.pod.add_address("10.244.0.66".parse()?)?;
        rig.pod.add_address("fd00:10:244::66".parse()?)?;
    }
    let args: &[&str] = if excluded { &["-c", "net1"] } else { &[] };
    ours.load(&[&["--dual-stack"], args].concat())?;
    let rules = install_istio_rules(&theirs.pod, Backend::Nft, true)?;
    if excluded {
        exclude_net1(&theirs)?;
    }
    let mut differences = Vec::new();
    for (by, options) in cases() {
        let expected = observe(&theirs, by, &options, &|| by_iptables(&rules, excluded));
        let seen = observe(&ours, by, &options, &|| by_loader(&ours));
        if seen != expected {
            differences.push(format!(
                "{by:?} {options:?}\n  iptables {expected:?}\n  ours     {seen:?}"
            ));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    Ok(())
}

#[test]
fn two_interfaces_as_with_iptables() -> Result<()> {
    compare("same", false)
}

#[test]
fn an_excluded_interface_as_with_iptables() -> Result<()> {
    compare("same-c", true)
}
