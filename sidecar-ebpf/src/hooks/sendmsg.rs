//! `cgroup/sendmsg4` and `sendmsg6`: DNS queries that are sent without `connect()`, and the agent's
//! answers to them. An IPv4-mapped destination comes to `sendmsg4` (`udpv6_sendmsg`,
//! net/ipv6/udp.c).

use sidecar_ebpf_common::{
    addr::OrigDst,
    counter::OutboundHook,
    facts::{Caller, Source},
    policy::Policy,
};

use super::{
    answer,
    query::{self, Verdict, Way},
};
use crate::{CgroupVerdict, asked, ctx::SockAddr, features, owner, source};

pub(crate) fn v4(ctx: &SockAddr) -> CgroupVerdict {
    let Some(policy) = query::policy(ctx) else {
        return CgroupVerdict::Allow;
    };
    let dst = OrigDst::new(ctx.address_v4(), ctx.port());
    if is_answer(ctx, policy, &dst) {
        ctx.set_message_source_v4(&dst.ip);
        return CgroupVerdict::Allow;
    }
    let source = ctx.message_source_v4();
    let is_bound = ctx.socket().bound_v4() != Source::Unbound;
    let (server, way) =
        match questioned(OutboundHook::Sendmsg4, ctx, policy, &dst, source, is_bound) {
            Ok(Some(question)) => question,
            Ok(None) => return CgroupVerdict::Allow,
            Err(Refused) => return CgroupVerdict::Refuse,
        };
    match way {
        Way::From(rewritten) => ctx.set_message_source_v4(&rewritten.ip()),
        Way::Kept => {
            if source == Source::Unbound
                && let Some(source) = source::towards(policy, &server.ip)
            {
                ctx.set_message_source_v4(&source);
            }
        }
    }
    ctx.set_v4(&query::agent(policy, &server));
    CgroupVerdict::Allow
}

pub(crate) fn v6(ctx: &SockAddr) -> CgroupVerdict {
    let Some(policy) = query::policy(ctx) else {
        return CgroupVerdict::Allow;
    };
    let dst = OrigDst::new(ctx.address_v6(), ctx.port());
    if is_answer(ctx, policy, &dst) {
        ctx.set_message_source_v6(&dst.ip);
        return CgroupVerdict::Allow;
    }
    let source = ctx.message_source_v6();
    let is_bound = ctx.socket().bound_v6() != Source::Unbound;
    let (server, way) =
        match questioned(OutboundHook::Sendmsg6, ctx, policy, &dst, source, is_bound) {
            Ok(Some(question)) => question,
            Ok(None) => return CgroupVerdict::Allow,
            Err(Refused) => return CgroupVerdict::Refuse,
        };
    match way {
        Way::From(rewritten) => ctx.set_message_source_v6(&rewritten.ip()),
        Way::Kept => {
            if source == Source::Unbound
                && let Some(source) = source::towards(policy, &server.ip)
            {
                ctx.set_message_source_v6(&source);
            }
        }
    }
    ctx.set_v6(&query::agent(policy, &server));
    CgroupVerdict::Allow
}

/// Whether it is an answer of the agent that is to come from the address it goes to.
#[inline(always)]
fn is_answer(ctx: &SockAddr, policy: &Policy, dst: &OrigDst) -> bool {
    answer::is_one(ctx, policy, dst)
        && owner::caller(policy, features::all()) == Caller::MayBeProxy
        && {
            let owner = owner::of_udp(ctx.socket());
            policy.uids.contains(owner.uid) || policy.gids.contains(owner.gid)
        }
}

struct Refused;

/// The server that is asked and how; `None` for what is no question. What a socket sends to its
/// own peer was decided when it connected: an IPv4-mapped peer has the hook called for `send()`, too.
#[inline(always)]
fn questioned(
    hook: OutboundHook,
    ctx: &SockAddr,
    policy: &'static Policy,
    dst: &OrigDst,
    source: Source,
    is_bound: bool,
) -> Result<Option<(OrigDst, Way)>, Refused> {
    if ctx.is_connected_to(dst) {
        return Ok(None);
    }
    match query::judge(hook, ctx, policy, dst, source) {
        Verdict::Pass => {
            // Who talks to the agent itself sees it answer.
            if query::is_agent(policy, dst) && !ctx.is_connected() {
                asked::forget(ctx);
            }
            Ok(None)
        }
        Verdict::Refuse => Err(Refused),
        Verdict::Ask(server) => match query::way(ctx, policy, &server, is_bound) {
            Ok(way) => Ok(Some((server, way))),
            Err(reason) => {
                let _: Verdict = query::refuse(hook, reason);
                Err(Refused)
            }
        },
    }
}
