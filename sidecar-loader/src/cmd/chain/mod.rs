//! The chains of rules that settings make: in Istio's order, with the real values.
//!
//! [`outbound`] and [`inbound`] list the rules one after the other as a connection meets them,
//! across chains; [`text`] writes the whole as iptables-restore reads it. [`decide`] finds the rule
//! that netfilter would stop at.

mod inbound;
mod outbound;
#[cfg(test)]
mod tests;
mod text;

use std::{
    fmt::{self, Display},
    net::{IpAddr, Ipv6Addr},
    ops::RangeInclusive,
};

use anyhow::Result;
use sidecar_ebpf_common::{
    decide::{PASSTHROUGH_V4, PASSTHROUGH_V6},
    rule::{Action, InboundRule, OutboundRule},
};

use super::{
    PolicyArgs,
    matches::{Facts, Match, Ports, Protocol, Range},
    servers_here,
};
use crate::config::{Config, DNS_PORT, Dns, flag::Environment};

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

    fn passthrough(self) -> IpAddr {
        match self {
            Self::V4 => PASSTHROUGH_V4.into(),
            Self::V6 => PASSTHROUGH_V6.into(),
        }
    }
}

/// A chain of the table nat that rules stand in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Chain {
    Prerouting,
    Inbound,
    Output,
    IstioOutput,
    Dns,
}

impl Chain {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "PREROUTING",
            Self::Inbound => "ISTIO_INBOUND",
            Self::Output => "OUTPUT",
            Self::IstioOutput => "ISTIO_OUTPUT",
            Self::Dns => "ISTIO_OUTPUT_DNS",
        }
    }
}

/// What follows `-j`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    Return,
    /// `ISTIO_REDIRECT`, which holds a rule for TCP only.
    ToOutbound,
    /// `ISTIO_IN_REDIRECT`, likewise.
    ToInbound,
    ToDns,
}

impl Target {
    const fn of(action: Action) -> Self {
        match action {
            Action::Pass => Self::Return,
            Action::ToOutbound => Self::ToOutbound,
            Action::ToInbound => Self::ToInbound,
            Action::ToDns => Self::ToDns,
        }
    }

    const fn is_for_tcp(self) -> bool {
        match self {
            Self::ToOutbound | Self::ToInbound => true,
            Self::Return | Self::ToDns => false,
        }
    }
}

impl Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Return => f.write_str("RETURN"),
            Self::ToOutbound => f.write_str(REDIRECT),
            Self::ToInbound => f.write_str(IN_REDIRECT),
            Self::ToDns => write!(f, "REDIRECT --to-ports {}", DNS_PORT.0),
        }
    }
}

const REDIRECT: &str = "ISTIO_REDIRECT";
const IN_REDIRECT: &str = "ISTIO_IN_REDIRECT";

/// A rule as it stands in its chain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed<R> {
    pub rule: R,
    pub chain: Chain,
    /// All of them must hold.
    pub matches: Vec<Match>,
    /// `None` if it stands for the absence of a rule.
    pub target: Option<Target>,
}

impl<R: Rule> Listed<R> {
    fn new(rule: R, chain: Chain, matches: Vec<Match>) -> Self {
        Self {
            rule,
            chain,
            matches,
            target: Some(Target::of(rule.action())),
        }
    }

    fn absent(rule: R, chain: Chain) -> Self {
        Self {
            rule,
            chain,
            matches: vec![],
            target: None,
        }
    }

    /// What the rule says, without its chain; in brackets if it is none.
    pub fn iptables(&self) -> String {
        let Some(target) = self.target else {
            return self.rule.iptables().to_owned();
        };
        let mut words: Vec<_> = self.matches.iter().map(Match::to_string).collect();
        words.push(format!("-j {target}"));
        words.join(" ")
    }

    /// Its line in [`Policy::iptables`]; in brackets if it has none.
    pub fn line(&self) -> String {
        match self.target {
            Some(_) => format!("-A {} {}", self.chain.name(), self.iptables()),
            None => self.iptables(),
        }
    }

