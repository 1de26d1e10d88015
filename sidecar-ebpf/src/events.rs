//! What wakes the loader: it attaches `sock_ops` and looks for listening sockets only then.

use aya_ebpf::{
    macros::map,
    maps::{Array, RingBuf},
};
use sidecar_ebpf_common::listen::Event;

#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(Event::RING_BYTES, 0);
#[map]
static ASLEEP: Array<u32> = Array::with_max_entries(1, 0);

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
