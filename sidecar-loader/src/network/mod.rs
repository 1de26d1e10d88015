//! The pod's network namespace by netlink: its interfaces, which addresses are local, where others
//! lead, and the routes that make the redirect's ranges local with the pod's address as source.
//!
//! [`View`] is what was read last; [`install`] changes the namespace, [`mirror`] asks it questions.

mod addresses;
mod install;
mod links;
mod mirror;
mod nets;
mod routes;
mod view;

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result};
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder, new_multicast_connection};
use tokio::{runtime, task::JoinHandle};

pub use self::{
    links::matches_name,
    mirror::Mirror,
    view::{Ipv6Rules, View},
};
use crate::netns::Netns;

/// `LOOPBACK_IFINDEX` (include/net/net_namespace.h): the same in every namespace.
const LO: u32 = 1;

/// `::6`, which the proxy binds for inbound IPv6 connections. Istio adds it to lo too.
const PASSTHROUGH_V6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);

/// A netlink connection into the pod's namespace.
pub struct Network {
    handle: Handle,
    changes: Box<dyn Stream<Item = ()> + Send + Unpin>,
    connection: JoinHandle<()>,
    has_ended: bool,
    added_passthrough: bool,
    /// Said that routes are not all that counts in this pod.
    warned_of_rules: bool,
}

impl Network {
    /// Opens the connection inside the namespace and subscribes to changes of interfaces, addresses,
    /// routes and routing rules.
    pub fn open(netns: &Netns) -> Result<Self> {
        let runtime = runtime::Handle::current();
        let (connection, handle, messages) = netns
            .within(|| {
                let _guard = runtime.enter();
                new_multicast_connection(&[
                    MulticastGroup::Link,
                    MulticastGroup::Ipv4Ifaddr,
                    MulticastGroup::Ipv6Ifaddr,
                    MulticastGroup::Ipv4Route,
                    MulticastGroup::Ipv6Route,
                    MulticastGroup::Ipv4Rule,
                    MulticastGroup::Ipv6Rule,
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
            warned_of_rules: false,
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
        self.read_links(&mut view)
            .await
            .context("listing the pod's interfaces")?;
        self.read_addresses(&mut view)
            .await
            .context("listing the pod's addresses")?;
        for family in [
            RouteMessageBuilder::<Ipv4Addr>::new().build(),
            RouteMessageBuilder::<Ipv6Addr>::new().build(),
        ] {
            self.read_routes(family, &mut view)
                .await
                .context("listing the pod's routes")?;
        }
        Ok(view)
    }
}
