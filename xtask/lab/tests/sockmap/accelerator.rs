//! The least accelerator there can be, for the tests of what it would do: an `sk_msg` program for
//! all sockets of one hash, which hands what they send to the socket at the other end, if that is in
//! the other hash, and else leaves it to TCP. Nothing of it is part of the product.

use std::{net::TcpStream, os::fd::AsRawFd as _};

use aya::{
    Ebpf,
    maps::{Array, MapData, SockHash},
    programs::SkMsg,
};
use object::{
    Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
    elf::R_BPF_64_64,
    write::{Object, Relocation, RelocationFlags, SectionId, Symbol, SymbolId, SymbolSection},
};

const PROGRAM: &str = "hand_over";
const SENDERS: &str = "SENDERS";
const RECEIVERS: &str = "RECEIVERS";
const HANDED_OVER: &str = "HANDED_OVER";

/// `BPF_MAP_TYPE_ARRAY`, `BPF_MAP_TYPE_SOCKHASH` (include/uapi/linux/bpf.h).
const ARRAY: u32 = 2;
const SOCKHASH: u32 = 18;

/// The program and its maps; all of it is gone when this is dropped.
pub(crate) struct Accelerator {
    senders: SockHash<MapData, Ports>,
    receivers: SockHash<MapData, Ports>,
    handed_over: Array<MapData, u64>,
    /// Owns the program and its attachment.
    _ebpf: Ebpf,
}

/// A socket's local and remote port. All sockets of these tests are on 127.0.0.1.
type Ports = [u32; 2];

impl Accelerator {
    /// # Panics
    /// Without root, or if the kernel refuses the program.
    pub(crate) fn new() -> Self {
        let mut ebpf = Ebpf::load(&object()).expect("the maps: are you root?");
        let mut hash = |name| {
            let map = ebpf.take_map(name).unwrap();
            SockHash::<_, Ports>::try_from(map).unwrap()
        };
        let (senders, receivers) = (hash(SENDERS), hash(RECEIVERS));
        let map = ebpf.take_map(HANDED_OVER).unwrap();
        let handed_over = Array::try_from(map).unwrap();
        let program = ebpf.program_mut(PROGRAM).unwrap();
        let program: &mut SkMsg = program.try_into().unwrap();
        program.load().expect("the verifier refuses the program");
        program.attach(senders.fd()).unwrap();
        Self {
            senders,
            receivers,
            handed_over,
            _ebpf: ebpf,
        }
    }

    /// From now on what this socket sends is handed over, if the other end receives.
    pub(crate) fn sends(&mut self, socket: &TcpStream) {
        let senders = &mut self.senders;
        senders
            .insert(ports(socket), socket.as_raw_fd(), 0)
            .unwrap();
    }

    /// From now on this socket receives what is handed over.
    pub(crate) fn receives(&mut self, socket: &TcpStream) {
        let receivers = &mut self.receivers;
        receivers
            .insert(ports(socket), socket.as_raw_fd(), 0)
            .unwrap();
    }

    /// Takes the socket out again.
    pub(crate) fn part(&mut self, socket: &TcpStream) {
        self.senders.remove(&ports(socket)).unwrap();
        self.receivers.remove(&ports(socket)).unwrap();
    }

    /// Bytes that did not go through TCP, so far.
    pub(crate) fn handed_over(&self) -> u64 {
        self.handed_over.get(&0, 0).unwrap()
    }
}

fn ports(socket: &TcpStream) -> Ports {
    let local = socket.local_addr().map(|addr| addr.port());
    let remote = socket.peer_addr().map(|addr| addr.port());
    [local.unwrap().into(), remote.unwrap().into()]
}

/// The object file as a compiler would have made it.
fn object() -> Vec<u8> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let license = object.add_section(Vec::new(), b"license".to_vec(), SectionKind::Data);
    object.append_section_data(license, b"Dual MIT/GPL\0", 1);
    let maps = object.add_section(Vec::new(), b"maps".to_vec(), SectionKind::Data);
    add_map(&mut object, maps, SENDERS, [SOCKHASH, 8, 4, 128]);
    let receivers = add_map(&mut object, maps, RECEIVERS, [SOCKHASH, 8, 4, 128]);
    let handed_over = add_map(&mut object, maps, HANDED_OVER, [ARRAY, 4, 8, 1]);

    let text = object.add_section(Vec::new(), b"sk_msg".to_vec(), SectionKind::Text);
    let code = program();
    let bytes: Vec<u8> = code.iter().flat_map(|slot| slot.to_le_bytes()).collect();
    object.append_section_data(text, &bytes, 8);
    object.add_symbol(symbol(PROGRAM, text, SymbolKind::Text, 0, bytes.len()));
    let maps_in_order = [receivers, handed_over];
    let loads = code
        .iter()
        .enumerate()
        .filter(|(_, slot)| is_map_load(**slot));
    for ((at, _), symbol) in loads.zip(maps_in_order) {
        let relocation = Relocation {
            offset: at as u64 * 8,
            symbol,
            addend: 0,
            flags: RelocationFlags::Elf {
                r_type: R_BPF_64_64,
            },
        };
        object.add_relocation(text, relocation).unwrap();
    }
    object.write().unwrap()
}

