//! What only the hooks of UDP sockets ask of the context.
#![expect(
    unsafe_code,
    reason = "context structures are raw pointers from the kernel"
)]

use sidecar_ebpf_common::{
    addr::{Ip, OrigDst, Port},
    facts::Source,
};

use super::{IPPROTO_UDP, SockAddr, field, sock::bound, words};

impl SockAddr {
    /// UDP-Lite is another protocol, to the rules too.
    #[inline(always)]
    pub(crate) fn is_udp(&self) -> bool {
        // SAFETY: the pointer is the program's context.
        unsafe { field!(self.0, protocol) == IPPROTO_UDP }
    }

    /// The source address of a datagram: what the socket is bound to, or what comes with the
    /// message (IP_PKTINFO).
    #[inline(always)]
    pub(crate) fn message_source_v4(&self) -> Source {
        // SAFETY: as above; the field is readable in sendmsg4.
        bound(Ip::from_v4_word(unsafe { field!(self.0, msg_src_ip4) }))
    }

    #[inline(always)]
    pub(crate) fn message_source_v6(&self) -> Source {
        // SAFETY: as above; the field is readable in sendmsg6.
        bound(Ip::from_v6_words(unsafe { words!(self.0, msg_src_ip6) }))
    }

    #[inline(always)]
    pub(crate) fn set_message_source_v4(&self, source: &Ip) {
        // SAFETY: as above; the field is writable in sendmsg4.
        unsafe { (&raw mut (*self.0).msg_src_ip4).write_volatile(source.words()[0]) };
    }

    #[inline(always)]
    pub(crate) fn set_message_source_v6(&self, source: &Ip) {
        let words = source.words();
        // SAFETY: as above; the fields are writable in sendmsg6.
        unsafe {
            (&raw mut (*self.0).msg_src_ip6[0]).write_volatile(words[0]);
            (&raw mut (*self.0).msg_src_ip6[1]).write_volatile(words[1]);
            (&raw mut (*self.0).msg_src_ip6[2]).write_volatile(words[2]);
            (&raw mut (*self.0).msg_src_ip6[3]).write_volatile(words[3]);
        }
    }

    /// Whether the socket hears one peer only.
    #[inline(always)]
    pub(crate) fn is_connected(&self) -> bool {
        self.socket().is_connected()
    }

    /// Whether the socket is connected to that address, as the kernel knows it.
    #[inline(always)]
    pub(crate) fn is_connected_to(&self, peer: &OrigDst) -> bool {
        let socket = self.socket();
        let ip = if peer.ip.is_v4() {
            socket.peer_v4()
        } else {
            socket.peer_v6()
        };
        self.is_connected() && ip == peer.ip && socket.peer_port() == peer.port
    }

    /// The port the socket itself has.
    #[inline(always)]
    pub(crate) fn own_port(&self) -> Port {
        self.socket().source_port()
    }
}
