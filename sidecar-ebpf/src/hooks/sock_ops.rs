//! `sock_ops`: the proxy's sockets register when they start to listen.

use aya_log_ebpf::{info, warn};
use sidecar_ebpf_common::{
    counter::{Counter, Hook, Reason},
    maps::Listeners,
};

use crate::{
    count::count,
    ctx::SockOps,
    listeners::{self, Registration},
    maps,
};

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
    } else if port == policy.dns_port {
        Listeners::Dns
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
    match listeners::register(ctx.0, of) {
        Registration::Done => info!(ctx.0, "the proxy listens on port {}", port.0),
        Registration::Full => count(Counter::Other(Hook::SockOps, Reason::SlotsFull)),
        Registration::Impossible => {
            maps::set_unregistered(of);
            warn!(
                ctx.0,
                "the proxy listens on port {} with a socket that cannot be registered", port.0
            );
        }
    }
}
