//! Reads and writes of the kernel's context structures.
//!
//! Each field access is volatile and on its own: LLVM otherwise merges neighbouring ones or moves
//! them past a pointer adjustment, and the verifier then refuses the program ("invalid bpf_context
//! access", "dereference of modified ctx ptr"; `is_valid_access` of each program type in
//! net/core/filter.c allows the exact field at its exact width only).
#![expect(
    unsafe_code,
    reason = "context structures are raw pointers from the kernel"
)]

use aya_ebpf::{
    EbpfContext as _,
    bindings::{bpf_sk_lookup, bpf_sock, bpf_sock_addr, bpf_sockopt},
    helpers::bpf_get_netns_cookie,
    programs::{SkLookupContext, SockAddrContext, SockOpsContext, SockoptContext},
};
use sidecar_ebpf_common::{
    addr::{Ip, OrigDst, Port},
    decide::Source,
};

pub(crate) const AF_INET: u32 = 2;
pub(crate) const AF_INET6: u32 = 10;
const IPPROTO_TCP: u32 = 6;
/// An accepted MPTCP socket, of which `IPPROTO_TCP` are the subflows (include/uapi/linux/in.h).
const IPPROTO_MPTCP: u32 = 262;

/// Reads one field of a structure behind a raw pointer.
macro_rules! field {
    ($ptr:expr, $($field:tt)+) => {
        (&raw const (*$ptr).$($field)+).read_volatile()
    };
}

/// Reads four neighbouring words one by one.
macro_rules! words {
    ($ptr:expr, $($field:tt)+) => {[
        (&raw const (*$ptr).$($field)+[0]).read_volatile(),
        (&raw const (*$ptr).$($field)+[1]).read_volatile(),
        (&raw const (*$ptr).$($field)+[2]).read_volatile(),
        (&raw const (*$ptr).$($field)+[3]).read_volatile(),
    ]};
}

/// # Safety
///
/// `socket` must be a socket that the verifier knows.
#[inline(always)]
pub(crate) unsafe fn sock_family(socket: *const bpf_sock) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { field!(socket, family) }
}

/// # Safety
///
/// `socket` must be a socket that the verifier knows.
#[inline(always)]
pub(crate) unsafe fn sock_src_ip4(socket: *const bpf_sock) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { field!(socket, src_ip4) }
}

/// # Safety
///
/// `socket` must be a socket that the verifier knows.
#[inline(always)]
pub(crate) unsafe fn sock_src_ip6(socket: *const bpf_sock) -> [u32; 4] {
    // SAFETY: the caller's promise.
    unsafe { words!(socket, src_ip6) }
}

