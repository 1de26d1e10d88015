//! The pod's cgroup: found, checked, and asked for its processes.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};
use sidecar_ebpf_common::policy::ProxyCgroup;

/// An open cgroup v2 directory.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    dir: File,
}

impl Cgroup {
    /// Opens the directory that `flag` names.
    pub fn open(flag: &str, path: &Path) -> Result<Self> {
        let dir = File::open(path).with_context(|| {
            format!(
                "{flag} {}: cannot open it; {}",
                path.display(),
                where_cgroup2_is()
            )
        })?;
        if !dir.metadata().is_ok_and(|meta| meta.is_dir()) {
            bail!(
                "{flag} {}: not a directory; {}",
                path.display(),
                where_cgroup2_is()
            );
        }
        let kind = fstatfs(&dir).with_context(|| format!("{flag} {}: statfs", path.display()))?;
        if kind.filesystem_type() != CGROUP2_SUPER_MAGIC {
            bail!(
                "{flag} {}: not a cgroup v2 directory; {}",
                path.display(),
                where_cgroup2_is()
            );
        }
        let path = fs::canonicalize(path).with_context(|| format!("{flag} {}", path.display()))?;
        Ok(Self { path, dir })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn contains(&self, other: &Self) -> bool {
        other.path.starts_with(&self.path)
    }

    /// Its number and its depth, both counted from the root of the hierarchy.
    pub fn as_the_kernel_knows_it(&self) -> Result<ProxyCgroup> {
        /// The root's inode number (`kernfs_create_root`, fs/kernfs/dir.c; the id of a cgroup is
        /// the inode number of its directory).
        const ROOT: u64 = 1;
        let mount = self.ancestry().last().unwrap_or(&self.path);
        let inode = fs::metadata(mount)
            .with_context(|| format!("looking at {}", mount.display()))?
            .ino();
        if inode != ROOT {
            bail!(
                "{} is not the root of the cgroup hierarchy, so the depth of {} below it is not \
                 known; run the loader in the host's cgroup namespace",
                mount.display(),
                self.path.display()
            );
        }
        let below = self.path.strip_prefix(mount).unwrap_or(&self.path);
        Ok(ProxyCgroup {
            id: self.dir.metadata()?.ino(),
            level: below.components().count() as u64,
        })
    }

    /// Whether the directory is still there: it goes when the pod goes.
    pub fn exists(&self) -> bool {
        fs::metadata(&self.path)
            .and_then(|now| Ok((now.ino(), self.dir.metadata()?.ino())))
            .is_ok_and(|(now, then)| now == then)
    }

    /// This cgroup and those above it, up to the mount, nearest first.
    pub fn ancestry(&self) -> impl Iterator<Item = &Path> {
        self.path
            .ancestors()
            .take_while(|path| path.join("cgroup.procs").exists())
    }

    /// The processes of this cgroup and of those below it. What vanishes meanwhile is left out.
    pub fn processes(&self) -> Vec<u32> {
        let mut pids = Vec::new();
        let mut pending = vec![self.path.clone()];
        while let Some(dir) = pending.pop() {
            if let Ok(procs) = fs::read_to_string(dir.join("cgroup.procs")) {
                // 0 stands for a process outside this process's pid namespace.
                let procs = procs.lines().filter_map(|pid| pid.parse::<u32>().ok());
                pids.extend(procs.filter(|&pid| pid != 0));
            }
            if let Ok(entries) = fs::read_dir(&dir) {
                let below = entries
                    .flatten()
                    .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
                pending.extend(below.map(|entry| entry.path()));
            }
        }
        pids
    }
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// cgroup2 is at /sys/fs/cgroup on most machines and at /sys/fs/cgroup/unified on those that keep
/// cgroup v1 beside it.
fn where_cgroup2_is() -> String {
    match mount_points() {
        Ok(points) if points.is_empty() => {
            "no cgroup v2 file system is mounted; mount -t cgroup2 none DIR mounts one".to_owned()
        }
        Ok(points) => format!("cgroup v2 is mounted at {}", points.join(" and ")),
        Err(error) => format!("and /proc/self/mounts cannot be read: {error}"),
    }
}

fn mount_points() -> io::Result<Vec<String>> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    Ok(mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (point, kind) = (fields.next()?, fields.next()?);
            (kind == "cgroup2").then(|| point.to_owned())
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_directory_is_named_with_the_mount() {
        let error = Cgroup::open("--cgroup", Path::new("/nonexistent/pod")).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("--cgroup /nonexistent/pod"), "{text}");
        assert!(text.contains("cgroup v2"), "{text}");
    }

    #[test]
    fn another_file_system_is_not_a_cgroup() {
        let error = Cgroup::open("--cgroup", Path::new("/proc")).unwrap_err();
        assert!(format!("{error:#}").contains("not a cgroup v2 directory"));
    }
}
