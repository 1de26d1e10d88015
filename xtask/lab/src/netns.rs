//! Network namespaces by name, as `ip netns` keeps them.

use std::{
    fs::File,
    panic,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

use crate::process::run;

const DIRECTORY: &str = "/run/netns";

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
    let inside = netns.map(|name| ["-n", name]);
    let args = inside.iter().flatten().copied().chain(["-batch", "-"]);
    run("ip", args, commands).map(drop).with_context(|| {
        format!(
            "ip {} with\n{commands}",
            inside.unwrap_or_default().join(" ")
        )
    })
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
