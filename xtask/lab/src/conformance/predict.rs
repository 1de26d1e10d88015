//! The two legs without a kernel: the decision, with the list that `loader explain` reads, and the
//! interpreter of the rules' text. Both must say the same, and it is what the kernels must do.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Context as _, Result};
use sidecar_ebpf_common::{
    addr::{OrigDst, Port},
    decide,
    facts::{Caller, Inbound, Outbound, Protocol, Socket, Source},
    interface::Interface,
    policy::Policy,
    rule::{Action, InboundRule},
};
use sidecar_loader::{
    cmd::{
        chain,
        matches::Facts,
        pod_view::{Lists, PodView},
    },
    config,
};

use super::{
    config::Resolved,
    explain::Listing,
    map,
    probe::{Kind, Probe},
    rules::{self, Family, Hook, Packet, RuleId, Trace, Verdict, walk},
};

use crate::pod::APP_ID;

/// Counters by name, and by how much they move.
pub(super) type Moves = BTreeMap<String, u64>;

/// What a probe must come to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Prediction {
    /// The label of the rule that decides.
    pub rule: &'static str,
    /// The proxy's port that it is redirected to.
    pub redirect: Option<u16>,
    /// Who answers; `None`: nobody.
    pub server: Option<String>,
    /// Counters of the rules.
    pub theirs: Moves,
    /// Our counters.
    pub ours: Moves,
    /// Netfilter counts it under this rule, and we do not.
    pub uncounted: bool,
    /// What the legs without a kernel say differently.
    pub disagreement: Option<String>,
}

/// Predicts for one configuration.
pub(super) struct Oracle<'a> {
    resolved: &'a Resolved,
    policy: Policy,
    view: PodView,
    listing: Listing,
}

impl<'a> Oracle<'a> {
    pub(super) fn new(resolved: &'a Resolved) -> Result<Self> {
        let view = map::view(resolved.ipv6());
        let policy = view.policy(&resolved.policy.config, resolved.ipv6());
        Ok(Self {
            resolved,
            policy: policy.context("more interfaces than there can be")?,
            view,
            listing: Listing::new(resolved)?,
        })
    }

    pub(super) fn predict(&self, probe: &Probe) -> Result<Prediction> {
        let decided = if probe.is_outbound() {
            self.outbound(probe)
        } else {
            self.inbound(probe)
        };
        let config = &self.resolved.policy.config;
        let redirect = match decided.action {
            // `ISTIO_REDIRECT` and its twin hold a rule for TCP only.
            _ if !probe.kind.is_tcp() && decided.action != Action::ToDns => None,
            Action::Pass => None,
            Action::ToOutbound => Some(config.outbound_port.0),
            Action::ToInbound => Some(config.inbound_port.0),
            Action::ToDns => Some(config::DNS_PORT.0),
        };
        let trace = self.walk(probe)?;
        let walked = trace
            .as_ref()
            .map_or(Verdict::Accept, |trace| trace.verdict);
        let expected = redirect.map_or(Verdict::Accept, Verdict::Redirect);
        let family = family(probe);
        let mut disagreement = None;
        if let (Some(trace), Some(rules)) = (&trace, self.rules(family)) {
            let checked = self
                .listing
                .check(decided.rule, probe, &decided.facts, rules, trace);
            disagreement = checked.err().map(|error| format!("{error:#}"));
        }
        if walked != expected {
            disagreement = Some(format!(
                "rule {} decides, which means {expected:?}; the rules' text says {walked:?}",
                decided.rule
            ));
        }
        let server = match redirect {
            Some(port) => map::server_behind(port),
            None => map::server_at(probe, self.resolved.ipv6()),
        };
        let mut matched = trace.map(|trace| trace.matched).unwrap_or_default();
        let is_counted_by_them = !matched.is_empty();
        if let (None, Some(server)) = (redirect, &server) {
            matched.extend(self.strange_answer(probe, server)?);
        }
        let mut ours = Moves::new();
        let uncounted = !self.is_counted(probe);
        if !uncounted {
            ours.insert(format!("{} {}", hook(probe), decided.rule), 1);
            if redirect.is_some() && server.is_none() {
                ours.insert("sk_lookup refusal:no-listener".to_owned(), 1);
            }
        }
        let mut theirs = Moves::new();
        for id in &matched {
            *theirs.entry(counter(family, id)).or_default() += 1;
        }
        Ok(Prediction {
            rule: decided.rule,
            redirect,
            server,
            theirs,
            uncounted: uncounted && is_counted_by_them,
            ours,
            disagreement,
        })
    }

