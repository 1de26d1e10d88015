//! `cgroup/recvmsg4` and `recvmsg6`, and `getpeername4` and `getpeername6` of UDP sockets: the
//! application sees the server it asked, not the agent that answers.

use sidecar_ebpf_common::{
    addr::OrigDst,
    counter::{Counter, Hook},
    number::Rewritten,
    policy::Policy,
};

use super::query;
use crate::{asked, count::count, ctx::SockAddr, destinations};

pub(crate) fn v4(ctx: &SockAddr) {
    let from = OrigDst::new(ctx.address_v4(), ctx.port());
    if let Some(server) = sender(Hook::Recvmsg4, ctx, &from) {
        ctx.set_v4(&server);
    }
}

/// Also sees IPv4-mapped senders.
pub(crate) fn v6(ctx: &SockAddr) {
    let from = OrigDst::new(ctx.address_v6(), ctx.port());
    if let Some(server) = sender(Hook::Recvmsg6, ctx, &from) {
        ctx.set_v6(&server);
    }
}

#[inline(always)]
fn sender(hook: Hook, ctx: &SockAddr, from: &OrigDst) -> Option<OrigDst> {
    let policy = query::answers_policy(ctx)?;
    if let Some(server) = kept(ctx, policy, from) {
        return Some(server);
    }
    let rewritten = Rewritten::from_ip(from.ip).filter(|_| from.port == policy.dns_port)?;
    if !policy.scope.covers(ctx.netns_cookie()) {
        return None;
    }
    match destinations::destination_of(policy, rewritten) {
        Ok(server) if server.ip.is_v4() == from.ip.is_v4() => Some(server),
        Ok(_) => None,
        Err(reason) => {
            count(Counter::Other(hook, reason));
            None
        }
    }
}

/// The server that a UDP socket is connected to as far as its owner knows.
#[inline(always)]
pub(crate) fn peer(ctx: &SockAddr, peer: &OrigDst) -> Option<OrigDst> {
    kept(ctx, query::answers_policy(ctx)?, peer)
}

#[inline(always)]
fn kept(ctx: &SockAddr, policy: &Policy, from: &OrigDst) -> Option<OrigDst> {
    if !query::is_agent(policy, from) {
        return None;
    }
    asked::server(ctx).filter(|server| server.ip.is_v4() == from.ip.is_v4())
}
