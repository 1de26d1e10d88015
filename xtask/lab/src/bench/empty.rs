//! A program that does nothing, beside those that are measured: what the kernel and its statistics
//! take for a run of any.

use std::{fs::File, path::Path};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    programs::{CgroupAttachMode, CgroupSockAddr, loaded_programs},
};
use object::{
    Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
    write::{Object, Symbol, SymbolSection},
};

const NAME: &str = "empty";
/// `r0 = 1` and `exit` (RFC 9669, section 4): the connect goes on.
const CODE: [u8; 16] = [0xb7, 0, 0, 0, 1, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];

/// Detached when it is dropped.
pub(super) struct Empty {
    id: u32,
    _ebpf: Ebpf,
}

/// What it has done while statistics were on.
#[derive(Clone, Copy)]
pub(super) struct EmptyRuns {
    count: u64,
    nanos: u64,
}

impl Empty {
    /// Has it run for each IPv4 connect from the cgroup, after what is attached there.
    pub(super) fn attach(cgroup: &Path) -> Result<Self> {
        let mut ebpf = Ebpf::load(&object()?).context("an empty program")?;
        let program = ebpf.program_mut(NAME).context("the object lacks it")?;
        let program: &mut CgroupSockAddr = program.try_into()?;
        program.load().context("loading an empty program")?;
        let id = program.info()?.id();
        let directory =
            File::open(cgroup).with_context(|| format!("opening {}", cgroup.display()))?;
        // By a link, which stands beside others whatever the mode says.
        let attached = program.attach(directory, CgroupAttachMode::Single);
        attached.with_context(|| format!("attaching a program to {}", cgroup.display()))?;
        Ok(Self { id, _ebpf: ebpf })
    }

    pub(super) fn runs(&self) -> Result<EmptyRuns> {
        let all: Result<Vec<_>, _> = loaded_programs().collect();
        let all = all.context("asking for all programs (are you root?)")?;
        let program = all.iter().find(|program| program.id() == self.id);
        let program = program.context("the empty program is gone")?;
        Ok(EmptyRuns {
            count: program.run_count(),
            nanos: u64::try_from(program.run_time().as_nanos())?,
        })
    }
}

impl EmptyRuns {
    /// The time of one run since then, if there was any.
    pub(super) fn each_since(self, before: Self) -> Option<f64> {
        let count = self.count - before.count;
        (count > 0).then(|| (self.nanos - before.nanos) as f64 / count as f64)
    }
}

/// The object file as a compiler would have made it.
fn object() -> Result<Vec<u8>> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let license = object.add_section(Vec::new(), b"license".to_vec(), SectionKind::Data);
    object.append_section_data(license, b"Dual MIT/GPL\0", 1);
    let text = object.add_section(Vec::new(), b"cgroup/connect4".to_vec(), SectionKind::Text);
    object.append_section_data(text, &CODE, 8);
    object.add_symbol(Symbol {
        name: NAME.into(),
        value: 0,
        size: CODE.len() as u64,
        kind: SymbolKind::Text,
        scope: SymbolScope::Linkage,
        weak: false,
        section: SymbolSection::Section(text),
        flags: SymbolFlags::None,
    });
    object.write().context("writing an object file")
}
