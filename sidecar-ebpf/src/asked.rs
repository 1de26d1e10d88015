//! Whom a UDP socket has asked, kept with the socket: the answers all come from the agent.
#![expect(unsafe_code, reason = "the value lies in the kernel's memory")]

use aya_ebpf::{
    bindings::BPF_SK_STORAGE_GET_F_CREATE,
    btf_maps::SkStorage,
    helpers::generated::{bpf_sk_storage_delete, bpf_sk_storage_get},
    macros::btf_map,
};
use sidecar_ebpf_common::{addr::OrigDst, policy::Switches};

use crate::{ctx::SockAddr, features};

#[btf_map]
static ASKED: SkStorage<OrigDst> = SkStorage::new();

/// Whether DNS may be captured at all. Where not, the programs have no code for UDP.
#[inline(always)]
pub(crate) fn may_be_captured() -> bool {
    features::all().has(Switches::DNS)
}

/// The server whose answers come from the agent's own address.
#[inline(always)]
pub(crate) fn server(ctx: &SockAddr) -> Option<OrigDst> {
    // SAFETY: the map is a socket storage, the socket comes from the context. A value found lives
    // as long as the socket; torn if another thread asks with the same socket at the same time.
    unsafe {
        let asked = bpf_sk_storage_get(
            (&raw const ASKED).cast_mut().cast(),
            ctx.socket().ptr().cast(),
            core::ptr::null_mut(),
            0,
        )
        .cast::<OrigDst>();
        if asked.is_null() { None } else { Some(*asked) }
    }
}

/// Remembers the server in place of any other. `false` if there is no memory for it.
#[inline(always)]
#[must_use]
pub(crate) fn remember(ctx: &SockAddr, server: &OrigDst) -> bool {
    let mut value = *server;
    // SAFETY: the map is a socket storage, the socket comes from the context, and the value has the
    // size of the map's values.
    unsafe {
        let asked = bpf_sk_storage_get(
            (&raw const ASKED).cast_mut().cast(),
            ctx.socket().ptr().cast(),
            (&raw mut value).cast(),
            u64::from(BPF_SK_STORAGE_GET_F_CREATE),
        )
        .cast::<OrigDst>();
        if asked.is_null() {
            return false;
        }
        // There may have been one already.
        *asked = *server;
    }
    true
}

#[inline(always)]
pub(crate) fn forget(ctx: &SockAddr) {
    // SAFETY: the map is a socket storage, the socket comes from the context.
    unsafe {
        bpf_sk_storage_delete(
            (&raw const ASKED).cast_mut().cast(),
            ctx.socket().ptr().cast(),
        );
    }
}
