//! The pod's network namespace by netlink: which addresses are local, and the routes that make the
//! redirect's ranges local with the pod's address as source.

mod view;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use futures_util::{FutureExt as _, Stream, StreamExt as _, TryStreamExt as _};
use rtnetlink::{
    Handle, MulticastGroup, RouteMessageBuilder, new_multicast_connection,
    packet_route::{
        address::{AddressAttribute, AddressFlags},
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteScope, RouteType},
    },
};
use sidecar_ebpf_common::{
    addr::Prefix,
    number::{Rewritten, V4_RANGE, V4_RANGE_LEN, V6_RANGE, V6_RANGE_LEN},
};
use tokio::{runtime, task::JoinHandle, time::sleep};

use self::view::RangeRoute;
pub use self::view::{Ipv6Rules, View};
use crate::netns::Netns;

/// `LOOPBACK_IFINDEX` (include/net/net_namespace.h): the same in every namespace.
const LO: u32 = 1;

/// The table of local addresses (include/uapi/linux/rtnetlink.h).
const RT_TABLE_LOCAL: u8 = 255;

/// `::6`, which the proxy binds for inbound IPv6 connections. Istio adds it to lo too.
const PASSTHROUGH_V6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);

/// A netlink connection into the pod's namespace.
pub struct Network {
    handle: Handle,
    changes: Box<dyn Stream<Item = ()> + Send + Unpin>,
    connection: JoinHandle<()>,
    has_ended: bool,
    added_passthrough: bool,
}

impl Network {
    /// Opens the connection inside the namespace and subscribes to changes of addresses and routes.
    pub fn open(netns: &Netns) -> Result<Self> {
        let runtime = runtime::Handle::current();
        let (connection, handle, messages) = netns
            .within(|| {
                let _guard = runtime.enter();
                new_multicast_connection(&[
                    MulticastGroup::Ipv4Ifaddr,
                    MulticastGroup::Ipv6Ifaddr,
                    MulticastGroup::Ipv4Route,
                    MulticastGroup::Ipv6Route,
                ])
                .context("opening a netlink socket")
            })
            .with_context(|| format!("following the addresses of {netns}"))?;
        Ok(Self {
            handle,
            changes: Box::new(messages.map(|_| ())),
            connection: tokio::spawn(connection),
            has_ended: false,
            added_passthrough: false,
        })
    }

    /// Waits until something may have changed. What changed is not looked at: the caller reads all
    /// again, which also covers messages that were lost.
    pub async fn changed(&mut self) {
        if !self.has_ended && self.changes.next().await.is_none() {
            self.has_ended = true;
            log::error!(
                "the netlink connection into the pod's namespace ended: its addresses are not \
                 followed any more; restart the loader"
            );
        }
        if self.has_ended {
            return std::future::pending().await;
        }
        // One look answers for all that have come meanwhile.
        while let Some(Some(())) = self.changes.next().now_or_never() {}
    }

    pub async fn view(&self) -> Result<View> {
        let mut view = View::default();
        self.read_addresses(&mut view)
            .await
            .context("listing the pod's addresses")?;
        for family in [
            RouteMessageBuilder::<Ipv4Addr>::new().build(),
            RouteMessageBuilder::<Ipv6Addr>::new().build(),
        ] {
            self.read_routes(family, &mut view)
                .await
                .context("listing the pod's local routes")?;
        }
        Ok(view)
    }

    /// Adds what is missing or wrong: routes for the redirect's ranges with the pod's addresses as
    /// source, and `::6`. Returns whether anything was changed.
    pub async fn install(&mut self, view: &View, ipv6: bool) -> Result<bool> {
        let mut changed = false;
        // 127.128.0.0/10 is local without a route too; the route is for the source address.
        if let Some(source) = view.v4
            && view.v4_route
                != Some(RangeRoute {
                    source: Some(source.into()),
                })
        {
            self.handle
                .route()
                .add(v4_route(Some(source)))
                .replace()
                .execute()
                .await
                .with_context(|| format!("adding the route local {} src {source}", v4_range()))?;
            changed = true;
        }
        if !ipv6 {
            return Ok(changed);
        }
        if view.v6_route
            != Some(RangeRoute {
                source: view.v6.map(IpAddr::from),
            })
        {
            self.handle
                .route()
                .add(v6_route(view.v6))
                .replace()
                .execute()
                .await
                .with_context(|| {
                    format!("adding the route local {} src {:?}", v6_range(), view.v6)
                })?;
            changed = true;
        }
        if !view.has_passthrough {
            self.add_passthrough()
                .await
                .context("adding ::6/128 to lo")?;
            changed = true;
        }
        Ok(changed)
    }

    /// Removes what [`Network::install`] added.
    pub async fn remove(self) -> Result<()> {
        let view = self.view().await?;
        let mut failures = Vec::new();
        if view.v4_route.is_some()
            && let Err(error) = self.handle.route().del(v4_route(None)).execute().await
        {
            failures.push(format!("route {}: {error}", v4_range()));
        }
        if view.v6_route.is_some()
            && let Err(error) = self.handle.route().del(v6_route(None)).execute().await
        {
            failures.push(format!("route {}: {error}", v6_range()));
        }
        if self.added_passthrough
            && let Err(error) = self.remove_passthrough().await
        {
            failures.push(format!("::6/128 on lo: {error:#}"));
        }
        self.connection.abort();
        if failures.is_empty() {
            Ok(())
        } else {
            Err(anyhow!(
                "not removed from the pod's namespace: {}",
                failures.join("; ")
            ))
        }
    }

