//! The chains of rules that settings make: in Istio's order, with the real values.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sidecar_ebpf_common::{
    decide::{PASSTHROUGH_V4, PASSTHROUGH_V6},
    policy::IdList,
    rule::{Action, InboundRule, OutboundRule},
};

use super::{
    PolicyArgs,
    matches::{Facts, Match, OwnerKind, Ports, Protocol, Range},
};
use crate::config::{
    Config, Inbound, Problems,
    flag::{self, Environment, Flag, Setting},
    parse_ports, parse_range,
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const fn of(addr: IpAddr) -> Self {
        if addr.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    const fn localhost(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Self::V6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
        }
    }

    fn passthrough(self) -> IpAddr {
        match self {
            Self::V4 => PASSTHROUGH_V4.into(),
            Self::V6 => PASSTHROUGH_V6.into(),
        }
    }
}

/// A rule as it stands in its chain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed<R> {
    pub rule: R,
    /// All of them must hold.
    pub matches: Vec<Match>,
    /// What follows `-j`; `None` if it stands for the absence of a rule.
    pub target: Option<&'static str>,
    /// `-j RETURN`, or where else.
    pub iptables: String,
}

impl<R> Listed<R> {
    /// The first condition that the connection does not meet.
    pub fn mismatch(&self, facts: &Facts) -> Option<String> {
        self.matches
            .iter()
            .find_map(|wanted| wanted.mismatch(facts))
    }
}

/// Settings in the order in which they were written, which the programs need not know.
#[derive(Debug)]
pub struct Policy {
    pub config: Config,
    outbound_excluded: Vec<Ports>,
    outbound_included: Vec<Ports>,
    inbound_excluded: Vec<Ports>,
    inbound_included: Vec<Ports>,
    excluded: Vec<Range>,
    included: Vec<Range>,
}

