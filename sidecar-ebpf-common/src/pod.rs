//! Which shared types user space may copy to and from maps byte by byte.
#![expect(unsafe_code, reason = "aya asks for an unsafe marker trait")]

use crate::{
    addr::{Ip, OrigDst},
    interface::{Interface, Route},
    listen::{Binds, NormalLookup, ProxyPorts},
    lists::PortGroup,
    number::{Dealt, Destination, Number},
    owner::SocketOffsets,
    policy::{Policy, Switches},
};

macro_rules! plain {
    ($($shared:ty),*) => {$(
        // SAFETY: `repr(C)` or `repr(transparent)` over unsigned integers, sizes asserted to hold
        // no padding, and every bit pattern is a value.
        unsafe impl aya::Pod for $shared {}
    )*};
}

plain!(
    Ip,
    OrigDst,
    Number,
    Dealt,
    Destination,
    Policy,
    PortGroup,
    Interface,
    Route,
    SocketOffsets,
    Switches,
    ProxyPorts,
    Binds,
    NormalLookup
);
