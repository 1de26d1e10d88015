//! The rules as `iptables-restore --noflush` reads them.

use std::collections::BTreeSet;

use sidecar_ebpf_common::{
    addr::Port,
    rule::{InboundRule, OutboundRule},
};

use super::{Chain, Family, IN_REDIRECT, Listed, Match, Policy, REDIRECT, Range, Servers};
use crate::{
    cmd::matches::OwnerKind,
    config::{DNS_PORT, Inbound},
};

impl Policy {
    /// The tables of one family, in the order in which istio-iptables writes their lines. Empty if
    /// the family has no `rules`.
    pub fn iptables(&self, family: Family, rules: bool) -> String {
        if !rules {
            return String::new();
        }
        let mut text = table("nat", &self.nat(family));
        if self.captures_dns() {
            text += &table("raw", &self.raw(family));
        }
        text
    }

    fn nat(&self, family: Family) -> Vec<String> {
        let config = &self.config;
        let (outside, inside) = split(self.outbound(family, true), Chain::Output);
        let interfaces = self.inbound(true);
        let interfaces = interfaces
            .iter()
            .filter(|listed| listed.rule == InboundRule::ExcludedInterface);
        let mut lines: Vec<_> = interfaces
            .map(Listed::line)
            .zip(outside)
            .flat_map(|(inbound, outbound)| [inbound, outbound])
            .collect();
        // The tunnel's rule comes before the redirects are defined, the others after.
        let mut inbound = self.inbound_chain().into_iter().map(|listed| listed.line());
        lines.extend(inbound.next());
        let redirect =
            |chain, port: Port| format!("-A {chain} -p tcp -j REDIRECT --to-ports {}", port.0);
        lines.push(redirect(REDIRECT, config.outbound_port));
        lines.push(redirect(IN_REDIRECT, config.inbound_port));
        if config.inbound != Inbound::Off {
            lines.push("-A PREROUTING -p tcp -j ISTIO_INBOUND".to_owned());
        }
        lines.extend(inbound);
        lines.push("-A OUTPUT -j ISTIO_OUTPUT".to_owned());
        let mut leads_to_dns = false;
        for (chain, line) in inside {
            if chain == Chain::Dns && !leads_to_dns {
                leads_to_dns = true;
                lines.push("-A ISTIO_OUTPUT -j ISTIO_OUTPUT_DNS".to_owned());
            }
            lines.push(line);
        }
        lines
    }

    /// Conntrack zones. A query to the agent and the agent's own query to the server can have the
    /// same addresses and ports; in zones of their own they are two connections.
    fn raw(&self, family: Family) -> Vec<String> {
        let zone = |chain: &str, matches: &[&str], zone: u8| {
            let matches = matches.join(" ");
            format!("-A {chain} -p udp {matches} -j CT --zone {zone}")
        };
        let dns = Chain::Dns.name();
        let inbound = Chain::Inbound.name();
        let [to_server, from_server] =
            ["d", "s"].map(|side| format!("--{side}port {}", Port::DNS.0));
        let from_agent = format!("--sport {}", DNS_PORT.0);
        let mut lines = vec![format!("-A OUTPUT -j {dns}")];
        let users = self.config.uids.iter().map(|id| (OwnerKind::User, id));
        let groups = self.config.gids.iter().map(|id| (OwnerKind::Group, id));
        for (kind, id) in users.chain(groups) {
            let owner = Match::Owner {
                not: false,
                kind,
                id,
            };
            let owner = owner.to_string();
            lines.push(zone(dns, &[&to_server, &owner], 1));
            lines.push(zone(dns, &[&from_agent, &owner], 2));
        }
        let servers = self.dns_servers(family);
        if !servers.is_empty() {
            lines.push(format!("-A PREROUTING -j {inbound}"));
        }
        for server in servers {
            let (to, from) = match server {
                Servers::Any => (to_server.clone(), from_server.clone()),
                Servers::One(addr) => {
                    let addr = Range::single(addr);
                    (
                        format!("{to_server} -d {addr}"),
                        format!("{from_server} -s {addr}"),
                    )
                }
            };
            lines.push(zone(dns, &[&to], 2));
            lines.push(zone(inbound, &[&from], 1));
        }
        lines
    }
}

/// The lines of one chain, and those of the others with their chains. What stands for the absence
/// of a rule has none.
fn split(listed: Vec<Listed<OutboundRule>>, of: Chain) -> (Vec<String>, Vec<(Chain, String)>) {
    let real = listed.into_iter().filter(|listed| listed.target.is_some());
    let (these, others): (Vec<_>, Vec<_>) = real.partition(|listed| listed.chain == of);
    let others = others.iter().map(|listed| (listed.chain, listed.line()));
    (these.iter().map(Listed::line).collect(), others.collect())
}

/// One table. Its chains are made first: those that lines are appended to, and those that lines
/// lead to.
fn table(name: &str, lines: &[String]) -> String {
    let appended = lines.iter().filter_map(|line| line.split(' ').nth(1));
    let targets = lines.iter().filter_map(|line| line.rsplit(' ').next());
    let mut text = format!("*{name}\n");
    let mut seen = BTreeSet::new();
    for chain in appended.chain(targets) {
        if chain.starts_with("ISTIO_") && seen.insert(chain) {
            text += &format!(":{chain} - [0:0]\n");
        }
    }
    for line in lines {
        text += &format!("{line}\n");
    }
    text + "COMMIT\n"
}
