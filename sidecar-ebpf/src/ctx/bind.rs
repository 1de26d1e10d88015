//! Binding the socket that connects, which only connect hooks may do.
#![expect(
    unsafe_code,
    reason = "context structures are raw pointers from the kernel"
)]

use aya_ebpf::{bindings::sockaddr, helpers::bpf_bind};
use sidecar_ebpf_common::addr::Ip;

use super::{AF_INET, AF_INET6, SockAddr};

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
    /// Binds the socket of a `connect()` to an address, and to no port: the kernel chooses one for
    /// this destination, as for an unbound socket. Fails if it has a port already; whether it did
    /// is not told, because nothing follows from it.
    #[inline(always)]
    pub(crate) fn bind_v4(&self, source: &Ip) {
        // An AF_INET6 socket may be given an AF_INET address.
        if self.socket().is_v6() {
            self.bind_v6(source);
            return;
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
    pub(crate) fn bind_v6(&self, source: &Ip) {
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
    fn bind(&self, address: *mut sockaddr, len: usize) {
        // SAFETY: the pointer is the program's context; the address is initialised and so long.
        unsafe { bpf_bind(self.0, address, len as i32) };
    }
}
