//! Plain stand-ins for the maps, and short ways to write facts.
#![allow(
    dead_code,
    clippy::allow_attributes,
    clippy::unwrap_used,
    reason = "test data; each test file uses its part, so no part is unused in all of them"
)]

use std::net::{IpAddr, Ipv4Addr};

use sidecar_ebpf_common::{
    addr::{Ip, OrigDst, Port},
    facts::{Caller, Inbound, Outbound, Owner, Protocol, Socket, Source, Tables},
    interface::Interface,
    lists::{Groups, IdList, Interfaces, PortGroup, PortLists},
    policy::{Loopback, Policy, Scope, Settings, Surroundings, Switches},
};

/// A range as people write it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    pub(crate) addr: IpAddr,
    pub(crate) len: u32,
}

impl Range {
    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        match (self.addr, ip) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => {
                let host_bits = 32 - self.len;
                host_bits == 32 || net.to_bits() >> host_bits == ip.to_bits() >> host_bits
            }
            (IpAddr::V6(net), IpAddr::V6(ip)) => {
                let host_bits = 128 - self.len;
                host_bits == 128 || net.to_bits() >> host_bits == ip.to_bits() >> host_bits
            }
            _ => false,
        }
    }
}

/// Whose traffic is captured.
#[derive(Clone, Debug, Default)]
pub(crate) enum Members {
    #[default]
    Everyone,
    Only(Vec<u32>),
    AllBut(Vec<u32>),
}

/// Which DNS queries are captured.
#[derive(Clone, Debug, Default)]
pub(crate) enum Dns {
    #[default]
    Off,
    To(Vec<IpAddr>),
    All,
}

impl Dns {
    pub(crate) fn is_on(&self) -> bool {
        match self {
            Self::Off => false,
            Self::To(servers) => !servers.is_empty(),
            Self::All => true,
        }
    }
}

/// What the user asked for, in plain lists.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wishes {
    pub(crate) uids: Vec<u32>,
    pub(crate) gids: Vec<u32>,
    pub(crate) members: Members,
    pub(crate) ipv6: bool,
    pub(crate) outbound_all: bool,
    pub(crate) included: Vec<Range>,
    pub(crate) excluded: Vec<Range>,
    pub(crate) ports_included: Vec<u16>,
    pub(crate) ports_excluded: Vec<u16>,
    pub(crate) inbound_all: bool,
    pub(crate) inbound_included: Vec<u16>,
    pub(crate) inbound_excluded: Vec<u16>,
    /// What IPv4 calls localhost, if not 127.0.0.1 alone.
    pub(crate) loopback: Option<Range>,
    pub(crate) interfaces_excluded: Vec<Interface>,
    pub(crate) dns: Dns,
    /// Addresses of the pod beside loopback, with their interfaces.
    pub(crate) locals: Vec<(IpAddr, Interface)>,
    /// Where other addresses lead; the first that fits counts.
    pub(crate) routes: Vec<(Range, Interface)>,
}

pub(crate) const LO: Interface = Interface::LO;
pub(crate) const ETH0: Interface = Interface(2);
pub(crate) const ETH1: Interface = Interface(3);

impl Wishes {
    /// A default Istio installation, in a pod with a second network.
    pub(crate) fn istio() -> Self {
        Self {
            uids: vec![1337],
            gids: vec![1337],
            outbound_all: true,
            inbound_all: true,
            inbound_excluded: vec![15090, 15021, 15020],
            locals: vec![
                ("10.244.0.5".parse().unwrap(), ETH0),
                ("192.168.7.5".parse().unwrap(), ETH1),
                ("fd00:10:244::5".parse().unwrap(), ETH0),
            ],
            routes: vec![
                (range("192.168.7.0/24"), ETH1),
                (range("0.0.0.0/0"), ETH0),
                (range("::/0"), ETH0),
            ],
            ..Self::default()
        }
    }

    pub(crate) fn loopback_included(&self) -> bool {
        self.included.iter().any(|range| range.addr.is_loopback())
    }

    pub(crate) fn loopback(&self) -> Range {
        self.loopback.unwrap_or_else(|| range("127.0.0.1/32"))
    }

    fn switches(&self) -> Switches {
        Switches::NONE
            .with_if(self.ipv6, Switches::IPV6)
            .with_if(self.outbound_all, Switches::OUTBOUND_ALL)
            .with_if(!self.included.is_empty(), Switches::OUTBOUND_RANGES)
            .with_if(
                !self.excluded.is_empty(),
                Switches::OUTBOUND_EXCLUDED_RANGES,
            )
            .with_if(
                !self.ports_included.is_empty() || !self.ports_excluded.is_empty(),
                Switches::OUTBOUND_PORTS,
            )
            .with_if(self.loopback_included(), Switches::LOOPBACK_INCLUDED)
            .with_if(self.inbound_all, Switches::INBOUND_ALL)
            .with_if(
                !self.inbound_all && !self.inbound_included.is_empty(),
                Switches::INBOUND_PORTS,
            )
            .with_if(self.dns.is_on(), Switches::DNS)
            .with_if(matches!(self.dns, Dns::All), Switches::DNS_ALL)
            .with_if(
                matches!(self.members, Members::Only(_)),
                Switches::GROUPS_INCLUDED,
            )
            .with_if(
                matches!(self.members, Members::AllBut(_)),
                Switches::GROUPS_EXCLUDED,
            )
            .with_if(!self.interfaces_excluded.is_empty(), Switches::INTERFACES)
    }