    /// Adds `::6`, usable at once, and waits for its local route, which a work queue adds
    /// (`addrconf_dad_work`, net/ipv6/addrconf.c): until then an answer to `::6` is lost.
    async fn add_passthrough(&mut self) -> Result<()> {
        let mut request = self.handle.address().add(LO, PASSTHROUGH_V6.into(), 128);
        let flags = AddressAttribute::Flags(AddressFlags::Nodad);
        request.message_mut().attributes.push(flags);
        request.execute().await?;
        self.added_passthrough = true;
        let route = Prefix::new(IpAddr::from(PASSTHROUGH_V6).into(), 128);
        for _ in 0..200 {
            if self.view().await?.locals.contains(&route) {
                return Ok(());
            }
            sleep(Duration::from_millis(5)).await;
        }
        log::warn!("::6 on lo has no local route yet; inbound IPv6 may stall for a moment");
        Ok(())
    }

    async fn remove_passthrough(&self) -> Result<()> {
        let mut addresses = self
            .handle
            .address()
            .get()
            .set_address_filter(PASSTHROUGH_V6.into())
            .execute();
        while let Some(address) = addresses.try_next().await? {
            self.handle.address().del(address).execute().await?;
        }
        Ok(())
    }

    async fn read_addresses(&self, view: &mut View) -> Result<()> {
        let mut addresses = self.handle.address().get().execute();
        while let Some(message) = addresses.try_next().await? {
            // For a point-to-point IPv4 link `Address` is the other end and `Local` this one; IPv6
            // has `Address` only.
            let mut address = None;
            for attribute in &message.attributes {
                if let AddressAttribute::Local(local) = attribute {
                    address = Some(*local);
                } else if let AddressAttribute::Address(other) = attribute {
                    address = address.or(Some(*other));
                }
            }
            match address {
                Some(IpAddr::V4(ip)) if !ip.is_loopback() && !ip.is_link_local() => {
                    view.v4.get_or_insert(ip);
                }
                Some(IpAddr::V6(PASSTHROUGH_V6)) => view.has_passthrough = true,
                Some(IpAddr::V6(ip)) if !ip.is_loopback() && !ip.is_unicast_link_local() => {
                    view.v6.get_or_insert(ip);
                }
                Some(_) | None => {}
            }
        }
        Ok(())
    }

    async fn read_routes(&self, family: RouteMessage, view: &mut View) -> Result<()> {
        let mut routes = self.handle.route().get(family).execute();
        while let Some(route) = routes.try_next().await? {
            if route.header.table == RT_TABLE_LOCAL
                && route.header.kind == RouteType::Local
                && let Some(prefix) = destination(&route)
            {
                add_route(view, prefix, &route);
            }
        }
        Ok(())
    }
}

fn add_route(view: &mut View, prefix: Prefix, route: &RouteMessage) {
    if Rewritten::from_ip(prefix.ip).is_none() {
        view.locals.insert(prefix);
        return;
    }
    let range = Some(RangeRoute {
        source: preferred_source(route),
    });
    if prefix.ip.is_v4() {
        view.v4_route = range;
    } else {
        view.v6_route = range;
    }
}

fn destination(route: &RouteMessage) -> Option<Prefix> {
    route.attributes.iter().find_map(|attribute| {
        let RouteAttribute::Destination(destination) = attribute else {
            return None;
        };
        let ip = address(destination)?;
        Some(Prefix::new(
            ip.into(),
            u32::from(route.header.destination_prefix_length),
        ))
    })
}

fn preferred_source(route: &RouteMessage) -> Option<IpAddr> {
    route.attributes.iter().find_map(|attribute| {
        let RouteAttribute::PrefSource(source) = attribute else {
            return None;
        };
        address(source)
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

fn v4_route(source: Option<Ipv4Addr>) -> RouteMessage {
    let mut route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(Ipv4Addr::from_bits(V4_RANGE), V4_RANGE_LEN as u8)
        .output_interface(LO)
        .table_id(u32::from(RT_TABLE_LOCAL))
        .kind(RouteType::Local)
        .scope(RouteScope::Host);
    if let Some(source) = source {
        route = route.pref_source(source);
    }
    route.build()
}

fn v6_route(source: Option<Ipv6Addr>) -> RouteMessage {
    let mut route = RouteMessageBuilder::<Ipv6Addr>::new()
        .destination_prefix(v6_range_address(), V6_RANGE_LEN as u8)
        .output_interface(LO)
        .table_id(u32::from(RT_TABLE_LOCAL))
        .kind(RouteType::Local);
    if let Some(source) = source {
        route = route.pref_source(source);
    }
    route.build()
}

fn v6_range_address() -> Ipv6Addr {
    Ipv6Addr::from_bits(u128::from(V6_RANGE[0]) << 96 | u128::from(V6_RANGE[1]) << 64)
}

fn v4_range() -> String {
    format!("{}/{V4_RANGE_LEN}", Ipv4Addr::from_bits(V4_RANGE))
}

fn v6_range() -> String {
    format!("{}/{V6_RANGE_LEN}", v6_range_address())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ranges_are_those_of_the_programs() {
        assert_eq!(v4_range(), "127.128.0.0/10");
        assert_eq!(v6_range(), "fd73:6964:6563:6172::/64");
        let ip: sidecar_ebpf_common::addr::Ip = IpAddr::from(v6_range_address()).into();
        assert!(Rewritten::from_ip(ip).is_some());
    }
}
