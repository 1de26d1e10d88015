//! The pod's addresses, and `::6`.

use std::{net::IpAddr, time::Duration};

use anyhow::Result;
use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use sidecar_ebpf_common::addr::Prefix;
use tokio::time::sleep;

use super::{LO, Network, PASSTHROUGH_V6, View};

impl Network {
    pub(super) async fn read_addresses(&self, view: &mut View) -> Result<()> {
        let mut addresses = self.handle.address().get().execute();
        while let Some(message) = addresses.try_next().await? {
            match own_address(&message) {
                Some(IpAddr::V4(ip)) if !ip.is_loopback() => {
                    if !ip.is_link_local() {
                        view.v4.get_or_insert(ip);
                    }
                    view.addresses.insert(ip.into());
                }
                Some(IpAddr::V6(PASSTHROUGH_V6)) => view.has_passthrough = true,
                Some(IpAddr::V6(ip)) if !ip.is_loopback() && !ip.is_unicast_link_local() => {
                    view.v6.get_or_insert(ip);
                    view.addresses.insert(ip.into());
                }
                Some(_) | None => {}
            }
        }
        Ok(())
    }

    /// Adds `::6`, usable at once, and waits for its local route, which a work queue adds
    /// (`addrconf_dad_work`, net/ipv6/addrconf.c): until then an answer to `::6` is lost.
    pub(super) async fn add_passthrough(&mut self) -> Result<()> {
        let mut request = self.handle.address().add(LO, PASSTHROUGH_V6.into(), 128);
        let flags = AddressAttribute::Flags(AddressFlags::Nodad);
        request.message_mut().attributes.push(flags);
        request.execute().await?;
        self.added_passthrough = true;
        let route = Prefix::new(IpAddr::from(PASSTHROUGH_V6).into(), 128);
        for _ in 0..200 {
            if self.view().await?.locals.contains_key(&route) {
                return Ok(());
            }
            sleep(Duration::from_millis(5)).await;
        }
        log::warn!("::6 on lo has no local route yet; inbound IPv6 may stall for a moment");
        Ok(())
    }

    pub(super) async fn remove_passthrough(&self) -> Result<()> {
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
}

/// For a point-to-point IPv4 link `Address` is the other end and `Local` this one; IPv6 has `Address`
/// only.
fn own_address(message: &AddressMessage) -> Option<IpAddr> {
    let mut address = None;
    for attribute in &message.attributes {
        if let AddressAttribute::Local(local) = attribute {
            address = Some(*local);
        } else if let AddressAttribute::Address(other) = attribute {
            address = address.or(Some(*other));
        }
    }
    address
}