/// The context of connect and getpeername hooks.
pub(crate) struct SockAddr(*mut bpf_sock_addr);

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

    /// The address of an AF_INET call: a destination, or a peer.
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
        // SAFETY: as above; both fields are writable in connect4 and getpeername4.
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
        // SAFETY: as above; the fields are writable in connect6 and getpeername6.
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

    /// Whether the socket is bound to a device (SO_BINDTODEVICE). Bound to any but lo, its packets
    /// cannot reach an address that belongs to lo (`fib_table_lookup`, net/ipv4/fib_trie.c, skips
    /// next hops on other devices) and would leave through the device instead. Bound to lo, it does
    /// not see the answer, which is addressed to the pod's address and so belongs to another device.
    #[inline(always)]
    pub(crate) fn is_bound_to_device(&self) -> bool {
        self.socket().is_some_and(|socket| {
            // SAFETY: `socket` comes from the context and is not null.
            unsafe { field!(socket, bound_dev_if) != 0 }
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
fn bound(ip: Ip) -> Source {
    if ip.is_unspecified() {
        Source::Unbound
    } else {
        Source::Bound(ip)
    }
}

/// The context of the getsockopt hook.
pub(crate) struct Sockopt(*mut bpf_sockopt);

/// Both ends of a TCP connection.
pub(crate) struct Ends {
    pub(crate) local: OrigDst,
    pub(crate) peer: Ip,
}

/// `TCP_SYN_SENT`, `TCP_CLOSE` and `TCP_LISTEN` (include/net/tcp_states.h).
const UNCONNECTED_STATES: [u32; 3] = [2, 7, 10];

impl Sockopt {
    #[inline(always)]
    pub(crate) fn new(ctx: &SockoptContext) -> Self {
        Self(ctx.sockopt)
    }

    #[inline(always)]
    pub(crate) fn level(&self) -> i32 {
        // SAFETY: the pointer is the program's context.
        unsafe { field!(self.0, level) }
    }

    #[inline(always)]
    pub(crate) fn name(&self) -> i32 {
        // SAFETY: as above.
        unsafe { field!(self.0, optname) }
    }

    #[inline(always)]
    pub(crate) fn len(&self) -> i32 {
        // SAFETY: as above.
        unsafe { field!(self.0, optlen) }
    }

    /// Tells the kernel to keep its own answer.
    #[inline(always)]
    pub(crate) fn keep_kernel_answer(&self) {
        // SAFETY: as above; `optlen` is writable.
        unsafe { (&raw mut (*self.0).optlen).write_volatile(0) }
    }

    /// Linux 5.15.
    #[inline(always)]
    pub(crate) fn netns_cookie(&self) -> u64 {
        // SAFETY: the pointer is the program's context.
        unsafe { bpf_get_netns_cookie(self.0.cast()) }
    }

    /// `None` unless the socket is one end of a TCP connection.
    #[inline(always)]
    pub(crate) fn ends(&self) -> Option<Ends> {
        // SAFETY: the pointer is the program's context; its socket is checked for null.
        unsafe {
            let socket = field!(self.0, __bindgen_anon_1.sk);
            if socket.is_null()
                || !matches!(field!(socket, protocol), IPPROTO_TCP | IPPROTO_MPTCP)
                || UNCONNECTED_STATES.contains(&field!(socket, state))
            {
                return None;
            }
            let (ip, peer) = if sock_family(socket) == AF_INET6 {
                (
                    Ip::from_v6_words(sock_src_ip6(socket)),
                    Ip::from_v6_words(words!(socket, dst_ip6)),
                )
            } else {
                (
                    Ip::from_v4_word(sock_src_ip4(socket)),
                    Ip::from_v4_word(field!(socket, dst_ip4)),
                )
            };
            Some(Ends {
                local: OrigDst::new(ip, Port(field!(socket, src_port) as u16)),
                peer,
            })
        }
    }

    /// Answers with a `sockaddr_in`, 16 bytes; `false` if the caller's buffer is too small.
    #[inline(always)]
    pub(crate) fn answer_v4(&self, addr: &OrigDst) -> bool {
        // SAFETY: writes stay below `optval_end`.
        unsafe {
            let Some(value) = self.value(16) else {
                return false;
            };
            value.write_volatile(AF_INET | (addr.port.to_be_word() << 16));
            value.add(1).write_volatile(addr.ip.words()[0]);
            value.add(2).write_volatile(0);
            value.add(3).write_volatile(0);
            self.finish(16);
        }
        true
    }

    /// Answers with a `sockaddr_in6`, 28 bytes; `false` if the caller's buffer is too small.
    #[inline(always)]
    pub(crate) fn answer_v6(&self, addr: &OrigDst) -> bool {
        let words = addr.ip.words();
        // SAFETY: writes stay below `optval_end`.
        unsafe {
            let Some(value) = self.value(28) else {
                return false;
            };
            value.write_volatile(AF_INET6 | (addr.port.to_be_word() << 16));
            value.add(1).write_volatile(0);
            value.add(2).write_volatile(words[0]);
            value.add(3).write_volatile(words[1]);
            value.add(4).write_volatile(words[2]);
            value.add(5).write_volatile(words[3]);
            value.add(6).write_volatile(0);
            self.finish(28);
        }
        true
    }

    /// The option's buffer, if it holds at least `len` bytes.
    ///
    /// # Safety
    ///
    /// Only the first `len` bytes may be written.
    #[inline(always)]
    unsafe fn value(&self, len: usize) -> Option<*mut u32> {
        // SAFETY: the pointer is the program's context.
        let (start, end) = unsafe {
            (
                field!(self.0, __bindgen_anon_2.optval) as usize,
                field!(self.0, __bindgen_anon_3.optval_end) as usize,
            )
        };
        if start + len > end {
            None
        } else {
            Some(start as *mut u32)
        }
    }

    /// # Safety
    ///
    /// The first `len` bytes of the buffer must hold the answer.
    #[inline(always)]
    unsafe fn finish(&self, len: i32) {
        // SAFETY: the pointer is the program's context; both fields are writable.
        unsafe {
            (&raw mut (*self.0).optlen).write_volatile(len);
            (&raw mut (*self.0).retval).write_volatile(0);
        }
    }
}

/// The context of the sock_ops hook.
pub(crate) struct SockOps<'a>(pub(crate) &'a SockOpsContext);

/// `BPF_SOCK_OPS_TCP_LISTEN_CB` (include/uapi/linux/bpf.h).
const TCP_LISTEN_CB: u32 = 11;

impl<'a> SockOps<'a> {
    #[inline(always)]
    pub(crate) fn new(ctx: &'a SockOpsContext) -> Self {
        Self(ctx)
    }

    #[inline(always)]
    pub(crate) fn starts_to_listen(&self) -> bool {
        // SAFETY: the pointer is the program's context.
        unsafe { field!(self.0.ops, op) == TCP_LISTEN_CB }
    }

    #[inline(always)]
    pub(crate) fn local_port(&self) -> Port {
        // SAFETY: as above. This field is in host byte order.
        Port(unsafe { field!(self.0.ops, local_port) } as u16)
    }

    /// Linux 5.15.
    #[inline(always)]
    pub(crate) fn netns_cookie(&self) -> u64 {
        // SAFETY: the pointer is the program's context.
        unsafe { bpf_get_netns_cookie(self.0.as_ptr()) }
    }
}

/// The context of the sk_lookup hook.
pub(crate) struct SkLookup<'a>(pub(crate) &'a SkLookupContext);

impl<'a> SkLookup<'a> {
    #[inline(always)]
    pub(crate) fn new(ctx: &'a SkLookupContext) -> Self {
        Self(ctx)
    }

    #[inline(always)]
    fn ptr(&self) -> *const bpf_sk_lookup {
        self.0.lookup
    }

    #[inline(always)]
    pub(crate) fn is_tcp(&self) -> bool {
        // SAFETY: the pointer is the program's context.
        unsafe { field!(self.ptr(), protocol) == IPPROTO_TCP }
    }

    /// Where the packet is addressed to.
    #[inline(always)]
    pub(crate) fn local(&self) -> Ip {
        // SAFETY: as above.
        unsafe {
            if self.is_v4() {
                Ip::from_v4_word(field!(self.ptr(), local_ip4))
            } else {
                Ip::from_v6_words(words!(self.ptr(), local_ip6))
            }
        }
    }

    #[inline(always)]
    pub(crate) fn local_port(&self) -> Port {
        // SAFETY: as above. This field is in host byte order.
        Port(unsafe { field!(self.ptr(), local_port) } as u16)
    }

    /// Where the packet comes from.
    #[inline(always)]
    pub(crate) fn remote(&self) -> Ip {
        // SAFETY: as above.
        unsafe {
            if self.is_v4() {
                Ip::from_v4_word(field!(self.ptr(), remote_ip4))
            } else {
                Ip::from_v6_words(words!(self.ptr(), remote_ip6))
            }
        }
    }

    #[inline(always)]
    fn is_v4(&self) -> bool {
        // SAFETY: as above.
        unsafe { field!(self.ptr(), family) == AF_INET }
    }
}
