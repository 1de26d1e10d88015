//! What one rule asks of a connection.

use std::{
    fmt::{self, Display},
    net::IpAddr,
    ops::RangeInclusive,
};

use sidecar_ebpf_common::decide::Owner;

/// A range of addresses, as written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    pub addr: IpAddr,
    pub len: u8,
}

impl Range {
    pub const fn single(addr: IpAddr) -> Self {
        let len = if addr.is_ipv4() { 32 } else { 128 };
        Self { addr, len }
    }

    pub fn contains(&self, addr: IpAddr) -> bool {
        match (self.addr, addr) {
            (IpAddr::V4(net), IpAddr::V4(addr)) => {
                let differing = (net.to_bits() ^ addr.to_bits()).leading_zeros();
                differing >= u32::from(self.len)
            }
            (IpAddr::V6(net), IpAddr::V6(addr)) => {
                let differing = (net.to_bits() ^ addr.to_bits()).leading_zeros();
                differing >= u32::from(self.len)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

/// A port or a range of ports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ports(pub RangeInclusive<u16>);

impl Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.0.start(), self.0.end());
        if first == last {
            write!(f, "{first}")
        } else {
            write!(f, "{first}:{last}")
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    Tcp,
    /// Only a rule of Istio's that no TCP connection meets.
    Udp,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OwnerKind {
    User,
    Group,
}

/// One condition of a rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Match {
    /// `-o lo`: the destination is local to the pod.
    ToLocal,
    Source(IpAddr),
    Destination {
        not: bool,
        range: Range,
    },
    Protocol(Protocol),
    Port {
        not: bool,
        ports: Ports,
    },
    Owner {
        not: bool,
        kind: OwnerKind,
        id: u32,
    },
}

/// What rules ask for. Of an inbound connection only the destination counts.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    pub to_local: bool,
    /// The address that the socket is bound to.
    pub source: Option<IpAddr>,
    pub dst: IpAddr,
    pub port: u16,
    pub owner: Owner,
}

impl Match {
    /// `None` if the connection is as the rule asks, else why it is not.
    pub fn mismatch(&self, facts: &Facts) -> Option<String> {
        let (dst, port) = (facts.dst, facts.port);
        match self {
            Self::ToLocal => {
                (!facts.to_local).then(|| format!("{dst} is not an address of the pod"))
            }
            Self::Source(wanted) => match facts.source {
                Some(source) if source == *wanted => None,
                Some(source) => Some(format!("the source {source} is not {wanted}")),
                None => Some(format!("the socket is not bound to {wanted}")),
            },
            Self::Destination { not, range } => {
                let single = *range == Range::single(range.addr);
                let relation = if single { "" } else { "in " };
                let range = if single {
                    range.addr.to_string()
                } else {
                    range.to_string()
                };
                self.unless(self.holds_for(facts), *not, |is| {
                    format!("{dst} {is} {relation}{range}")
                })
            }
            Self::Protocol(Protocol::Tcp) => None,
            Self::Protocol(Protocol::Udp) => Some("the rule is for UDP".to_owned()),
            Self::Port { not, ports } => {
                let relation = if ports.0.start() == ports.0.end() {
                    ""
                } else {
                    "in "
                };
                self.unless(self.holds_for(facts), *not, |is| {
                    format!("port {port} {is} {relation}{ports}")
                })
            }
            Self::Owner { not, kind, id } => {
                let (name, own) = match kind {
                    OwnerKind::User => ("user", facts.owner.uid),
                    OwnerKind::Group => ("group", facts.owner.gid),
                };
                self.unless(self.holds_for(facts), *not, |is| {
                    format!("{name} {own} {is} {id}")
                })
            }
        }
    }

    /// Whether what follows the `!` is so.
    fn holds_for(&self, facts: &Facts) -> bool {
        match self {
            Self::ToLocal => facts.to_local,
            Self::Source(wanted) => facts.source == Some(*wanted),
            Self::Destination { range, .. } => range.contains(facts.dst),
            Self::Protocol(protocol) => *protocol == Protocol::Tcp,
            Self::Port { ports, .. } => ports.0.contains(&facts.port),
            Self::Owner { kind, id, .. } => match kind {
                OwnerKind::User => facts.owner.uid == *id,
                OwnerKind::Group => facts.owner.gid == *id,
            },
        }
    }

    fn unless(&self, holds: bool, not: bool, why: impl Fn(&str) -> String) -> Option<String> {
        (holds == not).then(|| why(if holds { "is" } else { "is not" }))
    }
}

/// As `iptables-save` writes it.
impl Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bang = |not: &bool| if *not { "! " } else { "" };
        match self {
            Self::ToLocal => f.write_str("-o lo"),
            Self::Source(addr) => write!(f, "-s {}", Range::single(*addr)),
            Self::Destination { not, range } => write!(f, "{}-d {range}", bang(not)),
            Self::Protocol(Protocol::Tcp) => f.write_str("-p tcp"),
            Self::Protocol(Protocol::Udp) => f.write_str("-p udp"),
            Self::Port { not, ports } => write!(f, "{}--dport {ports}", bang(not)),
            Self::Owner { not, kind, id } => {
                let kind = match kind {
                    OwnerKind::User => "uid",
                    OwnerKind::Group => "gid",
                };
                write!(f, "-m owner {}--{kind}-owner {id}", bang(not))
            }
        }
    }
}
