//! What is added to the pod's namespace, and taken away again.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context as _, Result, anyhow};
use rtnetlink::{
    RouteMessageBuilder,
    packet_route::route::{RouteMessage, RouteScope, RouteType},
};
use sidecar_ebpf_common::number::{V4_RANGE, V4_RANGE_LEN, V6_RANGE, V6_RANGE_LEN};

use super::{LO, Network, View, routes::RT_TABLE_LOCAL, view::RangeRoute};
use crate::answers;

impl Network {
    /// Adds what is missing or wrong: routes for the redirect's ranges with the pod's addresses as
    /// source, the route for answers, and `::6`. Returns whether anything was changed.
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
        match self.install_answers(view).await {
            Ok(answers) => changed |= answers,
            // It only makes connections cheaper, and what follows does not wait for it.
            Err(error) => log::warn!("{error:#}"),
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

    /// The route by which the proxy's answers go to the pod's address ([`answers`]), and to no other.
    async fn install_answers(&self, view: &View) -> Result<bool> {
        let wanted: BTreeSet<_> = view.v4.into_iter().collect();
        for &ip in wanted.difference(&view.answers) {
            let add = self.handle.route().add(answers_route(ip)).replace();
            add.execute().await.with_context(|| {
                format!(
                    "adding the route local {ip} tos {:#04x} dev lo",
                    answers::TOS
                )
            })?;
        }
        for &ip in view.answers.difference(&wanted) {
            let gone = self.handle.route().del(answers_route(ip)).execute().await;
            gone.with_context(|| {
                format!("removing the route local {ip} tos {:#04x}", answers::TOS)
            })?;
        }
        Ok(wanted != view.answers)
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
        for ip in view.answers {
            if let Err(error) = self.handle.route().del(answers_route(ip)).execute().await {
                failures.push(format!("route {ip} tos {:#04x}: {error}", answers::TOS));
            }
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

fn answers_route(to: Ipv4Addr) -> RouteMessage {
    let mut route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(to, 32)
        .output_interface(LO)
        .table_id(u32::from(RT_TABLE_LOCAL))
        .kind(RouteType::Local)
        .scope(RouteScope::Host)
        .build();
    route.header.tos = answers::TOS;
    route
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
    use sidecar_ebpf_common::number::Rewritten;

    use super::*;

    #[test]
    fn the_ranges_are_those_of_the_programs() {
        assert_eq!(v4_range(), "127.128.0.0/10");
        assert_eq!(v6_range(), "fd73:6964:6563:6172::/64");
        let ip: sidecar_ebpf_common::addr::Ip = IpAddr::from(v6_range_address()).into();
        assert!(Rewritten::from_ip(ip).is_some());
    }
}
