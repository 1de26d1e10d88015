//! What only the hooks of UDP sockets ask of the context.
#![expect(
    unsafe_code,
    reason = "context structures are raw pointers from the kernel"
)]

use aya_ebpf::{bindings::sockaddr, helpers::bpf_bind};
use sidecar_ebpf_common::{
    addr::{Ip, OrigDst, Port},
    decide::Source,
};

use super::{
    AF_INET, AF_INET6, IPPROTO_UDP, SockAddr, field, sock_addr::bound, sock_family, words,
};

/// The state of a UDP socket that is connected (include/net/tcp_states.h).
const TCP_ESTABLISHED: u32 = 1;

/// `struct sockaddr_in`.
#[repr(C)]
struct AddressV4 {
    family: u16,
    port: u16,
    addr: u32,
    zero: [u32; 2],
}

/// `struct sockaddr_in6`.
#[repr(C)]
struct AddressV6 {
    family: u16,
    port: u16,
    flow_info: u32,
    addr: [u32; 4],
    scope: u32,
}

/// `::ffff:0:0/96`, third word.
const MAPPED: u32 = 0xffff_u32.to_be();

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
        self.socket().is_some_and(|socket| {
            // SAFETY: `socket` comes from the context and is not null.
            unsafe { field!(socket, state) == TCP_ESTABLISHED }
        })
    }

    /// Whether the socket is connected to that address, as the kernel knows it.
    #[inline(always)]
    pub(crate) fn is_connected_to(&self, peer: &OrigDst) -> bool {
        self.is_connected()
            && self.socket().is_some_and(|socket| {
                // SAFETY: `socket` comes from the context and is not null.
                let (ip, port) = unsafe {
                    let ip = if peer.ip.is_v4() {
                        Ip::from_v4_word(field!(socket, dst_ip4))
                    } else {
                        Ip::from_v6_words(words!(socket, dst_ip6))
                    };
                    (ip, Port::from_be_word(field!(socket, dst_port).into()))
                };
                ip == peer.ip && port == peer.port
            })
    }

    /// The port the socket itself has.
    #[inline(always)]
    pub(crate) fn own_port(&self) -> Port {
        self.socket().map_or(Port(0), |socket| {
            // SAFETY: `socket` comes from the context and is not null. In host byte order.
            Port(unsafe { field!(socket, src_port) } as u16)
        })
    }

    /// Binds the socket that connects to the address, with a port of the kernel's choice. Fails if
    /// it has a port already.
    #[inline(always)]
    pub(crate) fn bind_v4(&self, source: &Ip) -> bool {
        let is_v6 = self.socket().is_some_and(|socket| {
            // SAFETY: `socket` comes from the context and is not null.
            unsafe { sock_family(socket) == AF_INET6 }
        });
        // An AF_INET6 socket may be given an AF_INET address.
        if is_v6 {
            return self.bind_v6(source);
        }
        let mut address = AddressV4 {
            family: AF_INET as u16,
            port: 0,
            addr: source.words()[0],
            zero: [0; 2],
        };
        self.bind((&raw mut address).cast(), size_of::<AddressV4>())
    }

    /// The same for an AF_INET6 socket; an IPv4 address is bound as an IPv4-mapped one.
    #[inline(always)]
    pub(crate) fn bind_v6(&self, source: &Ip) -> bool {
        let words = source.words();
        let mut address = AddressV6 {
            family: AF_INET6 as u16,
            port: 0,
            flow_info: 0,
            addr: if source.is_v4() {
                [0, 0, MAPPED, words[0]]
            } else {
                words
            },
            scope: 0,
        };
        self.bind((&raw mut address).cast(), size_of::<AddressV6>())
    }

    #[inline(always)]
    fn bind(&self, address: *mut sockaddr, len: usize) -> bool {
        // SAFETY: the pointer is the program's context; the address is initialised and so long.
        unsafe { bpf_bind(self.0, address, len as i32) == 0 }
    }
}
