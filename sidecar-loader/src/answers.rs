//! The way of the proxy's answers to the application, over IPv4.
//!
//! They go to the pod's address, which belongs to eth0. To a local address of another device than lo the kernel
//! keeps no route, but makes and frees one each time, twice for each connection (`__mkroute_output`,
//! net/ipv4/route.c: `do_cache = false`). To one of lo it does. So there is a second route to the pod's
//! address, by lo, for packets with a type of service that nobody else uses ([`TOS`]), and the proxy's listeners
//! have that; accepted sockets inherit it. Where either is missing the answers take the other route, and
//! the same connection costs more.
//!
//! A second route for all packets would not do: what the pod sends to its own address would come in by lo,
//! and a listener that is bound to eth0 would not get it any more.

use std::io;

use sidecar_ebpf_common::{listen::ProxyPorts, maps::Listeners};
use socket2::SockRef;

/// Code point 7, of the pool for local use (RFC 2474, section 6). Routes of kernels before 6.0 know only the
/// bits of `IPTOS_RT_MASK` (include/net/route.h), and it has no other.
pub const TOS: u8 = 0x1c;

/// Whether all that a listener's sockets answer stays in the pod. What comes in from outside is answered there,
/// and the mark would be seen.
pub(crate) const fn stay_in_pod(listeners: Listeners, ports: ProxyPorts) -> bool {
    match listeners {
        Listeners::Outbound => ports.outbound.0 != ports.inbound.0,
        Listeners::Inbound => false,
        Listeners::Dns => true,
    }
}

/// Sends the answers of a listener's sockets by lo, unless the proxy has chosen a type of service.
pub fn send_by_lo(listener: &SockRef<'_>) -> io::Result<()> {
    set(listener, 0, TOS.into())
}

/// Undoes [`send_by_lo`].
pub(crate) fn send_as_any(listener: &SockRef<'_>) -> io::Result<()> {
    set(listener, TOS.into(), 0)
}

fn set(listener: &SockRef<'_>, from: u32, to: u32) -> io::Result<()> {
    if listener.tos_v4()? == from {
        listener.set_tos_v4(to)
    } else {
        Ok(())
    }
}
