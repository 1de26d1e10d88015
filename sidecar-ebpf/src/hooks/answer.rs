//! The agent's answers to questions that came from an address that carries a number: they leave
//! from that same address, so that the application is told the server.
//!
//! A socket bound to localhost may send from any other local address that the message names
//! (`udp_sendmsg`, net/ipv4/udp.c: IP_PKTINFO).

use sidecar_ebpf_common::{addr::OrigDst, number::Rewritten, policy::Policy};

use super::query;
use crate::ctx::SockAddr;

/// For a proxy outside the pod's cgroup: whoever runs there is the proxy.
pub(crate) fn v4(ctx: &SockAddr) {
    let dst = OrigDst::new(ctx.address_v4(), ctx.port());
    if query::answers_policy(ctx).is_some_and(|policy| is_one(ctx, policy, &dst)) {
        ctx.set_message_source_v4(&dst.ip);
    }
}

pub(crate) fn v6(ctx: &SockAddr) {
    let dst = OrigDst::new(ctx.address_v6(), ctx.port());
    if query::answers_policy(ctx).is_some_and(|policy| is_one(ctx, policy, &dst)) {
        ctx.set_message_source_v6(&dst.ip);
    }
}

/// Whether that is where it goes, from the agent's port.
#[inline(always)]
pub(crate) fn is_one(ctx: &SockAddr, policy: &Policy, dst: &OrigDst) -> bool {
    Rewritten::from_ip(dst.ip).is_some()
        && ctx.own_port() == policy.dns_port
        && policy.scope.covers(ctx.netns_cookie())
}
