//! What the kernel says about programs, maps, connection tracking and its own memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use aya::programs::{ProgramInfo, loaded_programs};

use crate::{cleanup::Cleanup, netns};

/// The programs and maps of one process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    /// By id, what the kernel accounts for each.
    programs: BTreeMap<u32, u64>,
    maps: BTreeMap<u32, u64>,
    /// By the program's id: names of programs are cut off after 15 letters.
    hooks: BTreeMap<u32, String>,
}

/// `enum bpf_attach_type` (include/uapi/linux/bpf.h), as far as this project goes.
const HOOKS: [(u64, &str); 14] = [
    (3, "sock_ops"),
    (8, "bind4"),
    (9, "bind6"),
    (10, "connect4"),
    (11, "connect6"),
    (14, "sendmsg4"),
    (15, "sendmsg6"),
    (19, "recvmsg4"),
    (20, "recvmsg6"),
    (21, "getsockopt"),
    (29, "getpeername4"),
    (30, "getpeername6"),
    (36, "sk_lookup"),
    (7, "sk_msg_verdict"),
];

impl Held {
    /// Those of which the process has a descriptor.
    pub(super) fn of(pid: u32) -> Result<Self> {
        let directory = format!("/proc/{pid}/fdinfo");
        let files = fs::read_dir(&directory).with_context(|| format!("listing {directory}"))?;
        let mut held = Self::default();
        for file in files.flatten() {
            // A descriptor that is closed meanwhile is not held.
            let text = fs::read_to_string(file.path()).unwrap_or_default();
            held.add(&text);
        }
        ensure!(
            !held.programs.is_empty() && !held.maps.is_empty(),
            "process {pid} holds no programs or no maps: {held:?}"
        );
        Ok(held)
    }

    /// These programs, by id, with the names of their hooks.
    pub(super) fn programs<'a>(named: impl IntoIterator<Item = (u32, &'a str)>) -> Self {
        let hooks = named.into_iter().map(|(id, hook)| (id, hook.to_owned()));
        let hooks: BTreeMap<u32, String> = hooks.collect();
        Self {
            programs: hooks.keys().map(|id| (*id, 0)).collect(),
            maps: BTreeMap::new(),
            hooks,
        }
    }

    /// What a descriptor is of, if it is of any of these.
    fn add(&mut self, text: &str) {
        let id = |name| field(text, name).and_then(|id| u32::try_from(id).ok());
        let memory = field(text, "memlock:");
        match (id("prog_id:"), id("map_id:"), memory) {
            (Some(program), _, Some(memory)) => {
                self.programs.insert(program, memory);
            }
            (Some(program), _, None) => {
                // A link.
                let kind = field(text, "attach_type:");
                let hook = HOOKS.iter().find(|(number, _)| Some(*number) == kind);
                if let Some((_, hook)) = hook {
                    self.hooks.insert(program, (*hook).to_owned());
                }
            }
            (None, Some(map), Some(memory)) => {
                self.maps.insert(map, memory);
            }
            (None, _, _) => {}
        }
    }

    pub(super) fn map_memory(&self) -> u64 {
        self.maps.values().sum()
    }

    /// Maps, programs and the machine code made of these.
    pub(super) fn memory(&self) -> Result<u64> {
        let programs: u64 = self.programs.values().sum();
        let code = self.runs()?.values().map(|run| run.code).sum::<u64>();
        Ok(self.map_memory() + programs + code)
    }

    /// What each program has done so far while statistics were on, by id.
    pub(super) fn runs(&self) -> Result<BTreeMap<u32, Runs>> {
        let mut runs = BTreeMap::new();
        for program in loaded_programs() {
            let program = program.context("asking for all programs (are you root?)")?;
            if !self.programs.contains_key(&program.id()) {
                continue;
            }
            let found = Runs {
                name: self.name(&program),
                count: program.run_count(),
                nanos: u64::try_from(program.run_time().as_nanos())?,
                code: program.size_jitted().into(),
            };
            runs.insert(program.id(), found);
        }
        let names: BTreeSet<&str> = runs.values().map(|run| run.name.as_str()).collect();
        ensure!(
            names.len() == self.programs.len(),
            "{} programs, but their names are {names:?}",
            self.programs.len()
        );
        Ok(runs)
    }

    fn name(&self, program: &ProgramInfo) -> String {
        let hook = self.hooks.get(&program.id()).cloned();
        hook.unwrap_or_else(|| program.name_as_str().unwrap_or("?").to_owned())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Runs {
    pub(super) name: String,
    pub(super) count: u64,
    pub(super) nanos: u64,
    code: u64,
}

/// `name: number` on a line of its own.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// How many connections the namespace tracks.
pub(super) fn tracked(netns: &Path) -> Result<u64> {
    const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";
    let text = netns::inside(netns, || fs::read_to_string(COUNT))?;
    let text = text.with_context(|| format!("reading {COUNT}"))?;
    text.trim()
        .parse()
        .with_context(|| format!("{COUNT} says {text:?}"))
}

/// How many SYNs were sent more than once in the namespace.
pub(super) fn syns_resent(netns: &Path) -> Result<u64> {
    // Of this thread: the process is elsewhere.
    const FILE: &str = "/proc/thread-self/net/netstat";
    let text = netns::inside(netns, || fs::read_to_string(FILE))?;
    let text = text.with_context(|| format!("reading {FILE}"))?;
    tcp_extension(&text, "TCPSynRetrans").with_context(|| format!("{FILE} has no TCPSynRetrans"))
}

/// The names are on one line, the numbers on the next.
fn tcp_extension(text: &str, name: &str) -> Option<u64> {
    let mut lines = text
        .lines()
        .filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let mut pairs = names.split(' ').zip(numbers.split(' '));
    let (_, number) = pairs.find(|(it, _)| *it == name)?;
    number.parse().ok()
}

/// The size of one object of that slab, with its padding.
pub(super) fn object_size(slab: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/slabinfo").context("reading /proc/slabinfo")?;
    let line = text
        .lines()
        .find(|line| line.split(' ').next() == Some(slab));
    let size = line.and_then(|line| line.split_whitespace().nth(3)?.parse().ok());
    size.with_context(|| {
        format!("/proc/slabinfo has no {slab}: is the kernel built without SLUB's?")
    })
}

/// Memory of the kernel's own that it cannot give back: objects, virtual mappings, per-processor
/// areas. Of the whole machine, so it moves with whatever else runs.
pub(super) fn memory_in_use() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
    ["SUnreclaim:", "VmallocUsed:", "Percpu:"]
        .iter()
        .map(|name| {
            let kib = field(&text, name);
            kib.map(|kib| kib * 1024)
                .with_context(|| format!("/proc/meminfo has no {name}"))
        })
        .sum()
}

