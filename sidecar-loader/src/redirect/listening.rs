//! The proxy's listening sockets: attaches and detaches `sock_ops` as the watch says, and looks for
//! sockets that it cannot have seen.

use std::time::Instant;

use anyhow::{Context as _, Result};
use sidecar_ebpf_common::{counter::Hook, listen::NormalLookup, maps::Listeners};

use super::{Redirect, Side};
use crate::{
    config::{Dns, Inbound},
    listeners::{self, Missed},
    tables::lock,
};

impl Redirect {
    /// Wakes if a listener may be missing, and registers the proxy's sockets anew if one is.
    pub(super) fn look_for_listeners(&mut self) -> Result<()> {
        self.check_what_is_left_to_the_kernel()?;
        let missed = Missed::read(&lock(&self.tables))?;
        let is_due = self.search.is_due(missed) || self.watch.is_unsearched();
        if self.watch.must_wake() || self.watch.is_asleep() && !self.has_all_listeners()? {
            self.wake()
        } else if is_due {
            self.register_existing()
        } else {
            Ok(())
        }
    }

    pub(super) fn follow_listeners(&mut self) {
        if let Err(error) = self.try_follow_listeners() {
            log::warn!("{error:#}");
        }
    }

    fn try_follow_listeners(&mut self) -> Result<()> {
        let events = self.events.drain();
        self.watch.note(&events, Instant::now());
        if self.watch.must_wake() {
            self.wake()?;
        }
        if self.may_sleep()? {
            // In this order: a connection that finds no listener from now on wakes.
            lock(&self.tables).set_asleep(true)?;
            if let Err(error) = self.settle() {
                log::warn!("{error:#}");
            }
            self.programs.detach_sock_ops();
            self.watch.sleep();
            log::debug!("the proxy's sockets listen: sock_ops is detached");
        }
        Ok(())
    }

    /// Attaches `sock_ops`, and registers what has begun to listen before.
    pub(super) fn wake(&mut self) -> Result<()> {
        lock(&self.tables).set_asleep(false)?;
        if !self.watch.is_awake() {
            self.attach_all(&[Hook::SockOps], Side::Proxy)?;
            log::debug!("the proxy may begin to listen: sock_ops is attached");
        }
        self.watch.wake(Instant::now());
        self.register_existing()
    }

    /// All that have bound listen. Has the kernel's normal lookup serve the ports where it finds the proxy.
    fn settle(&mut self) -> Result<()> {
        let Some(pod) = &self.pod else { return Ok(()) };
        let mut tables = lock(&self.tables);
        // Before the look, so that a bind meanwhile takes it back.
        let binds = tables.binds()?;
        self.left_to_kernel =
            listeners::settle(&tables, self.ports, &pod.netns, self.cgroups.proxy())
                .context("looking at the proxy's listening sockets")?;
        let ports = self
            .left_to_kernel
            .iter()
            .fold(NormalLookup::NOWHERE, |ports, left| {
                ports.with(left.listeners, &binds)
            });
        tables.set_normal_lookup(ports)
    }

    /// A listener that closes tells nobody. From then on a program looks, and counts what is refused.
    fn check_what_is_left_to_the_kernel(&mut self) -> Result<()> {
        for left in &self.left_to_kernel {
            if !left.still_listens(&lock(&self.tables))? {
                self.look_all_listeners_up()?;
                // The other ports are as they were.
                return if self.watch.is_asleep() {
                    self.settle()
                } else {
                    Ok(())
                };
            }
        }
        Ok(())
    }

    /// Undoes what was done to the proxy's sockets.
    pub(super) fn release_listeners(&self) {
        let Some(pod) = &self.pod else { return };
        if let Err(error) = listeners::release(self.ports, &pod.netns, self.cgroups.proxy()) {
            log::warn!("releasing the proxy's listening sockets: {error:#}");
        }
    }

    pub(super) fn look_all_listeners_up(&mut self) -> Result<()> {
        self.left_to_kernel.clear();
        lock(&self.tables).set_normal_lookup(NormalLookup::NOWHERE)
    }

    /// Whether everything listens that is expected to, and has for a while.
    fn may_sleep(&mut self) -> Result<bool> {
        let now = Instant::now();
        if self.pod.is_none() || !self.watch.is_settled(now) {
            return Ok(false);
        }
        let registered = lock(&self.tables).registered()?;
        Ok(self.watch.may_sleep(&registered, now) && self.has_all_listeners()?)
    }

    /// Whether the proxy listens wherever connections are redirected to. As long as it does not,
    /// they are refused, so it does not matter what they cost.
    fn has_all_listeners(&self) -> Result<bool> {
        let expected = [
            (Listeners::Outbound, true),
            (Listeners::Inbound, self.config.inbound != Inbound::Off),
            (Listeners::Dns, self.config.dns != Dns::Off),
        ];
        let tables = lock(&self.tables);
        for (listeners, _) in expected.iter().filter(|(_, is_expected)| *is_expected) {
            if !tables.has_listener(*listeners)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn register_existing(&mut self) -> Result<()> {
        let Some(pod) = &self.pod else { return Ok(()) };
        let missed = Missed::read(&lock(&self.tables))?;
        let found = listeners::register_existing(
            &mut lock(&self.tables),
            self.ports,
            &pod.netns,
            self.cgroups.proxy(),
        )
        .context("looking for the proxy's listening sockets")?;
        self.search.is_done(missed, found);
        self.watch.searched();
        if found.registered > 0 {
            log::info!(
                "found {} sockets on which the proxy listens already",
                found.registered
            );
        }
        Ok(())
    }
}
