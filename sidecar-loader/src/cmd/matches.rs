//! What one rule asks of a connection.

use std::{
    fmt::{self, Display},
    net::IpAddr,
    ops::RangeInclusive,
};

use sidecar_ebpf_common::facts::Owner;
pub use sidecar_ebpf_common::facts::Protocol;

use crate::network::matches_name;

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
pub enum OwnerKind {
    User,
    Group,
}

/// The name of an interface as iptables takes it: `eth+` is every name that begins with `eth`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InterfaceName(pub String);

impl InterfaceName {
    pub fn matches(&self, name: &str) -> bool {
        matches_name(&self.0, name)
    }
}

impl Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One condition of a rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Match {
    /// `-o lo`: packets stay in the pod.
    ToLocal,
    /// `-o` anything else.
    OutInterface(InterfaceName),
    /// `-i`
    InInterface(InterfaceName),
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
    /// None of these: `-m multiport ! --dports`.
    NoneOfPorts(Vec<u16>),
    Owner {
        not: bool,
        kind: OwnerKind,
        id: u32,
    },
}

/// What rules ask for. Of an inbound connection only where it comes in and its destination count.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    pub protocol: Protocol,
    /// Packets stay in the pod.
    pub to_local: bool,
    /// The interface that the socket is bound to.
    pub device: Option<String>,
    /// The interface by which packets leave, if that is known.
    pub out_interface: Option<String>,
    /// The interface through which it comes in, if that is known.
    pub in_interface: Option<String>,
    /// The address that the socket is bound to.
    pub source: Option<IpAddr>,
    pub dst: IpAddr,
    pub port: u16,
    pub owner: Owner,
}

impl Match {
    /// `None` if the connection is as the rule asks, else why it is not.
    pub fn mismatch(&self, facts: &Facts) -> Option<String> {
        (self.holds_for(facts) == self.is_negated()).then(|| self.why_not(facts))
    }

    /// Whether what follows the `!` is so.
    fn holds_for(&self, facts: &Facts) -> bool {
        match self {
            Self::ToLocal => facts.to_local,
            Self::OutInterface(name) => is_named(name, facts.out_interface.as_deref()),
            Self::InInterface(name) => is_named(name, facts.in_interface.as_deref()),
            Self::Source(wanted) => facts.source == Some(*wanted),
            Self::Destination { range, .. } => range.contains(facts.dst),
            Self::Protocol(protocol) => *protocol == facts.protocol,
            Self::Port { ports, .. } => ports.0.contains(&facts.port),
            Self::NoneOfPorts(ports) => ports.contains(&facts.port),
            Self::Owner { kind, id, .. } => match kind {
                OwnerKind::User => facts.owner.uid == *id,
                OwnerKind::Group => facts.owner.gid == *id,
            },
        }
    }

    const fn is_negated(&self) -> bool {
        match self {
            Self::ToLocal
            | Self::OutInterface(_)
            | Self::InInterface(_)
            | Self::Source(_)
            | Self::Protocol(_) => false,
            Self::Destination { not, .. } | Self::Port { not, .. } | Self::Owner { not, .. } => {
                *not
            }
            Self::NoneOfPorts(_) => true,
        }
    }

    /// What is so although, or is not so because, the rule asks otherwise.
    fn why_not(&self, facts: &Facts) -> String {
        let (dst, port) = (facts.dst, facts.port);
        let is = if self.is_negated() { "is" } else { "is not" };
        match self {
            Self::ToLocal => match &facts.device {
                Some(device) => {
                    format!("the socket is bound to {device}, where {dst} is not local")
                }
                None => format!("{dst} is not an address of the pod"),
            },
            Self::OutInterface(wanted) => match &facts.out_interface {
                Some(name) => format!("it leaves by {name}, not by {wanted}"),
                None => format!("it is not said to leave by {wanted}"),
            },
            Self::InInterface(wanted) => match &facts.in_interface {
                Some(name) => format!("it comes in through {name}, not through {wanted}"),
                None => format!("it is not said to come in through {wanted}"),
            },
            Self::Source(wanted) => match facts.source {
                Some(source) => format!("the source {source} is not {wanted}"),
                None => format!("the socket is not bound to {wanted}"),
            },
            Self::Destination { range, .. } if *range == Range::single(range.addr) => {
                format!("{dst} {is} {}", range.addr)
            }
            Self::Destination { range, .. } => format!("{dst} {is} in {range}"),
            Self::Protocol(protocol) => format!("the rule is for {}", protocol_name(*protocol)),
            Self::Port { ports, .. } if ports.0.start() == ports.0.end() => {
                format!("port {port} {is} {ports}")
            }
            Self::Port { ports, .. } => format!("port {port} {is} in {ports}"),
            Self::NoneOfPorts(ports) => format!("port {port} {is} one of {}", commas(ports)),
            Self::Owner { kind, id, .. } => {
                let (name, own) = match kind {
                    OwnerKind::User => ("user", facts.owner.uid),
                    OwnerKind::Group => ("group", facts.owner.gid),
                };
                format!("{name} {own} {is} {id}")
            }
        }
    }
}

fn is_named(wanted: &InterfaceName, name: Option<&str>) -> bool {
    name.is_some_and(|name| wanted.matches(name))
}

fn commas(ports: &[u16]) -> String {
    let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
    ports.join(",")
}

/// As people write it.
pub const fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    }
}

/// As Istio writes it.
impl Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bang = if self.is_negated() { "! " } else { "" };
        match self {
            Self::ToLocal => f.write_str("-o lo"),
            Self::OutInterface(name) => write!(f, "-o {name}"),
            Self::InInterface(name) => write!(f, "-i {name}"),
            Self::Source(addr) => write!(f, "-s {}", Range::single(*addr)),
            Self::Destination { range, .. } => write!(f, "{bang}-d {range}"),
            Self::Protocol(Protocol::Tcp) => f.write_str("-p tcp"),
            Self::Protocol(Protocol::Udp) => f.write_str("-p udp"),
            Self::Port { ports, .. } => write!(f, "{bang}--dport {ports}"),
            Self::NoneOfPorts(ports) => write!(f, "-m multiport {bang}--dports {}", commas(ports)),
            Self::Owner { kind, id, .. } => {
                let kind = match kind {
                    OwnerKind::User => "uid",
                    OwnerKind::Group => "gid",
                };
                write!(f, "-m owner {bang}--{kind}-owner {id}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plus_stands_for_the_rest_of_an_interface_s_name() {
        let matches = |pattern: &str, name| InterfaceName(pattern.to_owned()).matches(name);
        assert!(matches("eth0", "eth0") && !matches("eth0", "eth00") && !matches("eth0", "eth"));
        assert!(matches("eth+", "eth") && matches("eth+", "eth12") && !matches("eth+", "et"));
        assert!(matches("+", "lo"));
    }
}
