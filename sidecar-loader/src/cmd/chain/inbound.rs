//! What a connection from outside meets: `PREROUTING` and `ISTIO_INBOUND`.

use sidecar_ebpf_common::rule::InboundRule as Rule;

use super::{Chain, Listed, Match, Policy, Protocol, each, single, to_port};
use crate::{cmd::matches::InterfaceName, config::Inbound};

impl Policy {
    /// Every rule that a TCP connection meets, in order. `rules` tells whether its family has rules.
    pub fn inbound(&self, rules: bool) -> Vec<Listed<Rule>> {
        if !rules {
            return vec![Listed::absent(Rule::NoIpv6Rules, Chain::Prerouting)];
        }
        let interfaces = self.config.excluded_interfaces.iter().map(|name| {
            let matches = vec![Match::InInterface(InterfaceName(name.clone()))];
            Listed::new(Rule::ExcludedInterface, Chain::Prerouting, matches)
        });
        let mut chain: Vec<_> = interfaces.collect();
        match self.config.inbound {
            Inbound::Off => chain.push(Listed::absent(Rule::Off, Chain::Prerouting)),
            Inbound::All | Inbound::Ports => {
                chain.extend(self.inbound_chain());
                chain.push(Listed::absent(Rule::EndOfChain, Chain::Inbound));
            }
        }
        chain
    }

    /// `ISTIO_INBOUND`, which exists even if nothing leads there.
    pub(super) fn inbound_chain(&self) -> Vec<Listed<Rule>> {
        let tcp = Match::Protocol(Protocol::Tcp);
        let mut chain = Vec::new();
        let mut push = |rule, port: Option<Match>| {
            let matches = [tcp.clone()].into_iter().chain(port).collect();
            chain.push(Listed::new(rule, Chain::Inbound, matches));
        };
        push(
            Rule::Tunnel,
            Some(to_port(single(self.config.tunnel_port.0))),
        );
        if self.config.inbound == Inbound::All {
            for ports in each(&self.config.written.inbound_excluded) {
                push(Rule::ExcludedPort, Some(to_port(ports)));
            }
            push(Rule::Everything, None);
        } else {
            for ports in each(&self.config.written.inbound_included) {
                push(Rule::IncludedPort, Some(to_port(ports)));
            }
        }
        chain
    }
}
