//! The context of bind, connect, sendmsg, recvmsg, getpeername and getsockname hooks.
#![expect(
    unsafe_code,
    reason = "context structures are raw pointers from the kernel"
)]

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_addr},
    helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie},
    programs::SockAddrContext,
};
use sidecar_ebpf_common::{
    addr::{Ip, OrigDst, Port},
    facts::Source,
    interface::Interface,
};

use super::{IPPROTO_MPTCP, IPPROTO_TCP, field, sock_src_ip4, sock_src_ip6, words};

pub(crate) struct SockAddr(pub(super) *mut bpf_sock_addr);

impl SockAddr {
    #[inline(always)]
    pub(crate) fn new(ctx: &SockAddrContext) -> Self {
        Self(ctx.sock_addr)
    }

    /// An MPTCP socket connects by subflows, which are TCP; its peer is asked of the socket itself.
    #[inline(always)]
    pub(crate) fn is_tcp(&self) -> bool {
        // SAFETY: the pointer is the program's context.
        let protocol = unsafe { field!(self.0, protocol) };
        matches!(protocol, IPPROTO_TCP | IPPROTO_MPTCP)
    }

    /// The address of an AF_INET call: a destination, a peer, or the socket's own.
    #[inline(always)]
    pub(crate) fn address_v4(&self) -> Ip {
        // SAFETY: as above.
        Ip::from_v4_word(unsafe { field!(self.0, user_ip4) })
    }

    /// The address of an AF_INET6 call; IPv4 if it is IPv4-mapped.
    #[inline(always)]
    pub(crate) fn address_v6(&self) -> Ip {
        // SAFETY: as above.
        Ip::from_v6_words(unsafe { words!(self.0, user_ip6) })
    }

    #[inline(always)]
    pub(crate) fn port(&self) -> Port {
        // SAFETY: as above.
        Port::from_be_word(unsafe { field!(self.0, user_port) })
    }

    #[inline(always)]
    pub(crate) fn set_v4(&self, to: &OrigDst) {
        self.set_address_v4(&to.ip);
        self.set_port(to.port);
    }

    #[inline(always)]
    pub(crate) fn set_v6(&self, to: &OrigDst) {
        self.set_address_v6(&to.ip);
        self.set_port(to.port);
    }

    #[inline(always)]
    pub(crate) fn set_address_v4(&self, ip: &Ip) {
        // SAFETY: as above; the field is writable in every hook that calls this.
        unsafe { (&raw mut (*self.0).user_ip4).write_volatile(ip.words()[0]) };
    }

    /// Writes the address of an AF_INET6 call. An IPv4 address goes where the IPv4-mapped one that
    /// is there already has it.
    #[inline(always)]
    pub(crate) fn set_address_v6(&self, ip: &Ip) {
        let words = ip.words();
        // SAFETY: as above; the fields are writable in every hook that calls this.
        unsafe {
            if ip.is_v4() {
                (&raw mut (*self.0).user_ip6[3]).write_volatile(words[0]);
            } else {
                (&raw mut (*self.0).user_ip6[0]).write_volatile(words[0]);
                (&raw mut (*self.0).user_ip6[1]).write_volatile(words[1]);
                (&raw mut (*self.0).user_ip6[2]).write_volatile(words[2]);
                (&raw mut (*self.0).user_ip6[3]).write_volatile(words[3]);
            }
        }
    }

    #[inline(always)]
    fn set_port(&self, port: Port) {
        // SAFETY: as above; the field is writable in every hook that calls this.
        unsafe { (&raw mut (*self.0).user_port).write_volatile(port.to_be_word()) };
    }

    /// Linux 5.7, f318903c0bf4.
    #[inline(always)]
    pub(crate) fn netns_cookie(&self) -> u64 {
        // SAFETY: the pointer is the program's context.
        unsafe { bpf_get_netns_cookie(self.0.cast()) }
    }

    /// Linux 4.18, d692f1138a4b.
    #[inline(always)]
    pub(crate) fn socket_cookie(&self) -> u64 {
        // SAFETY: the pointer is the program's context.
        unsafe { bpf_get_socket_cookie(self.0.cast()) }
    }

    /// What the socket is bound to.
    #[inline(always)]
    pub(crate) fn source_v4(&self) -> Source {
        self.socket().map_or(Source::Unbound, |socket| {
            // SAFETY: `socket` comes from the context and is not null.
            bound(Ip::from_v4_word(unsafe { sock_src_ip4(socket) }))
        })
    }

    #[inline(always)]
    pub(crate) fn source_v6(&self) -> Source {
        self.socket().map_or(Source::Unbound, |socket| {
            // SAFETY: `socket` comes from the context and is not null.
            bound(Ip::from_v6_words(unsafe { sock_src_ip6(socket) }))
        })
    }

    /// The device that the socket is bound to (SO_BINDTODEVICE). Bound to any but lo, its packets
    /// cannot reach an address that belongs to lo (`fib_table_lookup`, net/ipv4/fib_trie.c, skips
    /// next hops on other devices) and would leave through the device instead. Bound to lo, it does
    /// not see an answer to the pod's address, which belongs to another device.
    #[inline(always)]
    pub(crate) fn device(&self) -> Interface {
        self.socket().map_or(Interface::NONE, |socket| {
            // SAFETY: `socket` comes from the context and is not null.
            Interface(unsafe { field!(socket, bound_dev_if) })
        })
    }

    #[inline(always)]
    pub(crate) fn socket(&self) -> Option<*const bpf_sock> {
        // SAFETY: the pointer is the program's context.
        let socket = unsafe { field!(self.0, __bindgen_anon_1.sk) };
        if socket.is_null() { None } else { Some(socket) }
    }
}

#[inline(always)]
pub(super) fn bound(ip: Ip) -> Source {
    if ip.is_unspecified() {
        Source::Unbound
    } else {
        Source::Bound(ip)
    }
}
