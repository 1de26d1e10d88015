//! What a rule can ask of a packet.

use std::{
    fmt::{self, Display},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use anyhow::{Context, Result, bail, ensure};

use super::target::Masked;

/// One condition. The derived order is the canonical one, which is roughly that of iptables-save.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Match {
    pub criterion: Criterion,
    pub negated: bool,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Criterion {
    Source(Net),
    Destination(Net),
    InInterface(Interface),
    OutInterface(Interface),
    Protocol(Protocol),
    SourcePort(Ports),
    DestinationPort(Ports),
    /// Of `-m multiport`: any of them.
    SourcePorts(Vec<Ports>),
    DestinationPorts(Vec<Ports>),
    Uid(Ids),
    Gid(Ids),
    Mark(Masked),
    Connmark(Masked),
    /// Any of these states of connection tracking; sorted.
    State(Vec<String>),
    /// Asks for nothing.
    Comment(String),
}

impl Criterion {
    /// Whether it asks for nothing, so that iptables does not keep it.
    pub fn is_trivial(&self) -> bool {
        match self {
            Self::Source(net) | Self::Destination(net) => net.prefix == 0,
            Self::InInterface(name) | Self::OutInterface(name) => name.0 == "+",
            Self::Protocol(protocol) => protocol.0 == 0,
            Self::SourcePort(_)
            | Self::DestinationPort(_)
            | Self::SourcePorts(_)
            | Self::DestinationPorts(_)
            | Self::Uid(_)
            | Self::Gid(_)
            | Self::Mark(_)
            | Self::Connmark(_)
            | Self::State(_)
            | Self::Comment(_) => false,
        }
    }

    /// The range of addresses it asks for, if it does.
    pub fn net(&self) -> Option<Net> {
        match self {
            Self::Source(net) | Self::Destination(net) => Some(*net),
            Self::InInterface(_)
            | Self::OutInterface(_)
            | Self::Protocol(_)
            | Self::SourcePort(_)
            | Self::DestinationPort(_)
            | Self::SourcePorts(_)
            | Self::DestinationPorts(_)
            | Self::Uid(_)
            | Self::Gid(_)
            | Self::Mark(_)
            | Self::Connmark(_)
            | Self::State(_)
            | Self::Comment(_) => None,
        }
    }

    pub fn asks_for_ports(&self) -> bool {
        matches!(
            self,
            Self::SourcePort(_)
                | Self::DestinationPort(_)
                | Self::SourcePorts(_)
                | Self::DestinationPorts(_)
        )
    }
}

impl Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = if self.negated { "! " } else { "" };
        match &self.criterion {
            Criterion::Source(net) => write!(f, "{not}-s {net}"),
            Criterion::Destination(net) => write!(f, "{not}-d {net}"),
            Criterion::InInterface(name) => write!(f, "{not}-i {name}"),
            Criterion::OutInterface(name) => write!(f, "{not}-o {name}"),
            Criterion::Protocol(protocol) => write!(f, "{not}-p {protocol}"),
            Criterion::SourcePort(port) => write!(f, "{not}--sport {port}"),
            Criterion::DestinationPort(port) => write!(f, "{not}--dport {port}"),
            Criterion::SourcePorts(list) => {
                write!(f, "-m multiport {not}--sports {}", comma_separated(list))
            }
            Criterion::DestinationPorts(list) => {
                write!(f, "-m multiport {not}--dports {}", comma_separated(list))
            }
            Criterion::Uid(ids) => write!(f, "-m owner {not}--uid-owner {ids}"),
            Criterion::Gid(ids) => write!(f, "-m owner {not}--gid-owner {ids}"),
            Criterion::Mark(mark) => write!(f, "-m mark {not}--mark {mark}"),
            Criterion::Connmark(mark) => write!(f, "-m connmark {not}--mark {mark}"),
            Criterion::State(states) => {
                write!(f, "-m conntrack {not}--ctstate {}", states.join(","))
            }
            Criterion::Comment(text) => {
                let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
                write!(f, "-m comment --comment \"{escaped}\"")
            }
        }
    }
}

pub(super) fn comma_separated(list: &[impl Display]) -> String {
    let items: Vec<String> = list.iter().map(ToString::to_string).collect();
    items.join(",")
}

