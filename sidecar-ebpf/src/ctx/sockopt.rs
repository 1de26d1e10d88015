//! The context of the getsockopt hook.
#![expect(
    unsafe_code,
    reason = "context structures are raw pointers from the kernel"
)]

use aya_ebpf::{bindings::bpf_sockopt, helpers::bpf_get_netns_cookie, programs::SockoptContext};
use sidecar_ebpf_common::addr::{Ip, OrigDst, Port};

use super::{
    AF_INET, AF_INET6, IPPROTO_MPTCP, IPPROTO_TCP, field, sock_family, sock_src_ip4, sock_src_ip6,
    words,
};

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
