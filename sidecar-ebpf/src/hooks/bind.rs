//! `cgroup/bind4` and `bind6`: the redirect's own addresses are nobody's to bind. A socket that
//! listens on one of them would get a redirected connection whenever the proxy does not listen.
//! The loader is told of a socket that binds to one of the proxy's ports.

use sidecar_ebpf_common::{
    addr::Ip,
    counter::{Counter, Hook, Reason},
    maps::Listeners,
    number,
};

use crate::{CgroupVerdict, count::count, ctx::SockAddr, events, listeners, maps};

pub(crate) fn v4(ctx: &SockAddr) -> CgroupVerdict {
    keep_out(Hook::Bind4, ctx, ctx.address_v4())
}

pub(crate) fn v6(ctx: &SockAddr) -> CgroupVerdict {
    keep_out(Hook::Bind6, ctx, ctx.address_v6())
}

#[inline(always)]
fn keep_out(hook: Hook, ctx: &SockAddr, ip: Ip) -> CgroupVerdict {
    if !number::is_reserved(&ip) {
        if let Some(listeners) = listeners::at(ctx.port()) {
            announce(hook, ctx, listeners);
        }
        return CgroupVerdict::Allow;
    }
    if !maps::policy().scope.covers(ctx.netns_cookie()) {
        return CgroupVerdict::Allow;
    }
    count(Counter::Other(hook, Reason::RedirectRange));
    CgroupVerdict::Refuse
}

/// Whoever it is: whether it is the proxy is asked when it listens, as far as it is asked at all.
#[inline(always)]
fn announce(hook: Hook, ctx: &SockAddr, listeners: Listeners) {
    if !ctx.socket().is_tcp() {
        return;
    }
    let policy = maps::policy();
    if policy.scope.covers(ctx.netns_cookie()) {
        maps::count_bind(listeners);
        events::bound(ctx.socket_cookie());
    } else {
        count(Counter::Other(hook, Reason::OtherNetns));
    }
}
