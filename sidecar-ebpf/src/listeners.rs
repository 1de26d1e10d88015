//! The proxy's listening sockets: entered by `sock_ops`, used by `sk_lookup`.
#![expect(
    unsafe_code,
    reason = "a looked-up socket must be released by hand, and so is the map defined"
)]

use core::cell::UnsafeCell;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{bpf_map_def, bpf_map_type::BPF_MAP_TYPE_SOCKMAP, bpf_sock},
    helpers::{bpf_map_lookup_elem, bpf_sk_assign, bpf_sk_release, bpf_sock_map_update},
    programs::{SkLookupContext, SockOpsContext},
};
use sidecar_ebpf_common::{
    addr::{Ip, Port},
    listen::ProxyPorts,
    maps::Listeners,
};

use crate::ctx::Sock;

/// Values have eight bytes, so that user space may look: it is told the socket's cookie
/// (`sock_map_lookup_sys`, net/core/sock_map.c; Linux 5.6).
#[unsafe(link_section = "maps")]
#[unsafe(export_name = "LISTENERS")]
static LISTENERS: CookieMap = CookieMap(UnsafeCell::new(bpf_map_def {
    type_: BPF_MAP_TYPE_SOCKMAP,
    key_size: size_of::<u32>() as u32,
    value_size: size_of::<u64>() as u32,
    max_entries: Listeners::SLOTS * Listeners::ALL.len() as u32,
    map_flags: 0,
    id: 0,
    pinning: 0,
}));

/// aya's socket maps have values of four bytes. In a cell as aya's are, or else it would come into
/// another section of the same name.
#[repr(transparent)]
struct CookieMap(UnsafeCell<bpf_map_def>);

// SAFETY: a definition for the loader; the programs use nothing but its address.
unsafe impl Sync for CookieMap {}

const BPF_NOEXIST: u64 = 1;
/// -EEXIST.
const TAKEN: i64 = -17;

/// Constant for the verifier, because the loader writes it before.
#[unsafe(no_mangle)]
static PROXY_PORTS: ProxyPorts = ProxyPorts {
    outbound: Port(0),
    inbound: Port(0),
    dns: Port(0),
};

/// Whose listeners a port is for, if it is one of the proxy's.
#[inline(always)]
pub(crate) fn at(port: Port) -> Option<Listeners> {
    // SAFETY: an aligned static; volatile, because the loader replaces the value.
    let ports = unsafe { (&raw const PROXY_PORTS).read_volatile() };
    ports.listeners(port)
}

/// Where a connection comes from decides which listeners it could have reached by itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    /// From the pod itself: REDIRECT in `OUTPUT` sends it to 127.0.0.1 or `::1`, so a listener
    /// must be bound to that or to everything.
    Pod,
    /// From outside: REDIRECT in `PREROUTING` sends it to the interface's address, so a listener
    /// bound to loopback never sees it.
    Outside,
}

/// What became of a socket that starts to listen.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Registration {
    Done,
    /// All slots are taken.
    Full,
    /// A socket that a sockmap does not take: MPTCP.
    Impossible,
}

/// Enters a socket that starts to listen.
#[inline(always)]
pub(crate) fn register(ops: &SockOpsContext, listeners: Listeners) -> Registration {
    for i in 0..Listeners::SLOTS {
        let mut slot = listeners.first_slot() + i;
        // SAFETY: the context is the program's own, the map is a sockmap and the key a u32.
        let result = unsafe {
            bpf_sock_map_update(
                ops.ops,
                (&raw const LISTENERS).cast_mut().cast(),
                (&raw mut slot).cast(),
                BPF_NOEXIST,
            )
        };
        match result {
            0 => return Registration::Done,
            TAKEN => {}
            _ => return Registration::Impossible,
        }
    }
    Registration::Full
}

/// Hands the connection to the first live listener that may have it; `false` if there is none.
#[inline(always)]
pub(crate) fn assign(lookup: &SkLookupContext, dst: &Ip, listeners: Listeners, from: From) -> bool {
    for i in 0..Listeners::SLOTS {
        if assign_slot(lookup, dst, listeners.first_slot() + i, from) {
            return true;
        }
    }
    false
}

#[inline(always)]
fn assign_slot(lookup: &SkLookupContext, dst: &Ip, slot: u32, from: From) -> bool {
    // SAFETY: the map is a sockmap and the key a u32; a socket found is released below.
    let socket: *mut bpf_sock = unsafe {
        bpf_map_lookup_elem(
            (&raw const LISTENERS).cast_mut().cast(),
            (&raw const slot).cast(),
        )
    }
    .cast();
    if socket.is_null() {
        return false;
    }
    // SAFETY: `socket` is a referenced socket. A listener of the wrong family is refused with
    // EAFNOSUPPORT (`bpf_sk_lookup_assign`, net/core/filter.c).
    unsafe {
        let assigned = accepts(Sock::new(socket), dst, from)
            && bpf_sk_assign(lookup.as_ptr(), socket.cast(), 0) == 0;
        bpf_sk_release(socket.cast());
        assigned
    }
}

#[inline(always)]
fn accepts(socket: Sock, dst: &Ip, from: From) -> bool {
    let bound = if socket.is_v6() {
        socket.source_v6()
    } else {
        socket.source_v4()
    };
    match from {
        From::Pod if dst.is_v4() => bound.is_unspecified() || bound == Ip::LOOPBACK_V4,
        From::Pod => bound.is_unspecified() || bound == Ip::LOOPBACK_V6,
        From::Outside => !bound.is_loopback(),
    }
}