/// `definition`: type, size of a key, size of a value, entries.
fn add_map(object: &mut Object<'_>, maps: SectionId, name: &str, definition: [u32; 4]) -> SymbolId {
    let no_flags = 0_u32;
    let bytes: Vec<u8> = definition
        .into_iter()
        .chain([no_flags])
        .flat_map(u32::to_le_bytes)
        .collect();
    let at = object.append_section_data(maps, &bytes, 4);
    object.add_symbol(symbol(name, maps, SymbolKind::Data, at, bytes.len()))
}

fn symbol(name: &str, section: SectionId, kind: SymbolKind, value: u64, size: usize) -> Symbol {
    Symbol {
        name: name.as_bytes().to_vec(),
        value,
        size: size as u64,
        kind,
        scope: SymbolScope::Dynamic,
        weak: false,
        section: SymbolSection::Section(section),
        flags: SymbolFlags::None,
    }
}

/// One instruction: operation, registers, offset, immediate.
const fn slot(operation: u8, to: u8, from: u8, offset: i16, immediate: i32) -> u64 {
    operation as u64
        | (to as u64) << 8
        | (from as u64) << 12
        | (offset as u16 as u64) << 16
        | (immediate as u32 as u64) << 32
}

/// The first half of a 64-bit load; the loader writes the map's descriptor into it.
const fn is_map_load(slot: u64) -> bool {
    slot as u8 == 0x18
}

/// `if hand over to (remote port, local port) succeeds { add size to HANDED_OVER }; pass`.
fn program() -> Vec<u64> {
    /// Fields of `struct sk_msg_md`.
    const REMOTE_PORT: i16 = 60;
    const LOCAL_PORT: i16 = 64;
    const SIZE: i16 = 68;
    const MAP_LOOKUP_ELEM: i32 = 1;
    const MSG_REDIRECT_HASH: i32 = 71;
    const BPF_F_INGRESS: i32 = 1;
    const SK_PASS: i32 = 1;
    vec![
        slot(0xbf, 6, 1, 0, 0),                 // r6 = the context
        slot(0x61, 2, 6, REMOTE_PORT, 0),       // r2 = remote port, in network order
        slot(0xdc, 2, 0, 0, 32),                // r2 = be32 r2
        slot(0x61, 3, 6, LOCAL_PORT, 0),        // r3 = local port
        slot(0x63, 10, 2, -8, 0),               // the other end's key, on the stack
        slot(0x63, 10, 3, -4, 0),               //
        slot(0xbf, 1, 6, 0, 0),                 // r1 = the context
        slot(0x18, 2, 0, 0, 0),                 // r2 = RECEIVERS
        slot(0, 0, 0, 0, 0),                    //
        slot(0xbf, 3, 10, 0, 0),                // r3 = the key
        slot(0x07, 3, 0, 0, -8),                //
        slot(0xb7, 4, 0, 0, BPF_F_INGRESS),     // r4 = into its receive side
        slot(0x85, 0, 0, 0, MSG_REDIRECT_HASH), // SK_DROP if there is no such socket
        slot(0x55, 0, 0, 9, SK_PASS),           // then leave it to TCP
        slot(0x62, 10, 0, -12, 0),              // index 0
        slot(0x18, 1, 0, 0, 0),                 // r1 = HANDED_OVER
        slot(0, 0, 0, 0, 0),                    //
        slot(0xbf, 2, 10, 0, 0),                // r2 = the index
        slot(0x07, 2, 0, 0, -12),               //
        slot(0x85, 0, 0, 0, MAP_LOOKUP_ELEM),   //
        slot(0x15, 0, 0, 2, 0),                 // never null
        slot(0x61, 1, 6, SIZE, 0),              // r1 = bytes
        slot(0xdb, 0, 1, 0, 0),                 // atomic add
        slot(0xb7, 0, 0, 0, SK_PASS),           // pass: redirected if the helper said so
        slot(0x95, 0, 0, 0, 0),                 //
    ]
}