    /// UDP is looked at only where it can be captured.
    fn is_counted(&self, probe: &Probe) -> bool {
        let captures_dns = match &self.resolved.policy.config.dns {
            config::Dns::Off => false,
            config::Dns::ServersOfPod => !self.resolved.dns_servers.is_empty(),
            config::Dns::Servers(servers) => !servers.is_empty(),
            config::Dns::All => true,
        };
        probe.kind.is_tcp() || probe.is_outbound() && captures_dns && probe.to.port() == 53
    }

    fn rules(&self, family: Family) -> Option<&rules::Ruleset> {
        match family {
            Family::V4 => Some(&self.resolved.rules.v4),
            Family::V6 => self.resolved.rules.v6.as_ref(),
        }
    }

    fn outbound(&self, probe: &Probe) -> Decided {
        let source = probe
            .from
            .map_or(Source::Unbound, |ip| Source::Bound(ip.into()));
        let socket = Socket {
            protocol: protocol(probe),
            owner: probe.ids(),
            source,
            device: device(probe),
            caller: Caller::MayBeProxy,
        };
        let asked = OrigDst::new(probe.to.ip().into(), Port(probe.to.port()));
        let flow = Outbound::new(socket, asked);
        let lists = self.lists();
        let rule = decide::decide_outbound(&self.policy, &flow, &lists);
        Decided {
            rule: rule.label(),
            action: rule.action(),
            facts: self.view.outbound_facts(socket, asked, &lists),
        }
    }

    fn inbound(&self, probe: &Probe) -> Decided {
        let flow = Inbound {
            dst: probe.to.ip().into(),
            port: Port(probe.to.port()),
            interface: map::interface_with(probe.to.ip(), true),
        };
        let mut rule = decide::decide_inbound(&self.policy, &flow, &self.lists());
        // The programs are asked about TCP only, as the chain is.
        let is_early = [
            InboundRule::NoIpv6Rules,
            InboundRule::ExcludedInterface,
            InboundRule::Off,
        ]
        .contains(&rule);
        if !probe.kind.is_tcp() && !is_early {
            rule = InboundRule::EndOfChain;
        }
        let action = if probe.kind.is_tcp() {
            rule.action()
        } else {
            Action::Pass
        };
        Decided {
            rule: rule.label(),
            action,
            facts: self.view.inbound_facts(&flow),
        }
    }

    /// The programs' maps, from the same settings.
    const fn lists(&self) -> Lists<'_> {
        Lists {
            config: &self.resolved.policy.config,
            pod: &self.view,
        }
    }

    fn walk(&self, probe: &Probe) -> Result<Option<Trace>> {
        let Some(rules) = self.rules(family(probe)) else {
            return Ok(None);
        };
        let packet = packet(probe, self.resolved.ipv6());
        let hook = if probe.is_outbound() {
            Hook::Output
        } else {
            Hook::Prerouting
        };
        walk(rules, "nat", hook, &packet).map(Some)
    }
}

