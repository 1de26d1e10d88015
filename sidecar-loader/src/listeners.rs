//! Finds the proxy's sockets that listen already and registers them, as `sock_ops` does with those
//! that come while it is attached.
//!
//! `sock_ops` fills each port's slots from the first on; what is found here goes to the last ones.
//! A socket that starts to listen meanwhile may then have two slots, which does no harm: both empty
//! when it closes.

mod find;
mod reach;

use std::{
    collections::BTreeSet,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rustix::net::sockopt::socket_cookie;
use sidecar_ebpf_common::{
    counter::{Counter, Hook, Reason},
    listen::ProxyPorts,
    maps::Listeners,
};

pub use self::reach::{LeftToKernel, release, settle};
use crate::{cgroup::Cgroup, netns::Netns, tables::Tables};

/// Registers what listens on the proxy's ports in `netns` and belongs to a process of `cgroup`.
pub fn register_existing(
    tables: &mut Tables,
    ports: ProxyPorts,
    netns: &Netns,
    cgroup: &Cgroup,
) -> Result<Found> {
    let mut registry = Registry::open(tables)?;
    find::each(ports, netns, cgroup, |listeners, pid, socket| {
        if let Err(error) = socket.and_then(|socket| registry.add(listeners, &socket)) {
            log::warn!(
                "process {pid}: its socket on the proxy's {listeners:?} port cannot be registered: {error:#}"
            );
        }
    })?;
    Ok(registry.found)
}

/// What a search has led to.
#[derive(Clone, Copy, Default, Debug)]
pub struct Found {
    /// Sockets that are registered now and were not before.
    pub registered: u32,
    /// Sockets for which there was no slot.
    pub without_slot: u32,
}

/// The listener map while sockets are entered.
struct Registry<'a> {
    tables: &'a mut Tables,
    /// The cookies of the sockets that are in it.
    known: BTreeSet<u64>,
    found: Found,
}

impl<'a> Registry<'a> {
    fn open(tables: &'a mut Tables) -> Result<Self> {
        let known = tables.registered()?;
        Ok(Self {
            tables,
            known,
            found: Found::default(),
        })
    }

    fn add(&mut self, listeners: Listeners, socket: &OwnedFd) -> Result<()> {
        let cookie = socket_cookie(socket).context("asking for its cookie")?;
        if !self.known.insert(cookie) {
            return Ok(());
        }
        for slot in (0..Listeners::SLOTS).rev() {
            match self
                .tables
                .set_listener(listeners.first_slot() + slot, socket)
            {
                Ok(true) => {
                    self.found.registered += 1;
                    return Ok(());
                }
                Ok(false) => {}
                // It was said when it was found first.
                Err(_) if self.tables.has_unregistered(listeners)? => return Ok(()),
                Err(error) => {
                    self.tables.set_unregistered(listeners)?;
                    return Err(error).context("a sockmap does not take it; is it MPTCP?");
                }
            }
        }
        self.found.without_slot += 1;
        Ok(())
    }
}

/// What says that listeners may be missing.
#[derive(Clone, Copy, Default, Debug)]
pub struct Missed {
    /// Connections refused so far because no registered socket was left.
    refused: u64,
    /// Sockets that found no slot so far.
    slots_full: u64,
}

impl Missed {
    pub fn read(tables: &Tables) -> Result<Self> {
        Ok(Self {
            refused: tables.counter(Counter::Other(Hook::SkLookup, Reason::NoListener))?,
            slots_full: tables.counter(Counter::Other(Hook::SockOps, Reason::SlotsFull))?,
        })
    }
}

/// When the proxy's listening sockets are looked for again.
#[derive(Default)]
pub struct Search {
    /// As it was before the last one.
    seen: Missed,
    /// The last one found sockets for which there was no slot.
    some_without_slot: bool,
    last: Option<Instant>,
}

impl Search {
    /// After a refusal at once: the proxy may listen with sockets that found no slot. As long as
    /// some found none, every now and then, so that a refusal is rare.
    const AFTER_REFUSAL: Duration = Duration::from_secs(1);
    const WITHOUT_SLOT: Duration = Duration::from_secs(2);

    pub fn is_due(&self, missed: Missed) -> bool {
        let without_slot = self.some_without_slot || missed.slots_full > self.seen.slots_full;
        let waited = |pause| self.last.is_none_or(|last| last.elapsed() >= pause);
        missed.refused > self.seen.refused && waited(Self::AFTER_REFUSAL)
            || without_slot && waited(Self::WITHOUT_SLOT)
    }

    pub fn is_done(&mut self, seen: Missed, found: Found) {
        *self = Self {
            seen,
            some_without_slot: found.without_slot > 0,
            last: Some(Instant::now()),
        };
    }
}
