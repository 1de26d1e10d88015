//! A socket as the kernel shows it to programs.
#![expect(unsafe_code, reason = "sockets are raw pointers from the kernel")]

use aya_ebpf::bindings::bpf_sock;
use sidecar_ebpf_common::{
    addr::{Ip, Port},
    facts::Source,
    interface::Interface,
    usual::usually,
};

use super::{AF_INET, AF_INET6, IPPROTO_MPTCP, IPPROTO_TCP, field, words};

/// `TCP_SYN_SENT`, `TCP_CLOSE` and `TCP_LISTEN` (include/net/tcp_states.h). A UDP socket is closed or
/// `TCP_ESTABLISHED`.
const UNCONNECTED_STATES: [u32; 3] = [2, 7, 10];

/// Never null: the kernel calls no cgroup hook of a socket without it (the verifier takes it for
/// `PTR_TO_SOCKET`, not `PTR_TO_SOCKET_OR_NULL`; `sock_addr_is_valid_access`, net/core/filter.c, since
/// Linux 5.3).
#[derive(Clone, Copy)]
pub(crate) struct Sock(*const bpf_sock);

impl Sock {
    /// # Safety
    ///
    /// The verifier must know the pointer as that of a socket.
    #[inline(always)]
    pub(crate) const unsafe fn new(socket: *const bpf_sock) -> Self {
        Self(socket)
    }

    /// For helpers that take a socket.
    #[inline(always)]
    pub(crate) const fn ptr(self) -> *mut bpf_sock {
        self.0.cast_mut()
    }

    /// An MPTCP socket connects by subflows, which are TCP; its peer is asked of the socket itself.
    #[inline(always)]
    pub(crate) fn is_tcp(self) -> bool {
        // SAFETY: the pointer is a socket's.
        let protocol = unsafe { field!(self.0, protocol) };
        matches!(protocol, IPPROTO_TCP | IPPROTO_MPTCP)
    }

    #[inline(always)]
    pub(crate) fn is_v4(self) -> bool {
        // SAFETY: as above.
        unsafe { field!(self.0, family) == AF_INET }
    }

    #[inline(always)]
    pub(crate) fn is_v6(self) -> bool {
        // SAFETY: as above.
        unsafe { field!(self.0, family) == AF_INET6 }
    }

    /// Whether there is a connection; whether a UDP socket hears one peer only.
    #[inline(always)]
    pub(crate) fn is_connected(self) -> bool {
        // SAFETY: as above.
        !UNCONNECTED_STATES.contains(&unsafe { field!(self.0, state) })
    }

    /// What the socket is bound to.
    #[inline(always)]
    pub(crate) fn bound_v4(self) -> Source {
        bound(self.source_v4())
    }

    /// The same of an AF_INET6 socket.
    #[inline(always)]
    pub(crate) fn bound_v6(self) -> Source {
        bound(self.source_v6())
    }

    /// The address that the socket is bound to or has as source.
    #[inline(always)]
    pub(crate) fn source_v4(self) -> Ip {
        // SAFETY: as above.
        Ip::from_v4_word(unsafe { field!(self.0, src_ip4) })
    }

    /// The same of an AF_INET6 socket; IPv4 if it is IPv4-mapped.
    #[inline(always)]
    pub(crate) fn source_v6(self) -> Ip {
        // SAFETY: as above.
        Ip::from_v6_words(unsafe { words!(self.0, src_ip6) })
    }

    #[inline(always)]
    pub(crate) fn source_port(self) -> Port {
        // SAFETY: as above. This field is in host byte order.
        Port(unsafe { field!(self.0, src_port) } as u16)
    }

    #[inline(always)]
    pub(crate) fn peer_v4(self) -> Ip {
        // SAFETY: as above.
        Ip::from_v4_word(unsafe { field!(self.0, dst_ip4) })
    }

    #[inline(always)]
    pub(crate) fn peer_v6(self) -> Ip {
        // SAFETY: as above.
        Ip::from_v6_words(unsafe { words!(self.0, dst_ip6) })
    }

    #[inline(always)]
    pub(crate) fn peer_port(self) -> Port {
        // SAFETY: as above.
        Port::from_be_word(unsafe { field!(self.0, dst_port) }.into())
    }

    /// The device that the socket is bound to (SO_BINDTODEVICE). Bound to any but lo, its packets
    /// cannot reach an address that belongs to lo (`fib_table_lookup`, net/ipv4/fib_trie.c, skips
    /// next hops on other devices) and would leave through the device instead. Bound to lo, it does
    /// not see an answer to the pod's address, which belongs to another device.
    #[inline(always)]
    pub(crate) fn device(self) -> Interface {
        // SAFETY: as above.
        Interface(unsafe { field!(self.0, bound_dev_if) })
    }
}

#[inline(always)]
pub(super) fn bound(ip: Ip) -> Source {
    if usually(ip.is_unspecified()) {
        Source::Unbound
    } else {
        Source::Bound(ip)
    }
}
