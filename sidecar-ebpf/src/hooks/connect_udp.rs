//! `cgroup/connect4` and `connect6` of UDP sockets: queries to the server they connect to go to the
//! agent.

use sidecar_ebpf_common::{
    addr::OrigDst,
    counter::{OutboundHook, Reason},
    facts::Source,
    policy::Policy,
};

use super::query::{self, Verdict};
use crate::{CgroupVerdict, asked, ctx::SockAddr, source};

pub(crate) fn v4(ctx: &SockAddr) -> CgroupVerdict {
    let Some(policy) = query::policy(ctx) else {
        return CgroupVerdict::Allow;
    };
    let dst = OrigDst::new(ctx.address_v4(), ctx.port());
    let source = ctx.socket().bound_v4();
    match remembered(OutboundHook::Connect4, ctx, policy, &dst, source) {
        Verdict::Pass => CgroupVerdict::Allow,
        Verdict::Ask(server) => {
            if source == Source::Unbound
                && let Some(source) = source::towards(policy, &server.ip)
            {
                // A socket that has a port cannot be bound any more. Then the agent sees it come
                // from localhost.
                ctx.bind_v4(&source);
            }
            ctx.set_v4(&query::agent(policy, &server));
            CgroupVerdict::Allow
        }
        Verdict::Refuse => CgroupVerdict::Refuse,
    }
}

/// Also sees IPv4-mapped servers.
pub(crate) fn v6(ctx: &SockAddr) -> CgroupVerdict {
    let Some(policy) = query::policy(ctx) else {
        return CgroupVerdict::Allow;
    };
    let dst = OrigDst::new(ctx.address_v6(), ctx.port());
    let source = ctx.socket().bound_v6();
    match remembered(OutboundHook::Connect6, ctx, policy, &dst, source) {
        Verdict::Pass => CgroupVerdict::Allow,
        Verdict::Ask(server) => {
            if source == Source::Unbound
                && let Some(source) = source::towards(policy, &server.ip)
            {
                ctx.bind_v6(&source);
            }
            ctx.set_v6(&query::agent(policy, &server));
            CgroupVerdict::Allow
        }
        Verdict::Refuse => CgroupVerdict::Refuse,
    }
}

/// The verdict, with the server kept with the socket, or none any more. `connect(AF_UNSPEC)` has no
/// hook; what is kept then does no harm, because it counts only for datagrams from the agent.
#[inline(always)]
fn remembered(
    hook: OutboundHook,
    ctx: &SockAddr,
    policy: &'static Policy,
    dst: &OrigDst,
    source: Source,
) -> Verdict {
    let verdict = query::judge(hook, ctx, policy, dst, source);
    match &verdict {
        Verdict::Pass => asked::forget(ctx),
        Verdict::Ask(server) if !asked::remember(ctx, server) => {
            return query::refuse(hook, Reason::HelperFailed);
        }
        // A refused connect() leaves the socket as it was.
        Verdict::Ask(_) | Verdict::Refuse => {}
    }
    verdict
}
