//! Istio's settings, from strings to what the programs need.
//!
//! Lists mean what they mean to istio-iptables (tools/istio-iptables/pkg/capture/run.go and
//! tools/common/config at commit 86c9f01fd735). What iptables would reject later is rejected here,
//! with the flag's name; nothing is used before everything was understood.

pub mod accounts;
mod annotations;
mod file;
pub mod flag;
mod ids;
mod interfaces;
mod ports;
mod problem;
mod ranges;
mod read;
pub mod resolv_conf;
#[cfg(test)]
mod tests;
pub mod unsupported;
mod written;

use std::net::{IpAddr, Ipv4Addr};

use sidecar_ebpf_common::{
    addr::{Port, Prefix},
    lists::{Groups, Ids, PortLists},
    policy::{Loopback, Settings, Switches},
};

use self::{accounts::Accounts, flag::Environment, read::Reader};
pub use self::{problem::Problems, written::Written};
use crate::cli::{IstioArgs, RingArgs, UnsupportedArgs};

/// What the user asked for, checked.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    pub uids: Ids,
    pub gids: Ids,
    /// Whose traffic is captured.
    pub owner_groups: OwnerGroups,
    /// The proxy's port for outbound connections.
    pub outbound_port: Port,
    /// The proxy's port for inbound connections.
    pub inbound_port: Port,
    /// Never redirected inbound or to the own pod (HBONE).
    pub tunnel_port: Port,
    /// One list per entry, by port; a port that is in two lists appears twice.
    pub ports: Vec<(Port, PortLists)>,
    /// Outbound ranges that are not captured, in order and without repetition.
    pub excluded: Vec<Prefix>,
    /// Outbound ranges that are captured, in order and without repetition.
    pub included: Vec<Prefix>,
    /// Every outbound address is captured; `included` is empty then.
    pub outbound_all: bool,
    /// An included range of either family is written with a loopback address.
    pub loopback_included: bool,
    pub inbound: Inbound,
    /// The IPv4 range that counts as localhost: an address and a prefix length.
    pub loopback: (Ipv4Addr, u8),
    /// Names of the interfaces that are not captured, as written: `eth+` is every name that begins
    /// with `eth`.
    pub excluded_interfaces: Vec<String>,
    pub dns: Dns,
    /// IPv6 has rules although the pod's first address is IPv4.
    pub dual_stack: bool,
    /// Slots in the number ring: a power of two.
    pub destinations: u32,
    /// How long a number stays reserved after its last use, in
    /// [`Tick`](sidecar_ebpf_common::number::Tick)s.
    pub hold: u32,
    /// The lists of ports and ranges as rules have them.
    pub written: Written,
    /// What is worth a warning.
    pub notes: Vec<String>,
}

/// Whose outbound traffic is captured.
#[derive(Clone, PartialEq, Debug)]
pub enum OwnerGroups {
    All,
    /// That of these groups only. May be empty: nobody's.
    Included(Groups),
    /// That of all but these.
    Excluded(Groups),
}

/// Which DNS queries go to the proxy's agent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Dns {
    Off,
    /// Those to these servers, IPv4 and IPv6.
    Servers(Vec<IpAddr>),
    /// Those to the servers in the pod's own resolv.conf.
    ServersOfPod,
    /// All.
    All,
}

/// The port on which Istio's agent answers DNS queries (`IstioAgentDNSListenerPort`,
/// tools/istio-iptables/pkg/constants/constants.go).
pub const DNS_PORT: Port = Port(15053);

/// Which inbound ports are captured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Inbound {
    Off,
    /// All but the excluded ones.
    All,
    /// The listed ones.
    Ports,
}

impl Config {
    /// Reads the settings: command line over annotations over environment over defaults. Reports
    /// everything that is wrong at once.
    pub fn resolve(
        istio: &IstioArgs,
        unsupported: &UnsupportedArgs,
        ring: &RingArgs,
        environment: Environment<'_>,
    ) -> Result<Self, Problems> {
        Self::resolve_with(istio, unsupported, ring, environment, Accounts::SYSTEM)
    }

