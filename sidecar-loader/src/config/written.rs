//! Lists of ports and ranges as rules have them. The programs need neither order nor repetition;
//! rules show both.

use std::{net::IpAddr, ops::RangeInclusive};

use sidecar_ebpf_common::{
    addr::{Port, Prefix},
    lists::PortLists,
};

/// Lists in the order and with the repetitions in which they were given, an item for each rule.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Written {
    pub outbound_excluded: Vec<RangeInclusive<u16>>,
    pub outbound_included: Vec<RangeInclusive<u16>>,
    pub inbound_excluded: Vec<RangeInclusive<u16>>,
    /// Empty if every port is captured.
    pub inbound_included: Vec<RangeInclusive<u16>>,
    pub excluded: Vec<(IpAddr, u8)>,
    /// Empty if every address is captured.
    pub included: Vec<(IpAddr, u8)>,
}

impl Written {
    /// In numerical order, where nothing else is known.
    pub fn numerical(
        ports: &[(Port, PortLists)],
        excluded: &[Prefix],
        included: &[Prefix],
    ) -> Self {
        let ports = |wanted| {
            let ports = ports.iter().filter(|entry| entry.1 == wanted);
            joined(ports.map(|entry| entry.0.0))
        };
        let ranges = |prefixes: &[Prefix]| prefixes.iter().map(range).collect();
        Self {
            outbound_excluded: ports(PortLists::OUTBOUND_EXCLUDED),
            outbound_included: ports(PortLists::OUTBOUND_INCLUDED),
            inbound_excluded: ports(PortLists::INBOUND_EXCLUDED),
            inbound_included: ports(PortLists::INBOUND_INCLUDED),
            excluded: ranges(excluded),
            included: ranges(included),
        }
    }
}

/// Neighbouring ports as ranges.
fn joined(ports: impl Iterator<Item = u16>) -> Vec<RangeInclusive<u16>> {
    let mut joined: Vec<RangeInclusive<u16>> = Vec::new();
    for port in ports {
        match joined.last_mut() {
            Some(range) if range.end().checked_add(1) == Some(port) => {
                *range = *range.start()..=port;
            }
            _ => joined.push(port..=port),
        }
    }
    joined
}

fn range(prefix: &Prefix) -> (IpAddr, u8) {
    (
        IpAddr::from(prefix.ip),
        u8::try_from(prefix.len).unwrap_or(u8::MAX),
    )
}
