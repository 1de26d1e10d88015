//! `sock_ops`: the proxy's sockets register when they start to listen.

use aya_log_ebpf::info;
use sidecar_ebpf_common::{
    counter::{Counter, Hook, Reason},
    maps::Listeners,
};

use crate::{count::count, ctx::SockOps, listeners, maps};

pub(crate) fn listen(ctx: &SockOps<'_>) {
    if !ctx.starts_to_listen() {
        return;
    }
    let Some(policy) = maps::policy() else { return };
    let port = ctx.local_port();
    let of = if port == policy.outbound_port {
        Listeners::Outbound
    } else if port == policy.inbound_port {
        Listeners::Inbound
    } else {
        return;
    };
    // Before the pod's namespace is known nobody can tell whose socket this is; the loader looks
    // for sockets that listen already as soon as it is.
    if !policy.scope.is_known() {
        return;
    }
    if !policy.scope.covers(ctx.netns_cookie()) {
        count(Counter::Other(Hook::SockOps, Reason::OtherNetns));
        return;
    }
    if listeners::register(ctx.0, of) {
        info!(ctx.0, "the proxy listens on port {}", port.0);
    } else {
        count(Counter::Other(Hook::SockOps, Reason::SlotsFull));
    }
}
