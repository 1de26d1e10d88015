//! Connections that stay open in a pod, however many: one process can only have so many files.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, bail};
use nix::sys::resource::{Resource, getrlimit};

use super::{
    arm::{Arm, OUTBOUND_PORT},
    proof::Unproven,
};
use crate::{Agent, HoldPlan};

/// What a process needs beside its connections.
const OTHER_FILES: u64 = 100;
/// More would not make anything faster.
const MOST_PER_PROCESS: u64 = 25_000;
/// A connect on one machine takes microseconds; what takes longer was dropped.
const PATIENCE: Duration = Duration::from_millis(20);
/// So many in a row mean that there are hardly any more to be had: the last ones of 64,000 would
/// take minutes, for each needs several attempts.
const GIVE_UP_AFTER: u32 = 5;
/// How many addresses the connections go to: each has all local ports for itself.
const ADDRESSES: u8 = 32;

/// Dropping it closes the connections.
#[derive(Debug, Default)]
pub(super) struct Holders {
    agents: Vec<Agent>,
    /// How many the last agent may still open.
    room: u32,
    pub(super) opened: u64,
    pub(super) failed: u64,
}

impl Holders {
    /// Opens connections until there are so many, or until no more come about. The arm's workers
    /// must not listen meanwhile.
    pub(super) fn grow(&mut self, arm: &Arm, until: u64) -> Result<()> {
        let targets = targets(arm);
        while self.opened < until {
            if self.room == 0 {
                self.agents.push(Agent::spawn(&arm.pod.app())?);
                self.room = room()?;
            }
            let agent = self.agents.last().context("no agent was started")?;
            let wanted = u32::try_from(until - self.opened)?.min(self.room);
            let held = arm.listen(agent)?.outbound.hold(HoldPlan {
                targets: targets.clone(),
                connections: wanted,
                patience: PATIENCE,
                give_up_after: GIVE_UP_AFTER,
            })?;
            self.opened += u64::from(held.opened);
            self.failed += u64::from(held.failed);
            self.room -= held.opened;
            if held.opened < wanted {
                break;
            }
        }
        Ok(())
    }

    /// That the redirect's counters have counted all that were opened beyond `before`, and no other,
    /// since they were looked at last: only if none has failed, for such a one may be counted or
    /// not.
    pub(super) fn prove(&self, arm: &mut Arm, before: u64) -> Result<()> {
        let counted = arm.counted()?;
        let (true, Some(counted)) = (self.failed == 0, counted) else {
            return Ok(());
        };
        let made = self.opened - before;
        let wanted = if arm.is_redirected() { made } else { 0 };
        if counted.outbound == wanted && counted.inbound == 0 {
            return Ok(());
        }
        bail!(Unproven(format!(
            "{} lost its redirect: {made} connections were opened, {counted:?} counted",
            arm.name
        )))
    }
}

/// Both ends of a connection are in one process.
fn room() -> Result<u32> {
    let (_, files) = getrlimit(Resource::RLIMIT_NOFILE).context("asking for RLIMIT_NOFILE")?;
    let room = (files.saturating_sub(OTHER_FILES) / 2).clamp(1, MOST_PER_PROCESS);
    Ok(u32::try_from(room)?)
}

/// Services; without redirection the proxy's port at as many loopback addresses.
pub(super) fn targets(arm: &Arm) -> Vec<SocketAddr> {
    let addresses = 1..=ADDRESSES;
    if arm.is_redirected() {
        let services = addresses.map(|last| SocketAddr::from(([10, 96, 0, last], 80)));
        services.collect()
    } else {
        let loopback = addresses.map(|last| SocketAddr::from(([127, 0, 0, last], OUTBOUND_PORT)));
        loopback.collect()
    }
}

/// Lets connections from the pod use nearly all ports, but not those that are listened on.
pub(super) fn free_ports(arm: &Arm) -> Result<()> {
    arm.pod
        .sysctl("net.ipv4.ip_local_port_range", "1024 65535")?;
    arm.pod
        .sysctl("net.ipv4.ip_local_reserved_ports", "8080,15000-15100")
}
