//! The pod's routes: what is local, and which prefixes lead elsewhere.

use std::net::IpAddr;

use anyhow::Result;
use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::{
    AddressFamily,
    route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteType},
};
use sidecar_ebpf_common::{
    addr::{Ip, Prefix},
    interface::Interface,
    number,
};

use super::{LO, Network, View, view::RangeRoute};
use crate::answers;

/// The table of local addresses (include/uapi/linux/rtnetlink.h).
pub(super) const RT_TABLE_LOCAL: u8 = 255;

impl Network {
    pub(super) async fn read_routes(&self, family: RouteMessage, view: &mut View) -> Result<()> {
        let mut routes = self.handle.route().get(family).execute();
        while let Some(route) = routes.try_next().await? {
            // What was learnt on the way is not a route (the IPv6 cache of path MTUs).
            if !route.header.flags.contains(RouteFlags::Cloned)
                && let Some(prefix) = destination(&route)
            {
                add_route(view, prefix, &route);
            }
        }
        Ok(())
    }
}

fn add_route(view: &mut View, prefix: Prefix, route: &RouteMessage) {
    let is_local = route.header.table == RT_TABLE_LOCAL && route.header.kind == RouteType::Local;
    if number::is_reserved(&prefix.ip) {
        if is_local {
            view.set_range_route(&prefix, preferred_source(route));
        }
    } else if is_local && is_for_answers(route) {
        if let IpAddr::V4(ip) = prefix.ip.into() {
            view.answers.insert(ip);
        }
    } else if is_local {
        let interface = Interface(output_interface(route).unwrap_or(LO));
        view.locals.insert(prefix, interface);
    } else if leads_elsewhere(route) {
        let divides = view.elsewhere.entry(prefix).or_default();
        *divides |= has_several_interfaces(route);
    }
}

impl View {
    fn set_range_route(&mut self, prefix: &Prefix, source: Option<IpAddr>) {
        let range = Some(RangeRoute { source });
        if prefix.ip.is_v4() {
            self.v4_route = range;
        } else {
            self.v6_route = range;
        }
    }
}

/// Whether it is one of the redirect's own, beside the one that says whose the address is.
fn is_for_answers(route: &RouteMessage) -> bool {
    route.header.tos == answers::TOS && output_interface(route) == Some(LO)
}

/// Whether the route, in whatever table, may decide where a connection goes.
fn leads_elsewhere(route: &RouteMessage) -> bool {
    !matches!(
        route.header.kind,
        RouteType::Broadcast | RouteType::Anycast | RouteType::Multicast
    )
}

/// Whether connections to the same prefix leave by different interfaces.
fn has_several_interfaces(route: &RouteMessage) -> bool {
    route.attributes.iter().any(|attribute| {
        if let RouteAttribute::MultiPath(hops) = attribute {
            hops.windows(2)
                .any(|pair| matches!(pair, [a, b] if a.interface_index != b.interface_index))
        } else {
            false
        }
    })
}

/// A route without destination is a default route.
fn destination(route: &RouteMessage) -> Option<Prefix> {
    let len = u32::from(route.header.destination_prefix_length);
    let written = route.attributes.iter().find_map(|attribute| {
        let RouteAttribute::Destination(destination) = attribute else {
            return None;
        };
        address(destination)
    });
    let family = route.header.address_family;
    match written {
        Some(ip) => Some(Prefix::new(ip.into(), len)),
        None if len > 0 => None,
        None if family == AddressFamily::Inet => Some(Prefix::new(Ip::UNSPECIFIED_V4, 0)),
        None if family == AddressFamily::Inet6 => Some(Prefix::new(Ip::UNSPECIFIED_V6, 0)),
        None => None,
    }
}

pub(super) fn preferred_source(route: &RouteMessage) -> Option<IpAddr> {
    route.attributes.iter().find_map(|attribute| {
        let RouteAttribute::PrefSource(source) = attribute else {
            return None;
        };
        address(source)
    })
}

pub(super) fn output_interface(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Oif(interface) = attribute {
            Some(*interface)
        } else {
            None
        }
    })
}

fn address(address: &RouteAddress) -> Option<IpAddr> {
    if let RouteAddress::Inet(ip) = address {
        Some((*ip).into())
    } else if let RouteAddress::Inet6(ip) = address {
        Some((*ip).into())
    } else {
        None
    }
}
