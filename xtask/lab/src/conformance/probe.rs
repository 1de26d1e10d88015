//! A probe: one connection or datagram, with a text form of one line.
//!
//! `out tcp app 10.96.0.10:80 from=127.0.0.6 mapped`: direction, protocol (`tcp`, `udp` for an
//! unconnected socket, `udp-connected`), owner case, destination; then what differs from a plain
//! socket. `in` probes come from outside and have no owner: `in tcp 10.244.0.5:80`.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use anyhow::{Context as _, Error, Result, bail};
use sidecar_ebpf_common::facts::Owner;

use super::owners::{self, OwnerCase};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Kind {
    Tcp,
    /// One unconnected socket sends one datagram.
    Udp,
    UdpConnected,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::UdpConnected];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::UdpConnected => "udp-connected",
        }
    }

    pub(super) const fn is_tcp(self) -> bool {
        matches!(self, Self::Tcp)
    }
}

/// One connection or datagram.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Probe {
    /// Whose it is; `None`: it comes from outside.
    pub owner: Option<&'static OwnerCase>,
    pub kind: Kind,
    pub to: SocketAddr,
    /// The address that the socket is bound to first.
    pub from: Option<IpAddr>,
    /// An IPv6 socket calls the IPv4 address.
    pub mapped: bool,
    /// SO_BINDTODEVICE.
    pub device: Option<String>,
}

impl Probe {
    pub(super) fn outbound(owner: &'static OwnerCase, kind: Kind, to: SocketAddr) -> Self {
        Self {
            owner: Some(owner),
            kind,
            to,
            from: None,
            mapped: false,
            device: None,
        }
    }

    pub(super) fn inbound(kind: Kind, to: SocketAddr) -> Self {
        Self {
            owner: None,
            kind,
            to,
            from: None,
            mapped: false,
            device: None,
        }
    }

    pub(super) const fn is_outbound(&self) -> bool {
        self.owner.is_some()
    }

    pub(super) fn ids(&self) -> Owner {
        self.owner.map_or(Owner::NOBODY, |case| case.owner)
    }

    /// Where packets go: 0.0.0.0 and `::` mean the own address or loopback.
    pub(super) fn destination(&self) -> SocketAddr {
        let ip = match (self.to.ip(), self.from) {
            (IpAddr::V4(ip), Some(from @ IpAddr::V4(_))) if ip.is_unspecified() => from,
            (IpAddr::V4(ip), _) if ip.is_unspecified() => [127, 0, 0, 1].into(),
            (IpAddr::V6(ip), _) if ip.is_unspecified() && self.mapped => [127, 0, 0, 1].into(),
            (IpAddr::V6(ip), _) if ip.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
            (ip, _) => ip,
        };
        SocketAddr::new(ip, self.to.port())
    }

    /// The socket is an IPv6 one.
    pub(super) fn is_socket6(&self) -> bool {
        self.mapped || self.to.is_ipv6()
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.owner {
            Some(case) => write!(f, "out {} {} {}", self.kind.name(), case.name, self.to)?,
            None => write!(f, "in {} {}", self.kind.name(), self.to)?,
        }
        if let Some(from) = self.from {
            write!(f, " from={from}")?;
        }
        if self.mapped {
            f.write_str(" mapped")?;
        }
        if let Some(device) = &self.device {
            write!(f, " device={device}")?;
        }
        Ok(())
    }
}

impl FromStr for Probe {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        read(text).with_context(|| {
            format!(
                "the probe {text:?}: expected `out tcp|udp|udp-connected OWNER ADDR:PORT` or \
                 `in tcp|udp ADDR:PORT`, then maybe from=ADDR, mapped, device=NAME"
            )
        })
    }
}

fn read(text: &str) -> Result<Probe> {
    let mut words = text.split_whitespace();
    let mut next = |what| words.next().with_context(|| format!("no {what}"));
    let direction = next("direction")?;
    let kind = next("protocol")?;
    let kind = Kind::ALL.into_iter().find(|it| it.name() == kind);
    let kind = kind.context("no such protocol")?;
    let owner = match direction {
        "out" => Some(owners::case(next("owner")?).context("no such owner")?),
        "in" => None,
        other => bail!("no such direction: {other}"),
    };
    let to = next("destination")?.parse().context("the destination")?;
    let mut probe = Probe {
        owner,
        ..Probe::inbound(kind, to)
    };
    for word in words {
        match word.split_once('=') {
            Some(("from", addr)) => probe.from = Some(addr.parse().context("the source")?),
            Some(("device", name)) => probe.device = Some(name.to_owned()),
            None if word == "mapped" => probe.mapped = true,
            _ => bail!("{word:?} is not understood"),
        }
    }
    Ok(probe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_is_what_its_text_says() {
        for text in [
            "out tcp app 10.96.0.10:80",
            "out udp proxy [fd00:96::10]:53 from=fd00:10:244::5",
            "out udp-connected fsuid 10.96.0.10:53 from=10.244.0.66 mapped device=eth0",
            "in tcp 10.244.0.5:8080",
        ] {
            assert_eq!(text.parse::<Probe>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "out tcp nobody 1.2.3.4:5",
            "in icmp 1.2.3.4:5",
            "in tcp 1.2.3.4:5 x=y",
        ] {
            text.parse::<Probe>().unwrap_err();
        }
    }

    #[test]
    fn unspecified_addresses_mean_the_own_ones() {
        let to = |text: &str| text.parse::<Probe>().unwrap().destination().to_string();
        assert_eq!(to("out tcp app 0.0.0.0:80"), "127.0.0.1:80");
        assert_eq!(
            to("out tcp app 0.0.0.0:80 from=10.244.0.5"),
            "10.244.0.5:80"
        );
        assert_eq!(to("out tcp app [::]:80"), "[::1]:80");
    }
}
