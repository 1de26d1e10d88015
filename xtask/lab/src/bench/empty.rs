//! Programs that do nothing, in the places of those that are measured: what the kernel takes to come to
//! any program.

use std::{fs::File, path::Path};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    programs::{CgroupAttachMode, CgroupSockAddr, CgroupSockopt, SkLookup},
};
use object::{
    Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
    write::{Object, Symbol, SymbolSection},
};

use super::kernel::Held;
use crate::pod::Pod;

/// Where programs of ours run for a redirected IPv4 connection, and the section that says so.
const PLACES: [(&str, &str); 4] = [
    ("connect4", "cgroup/connect4"),
    ("sk_lookup", "sk_lookup"),
    ("getpeername4", "cgroup/getpeername4"),
    ("getsockopt", "cgroup/getsockopt"),
];
/// `r0 = 1` and `exit` (RFC 9669, section 4): everything goes on.
const CODE: [u8; 16] = [0xb7, 0, 0, 0, 1, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];

/// One for each of [`PLACES`]. Detached when they are dropped.
#[derive(Debug)]
pub(super) struct EmptyPrograms {
    ebpf: Ebpf,
}

impl EmptyPrograms {
    pub(super) fn attach(pod: &Pod) -> Result<Self> {
        let mut ebpf = Ebpf::load(&object()?).context("empty programs")?;
        let (cgroup, netns) = (open(&pod.cgroup())?, open(&pod.netns_path())?);
        for (name, _) in PLACES {
            attach(&mut ebpf, name, &cgroup, &netns)
                .with_context(|| format!("an empty program for {name}"))?;
        }
        Ok(Self { ebpf })
    }

    pub(super) fn held(&self) -> Result<Held> {
        let programs = self.ebpf.programs();
        let ids: Result<Vec<_>, _> = programs
            .map(|(name, program)| program.info().map(|info| (info.id(), name)))
            .collect();
        Ok(Held::programs(ids.context("asking for empty programs")?))
    }
}

fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("opening {}", path.display()))
}

fn attach(ebpf: &mut Ebpf, name: &str, cgroup: &File, netns: &File) -> Result<()> {
    // By links, which stand beside others whatever the mode says.
    const MODE: CgroupAttachMode = CgroupAttachMode::Single;
    let program = ebpf.program_mut(name).context("it is not in the object")?;
    match name {
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

/// The object file as a compiler would have made it.
fn object() -> Result<Vec<u8>> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let license = object.add_section(Vec::new(), b"license".to_vec(), SectionKind::Data);
    object.append_section_data(license, b"Dual MIT/GPL\0", 1);
    for (name, section) in PLACES {
        let text = object.add_section(Vec::new(), section.into(), SectionKind::Text);
        object.append_section_data(text, &CODE, 8);
        object.add_symbol(Symbol {
            name: name.into(),
            value: 0,
            size: CODE.len() as u64,
            kind: SymbolKind::Text,
            scope: SymbolScope::Linkage,
            weak: false,
            section: SymbolSection::Section(text),
            flags: SymbolFlags::None,
        });
    }
    object.write().context("writing an object file")
}
