//! Plain stand-ins for the maps, and short ways to write facts.
#![allow(
    dead_code,
    clippy::allow_attributes,
    clippy::unwrap_used,
    reason = "test data; each test file uses its part, so no part is unused in all of them"
)]

use std::net::IpAddr;

use sidecar_ebpf_common::{
    addr::{Ip, OrigDst, Port},
    decide::{Inbound, Outbound, Owner, Source, Tables},
    policy::{IdList, Policy, PortLists, Scope, Settings, Switches},
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

/// What the user asked for, in plain lists.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wishes {
    pub(crate) uids: Vec<u32>,
    pub(crate) gids: Vec<u32>,
    pub(crate) ipv6: bool,
    pub(crate) outbound_all: bool,
    pub(crate) included: Vec<Range>,
    pub(crate) excluded: Vec<Range>,
    pub(crate) ports_included: Vec<u16>,
    pub(crate) ports_excluded: Vec<u16>,
    pub(crate) inbound_all: bool,
    pub(crate) inbound_included: Vec<u16>,
    pub(crate) inbound_excluded: Vec<u16>,
    /// Addresses of the pod beside loopback.
    pub(crate) locals: Vec<IpAddr>,
}

impl Wishes {
    /// A default Istio installation.
    pub(crate) fn istio() -> Self {
        Self {
            uids: vec![1337],
            gids: vec![1337],
            outbound_all: true,
            inbound_all: true,
            inbound_excluded: vec![15090, 15021, 15020],
            locals: vec![
                "10.244.0.5".parse().unwrap(),
                "fd00:10:244::5".parse().unwrap(),
            ],
            ..Self::default()
        }
    }

    pub(crate) fn loopback_included(&self) -> bool {
        self.included.iter().any(|range| range.addr.is_loopback())
    }

    pub(crate) fn policy(&self) -> Policy {
        let switches = Switches::NONE
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
            );
        Policy::new(
            Scope::only(1),
            Settings {
                uids: IdList::new(&self.uids).unwrap(),
                gids: IdList::new(&self.gids).unwrap(),
                switches,
                outbound_port: Port(15001),
                inbound_port: Port(15006),
                tunnel_port: Port(15008),
                ring_mask: 15,
                hold: 1,
            },
        )
    }
}

impl Tables for Wishes {
    fn port_lists(&self, port: Port) -> PortLists {
        let mut group = sidecar_ebpf_common::policy::PortGroup::default();
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

    fn is_local(&self, ip: &Ip) -> bool {
        self.locals.contains(&(*ip).into())
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

pub(crate) fn out(owner: Owner, dst: &str, port: u16) -> Outbound {
    Outbound::new(owner, Source::Unbound, OrigDst::new(ip(dst), Port(port)))
}

pub(crate) fn out_from(owner: Owner, source: &str, dst: &str, port: u16) -> Outbound {
    Outbound::new(
        owner,
        Source::Bound(ip(source)),
        OrigDst::new(ip(dst), Port(port)),
    )
}

pub(crate) fn inbound(dst: &str, port: u16) -> Inbound {
    Inbound {
        dst: ip(dst),
        port: Port(port),
    }
}
