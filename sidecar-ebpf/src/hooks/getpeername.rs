//! `cgroup/getpeername4` and `getpeername6`: the application sees the destination it asked for.

use sidecar_ebpf_common::{
    addr::{Ip, OrigDst},
    counter::{Counter, Hook},
    number::Rewritten,
};

use super::recvmsg;
use crate::{count::count, ctx::SockAddr, destinations, maps};

pub(crate) fn v4(ctx: &SockAddr) {
    if let Some(asked) = asked_for(Hook::Getpeername4, ctx, ctx.address_v4()) {
        ctx.set_v4(&asked);
    }
}

pub(crate) fn v6(ctx: &SockAddr) {
    if let Some(asked) = asked_for(Hook::Getpeername6, ctx, ctx.address_v6()) {
        ctx.set_v6(&asked);
    }
}

/// `None` leaves the kernel's answer, also when the number is not known any more: the connection
/// is long since made, and a wrong address would be worse than a strange one.
#[inline(always)]
fn asked_for(hook: Hook, ctx: &SockAddr, peer: Ip) -> Option<OrigDst> {
    if !ctx.socket().is_tcp() {
        return recvmsg::peer(ctx, &OrigDst::new(peer, ctx.port()));
    }
    let rewritten = Rewritten::from_ip(peer)?;
    let policy = maps::policy();
    if !policy.scope.covers(ctx.netns_cookie()) {
        return None;
    }
    match destinations::destination_of(policy, rewritten) {
        // The number of an IPv4 destination may not stand in an IPv6 address, nor the reverse.
        Ok(asked) if asked.ip.is_v4() == peer.is_v4() => Some(asked),
        Ok(_) => None,
        Err(reason) => {
            count(Counter::Other(hook, reason));
            None
        }
    }
}
