//! What leaves the pod's processes meets: `OUTPUT`, `ISTIO_OUTPUT` and `ISTIO_OUTPUT_DNS`.

use std::net::IpAddr;

use sidecar_ebpf_common::{addr::Port, lists::Ids, rule::OutboundRule as Rule};

use super::{
    Chain, Family, Listed, Match, Policy, Ports, Protocol, Range, each, single, to, to_port,
};
use crate::{
    cmd::matches::{InterfaceName, OwnerKind},
    config::OwnerGroups,
};

impl Policy {
    /// Every rule that a connection or a datagram meets, in order. `rules` tells whether the family
    /// has rules.
    pub fn outbound(&self, family: Family, rules: bool) -> Vec<Listed<Rule>> {
        if !rules {
            return vec![Listed::absent(Rule::NoIpv6Rules, Chain::Output)];
        }
        let mut chain = Vec::new();
        self.interface_rules(&mut chain);
        self.excluded_ports(&mut chain);
        push(
            &mut chain,
            Rule::FromInboundPassthrough,
            vec![Match::ToLocal, Match::Source(family.passthrough())],
        );
        for kind in [OwnerKind::User, OwnerKind::Group] {
            self.owner_rules(kind, family, &mut chain);
        }
        self.group_rules(&mut chain);
        self.dns_rules(family, &mut chain);
        self.destination_rules(family, &mut chain);
        chain.push(Listed::absent(Rule::EndOfChain, Chain::IstioOutput));
        chain
    }

    fn interface_rules(&self, chain: &mut Vec<Listed<Rule>>) {
        for name in &self.config.excluded_interfaces {
            let matches = vec![Match::OutInterface(InterfaceName(name.clone()))];
            chain.push(Listed::new(Rule::ExcludedInterface, Chain::Output, matches));
        }
    }

    fn excluded_ports(&self, chain: &mut Vec<Listed<Rule>>) {
        for ports in each(&self.config.written.outbound_excluded) {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let matches = vec![Match::Protocol(protocol), to_port(ports.clone())];
                push(chain, Rule::ExcludedPort, matches);
            }
        }
    }

    /// Three rules for each id of the list.
    fn owner_rules(&self, kind: OwnerKind, family: Family, chain: &mut Vec<Listed<Rule>>) {
        let (ids, own_pod, local, proxy): (&Ids, _, _, _) = match kind {
            OwnerKind::User => (
                &self.config.uids,
                Rule::ProxyToOwnPodByUid,
                Rule::LocalNotProxyByUid,
                Rule::ProxyByUid,
            ),
            OwnerKind::Group => (
                &self.config.gids,
                Rule::ProxyToOwnPodByGid,
                Rule::LocalNotProxyByGid,
                Rule::ProxyByGid,
            ),
        };
        let range = self.loopback(family);
        for id in ids.iter() {
            let owner = |not| Match::Owner { not, kind, id };
            let to_own_pod = vec![
                Match::ToLocal,
                Match::Destination { not: true, range },
                Match::Protocol(Protocol::Tcp),
                self.port_to_own_pod(kind),
                owner(false),
            ];
            push(chain, own_pod, to_own_pod);
            if !self.config.loopback_included {
                let mut returns = vec![Match::ToLocal];
                if self.captures_dns() {
                    returns.push(Match::Protocol(Protocol::Tcp));
                    returns.push(not_to_port(Port::DNS));
                }
                returns.push(owner(true));
                push(chain, local, returns);
            }
            push(chain, proxy, vec![owner(false)]);
        }
    }

    /// With DNS capture, Istio keeps queries out of rule 2, but not out of rule 5.
    fn port_to_own_pod(&self, kind: OwnerKind) -> Match {
        let tunnel = self.config.tunnel_port;
        if self.captures_dns() && kind == OwnerKind::User {
            Match::NoneOfPorts(vec![Port::DNS.0, tunnel.0])
        } else {
            not_to_port(tunnel)
        }
    }

    fn group_rules(&self, chain: &mut Vec<Listed<Rule>>) {
        let group = |not, id| Match::Owner {
            not,
            kind: OwnerKind::Group,
            id,
        };
        match &self.config.owner_groups {
            OwnerGroups::All => {}
            OwnerGroups::Excluded(groups) => {
                for id in groups.iter() {
                    push(chain, Rule::ExcludedGroup, vec![group(false, id)]);
                }
            }
            // One rule for all. Without groups it asks for nothing, so nothing gets beyond it.
            OwnerGroups::Included(groups) => {
                let matches = groups.iter().map(|id| group(true, id)).collect();
                push(chain, Rule::NotIncludedGroup, matches);
            }
        }
    }

    fn dns_rules(&self, family: Family, chain: &mut Vec<Listed<Rule>>) {
        let servers = self.dns_servers(family);
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for server in &servers {
                let mut matches = vec![Match::Protocol(protocol), to_port(single(Port::DNS.0))];
                matches.extend(server.matches());
                chain.push(Listed::new(Rule::Dns, Chain::Dns, matches));
            }
        }
    }

    fn destination_rules(&self, family: Family, chain: &mut Vec<Listed<Rule>>) {
        push(chain, Rule::Localhost, vec![to(self.loopback(family))]);
        for range in of_family(&self.config.written.excluded, family) {
            push(chain, Rule::ExcludedRange, vec![to(range)]);
        }
        for ports in each(&self.config.written.outbound_included) {
            let matches = vec![Match::Protocol(Protocol::Tcp), to_port(ports)];
            push(chain, Rule::IncludedPort, matches);
        }
        if self.config.outbound_all {
            push(chain, Rule::Everything, vec![]);
            return;
        }
        for range in of_family(&self.config.written.included, family) {
            push(chain, Rule::IncludedRange, vec![to(range)]);
        }
    }
}

fn push(chain: &mut Vec<Listed<Rule>>, rule: Rule, matches: Vec<Match>) {
    chain.push(Listed::new(rule, Chain::IstioOutput, matches));
}

const fn not_to_port(port: Port) -> Match {
    Match::Port {
        not: true,
        ports: Ports(port.0..=port.0),
    }
}

fn of_family(ranges: &[(IpAddr, u8)], family: Family) -> impl Iterator<Item = Range> {
    let of_family = ranges
        .iter()
        .filter(move |(addr, _)| Family::of(*addr) == family);
    of_family.map(|&(addr, len)| Range { addr, len })
}
