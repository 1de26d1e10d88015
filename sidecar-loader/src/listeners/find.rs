//! Finds sockets that listen, in `/proc`, and fetches them from the processes that have them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{BufRead as _, BufReader},
    os::fd::OwnedFd,
};

use anyhow::{Context as _, Result};
use procfs::{
    FromBufReadSI as _, current_system_info,
    net::{TcpNetEntries, TcpState},
    process::{FDTarget, Process},
};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use sidecar_ebpf_common::{addr::Port, listen::ProxyPorts, maps::Listeners};

use crate::{cgroup::Cgroup, netns::Netns};

/// Hands over each socket that listens on one of the proxy's ports in `netns` and belongs to a process of
/// `cgroup`, with the process. Returns what those are for that belong to none.
pub(super) fn each(
    ports: ProxyPorts,
    netns: &Netns,
    cgroup: &Cgroup,
    mut take: impl FnMut(Listeners, u32, Result<OwnedFd>),
) -> Result<Vec<Listeners>> {
    let mut wanted = listening(ports, netns)?;
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    for pid in cgroup.processes() {
        for (inode, fd) in sockets_of(pid, &wanted.keys().copied().collect()) {
            if let Some(listeners) = wanted.remove(&inode) {
                take(listeners, pid, duplicate(pid, fd));
            }
        }
        if wanted.is_empty() {
            break;
        }
    }
    Ok(wanted.into_values().collect())
}

/// Inodes of the sockets that listen on the proxy's ports in the namespace.
fn listening(ports: ProxyPorts, netns: &Netns) -> Result<BTreeMap<u64, Listeners>> {
    netns.within(|| {
        let mut found = BTreeMap::new();
        // Of this thread, which is in the namespace, not of the process, which is not.
        for path in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
            // A kernel without IPv6 has no tcp6.
            let Ok(file) = File::open(path) else { continue };
            // Those that listen come first (`tcp_seek_last_pos`, net/ipv4/tcp_ipv4.c); behind them
            // may be hundreds of thousands of connections.
            let lines = BufReader::new(file).lines().map_while(Result::ok);
            let first: Vec<_> = lines
                .enumerate()
                .take_while(|(number, line)| *number == 0 || is_of_listener(line))
                .map(|(_, line)| line + "\n")
                .collect();
            let entries =
                TcpNetEntries::from_buf_read(first.concat().as_bytes(), current_system_info())
                    .with_context(|| format!("reading {path}"))?;
            for entry in entries.0 {
                if entry.state == TcpState::Listen
                    && let Some(listeners) = ports.listeners(Port(entry.local_address.port()))
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

/// A line of /proc/net/tcp: number, addresses, state.
fn is_of_listener(line: &str) -> bool {
    line.split_whitespace().nth(3) == Some("0A")
}