    /// [`resolve`](Self::resolve) with other users and groups than the system's.
    pub fn resolve_with(
        istio: &IstioArgs,
        unsupported: &UnsupportedArgs,
        ring: &RingArgs,
        environment: Environment<'_>,
        accounts: Accounts<'_>,
    ) -> Result<Self, Problems> {
        let mut reader = Reader::new(istio, environment, accounts);
        let [outbound_port, inbound_port, tunnel_port] = reader.proxy_ports();
        let (uids, gids) = reader.ids();
        let ports = reader.ports();
        let outbound = reader.outbound_ranges();
        let excluded_interfaces = reader.excluded_interfaces();
        let owner_groups = reader.owner_groups();
        let loopback = reader.loopback();
        let dns = reader.dns();
        let dual_stack = reader.dual_stack();
        reader.drop_invalid();
        let hold = reader.ring(ring);
        let notes = reader.finish(unsupported)?;
        Ok(Self {
            uids,
            gids,
            owner_groups,
            outbound_port,
            inbound_port,
            tunnel_port,
            ports: ports.merged(),
            inbound: ports.inbound,
            written: Written {
                outbound_excluded: ports.outbound_excluded,
                outbound_included: ports.outbound_included,
                inbound_excluded: ports.inbound_excluded,
                inbound_included: ports.inbound_included,
                excluded: outbound.excluded.written,
                included: outbound.included.written,
            },
            excluded: outbound.excluded.prefixes,
            included: outbound.included.prefixes,
            outbound_all: outbound.all,
            loopback_included: outbound.included.loopback,
            loopback,
            excluded_interfaces,
            dns,
            dual_stack,
            destinations: ring.destinations,
            hold,
            notes,
        })
    }

    /// The switches of the policy; `ipv6` tells whether IPv6 has rules in this pod.
    pub fn switches(&self, ipv6: bool) -> Switches {
        let outbound_ports = self.ports.iter().any(|&(_, list)| {
            list == PortLists::OUTBOUND_EXCLUDED || list == PortLists::OUTBOUND_INCLUDED
        });
        Switches::NONE
            .with_if(ipv6, Switches::IPV6)
            .with_if(self.outbound_all, Switches::OUTBOUND_ALL)
            .with_if(!self.included.is_empty(), Switches::OUTBOUND_RANGES)
            .with_if(
                !self.excluded.is_empty(),
                Switches::OUTBOUND_EXCLUDED_RANGES,
            )
            .with_if(outbound_ports, Switches::OUTBOUND_PORTS)
            .with_if(self.loopback_included, Switches::LOOPBACK_INCLUDED)
            .with_if(self.inbound == Inbound::All, Switches::INBOUND_ALL)
            .with_if(self.inbound == Inbound::Ports, Switches::INBOUND_PORTS)
            .with_if(self.dns == Dns::All, Switches::DNS_ALL)
            .with_if(self.captures_dns(), Switches::DNS)
            .with_if(
                matches!(self.owner_groups, OwnerGroups::Included(_)),
                Switches::GROUPS_INCLUDED,
            )
            .with_if(
                matches!(self.owner_groups, OwnerGroups::Excluded(_)),
                Switches::GROUPS_EXCLUDED,
            )
    }

    /// The switches that the policy may have at any time, whatever becomes of the pod.
    pub fn features(&self) -> Switches {
        self.switches(true)
            .with(Switches::IPV6_ROUTE)
            .with(Switches::OWN_LISTED)
            .with(Switches::SOURCES)
            .with_if(!self.excluded_interfaces.is_empty(), Switches::INTERFACES)
            .with_if(self.dns != Dns::Off, Switches::DNS.with(Switches::DNS_ALL))
    }

    /// Whether any DNS query is captured. Istio decides that for both families at once, so that
    /// rules of one change with the servers of the other. The servers of the pod count once they
    /// are known.
    pub const fn captures_dns(&self) -> bool {
        match &self.dns {
            Dns::Off | Dns::ServersOfPod => false,
            Dns::Servers(servers) => !servers.is_empty(),
            Dns::All => true,
        }
    }

    /// The part of the policy that comes from settings.
    pub fn settings(&self, ipv6: bool) -> Settings {
        let groups = match &self.owner_groups {
            OwnerGroups::All => Groups::EMPTY,
            OwnerGroups::Included(groups) | OwnerGroups::Excluded(groups) => *groups,
        };
        let (loopback, len) = self.loopback;
        Settings {
            uids: self.uids,
            gids: self.gids,
            switches: self.switches(ipv6),
            outbound_port: self.outbound_port,
            inbound_port: self.inbound_port,
            tunnel_port: self.tunnel_port,
            dns_port: DNS_PORT,
            groups,
            loopback: Loopback::new(loopback, len.into()),
            ring_mask: self.destinations - 1,
            hold: self.hold,
        }
    }
}
