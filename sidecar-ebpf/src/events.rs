//! What wakes the loader: it attaches `sock_ops` and looks for listening sockets only then.
#![expect(unsafe_code, reason = "the loader finds a static by its name")]

use aya_ebpf::{
    macros::map,
    maps::{Array, RingBuf},
};
use sidecar_ebpf_common::{
    addr::Port,
    listen::{Event, ProxyPorts},
    maps::Listeners,
};

#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(Event::RING_BYTES, 0);
#[map]
static ASLEEP: Array<u32> = Array::with_max_entries(1, 0);

/// Constant for the verifier, because the loader writes it before.
#[unsafe(no_mangle)]
static PROXY_PORTS: ProxyPorts = ProxyPorts {
    outbound: Port(0),
    inbound: Port(0),
    dns: Port(0),
};

/// Whose listeners a port is for, if it is one of the proxy's.
#[inline(always)]
pub(crate) fn listeners_at(port: Port) -> Option<Listeners> {
    // SAFETY: an aligned static; volatile, because the loader replaces the value.
    let ports = unsafe { (&raw const PROXY_PORTS).read_volatile() };
    ports.listeners(port)
}

/// A socket binds to one of the proxy's ports. If the ring buffer is full, the loader is awake.
#[inline(always)]
pub(crate) fn bound(cookie: u64) {
    let _: Result<(), i32> = EVENTS.output::<Event>(Event::bound(cookie), 0);
}

/// That socket listens: the loader need not wait for it any longer, even if it closes at once.
#[inline(always)]
pub(crate) fn listens(cookie: u64) {
    let _: Result<(), i32> = EVENTS.output::<Event>(Event::listens(cookie), 0);
}

/// A connection found no listener. Only the first one tells, until the loader has looked.
#[inline(always)]
pub(crate) fn no_listener() {
    if ASLEEP.get(0).is_some_and(|asleep| *asleep != 0) {
        let _: Result<(), i32> = ASLEEP.set(0, 0_u32, 0);
        let _: Result<(), i32> = EVENTS.output::<Event>(Event::NO_LISTENER, 0);
    }
}
