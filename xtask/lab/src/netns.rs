//! Network namespaces by name, as `ip netns` keeps them.

use std::{
    ffi::OsStr,
    fs::File,
    net::Ipv6Addr,
    panic,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns};

use crate::process::run;

const DIRECTORY: &str = "/run/netns";
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

/// Every named namespace of this machine.
pub(crate) fn names() -> Vec<String> {
    let Ok(entries) = Path::new(DIRECTORY).read_dir() else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

pub(crate) fn delete(name: &str) -> Result<()> {
    if path(name).exists() {
        ip(None, &format!("netns del {name}\n"))
    } else {
        Ok(())
    }
}

/// Runs commands of iproute2, one a line, in that namespace or in ours.
pub(crate) fn ip(netns: Option<&str>, commands: &str) -> Result<()> {
    let done = match netns {
        Some(name) => ip_inside(&path(name), ["-batch", "-"], commands),
        None => run("ip", ["-batch", "-"], commands),
    };
    let place = netns.unwrap_or("our own namespace");
    done.map(drop)
        .with_context(|| format!("ip in {place} with\n{commands}"))
}

/// Runs iproute2 in that namespace and returns what it prints. Not by `ip -n`, which mounts a /sys
/// of its own and so fails where `/` is no mount point (in a chroot).
pub fn ip_inside<A: AsRef<OsStr> + Send>(
    netns: &Path,
    args: impl IntoIterator<Item = A> + Send,
    stdin: &str,
) -> Result<String> {
    inside(netns, || run("ip", args, stdin))?
}

/// Waits until the address is the namespace's own: the kernel adds the local route of an IPv6
/// address a moment later, by a work queue (`addrconf_dad_work`, net/ipv6/addrconf.c).
pub(crate) fn await_local(netns: &str, addr: Ipv6Addr) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let route = format!("local {addr} ");
    let table = ["-6", "route", "show", "table", "local"];
    while !ip_inside(&path(netns), table, "")?.contains(&route) {
        ensure!(
            Instant::now() < deadline,
            "{addr} has got no local route in {netns}"
        );
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Runs a closure on a thread of its own inside a network namespace. Sockets made there stay in
/// the namespace; `/proc/sys/net` and `/proc/thread-self/net` are the namespace's.
pub fn inside<T: Send>(netns: &Path, work: impl FnOnce() -> T + Send) -> Result<T> {
    let file = File::open(netns)
        .with_context(|| format!("opening the network namespace {}", netns.display()))?;
    thread::scope(|scope| {
        let worker = scope.spawn(move || -> Result<T> {
            setns(file, CloneFlags::CLONE_NEWNET).with_context(|| {
                format!(
                    "entering the network namespace {} (are you root?)",
                    netns.display()
                )
            })?;
            Ok(work())
        });
        worker
            .join()
            .unwrap_or_else(|payload| panic::resume_unwind(payload))
    })
}
