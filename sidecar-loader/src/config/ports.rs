//! Ports and lists of ports.

use std::{collections::BTreeSet, ops::RangeInclusive};

use sidecar_ebpf_common::{addr::Port, lists::PortLists};

use super::{
    flag::Setting,
    ids::is_plain_number,
    problem::{Collector, quote},
};

/// The one port of a flag that takes no list.
pub(super) fn parse_one(setting: &Setting, collector: &mut Collector) -> Option<Port> {
    let port = parse_number(&setting.value);
    if port.is_none() {
        collector.refuse(format!(
            "{setting}: {} is not a port; expected one number from 1 to 65535",
            quote(&setting.value)
        ));
    }
    port
}

/// The items of one list.
pub(super) type Ports = Vec<RangeInclusive<u16>>;

pub(super) fn parse_list(setting: &Setting, collector: &mut Collector) -> Ports {
    collector.items(setting, parse_range)
}

/// Lists side by side as the port map wants them: by port, then in the order given here, each
/// without repetition.
pub(super) fn merge(lists: &[(&Ports, PortLists)]) -> Vec<(Port, PortLists)> {
    let mut ports: Vec<_> = lists
        .iter()
        .flat_map(|(ports, list)| {
            let distinct: BTreeSet<_> = ports.iter().cloned().flatten().collect();
            distinct.into_iter().map(|port| (Port(port), *list))
        })
        .collect();
    ports.sort_by_key(|&(port, _)| port);
    ports
}

/// A port or a range as `iptables --dport` reads it: `80`, `8000:8010`, `:1023`, `1024:`.
fn parse_range(item: &str) -> Result<RangeInclusive<u16>, String> {
    if item == "*" {
        return Err("\"*\" is not possible here or beside other items; expected ports".to_owned());
    }
    let range = match item.split_once(':') {
        None => parse_number(item).map(|port| (port.0, port.0)),
        Some(("", "")) => None,
        Some(("", last)) => parse_number(last).map(|last| (0, last.0)),
        Some((first, "")) => parse_number(first).map(|first| (first.0, u16::MAX)),
        Some((first, last)) => parse_number(first)
            .zip(parse_number(last))
            .map(|(first, last)| (first.0, last.0)),
    };
    match range {
        Some((first, last)) if first <= last => Ok(first..=last),
        Some(_) => Err(format!(
            "{} ends before it starts; expected first:last",
            quote(item)
        )),
        None => Err(format!(
            "{} is not a port; expected a number from 1 to 65535 or a range like 8000:8010 \
             (service names are not supported)",
            quote(item)
        )),
    }
}

fn parse_number(text: &str) -> Option<Port> {
    if !is_plain_number(text) {
        return None;
    }
    text.parse().ok().filter(|&port| port != 0).map(Port)
}