    /// Why the rule does not decide: the first condition that the connection does not meet. `None`
    /// if it does.
    pub fn mismatch(&self, facts: &Facts) -> Option<String> {
        let mut unmet = self.matches.iter();
        unmet.find_map(|wanted| wanted.mismatch(facts)).or_else(|| {
            let only_tcp = self.target.is_some_and(Target::is_for_tcp);
            (only_tcp && facts.protocol == Protocol::Udp)
                .then(|| "only TCP is redirected".to_owned())
        })
    }

    /// Whether netfilter counts the connection on the rule, if it gets there. That is more than
    /// those that it decides: UDP jumps to `ISTIO_REDIRECT` too, and comes back.
    pub fn is_counted(&self, facts: &Facts) -> bool {
        let mut conditions = self.matches.iter();
        self.target.is_some() && conditions.all(|wanted| wanted.mismatch(facts).is_none())
    }
}

/// The rule that decides: the first one whose conditions all hold. There is one for every
/// connection, because the end of a chain is listed too.
pub fn decide<'a, R: Rule>(chain: &'a [Listed<R>], facts: &Facts) -> Option<&'a Listed<R>> {
    chain.iter().find(|listed| listed.mismatch(facts).is_none())
}

/// Settings as rules.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Does not hold [`Dns::ServersOfPod`]: the servers are known here.
    pub config: Config,
}

impl Policy {
    /// From a command line and its environment. If only queries to the pod's own DNS servers are
    /// captured, they are those of the pod that this runs in.
    pub fn resolve(args: &PolicyArgs, environment: Environment<'_>) -> Result<Self> {
        Self::resolve_with(args, environment, servers_here)
    }

    /// [`resolve`](Self::resolve) for a pod with other DNS servers.
    pub fn resolve_with(
        args: &PolicyArgs,
        environment: Environment<'_>,
        servers_of_pod: impl FnOnce() -> Result<Vec<IpAddr>>,
    ) -> Result<Self> {
        let mut config = args.resolve(environment)?;
        if config.dns == Dns::ServersOfPod {
            let servers = servers_of_pod()?;
            if servers.is_empty() {
                let note = "the pod has no DNS servers, so DNS is not captured";
                config.notes.push(note.to_owned());
            }
            config.dns = Dns::Servers(servers);
        }
        Ok(Self { config })
    }

    /// What counts as localhost.
    const fn loopback(&self, family: Family) -> Range {
        match family {
            Family::V4 => {
                let (addr, len) = self.config.loopback;
                Range {
                    addr: IpAddr::V4(addr),
                    len,
                }
            }
            Family::V6 => Range::single(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        }
    }

    /// Whether any DNS query is captured.
    pub const fn captures_dns(&self) -> bool {
        self.config.captures_dns()
    }

    /// The destinations whose DNS queries are captured. Empty: none.
    fn dns_servers(&self, family: Family) -> Vec<Servers> {
        match &self.config.dns {
            Dns::Off | Dns::ServersOfPod => vec![],
            Dns::Servers(servers) => {
                let of_family = servers.iter().filter(|addr| Family::of(**addr) == family);
                of_family.map(|&addr| Servers::One(addr)).collect()
            }
            Dns::All => vec![Servers::Any],
        }
    }
}

/// Which DNS servers one rule is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Servers {
    Any,
    One(IpAddr),
}

impl Servers {
    fn matches(self) -> Option<Match> {
        match self {
            Self::Any => None,
            Self::One(addr) => Some(to(Range::single(addr))),
        }
    }
}

/// A rule of either chain.
pub trait Rule: Copy + PartialEq {
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

const fn to(range: Range) -> Match {
    Match::Destination { not: false, range }
}

const fn to_port(ports: Ports) -> Match {
    Match::Port { not: false, ports }
}

fn each(list: &[RangeInclusive<u16>]) -> impl Iterator<Item = Ports> {
    list.iter().cloned().map(Ports)
}

const fn single(port: u16) -> Ports {
    Ports(port..=port)
}
