//! An object file with programs that do nothing.

use anyhow::{Context as _, Result};
use object::{
    Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
    write::{Object, Symbol, SymbolSection},
};

/// `r0 = 1` and `exit` (RFC 9669, section 4): everything goes on.
const CODE: [u8; 16] = [0xb7, 0, 0, 0, 1, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];

/// As a compiler would have made it: programs of these names, in sections that say for which hook.
pub(super) fn object(programs: &[(&str, &str)]) -> Result<Vec<u8>> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let license = object.add_section(Vec::new(), b"license".to_vec(), SectionKind::Data);
    object.append_section_data(license, b"Dual MIT/GPL\0", 1);
    for (name, section) in programs {
        let text = object.add_section(Vec::new(), (*section).into(), SectionKind::Text);
        object.append_section_data(text, &CODE, 8);
        object.add_symbol(Symbol {
            name: (*name).into(),
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
