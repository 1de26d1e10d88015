//! Lists of ports and ranges as they were written. The programs need neither order nor repetition;
//! rules show both.

use std::net::IpAddr;

use sidecar_ebpf_common::{addr::Prefix, lists::PortLists};

use super::{Ports, Range};
use crate::{
    cli::IstioArgs,
    config::{
        Config,
        flag::{self, Environment, Flag, Setting},
        parse_ports, parse_range,
    },
};

#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Written {
    pub outbound_excluded: Vec<Ports>,
    pub outbound_included: Vec<Ports>,
    pub inbound_excluded: Vec<Ports>,
    pub inbound_included: Vec<Ports>,
    pub excluded: Vec<Range>,
    pub included: Vec<Range>,
}

impl Written {
    /// From settings that were found to be in order.
    pub fn resolve(istio: &IstioArgs, environment: Environment<'_>) -> Self {
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
        Self {
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
        }
    }

    /// In numerical order.
    pub fn of(config: &Config) -> Self {
        let ports = |wanted| {
            let ports = config.ports.iter().filter(|entry| entry.1 == wanted);
            joined(ports.map(|entry| entry.0.0))
        };
        let ranges = |prefixes: &[Prefix]| prefixes.iter().map(Range::from).collect();
        Self {
            outbound_excluded: ports(PortLists::OUTBOUND_EXCLUDED),
            outbound_included: ports(PortLists::OUTBOUND_INCLUDED),
            inbound_excluded: ports(PortLists::INBOUND_EXCLUDED),
            inbound_included: ports(PortLists::INBOUND_INCLUDED),
            excluded: ranges(&config.excluded),
            included: ranges(&config.included),
        }
    }
}

/// Neighbouring ports as ranges.
fn joined(ports: impl Iterator<Item = u16>) -> Vec<Ports> {
    let mut joined: Vec<Ports> = Vec::new();
    for port in ports {
        match joined.last_mut() {
            Some(Ports(range)) if range.end().checked_add(1) == Some(port) => {
                *range = *range.start()..=port;
            }
            _ => joined.push(super::single(port)),
        }
    }
    joined
}

impl From<&Prefix> for Range {
    fn from(prefix: &Prefix) -> Self {
        Self {
            addr: IpAddr::from(prefix.ip),
            len: u8::try_from(prefix.len).unwrap_or(u8::MAX),
        }
    }
}
