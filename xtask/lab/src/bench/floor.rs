//! Programs of the benchmark's own in the places of those that are measured, which tell what of their time
//! is the kernel's.

use std::{env, fs::File, path::Path};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::PerCpuArray,
    programs::{CgroupAttachMode, CgroupSockAddr, CgroupSockopt, Program, SkLookup},
};
use sidecar_ebpf_common::maps::SOCKET_OFFSETS;
use sidecar_loader::{cli, netns::Netns, owner};

use super::{empty, kernel::Held};
use crate::pod::Pod;

/// Where programs of ours run for a redirected IPv4 connection, and the section that says so.
const PLACES: [(&str, &str); 4] = [
    ("connect4", "cgroup/connect4"),
    ("sk_lookup", "sk_lookup"),
    ("getpeername4", "cgroup/getpeername4"),
    ("getsockopt", "cgroup/getsockopt"),
];
/// Where the object file is that `sidecar-ebpf/src/needed_calls.rs` becomes.
const NEEDED_CALLS: &str = "SIDECAR_NEEDED_CALLS";
const COUNTER: &str = "COUNTER";

/// What its programs' names have before the names of their hooks.
const CALLS: &str = "calls_";

/// One program for each of [`PLACES`]. Detached when they are dropped.
#[derive(Debug)]
pub(super) struct FloorPrograms {
    ebpf: Ebpf,
    prefix: &'static str,
}

impl FloorPrograms {
    /// Programs that do nothing.
    pub(super) fn empty(pod: &Pod) -> Result<Self> {
        let ebpf = Ebpf::load(&empty::object(&PLACES)?).context("loading empty programs")?;
        Self::attach(ebpf, "", pod)
    }

    /// Programs that make the calls which no redirect can do without. They redirect what the pod connects
    /// to.
    pub(super) fn needed_calls(pod: &Pod) -> Result<Self> {
        let object = env::var_os(NEEDED_CALLS).with_context(|| {
            format!("{NEEDED_CALLS} names no object file: run this by `cargo xtask bench`")
        })?;
        let netns = Netns::open(&cli::Netns::Path(pod.netns_path()))?.cookie()?;
        let offsets = owner::Source::find().offsets();
        let ebpf = EbpfLoader::new()
            .override_global(SOCKET_OFFSETS, &offsets, true)
            .override_global("NETNS", &netns, true)
            .load_file(&object)
            .with_context(|| format!("loading {}", Path::new(&object).display()))?;
        Self::attach(ebpf, CALLS, pod)
    }

    fn attach(mut ebpf: Ebpf, prefix: &'static str, pod: &Pod) -> Result<Self> {
        let (cgroup, netns) = (open(&pod.cgroup())?, open(&pod.netns_path())?);
        for (hook, _) in PLACES {
            let program = ebpf.program_mut(&format!("{prefix}{hook}"));
            program
                .context("it is not in the object")
                .and_then(|program| attach(program, hook, &cgroup, &netns))
                .with_context(|| format!("the benchmark's own program for {hook}"))?;
        }
        Ok(Self { ebpf, prefix })
    }

    pub(super) fn held(&self) -> Result<Held> {
        let programs = self.ebpf.programs();
        let ids: Result<Vec<_>, _> = programs
            .map(|(name, program)| {
                let hook = name.strip_prefix(self.prefix).unwrap_or(name);
                program.info().map(|info| (info.id(), hook))
            })
            .collect();
        Ok(Held::programs(
            ids.context("asking for the benchmark's own programs")?,
        ))
    }

    /// From now on nothing is redirected.
    pub(super) fn lose_redirect(&mut self) -> Result<()> {
        let name = format!("{}connect4", self.prefix);
        let program = self.ebpf.program_mut(&name).context("there is none")?;
        let program: &mut CgroupSockAddr = program.try_into()?;
        program.unload().context("taking the connect program away")
    }

    /// How many connections were redirected.
    pub(super) fn counted(&self) -> Result<u64> {
        let map = self.ebpf.map(COUNTER).context("there is no such map")?;
        let counter: PerCpuArray<_, u64> = map.try_into()?;
        Ok(counter.get(&0, 0)?.iter().sum())
    }
}

fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("opening {}", path.display()))
}

fn attach(program: &mut Program, hook: &str, cgroup: &File, netns: &File) -> Result<()> {
    // By links, which stand beside others whatever the mode says.
    const MODE: CgroupAttachMode = CgroupAttachMode::Single;
    match hook {
        "sk_lookup" => {
            let program: &mut SkLookup = program.try_into()?;
            program.load()?;
            program.attach(netns)?;
        }
        "getsockopt" => {
            let program: &mut CgroupSockopt = program.try_into()?;
            program.load()?;
            program.attach(cgroup, MODE)?;
        }
        _ => {
            let program: &mut CgroupSockAddr = program.try_into()?;
            program.load()?;
            program.attach(cgroup, MODE)?;
        }
    }
    Ok(())
}