impl Policy {
    pub fn resolve(args: &PolicyArgs, environment: Environment<'_>) -> Result<Self, Problems> {
        let config = args.resolve(environment)?;
        let istio = &args.istio;
        // Items that are malformed were refused with the settings.
        let ports = |flag: &'static Flag, given: &Option<String>| {
            let setting = Setting::resolve(flag, given.as_deref(), environment);
            let ports = setting.items().filter_map(|item| parse_ports(item).ok());
            ports.map(Ports).collect()
        };
        let ranges = |flag: &'static Flag, given: &Option<String>| {
            let setting = Setting::resolve(flag, given.as_deref(), environment);
            let ranges = setting.items().filter_map(|item| parse_range(item).ok());
            ranges.map(|(addr, len)| Range { addr, len }).collect()
        };
        Ok(Self {
            config,
            outbound_excluded: ports(
                &flag::LOCAL_OUTBOUND_PORTS_EXCLUDE,
                &istio.istio_local_outbound_ports_exclude,
            ),
            outbound_included: ports(&flag::OUTBOUND_PORTS, &istio.istio_outbound_ports),
            inbound_excluded: ports(&flag::LOCAL_EXCLUDE_PORTS, &istio.istio_local_exclude_ports),
            inbound_included: ports(&flag::INBOUND_PORTS, &istio.istio_inbound_ports),
            excluded: ranges(
                &flag::SERVICE_EXCLUDE_CIDR,
                &istio.istio_service_exclude_cidr,
            ),
            included: ranges(&flag::SERVICE_CIDR, &istio.istio_service_cidr),
        })
    }

    /// `ISTIO_OUTPUT`. `rules` tells whether the family has rules.
    pub fn outbound(&self, family: Family, rules: bool) -> Vec<Listed<OutboundRule>> {
        if !rules {
            return vec![absent(OutboundRule::NoIpv6Rules)];
        }
        let config = &self.config;
        let localhost = Range::single(family.localhost());
        let mut chain = Vec::new();
        for ports in &self.outbound_excluded {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let matches = vec![Match::Protocol(protocol), to_port(ports)];
                chain.push(listed(OutboundRule::ExcludedPort, matches));
            }
        }
        let from_passthrough = vec![Match::ToLocal, Match::Source(family.passthrough())];
        chain.push(listed(
            OutboundRule::FromInboundPassthrough,
            from_passthrough,
        ));
        for kind in [OwnerKind::User, OwnerKind::Group] {
            self.owner_rules(kind, localhost, &mut chain);
        }
        chain.push(listed(OutboundRule::Localhost, vec![to(localhost)]));
        for range in of_family(&self.excluded, family) {
            chain.push(listed(OutboundRule::ExcludedRange, vec![to(range)]));
        }
        for ports in &self.outbound_included {
            let matches = vec![Match::Protocol(Protocol::Tcp), to_port(ports)];
            chain.push(listed(OutboundRule::IncludedPort, matches));
        }
        if config.outbound_all {
            chain.push(listed(OutboundRule::Everything, vec![]));
            return chain;
        }
        for range in of_family(&self.included, family) {
            chain.push(listed(OutboundRule::IncludedRange, vec![to(range)]));
        }
        chain.push(absent(OutboundRule::EndOfChain));
        chain
    }

    /// Three rules for each id of the list.
    fn owner_rules(
        &self,
        kind: OwnerKind,
        localhost: Range,
        chain: &mut Vec<Listed<OutboundRule>>,
    ) {
        use OutboundRule as Rule;
        let (ids, own_pod, local, proxy): (&IdList, _, _, _) = match kind {
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
        let tunnel = Ports(self.config.tunnel_port.0..=self.config.tunnel_port.0);
        for id in ids.iter() {
            let owner = |not| Match::Owner { not, kind, id };
            let to_own_pod = vec![
                Match::ToLocal,
                Match::Destination {
                    not: true,
                    range: localhost,
                },
                Match::Protocol(Protocol::Tcp),
                Match::Port {
                    not: true,
                    ports: tunnel.clone(),
                },
                owner(false),
            ];
            chain.push(listed(own_pod, to_own_pod));
            if !self.config.loopback_included {
                chain.push(listed(local, vec![Match::ToLocal, owner(true)]));
            }
            chain.push(listed(proxy, vec![owner(false)]));
        }
    }

    /// What is asked about a connection that comes in: `ISTIO_INBOUND`, if anything leads there.
    pub fn inbound(&self, rules: bool) -> Vec<Listed<InboundRule>> {
        match self.config.inbound {
            _ if !rules => vec![absent(InboundRule::NoIpv6Rules)],
            Inbound::Off => vec![absent(InboundRule::Off)],
            Inbound::All | Inbound::Ports => self.inbound_chain(),
        }
    }

    /// `ISTIO_INBOUND`, which exists even if nothing leads there.
    pub fn inbound_chain(&self) -> Vec<Listed<InboundRule>> {
        let port = |ports: &Ports| vec![Match::Protocol(Protocol::Tcp), to_port(ports)];
        let tunnel = self.config.tunnel_port.0;
        let mut chain = vec![listed(InboundRule::Tunnel, port(&Ports(tunnel..=tunnel)))];
        if self.config.inbound == Inbound::All {
            for ports in &self.inbound_excluded {
                chain.push(listed(InboundRule::ExcludedPort, port(ports)));
            }
            let everything = vec![Match::Protocol(Protocol::Tcp)];
            chain.push(listed(InboundRule::Everything, everything));
            return chain;
        }
        for ports in &self.inbound_included {
            chain.push(listed(InboundRule::IncludedPort, port(ports)));
        }
        chain.push(absent(InboundRule::EndOfChain));
        chain
    }
}

/// A rule of either chain.
pub trait Rule: Copy {
    fn label(self) -> &'static str;
    fn action(self) -> Action;
    fn iptables(self) -> &'static str;
    fn help(self) -> &'static str;
}

macro_rules! rule {
    ($($chain:ident),*) => {$(
        impl Rule for $chain {
            fn label(self) -> &'static str { self.label() }
            fn action(self) -> Action { self.action() }
            fn iptables(self) -> &'static str { self.iptables() }
            fn help(self) -> &'static str { self.help() }
        }
    )*};
}

rule!(OutboundRule, InboundRule);

fn listed<R: Rule>(rule: R, matches: Vec<Match>) -> Listed<R> {
    let target = match rule.action() {
        Action::Pass => "RETURN",
        Action::ToOutbound => "ISTIO_REDIRECT",
        Action::ToInbound => "ISTIO_IN_REDIRECT",
    };
    let mut words: Vec<_> = matches.iter().map(Match::to_string).collect();
    words.push(format!("-j {target}"));
    Listed {
        rule,
        matches,
        target: Some(target),
        iptables: words.join(" "),
    }
}

fn absent<R: Rule>(rule: R) -> Listed<R> {
    Listed {
        rule,
        matches: vec![],
        target: None,
        iptables: rule.iptables().to_owned(),
    }
}

const fn to(range: Range) -> Match {
    Match::Destination { not: false, range }
}

fn to_port(ports: &Ports) -> Match {
    Match::Port {
        not: false,
        ports: ports.clone(),
    }
}

fn of_family(ranges: &[Range], family: Family) -> impl Iterator<Item = Range> {
    let of_family = ranges
        .iter()
        .filter(move |range| Family::of(range.addr) == family);
    of_family.copied()
}
