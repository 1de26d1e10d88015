//! The context of the sock_ops hook.
#![expect(
    unsafe_code,
    reason = "context structures are raw pointers from the kernel"
)]

use aya_ebpf::{
    EbpfContext as _,
    helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie},
    programs::SockOpsContext,
};
use sidecar_ebpf_common::addr::Port;

use super::field;

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

    /// Linux 4.12, 92046578ac88.
    #[inline(always)]
    pub(crate) fn socket_cookie(&self) -> u64 {
        // SAFETY: the pointer is the program's context.
        unsafe { bpf_get_socket_cookie(self.0.as_ptr()) }
    }

    /// Linux 5.15.
    #[inline(always)]
    pub(crate) fn netns_cookie(&self) -> u64 {
        // SAFETY: the pointer is the program's context.
        unsafe { bpf_get_netns_cookie(self.0.as_ptr()) }
    }
}