impl Oracle<'_> {
    /// Rules that count the answer to a datagram, because it is in another zone of connection
    /// tracking than the question and so begins a flow of its own.
    fn strange_answer(&self, probe: &Probe, server: &str) -> Result<Vec<RuleId>> {
        let rules = self.rules(family(probe));
        let Some(rules) = rules.filter(|_| !probe.kind.is_tcp() && probe.is_outbound()) else {
            return Ok(Vec::new());
        };
        let question = packet(probe, self.resolved.ipv6());
        let (hook, owner) = match server.split_once(':') {
            Some(("remote", _)) => (Hook::Prerouting, None),
            Some(("dns", _)) => {
                let owner = self.resolved.agent()?;
                (Hook::Output, Some((owner.uid, owner.gid)))
            }
            _ => (Hook::Output, Some((APP_ID, APP_ID))),
        };
        let (in_interface, out_interface) = match hook {
            // The rest of the world sends it to where that address is.
            Hook::Prerouting => {
                let interface = map::interface_with(question.src, true);
                (map::name_of(interface).map(str::to_owned), None)
            }
            Hook::Output => (None, question.out_interface.clone()),
        };
        let answer = Packet {
            protocol: question.protocol,
            src: question.dst,
            dst: question.src,
            sport: question.dport,
            dport: question.sport,
            in_interface,
            out_interface,
            owner,
        };
        let zone = |hook, packet| anyhow::Ok(walk(rules, "raw", hook, packet)?.zone);
        if zone(Hook::Output, &question)? == zone(hook, &answer)? {
            return Ok(Vec::new());
        }
        Ok(walk(rules, "nat", hook, &answer)?.matched)
    }
}

struct Decided {
    rule: &'static str,
    action: Action,
    /// As `loader explain` puts them to the list.
    facts: Facts,
}

/// How a rule's counter is called here.
pub(super) fn counter(family: Family, id: &RuleId) -> String {
    format!("{family} {id}")
}

pub(super) fn family(probe: &Probe) -> Family {
    Family::of(probe.destination().ip())
}

pub(super) const fn protocol(probe: &Probe) -> Protocol {
    match probe.kind {
        Kind::Tcp => Protocol::Tcp,
        Kind::Udp | Kind::UdpConnected => Protocol::Udp,
    }
}

pub(super) fn device(probe: &Probe) -> Interface {
    let named = map::INTERFACES
        .iter()
        .find(|(_, name)| Some(*name) == probe.device.as_deref());
    named.map_or(Interface::NONE, |(index, _)| *index)
}

/// The first packet.
pub(super) fn packet(probe: &Probe, ipv6: bool) -> Packet {
    let to = probe.destination();
    let local = map::interface_with(to.ip(), ipv6);
    let name = |interface| map::name_of(interface).map(str::to_owned);
    let leaves_by = match device(probe) {
        Interface::NONE if local != Interface::NONE => Interface::LO,
        Interface::NONE => map::interface_towards(to.ip()),
        device if device == local => Interface::LO,
        device => device,
    };
    let outbound = probe.is_outbound();
    Packet {
        protocol: match probe.kind {
            Kind::Tcp => rules::Protocol::TCP,
            Kind::Udp | Kind::UdpConnected => rules::Protocol::UDP,
        },
        src: source(probe, to.ip(), ipv6),
        dst: to.ip(),
        sport: 40_000,
        dport: to.port(),
        in_interface: if outbound { None } else { name(local) },
        out_interface: if outbound { name(leaves_by) } else { None },
        owner: outbound.then(|| (probe.ids().uid, probe.ids().gid)),
    }
}

fn source(probe: &Probe, to: IpAddr, ipv6: bool) -> IpAddr {
    match probe.from {
        Some(from) if !from.is_unspecified() => from.to_canonical(),
        _ if probe.is_outbound() => map::source_towards(to, ipv6),
        _ if to.is_ipv4() => crate::pod::REMOTE_IP.into(),
        _ => crate::pod::REMOTE_IP6.into(),
    }
}

/// Where our programs count it.
fn hook(probe: &Probe) -> &'static str {
    if !probe.is_outbound() {
        return "sk_lookup";
    }
    match (probe.kind, probe.is_socket6()) {
        (Kind::Tcp | Kind::UdpConnected, false) => "connect4",
        (Kind::Tcp | Kind::UdpConnected, true) => "connect6",
        // The kernel hands it over to IPv4 first (`udpv6_sendmsg`, net/ipv6/udp.c).
        (Kind::Udp, true) if probe.mapped => "sendmsg4",
        (Kind::Udp, false) => "sendmsg4",
        (Kind::Udp, true) => "sendmsg6",
    }
}

/// The same in the words of the loader's lists.
pub(super) const fn listed_family(family: Family) -> chain::Family {
    match family {
        Family::V4 => chain::Family::V4,
        Family::V6 => chain::Family::V6,
    }
}