/// A protocol by its number; 0 stands for all.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Protocol(pub u8);

impl Protocol {
    pub const TCP: Self = Self(6);
    pub const UDP: Self = Self(17);

    /// Each with the name that iptables prints first.
    const NAMES: [(&str, u8); 8] = [
        ("all", 0),
        ("tcp", 6),
        ("udp", 17),
        ("icmp", 1),
        ("ipv6-icmp", 58),
        ("icmpv6", 58),
        ("sctp", 132),
        ("dccp", 33),
    ];
}

impl FromStr for Protocol {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let named = Self::NAMES.iter().find(|(name, _)| *name == text);
        match named {
            Some((_, number)) => Ok(Self(*number)),
            None => {
                let number = text.parse();
                number
                    .map(Self)
                    .with_context(|| format!("{text:?} is no protocol known here"))
            }
        }
    }
}

impl Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMES.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => f.write_str(name),
            None => self.0.fmt(f),
        }
    }
}

/// An address with a prefix; the bits behind the prefix are zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Net {
    pub address: IpAddr,
    pub prefix: u8,
}

impl Net {
    pub fn new(address: IpAddr, prefix: u8) -> Result<Self> {
        let width = width(address);
        ensure!(prefix <= width, "{address} has {width} bits, not {prefix}");
        Ok(Self {
            address: first(address, prefix),
            prefix,
        })
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && first(address, self.prefix) == self.address
    }

    /// The range of this address alone.
    pub fn single(address: IpAddr) -> Self {
        Self {
            address,
            prefix: width(address),
        }
    }

    pub fn is_loopback(&self) -> bool {
        self.address.is_loopback()
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The first address of the range that the prefix makes.
fn first(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            Ipv4Addr::from_bits(v4.to_bits() & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
    }
}

impl FromStr for Net {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address
            .parse()
            .with_context(|| format!("{text:?} is no address (host names are not looked up)"))?;
        let prefix = match prefix {
            None => width(address),
            Some(prefix) => match prefix.parse::<Ipv4Addr>() {
                Ok(mask) if address.is_ipv4() => {
                    prefix_of(mask).with_context(|| format!("the mask of {text:?} has a hole"))?
                }
                _ => prefix
                    .parse()
                    .with_context(|| format!("{text:?} has no prefix length behind the slash"))?,
            },
        };
        Self::new(address, prefix)
    }
}

fn prefix_of(mask: Ipv4Addr) -> Option<u8> {
    let bits = mask.to_bits();
    let ones = bits.leading_ones();
    (bits.count_ones() == ones).then(|| u8::try_from(ones).ok())?
}

impl Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// The name of an interface, or with `+` at its end, how it begins.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Interface(pub String);

impl Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Interface {
    pub fn covers(&self, name: &str) -> bool {
        match self.0.strip_suffix('+') {
            Some(start) => name.starts_with(start),
            None => name == self.0,
        }
    }
}

/// A port, or all from the first to the last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ports {
    pub first: u16,
    pub last: u16,
}

impl Ports {
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl FromStr for Ports {
    type Err = anyhow::Error;

    /// `80`, `80:90`, `:90`, `80:`; no names of services.
    fn from_str(text: &str) -> Result<Self> {
        let port = |word: &str, missing| match word {
            "" => Ok(missing),
            _ => word
                .parse()
                .with_context(|| format!("{text:?} is neither a port nor a range of ports")),
        };
        let (first, last) = match text.split_once(':') {
            Some((first, last)) => (port(first, 0)?, port(last, u16::MAX)?),
            None if text.is_empty() => bail!("a port is missing"),
            None => (port(text, 0)?, port(text, 0)?),
        };
        ensure!(first <= last, "{text:?} ends before it begins");
        Ok(Self { first, last })
    }
}

impl Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            self.first.fmt(f)
        } else {
            write!(f, "{}:{}", self.first, self.last)
        }
    }
}

/// User or group ids, from the first to the last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ids {
    pub first: u32,
    pub last: u32,
}

impl Ids {
    pub fn one(id: u32) -> Self {
        Self {
            first: id,
            last: id,
        }
    }

    pub fn contains(self, id: u32) -> bool {
        (self.first..=self.last).contains(&id)
    }
}

impl Display for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            self.first.fmt(f)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}
