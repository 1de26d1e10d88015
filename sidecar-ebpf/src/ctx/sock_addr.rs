//! The context of bind, connect, sendmsg, recvmsg and getpeername hooks.
#![expect(
    unsafe_code,
    reason = "context structures are raw pointers from the kernel"
)]

use aya_ebpf::{
    bindings::bpf_sock_addr,
    helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie},
    programs::SockAddrContext,
};
use sidecar_ebpf_common::addr::{Ip, OrigDst, Port};

use super::{Sock, field, words};

pub(crate) struct SockAddr(pub(super) *mut bpf_sock_addr);

impl SockAddr {
    #[inline(always)]
    pub(crate) fn new(ctx: &SockAddrContext) -> Self {
        Self(ctx.sock_addr)
    }

    /// The address of an AF_INET call: a destination, or a peer.
    #[inline(always)]
    pub(crate) fn address_v4(&self) -> Ip {
        // SAFETY: the pointer is the program's context.
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
        // SAFETY: as above; both fields are writable in every hook that calls this.
        unsafe {
            (&raw mut (*self.0).user_ip4).write_volatile(to.ip.words()[0]);
            (&raw mut (*self.0).user_port).write_volatile(to.port.to_be_word());
        }
    }

    /// Writes the address of an AF_INET6 call. An IPv4 address goes where the IPv4-mapped one that
    /// is there already has it.
    #[inline(always)]
    pub(crate) fn set_v6(&self, to: &OrigDst) {
        let words = to.ip.words();
        // SAFETY: as above; the fields are writable in every hook that calls this.
        unsafe {
            if to.ip.is_v4() {
                (&raw mut (*self.0).user_ip6[3]).write_volatile(words[0]);
            } else {
                (&raw mut (*self.0).user_ip6[0]).write_volatile(words[0]);
                (&raw mut (*self.0).user_ip6[1]).write_volatile(words[1]);
                (&raw mut (*self.0).user_ip6[2]).write_volatile(words[2]);
                (&raw mut (*self.0).user_ip6[3]).write_volatile(words[3]);
            }
            (&raw mut (*self.0).user_port).write_volatile(to.port.to_be_word());
        }
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

    #[inline(always)]
    pub(crate) fn socket(&self) -> Sock {
        // SAFETY: the pointer is the program's context, which has a socket always.
        unsafe { Sock::new(field!(self.0, __bindgen_anon_1.sk)) }
    }
}
