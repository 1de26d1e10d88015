//! Finds the proxy's sockets that listen already and registers them, as `sock_ops` does with those
//! that come later.
//!
//! `sock_ops` fills each port's slots from the first on; what is found here goes to the last ones.
//! A socket may then have two slots, which does no harm: both empty when it closes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use procfs::{
    FromReadSI, current_system_info,
    net::{TcpNetEntries, TcpState},
    process::{FDTarget, Process},
};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use sidecar_ebpf_common::{
    addr::Port,
    counter::{Counter, Hook, Reason},
    maps::Listeners,
};

use crate::{cgroup::Cgroup, netns::Netns, snapshot::Snapshot, tables::Tables};

/// The proxy's ports, each with the slots its listeners go to.
#[derive(Clone, Copy, Debug)]
pub struct ProxyPorts {
    pub outbound: Port,
    pub inbound: Port,
    pub dns: Port,
}

impl ProxyPorts {
    fn listeners(self, port: u16) -> Option<Listeners> {
        if port == self.outbound.0 {
            Some(Listeners::Outbound)
        } else if port == self.inbound.0 {
            Some(Listeners::Inbound)
        } else if port == self.dns.0 {
            Some(Listeners::Dns)
        } else {
            None
        }
    }
}

/// Registers what listens on the proxy's ports in `netns` and belongs to a process of `cgroup`.
/// Returns how many sockets were registered.
pub fn register_existing(
    tables: &mut Tables,
    ports: ProxyPorts,
    netns: &Netns,
    cgroup: &Cgroup,
) -> Result<u32> {
    let mut wanted = listening(ports, netns)?;
    let mut registered = Registered::default();
    for pid in cgroup.processes() {
        if wanted.is_empty() {
            break;
        }
        for (inode, fd) in sockets_of(pid, &wanted.keys().copied().collect()) {
            let Some(listeners) = wanted.remove(&inode) else {
                continue;
            };
            match duplicate(pid, fd).and_then(|socket| registered.add(tables, listeners, &socket)) {
                Ok(()) => {}
                Err(error) => log::warn!(
                    "process {pid}: its socket on the proxy's {listeners:?} port cannot be registered: {error:#}"
                ),
            }
        }
    }
    Ok(registered.0.iter().sum())
}

/// Inodes of the sockets that listen on the proxy's ports in the namespace.
fn listening(ports: ProxyPorts, netns: &Netns) -> Result<BTreeMap<u64, Listeners>> {
    netns.within(|| {
        let mut found = BTreeMap::new();
        // Of this thread, which is in the namespace, not of the process, which is not.
        for path in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
            // A kernel without IPv6 has no tcp6.
            let Ok(file) = File::open(path) else { continue };
            let entries = TcpNetEntries::from_read(file, current_system_info())
                .with_context(|| format!("reading {path}"))?;
            for entry in entries.0 {
                if entry.state == TcpState::Listen
                    && let Some(listeners) = ports.listeners(entry.local_address.port())
                {
                    found.insert(entry.inode, listeners);
                }
            }
        }
        Ok(found)
    })
}

/// The descriptors of a process that are among `inodes`. A process that ended has none.
fn sockets_of(pid: u32, inodes: &BTreeSet<u64>) -> Vec<(u64, i32)> {
    let Ok(fds) = Process::new(pid as i32).and_then(|process| process.fd()) else {
        return Vec::new();
    };
    fds.flatten()
        .filter_map(|fd| {
            let FDTarget::Socket(inode) = fd.target else {
                return None;
            };
            inodes.contains(&inode).then_some((inode, fd.fd))
        })
        .collect()
}

/// Linux 5.6; needs CAP_SYS_PTRACE over the process.
fn duplicate(pid: u32, fd: i32) -> Result<OwnedFd> {
    let pid = Pid::from_raw(pid as i32).context("no such process")?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).context("pidfd_open")?;
    pidfd_getfd(pidfd, fd, PidfdGetfdFlags::empty()).context("pidfd_getfd")
}

/// How many sockets have been registered for each port.
#[derive(Default)]
struct Registered([u32; Listeners::ALL.len()]);

impl Registered {
    fn add(&mut self, tables: &mut Tables, listeners: Listeners, socket: &OwnedFd) -> Result<()> {
        let count = &mut self.0[listeners.index() as usize];
        if *count == Listeners::SLOTS {
            return Ok(());
        }
        let slot = listeners.first_slot() + Listeners::SLOTS - 1 - *count;
        if let Err(error) = tables.set_listener(slot, socket) {
            tables.set_unregistered(listeners)?;
            return Err(error).context("a sockmap does not take it; is it MPTCP?");
        }
        *count += 1;
        Ok(())
    }
}

/// When the proxy's listening sockets are looked for again.
#[derive(Default)]
pub struct Search {
    /// Connections refused so far because no registered socket was left.
    refused: u64,
    last: Option<Instant>,
}

impl Search {
    /// After a refusal at once: the proxy may listen with sockets that found no slot. As long as
    /// some found none, every now and then, so that a refusal is rare.
    const AFTER_REFUSAL: Duration = Duration::from_secs(1);
    const WITHOUT_SLOT: Duration = Duration::from_secs(2);

    pub fn is_due(&mut self, counters: &Snapshot) -> bool {
        let refused = counters.get(Counter::Other(Hook::SkLookup, Reason::NoListener));
        let without_slot = counters.get(Counter::Other(Hook::SockOps, Reason::SlotsFull)) > 0;
        let waited = |pause| self.last.is_none_or(|last| last.elapsed() >= pause);
        let due = refused > self.refused && waited(Self::AFTER_REFUSAL)
            || without_slot && waited(Self::WITHOUT_SLOT);
        if due {
            *self = Self {
                refused,
                last: Some(Instant::now()),
            };
        }
        due
    }
}
