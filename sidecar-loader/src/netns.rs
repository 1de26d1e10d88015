//! Network namespaces: named, compared, entered.

use std::{
    fmt,
    fs::File,
    net::UdpSocket,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::{
    net::if_::if_nameindex,
    sched::{CloneFlags, setns},
    sys::statfs::{NSFS_MAGIC, fstatfs},
};

use sidecar_ebpf_common::interface::Interface;

use crate::{cgroup::Cgroup, cli, sys};

/// An open network namespace. Holding it keeps it alive.
#[derive(Debug)]
pub struct Netns {
    path: PathBuf,
    file: File,
    inode: (u64, u64),
}

impl Netns {
    /// As `--netns` names it.
    pub fn open(target: &cli::Netns) -> Result<Self> {
        match target {
            cli::Netns::Pid(pid) => Self::of_process(*pid),
            cli::Netns::Path(path) => Self::at(path),
        }
        .context("--netns takes a process id, or a path such as /run/netns/NAME")
    }

    pub fn of_process(pid: u32) -> Result<Self> {
        Self::at(Path::new(&format!("/proc/{pid}/ns/net")))
    }

    /// The host's: that of the first process, or where a security module hides it the loader's own.
    pub fn host() -> Result<Self> {
        Self::of_process(1)
            .or_else(|_| Self::at(Path::new("/proc/self/ns/net")))
            .context("finding the host's network namespace")
    }

    fn at(path: &Path) -> Result<Self> {
        let file = File::open(path)
            .with_context(|| format!("cannot open network namespace {}", path.display()))?;
        let kind = fstatfs(&file).with_context(|| format!("statfs {}", path.display()))?;
        if kind.filesystem_type() != NSFS_MAGIC {
            bail!("{} is not a namespace", path.display());
        }
        let meta = file
            .metadata()
            .with_context(|| format!("stat {}", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            inode: (meta.dev(), meta.ino()),
        })
    }

    pub fn is(&self, other: &Self) -> bool {
        self.inode == other.inode
    }

    /// Runs `work` on a thread of its own that is in the namespace.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let result = thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&self.file, CloneFlags::CLONE_NEWNET).with_context(|| {
                        format!("entering {self}: needs CAP_SYS_ADMIN; run as root")
                    })?;
                    work()
                })
                .join()
        });
        result.unwrap_or_else(|_| Err(anyhow!("a thread in {self} panicked")))
    }

    /// Names and indices of its interfaces.
    pub fn interfaces(&self) -> Result<Vec<(String, Interface)>> {
        let interfaces = self.within(|| {
            let found = if_nameindex().context("if_nameindex")?;
            let named = found.iter().map(|interface| {
                let name = interface.name().to_string_lossy().into_owned();
                (name, Interface(interface.index()))
            });
            Ok(named.collect())
        });
        interfaces.with_context(|| format!("listing the interfaces of {self}"))
    }

    /// The number by which eBPF programs know the namespace.
    pub fn cookie(&self) -> Result<u64> {
        self.within(|| {
            let socket = UdpSocket::bind("127.0.0.1:0")
                .or_else(|_| UdpSocket::bind("0.0.0.0:0"))
                .context("opening a socket")?;
            sys::netns_cookie(&socket).context("SO_NETNS_COOKIE, which needs Linux 5.14")
        })
        .with_context(|| format!("reading the cookie of {self}"))
    }
}

impl fmt::Display for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The namespace that the processes of a cgroup live in, the host's left out; `None` if there is
/// no such process yet.
pub fn of_cgroup(cgroup: &Cgroup, host: &Netns) -> Result<Option<Netns>> {
    let mut found: Option<Netns> = None;
    for pid in cgroup.processes() {
        // A process that ended meanwhile says nothing.
        let Ok(netns) = Netns::of_process(pid) else {
            continue;
        };
        if netns.is(host) {
            continue;
        }
        match &found {
            Some(first) if !first.is(&netns) => bail!(
                "the processes of {} live in several network namespaces ({first} and {netns}); \
                 say which is the pod's with --netns",
                cgroup.path().display()
            ),
            Some(_) => {}
            None => found = Some(netns),
        }
    }
    Ok(found)
}
