//! Istio's settings, from strings to what the programs need.
//!
//! Lists mean what they mean to istio-iptables (tools/istio-iptables/pkg/capture/run.go and
//! tools/common/config at commit 86c9f01fd735). What iptables would reject later is rejected here,
//! with the flag's name; nothing is used before everything was understood.

pub mod flag;
mod ids;
mod ports;
mod problem;
mod ranges;
mod read;
#[cfg(test)]
mod tests;
pub mod unsupported;

use sidecar_ebpf_common::{
    addr::{Port, Prefix},
    policy::{IdList, PortLists, Settings, Switches},
};

pub use self::problem::Problems;
use self::{flag::Environment, read::Reader};
pub(crate) use self::{ports::parse_range as parse_ports, ranges::parse_one as parse_range};
use crate::cli::{IstioArgs, RingArgs, UnsupportedArgs};

/// What the user asked for, checked.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    pub uids: IdList,
    pub gids: IdList,
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
    /// IPv6 has rules although the pod's first address is IPv4.
    pub dual_stack: bool,
    /// Slots in the number ring: a power of two.
    pub destinations: u32,
    /// How long a number stays reserved after its last use, in
    /// [`Tick`](sidecar_ebpf_common::number::Tick)s.
    pub hold: u32,
    /// What is worth a warning.
    pub notes: Vec<String>,
}

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
    /// Reads the settings: command line over environment over defaults. Reports everything that is
    /// wrong at once.
    pub fn resolve(
        istio: &IstioArgs,
        unsupported: &UnsupportedArgs,
        ring: &RingArgs,
        environment: Environment<'_>,
    ) -> Result<Self, Problems> {
        let mut reader = Reader::new(istio, environment);
        let [outbound_port, inbound_port, tunnel_port] = reader.proxy_ports();
        let (uids, gids) = reader.ids();
        let (inbound, ports) = reader.ports();
        let outbound = reader.outbound_ranges();
        let dual_stack = reader.dual_stack();
        let hold = reader.ring(ring);
        let notes = reader.finish(unsupported)?;
        Ok(Self {
            uids,
            gids,
            outbound_port,
            inbound_port,
            tunnel_port,
            ports,
            excluded: outbound.excluded.prefixes,
            included: outbound.included.prefixes,
            outbound_all: outbound.all,
            loopback_included: outbound.included.loopback,
            inbound,
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
    }

    /// The part of the policy that comes from settings.
    pub fn settings(&self, ipv6: bool) -> Settings {
        Settings {
            uids: self.uids,
            gids: self.gids,
            switches: self.switches(ipv6),
            outbound_port: self.outbound_port,
            inbound_port: self.inbound_port,
            tunnel_port: self.tunnel_port,
            ring_mask: self.destinations - 1,
            hold: self.hold,
        }
    }
}
