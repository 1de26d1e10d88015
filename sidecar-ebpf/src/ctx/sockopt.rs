//! The context of the getsockopt hook.
#![expect(
    unsafe_code,
    reason = "context structures are raw pointers from the kernel"
)]

use aya_ebpf::{bindings::bpf_sockopt, helpers::bpf_get_netns_cookie, programs::SockoptContext};
use sidecar_ebpf_common::addr::OrigDst;

use super::{AF_INET, AF_INET6, Sock, field};

pub(crate) struct Sockopt(*mut bpf_sockopt);

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

    #[inline(always)]
    pub(crate) fn socket(&self) -> Sock {
        // SAFETY: the pointer is the program's context, which has a socket always.
        unsafe { Sock::new(field!(self.0, __bindgen_anon_1.sk)) }
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