    pub(crate) fn policy(&self) -> Policy {
        let excluded: Vec<_> = self.interfaces_excluded.iter().map(|i| i.0).collect();
        let groups: &[u32] = match &self.members {
            Members::Everyone => &[],
            Members::Only(groups) | Members::AllBut(groups) => groups,
        };
        let Range { addr, len } = self.loopback();
        let IpAddr::V4(addr) = addr else {
            panic!("the loopback range is an IPv4 range")
        };
        Policy::new(
            Surroundings {
                excluded_interfaces: Interfaces::new(&excluded).unwrap(),
                ..Surroundings::new(Scope::only(1))
            },
            Settings {
                uids: IdList::new(&self.uids).unwrap(),
                gids: IdList::new(&self.gids).unwrap(),
                groups: Groups::new(groups).unwrap(),
                switches: self.switches(),
                outbound_port: Port(15001),
                inbound_port: Port(15006),
                tunnel_port: Port(15008),
                dns_port: Port(15053),
                loopback: Loopback::new(addr, len),
                ring_mask: 15,
                hold: 1,
            },
        )
    }
}

impl Tables for Wishes {
    fn port_lists(&self, port: Port) -> PortLists {
        let mut group = PortGroup::default();
        for (list, flag) in [
            (&self.ports_excluded, PortLists::OUTBOUND_EXCLUDED),
            (&self.ports_included, PortLists::OUTBOUND_INCLUDED),
            (&self.inbound_excluded, PortLists::INBOUND_EXCLUDED),
            (&self.inbound_included, PortLists::INBOUND_INCLUDED),
        ] {
            if list.contains(&port.0) {
                group.add(port, flag);
            }
        }
        group.get(port)
    }

    fn is_excluded(&self, ip: &Ip) -> bool {
        self.excluded
            .iter()
            .any(|range| range.contains((*ip).into()))
    }

    fn is_included(&self, ip: &Ip) -> bool {
        self.included
            .iter()
            .any(|range| range.contains((*ip).into()))
    }

    fn is_dns_server(&self, ip: &Ip) -> bool {
        match &self.dns {
            Dns::To(servers) => servers.contains(&(*ip).into()),
            Dns::Off | Dns::All => panic!("asked although no server is listed"),
        }
    }

    fn interface_with(&self, ip: &Ip) -> Interface {
        let ip = IpAddr::from(*ip);
        let found = self.locals.iter().find(|(local, _)| *local == ip);
        found.map_or(Interface::NONE, |(_, interface)| *interface)
    }

    fn interface_towards(&self, ip: &Ip) -> Interface {
        assert!(!self.interfaces_excluded.is_empty(), "asked for nothing");
        let ip = IpAddr::from(*ip);
        let found = self.routes.iter().find(|(range, _)| range.contains(ip));
        found.map_or(Interface::NONE, |(_, interface)| *interface)
    }
}

pub(crate) fn ip(text: &str) -> Ip {
    text.parse::<IpAddr>().unwrap().into()
}

pub(crate) fn range(text: &str) -> Range {
    let (addr, len) = text.split_once('/').unwrap();
    Range {
        addr: addr.parse().unwrap(),
        len: len.parse().unwrap(),
    }
}

pub(crate) const APP: Owner = Owner {
    uid: 1000,
    gid: 1000,
};
pub(crate) const PROXY: Owner = Owner {
    uid: 1337,
    gid: 1337,
};

/// A socket before it connects or sends.
pub(crate) const fn tcp(owner: Owner) -> Socket {
    Socket {
        protocol: Protocol::Tcp,
        owner,
        source: Source::Unbound,
        device: Interface::NONE,
        caller: Caller::MayBeProxy,
    }
}

pub(crate) const fn udp(owner: Owner) -> Socket {
    Socket {
        protocol: Protocol::Udp,
        ..tcp(owner)
    }
}

pub(crate) const fn on(device: Interface, socket: Socket) -> Socket {
    Socket { device, ..socket }
}

pub(crate) fn to(socket: Socket, dst: &str, port: u16) -> Outbound {
    Outbound::new(socket, OrigDst::new(ip(dst), Port(port)))
}

pub(crate) fn out(owner: Owner, dst: &str, port: u16) -> Outbound {
    to(tcp(owner), dst, port)
}

pub(crate) fn out_from(owner: Owner, source: &str, dst: &str, port: u16) -> Outbound {
    let source = Source::Bound(ip(source));
    to(
        Socket {
            source,
            ..tcp(owner)
        },
        dst,
        port,
    )
}

pub(crate) fn inbound(dst: &str, port: u16) -> Inbound {
    Inbound {
        dst: ip(dst),
        port: Port(port),
        interface: ETH0,
    }
}

/// 127.0.0.0/8 as localhost.
pub(crate) fn whole_loopback() -> Range {
    Range {
        addr: Ipv4Addr::new(127, 0, 0, 0).into(),
        len: 8,
    }
}