/// How many connections a namespace may track: one number for the whole machine, so it is put back.
#[derive(Debug)]
pub(super) struct TrackLimit {
    _cleanup: Cleanup,
}

impl TrackLimit {
    const FILE: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

    pub(super) fn set(limit: u64) -> Result<Self> {
        let about = || format!("{} (is conntrack loaded?)", Self::FILE);
        let before = fs::read_to_string(Self::FILE).with_context(about)?;
        let cleanup = Cleanup::register(move || {
            if let Err(error) = fs::write(Self::FILE, before.trim()) {
                eprintln!("{}: cannot put back {before}: {error}", Self::FILE);
            }
        });
        fs::write(Self::FILE, limit.to_string()).with_context(about)?;
        Ok(Self { _cleanup: cleanup })
    }
}

/// What the cgroup and all below it have used of the processors, in nanoseconds.
pub(super) fn processor_time(cgroup: &Path) -> Result<u64> {
    let file = cgroup.join("cpu.stat");
    let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    let micros = field(&text, "usage_usec ");
    micros
        .map(|micros| micros * 1000)
        .with_context(|| format!("{} has no usage_usec", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tcp_extension_is_below_its_name() {
        let text = "TcpExt: A TCPSynRetrans B\nTcpExt: 1 7 3\nIpExt: C\nIpExt: 4\n";
        assert_eq!(tcp_extension(text, "TCPSynRetrans"), Some(7));
        assert_eq!(tcp_extension(text, "C"), None);
    }

    #[test]
    fn a_field_is_the_number_behind_its_name() {
        let text = "pos:\t0\nmemlock:\t4096\nprog_id:\t17\nSUnreclaim:   53572 kB\n";
        assert_eq!(field(text, "memlock:"), Some(4096));
        assert_eq!(field(text, "SUnreclaim:"), Some(53572));
        assert_eq!(field(text, "map_id:"), None);
    }
}
