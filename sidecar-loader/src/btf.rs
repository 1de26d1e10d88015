//! Offsets of structure members, from the kernel's own type information
//! (Documentation/bpf/btf.rst). A reader for this one question: the libraries that read all of BTF
//! are either private to aya or under the LGPL.

use anyhow::{Context as _, Result, bail, ensure};

const MAGIC: u16 = 0xeb9f;
const STRUCT: u32 = 4;
/// Bytes of `struct btf_type`, and of one member.
const TYPE: usize = 12;
const MEMBER: usize = 12;

/// Type information in the byte order of this machine.
pub(crate) struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
}

impl<'a> Btf<'a> {
    pub(crate) fn parse(data: &'a [u8]) -> Result<Self> {
        let header = data.first_chunk::<24>().context("no BTF header")?;
        ensure!(
            u16::from_ne_bytes([header[0], header[1]]) == MAGIC,
            "not BTF of this byte order"
        );
        let section = |at: usize| -> Result<&'a [u8]> {
            let start = word(data, 4)? as usize + word(data, at)? as usize;
            let len = word(data, at + 4)? as usize;
            data.get(start..)
                .and_then(|rest| rest.get(..len))
                .context("BTF ends too early")
        };
        Ok(Self {
            types: section(8)?,
            strings: section(16)?,
        })
    }

    /// The byte offset of a direct member of a structure.
    pub(crate) fn offset(&self, structure: &str, member: &str) -> Result<u32> {
        let mut rest = self.types;
        while !rest.is_empty() {
            let (name, info) = (word(rest, 0)?, word(rest, 4)?);
            let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            let len = TYPE + extra(kind, count)?;
            let members = rest.get(TYPE..len).context("BTF ends too early")?;
            if kind == STRUCT
                && self.is_named(name, structure)
                && let Some(bits) = self.member_bits(members, info, member)?
            {
                ensure!(bits % 8 == 0, "{structure}.{member} is a bit field");
                return Ok(bits / 8);
            }
            rest = rest.get(len..).unwrap_or_default();
        }
        bail!("this kernel has no {structure}.{member}")
    }

    fn member_bits(&self, members: &[u8], info: u32, wanted: &str) -> Result<Option<u32>> {
        // With this flag the upper byte is the width of a bit field.
        let mask = if info >> 31 == 1 {
            0x00ff_ffff
        } else {
            u32::MAX
        };
        for member in members.chunks_exact(MEMBER) {
            if self.is_named(word(member, 0)?, wanted) {
                return Ok(Some(word(member, 8)? & mask));
            }
        }
        Ok(None)
    }

    fn is_named(&self, name: u32, wanted: &str) -> bool {
        let text = self.strings.get(name as usize..).unwrap_or_default();
        text.strip_prefix(wanted.as_bytes())
            .is_some_and(|rest| rest.first() == Some(&0))
    }
}

/// What follows a type of this kind, in bytes.
fn extra(kind: u32, count: usize) -> Result<usize> {
    Ok(match kind {
        // int, variable, declaration tag
        1 | 14 | 17 => 4,
        // array
        3 => 12,
        // structure, union
        STRUCT | 5 => count * MEMBER,
        // enumeration, function prototype
        6 | 13 => count * 8,
        // data section, 64-bit enumeration
        15 | 19 => count * 12,
        // pointer, forward, typedef, volatile, const, restrict, function, float, type tag
        2 | 7..=12 | 16 | 18 => 0,
        _ => bail!("BTF has a kind {kind} that is not known"),
    })
}

fn word(data: &[u8], at: usize) -> Result<u32> {
    let bytes = data
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .context("BTF ends too early")?;
    Ok(u32::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `int`, then `struct pair { int first; int second; }`.
    fn example() -> Vec<u8> {
        let strings = b"\0int\0pair\0first\0second\0";
        let types: [u32; 13] = [
            1,
            1 << 24,
            4,
            32,
            5,
            STRUCT << 24 | 2,
            8,
            10,
            1,
            0,
            16,
            1,
            32,
        ];
        let types: Vec<u8> = types.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut data = MAGIC.to_ne_bytes().to_vec();
        data.extend([1, 0]);
        let header = [
            24,
            0,
            types.len() as u32,
            types.len() as u32,
            strings.len() as u32,
        ];
        data.extend(header.iter().flat_map(|word: &u32| word.to_ne_bytes()));
        data.extend(types);
        data.extend(strings);
        data
    }

    #[test]
    fn members_have_offsets() {
        let data = example();
        let btf = Btf::parse(&data).unwrap();
        assert_eq!(btf.offset("pair", "first").unwrap(), 0);
        assert_eq!(btf.offset("pair", "second").unwrap(), 4);
        let missing = btf.offset("pair", "third").unwrap_err().to_string();
        assert!(missing.contains("pair.third"), "{missing}");
        assert!(btf.offset("pai", "first").is_err());
    }

    #[test]
    fn cut_or_foreign_data_is_an_error() {
        let data = example();
        for len in 0..data.len() {
            assert!(Btf::parse(&data[..len]).is_err(), "{len}");
        }
        let mut foreign = data;
        foreign.swap(0, 1);
        assert!(Btf::parse(&foreign).is_err());
    }
}
