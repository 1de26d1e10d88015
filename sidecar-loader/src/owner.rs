//! Whose sockets are the proxy's: where the kernel keeps whose a socket is, and which ids the
//! proxy's are to it.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
};

use anyhow::{Context as _, Result, bail, ensure};
use sidecar_ebpf_common::{lists::IdList, owner::SocketOffsets};

use crate::{btf::Btf, netns::Netns, sys};

const KERNEL_TYPES: &str = "/sys/kernel/btf/vmlinux";

/// By which credentials a connection is judged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// Those the socket's file was made with, as iptables does.
    Socket(SocketOffsets),
    /// The real ones of the task that connects, where the kernel does not describe its types.
    Task,
}

impl Source {
    pub const NAMES: [&'static str; 2] = ["socket", "task"];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Socket(_) => "socket",
            Self::Task => "task",
        }
    }

    pub const fn offsets(self) -> SocketOffsets {
        match self {
            Self::Socket(offsets) => offsets,
            Self::Task => SocketOffsets::UNKNOWN,
        }
    }

    /// Asks the kernel. If it does not tell, says so and takes the task's.
    pub fn find() -> Self {
        match read_offsets() {
            Ok(offsets) => Self::Socket(offsets),
            Err(error) => {
                log::warn!(
                    "the proxy is told by the uid and gid of the process that connects, not by those its \
                     socket was made with: {error:#}; a kernel with CONFIG_DEBUG_INFO_BTF tells"
                );
                Self::Task
            }
        }
    }
}

fn read_offsets() -> Result<SocketOffsets> {
    let data = fs::read(KERNEL_TYPES).with_context(|| format!("reading {KERNEL_TYPES}"))?;
    let btf = Btf::parse(&data).with_context(|| format!("reading {KERNEL_TYPES}"))?;
    let fsuid = btf.offset("cred", "fsuid")?;
    ensure!(
        btf.offset("cred", "fsgid")? == fsuid + 4,
        "cred.fsgid does not follow cred.fsuid"
    );
    Ok(SocketOffsets {
        known: 1,
        sock_net: btf.offset("sock", "__sk_common")? + btf.offset("sock_common", "skc_net")?,
        net_cookie: btf.offset("net", "net_cookie")?,
        sock_sk_socket: btf.offset("sock", "sk_socket")?,
        socket_file: btf.offset("socket", "file")?,
        file_f_cred: btf.offset("file", "f_cred")?,
        cred_fsuid: fsuid,
    })
}

/// The ids of a user namespace as the kernel counts them. Istio's `--uid-owner` means ids of the
/// user namespace that owns the pod's network namespace (`owner_check`, net/netfilter/xt_owner.c).
#[derive(Debug)]
pub struct IdMap {
    uids: Vec<Extent>,
    gids: Vec<Extent>,
}

/// A line of `/proc/PID/uid_map`: so many ids from `inside` on are those from `outside` on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Extent {
    inside: u32,
    outside: u32,
    count: u32,
}

impl IdMap {
    /// The map of the user namespace that owns `netns`: read from one of `processes` that lives in
    /// it, or from this process if that does.
    pub fn of_owner(netns: &Netns, processes: &[u32]) -> Result<Self> {
        let owner = File::from(sys::owning_userns(netns).context("asking for its user namespace")?);
        let owner = owner.metadata().context("its user namespace")?;
        let lives_there = |process: &str| {
            fs::metadata(format!("/proc/{process}/ns/user"))
                .is_ok_and(|meta| (meta.dev(), meta.ino()) == (owner.dev(), owner.ino()))
        };
        let candidates = ["self".to_owned()]
            .into_iter()
            .chain(processes.iter().map(u32::to_string));
        let Some(process) = candidates.into_iter().find(|process| lives_there(process)) else {
            bail!("none of the pod's processes lives in the user namespace that owns it");
        };
        let read = |kind: &str| {
            let path = format!("/proc/{process}/{kind}_map");
            let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
            parse_extents(&text).with_context(|| format!("reading {path}"))
        };
        Ok(Self {
            uids: read("uid")?,
            gids: read("gid")?,
        })
    }

    pub fn uids<const N: usize>(&self, ids: &IdList<N>) -> Result<IdList<N>> {
        translate(&self.uids, ids)
    }

    pub fn gids<const N: usize>(&self, ids: &IdList<N>) -> Result<IdList<N>> {
        translate(&self.gids, ids)
    }
}

impl IdMap {
    pub fn uid(&self, id: u32) -> u32 {
        outside(&self.uids, id)
    }

    pub fn gid(&self, id: u32) -> u32 {
        outside(&self.gids, id)
    }
}

/// An id that the namespace does not have is nobody's.
fn outside(extents: &[Extent], id: u32) -> u32 {
    extents
        .iter()
        .find(|extent| id >= extent.inside && id - extent.inside < extent.count)
        .map_or(u32::MAX - 1, |extent| extent.outside + (id - extent.inside))
}

fn translate<const N: usize>(extents: &[Extent], ids: &IdList<N>) -> Result<IdList<N>> {
    let translated: Vec<u32> = ids.iter().map(|id| outside(extents, id)).collect();
    IdList::new(&translated).context("more ids than before")
}

fn parse_extents(text: &str) -> Result<Vec<Extent>> {
    text.lines()
        .map(|line| {
            let mut numbers = line.split_whitespace().map(str::parse);
            let mut next = || {
                numbers
                    .next()
                    .context("a number is missing")?
                    .context("no number")
            };
            Ok(Extent {
                inside: next()?,
                outside: next()?,
                count: next()?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sidecar_ebpf_common::lists::Ids;

    #[test]
    fn ids_are_translated_by_extents() {
        let extents = parse_extents("         0     100000      65536\n 70000 5 1\n").unwrap();
        let ids = Ids::new(&[0, 1337, 70000, 65536]).unwrap();
        let translated: Vec<u32> = translate(&extents, &ids).unwrap().iter().collect();
        assert_eq!(translated, [100_000, 101_337, 5, u32::MAX - 1]);
    }

    #[test]
    fn the_initial_namespace_changes_nothing() {
        let extents = parse_extents("0 0 4294967295").unwrap();
        let ids = Ids::new(&[0, 1337, u32::MAX - 1]).unwrap();
        assert_eq!(translate(&extents, &ids).unwrap(), ids);
    }

    #[test]
    fn a_broken_map_is_an_error() {
        assert!(parse_extents("0 1\n").is_err());
        assert!(parse_extents("0 x 1\n").is_err());
    }
}
