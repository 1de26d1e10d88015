//! Directories of the cgroup2 file system, and emptying and removing those made here.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// How long killed processes may take to leave their cgroup.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where cgroup2 is mounted: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` beside version 1.
pub fn cgroup2_mount() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("reading /proc/self/mounts")?;
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (target, kind) = (fields.next()?, fields.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(target))
        })
        .next()
        .context(
            "cgroup2 is mounted nowhere (see /proc/self/mounts); \
             try `mount -t cgroup2 none /sys/fs/cgroup`",
        )
}

pub(crate) fn make(path: &Path) -> Result<()> {
    fs::create_dir(path)
        .with_context(|| format!("making the cgroup {} (are you root?)", path.display()))
}

/// Kills whatever runs in the cgroup or below, then removes all of it.
pub(crate) fn remove(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        kill_all(path);
        match remove_tree(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                bail!("removing the cgroup {}: {error}", path.display())
            }
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn kill_all(path: &Path) {
    // `cgroup.kill` came with Linux 5.14; before, one by one. Errors show when the rmdir fails.
    if fs::write(path.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    for child in subdirectories(path) {
        kill_all(&child);
    }
    let processes = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    for pid in processes.lines().filter_map(|line| line.parse().ok()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

fn remove_tree(path: &Path) -> io::Result<()> {
    for child in subdirectories(path) {
        remove_tree(&child)?;
    }
    fs::remove_dir(path)
}

fn subdirectories(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else {
        return Vec::new();
    };
    entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect()
}
