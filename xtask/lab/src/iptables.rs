//! The rules that a default Istio installation puts into a pod, to compare with.
//!
//! Chains, order and numbers are Istio's; ports and ids are its defaults.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::{
    pod::{PROXY_ID, Pod},
    process::{Placement, run_command},
};

/// The chain with the nine rules.
pub const OUTPUT_CHAIN: &str = "ISTIO_OUTPUT";
pub const INBOUND_CHAIN: &str = "ISTIO_INBOUND";

/// The two implementations behind the name `iptables`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    Legacy,
    Nft,
}

impl Backend {
    fn name(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Nft => "nft",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn program(self, backend: Backend, verb: &str) -> String {
        let name = match self {
            Self::V4 => "iptables",
            Self::V6 => "ip6tables",
        };
        format!("{name}-{}-{verb}", backend.name())
    }
}

/// Rules in a pod's network namespace; they go with the namespace.
#[derive(Debug)]
pub struct IstioRules {
    netns: PathBuf,
    backend: Backend,
}

/// Installs the default rules in the pod: for IPv4, and for IPv6 if wanted.
pub fn install_istio_rules(pod: &Pod, backend: Backend, ipv6: bool) -> Result<IstioRules> {
    let rules = IstioRules {
        netns: pod.netns_path(),
        backend,
    };
    rules.restore(Family::V4)?;
    if ipv6 {
        // Istio gives the loopback the address from which its proxy calls the application.
        pod.ip("addr add ::6/128 dev lo nodad\n")?;
        rules.restore(Family::V6)?;
    }
    Ok(rules)
}

impl IstioRules {
    /// How many packets each rule of an IPv4 chain has counted, in the order of the rules; for
    /// TCP that is connections, for only the first packet of one comes here.
    pub fn counters(&self, chain: &str) -> Result<Vec<u64>> {
        self.read_counters(Family::V4, chain)
    }

    /// The same for IPv6.
    pub fn counters6(&self, chain: &str) -> Result<Vec<u64>> {
        self.read_counters(Family::V6, chain)
    }

    fn restore(&self, family: Family) -> Result<()> {
        let program = family.program(self.backend, "restore");
        in_netns(
            &self.netns,
            &program,
            &["--noflush", "--wait"],
            &render(family),
        )
        .map(drop)
    }

    fn read_counters(&self, family: Family, chain: &str) -> Result<Vec<u64>> {
        let program = family.program(self.backend, "save");
        let text = in_netns(&self.netns, &program, &["--counters", "-t", "nat"], "")?;
        parse_counters(&text, chain)
    }
}

/// `iptables-restore --wait` needs no wait with nft, and accepts the option all the same.
fn in_netns(netns: &Path, program: &str, args: &[&str], stdin: &str) -> Result<String> {
    let place = Placement {
        netns: Some(netns.to_owned()),
        ..Placement::default()
    };
    run_command(place.command(program, args)?, stdin)
        .with_context(|| format!("{program} in {} (package iptables)", netns.display()))
}

/// Lines of `iptables-save -c`: `[packets:bytes] -A CHAIN …`.
fn parse_counters(text: &str, chain: &str) -> Result<Vec<u64>> {
    text.lines()
        .filter_map(|line| line.strip_prefix('[')?.split_once("] -A "))
        .filter(|(_, rule)| rule.split(' ').next() == Some(chain))
        .map(|(counts, rule)| {
            let packets = counts.split(':').next().unwrap_or_default();
            packets
                .parse()
                .with_context(|| format!("the count of {rule:?}"))
        })
        .collect()
}

fn render(family: Family) -> String {
    let (loopback, source) = match family {
        Family::V4 => ("127.0.0.1/32", "127.0.0.6/32"),
        Family::V6 => ("::1/128", "::6/128"),
    };
    format!(
        "*nat\n\
         :ISTIO_INBOUND - [0:0]\n\
         :ISTIO_REDIRECT - [0:0]\n\
         :ISTIO_IN_REDIRECT - [0:0]\n\
         :ISTIO_OUTPUT - [0:0]\n\
         -A ISTIO_INBOUND -p tcp --dport 15008 -j RETURN\n\
         -A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001\n\
         -A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006\n\
         -A PREROUTING -p tcp -j ISTIO_INBOUND\n\
         -A ISTIO_INBOUND -p tcp --dport 15090 -j RETURN\n\
         -A ISTIO_INBOUND -p tcp --dport 15021 -j RETURN\n\
         -A ISTIO_INBOUND -p tcp --dport 15020 -j RETURN\n\
         -A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT\n\
         -A OUTPUT -j ISTIO_OUTPUT\n\
         -A ISTIO_OUTPUT -o lo -s {source} -j RETURN\n\
         {by_user}\
         {by_group}\
         -A ISTIO_OUTPUT -d {loopback} -j RETURN\n\
         -A ISTIO_OUTPUT -j ISTIO_REDIRECT\n\
         COMMIT\n",
        by_user = owner_rules("uid", loopback),
        by_group = owner_rules("gid", loopback),
    )
}

/// Rules 2 to 4 for the proxy's user, 5 to 7 for its group.
fn owner_rules(kind: &str, loopback: &str) -> String {
    format!(
        "-A ISTIO_OUTPUT -o lo ! -d {loopback} -p tcp ! --dport 15008 \
             -m owner --{kind}-owner {PROXY_ID} -j ISTIO_IN_REDIRECT\n\
         -A ISTIO_OUTPUT -o lo -m owner ! --{kind}-owner {PROXY_ID} -j RETURN\n\
         -A ISTIO_OUTPUT -m owner --{kind}-owner {PROXY_ID} -j RETURN\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_chain_has_the_nine_rules() {
        for family in [Family::V4, Family::V6] {
            let text = render(family);
            let rules = text
                .lines()
                .filter(|line| line.starts_with("-A ISTIO_OUTPUT "));
            assert_eq!(rules.count(), 9, "{text}");
        }
    }

    #[test]
    fn counters_are_those_of_the_chain_asked_for() {
        let saved = "*nat\n[3:180] -A ISTIO_OUTPUT -o lo -j RETURN\n\
                     [1:60] -A OUTPUT -j ISTIO_OUTPUT\n[0:0] -A ISTIO_OUTPUT -j ISTIO_REDIRECT\n";
        assert_eq!(parse_counters(saved, "ISTIO_OUTPUT").unwrap(), [3, 0]);
        assert!(parse_counters("[x:1] -A ISTIO_OUTPUT -j X\n", "ISTIO_OUTPUT").is_err());
    }
}
