//! `sock_ops`: the proxy's sockets register when they start to listen. Attached only while some
//! may; every connection would pay for it otherwise.

use aya_log_ebpf::{info, warn};
use sidecar_ebpf_common::counter::{Counter, Hook, Reason};

use crate::{
    count::count,
    ctx::SockOps,
    events,
    listeners::{self, Registration},
    maps,
};

pub(crate) fn listen(ctx: &SockOps<'_>) {
    if !ctx.starts_to_listen() {
        return;
    }
    let port = ctx.local_port();
    let Some(of) = listeners::at(port) else {
        return;
    };
    let policy = maps::policy();
    // Before the pod's namespace is known nobody can tell whose socket this is; the loader looks
    // for sockets that listen already as soon as it is.
    if !policy.scope.is_known() || !policy.scope.covers(ctx.netns_cookie()) {
        return;
    }
    events::listens(ctx.socket_cookie());
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
