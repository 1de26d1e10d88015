//! The outbound decision, for whatever hook asks for it: facts in, the rule out and counted.

use core::hint::cold_path;

use sidecar_ebpf_common::{
    addr::OrigDst,
    counter::{Counter, OutboundHook, Reason},
    decide::decide_outbound,
    facts::{Outbound, Protocol, Socket, Source},
    number,
    policy::Policy,
    rule::Action,
};

use crate::{count::count, ctx::SockAddr, maps::Maps, owner};

pub(crate) enum Judgement {
    /// What a rule says, and where the connection goes without it.
    Rule(Action, OrigDst),
    /// The socket belongs to another network namespace: the rules were not asked.
    LeftAlone,
    Refused,
}

#[inline(always)]
pub(crate) fn judge(
    hook: OutboundHook,
    ctx: &SockAddr,
    policy: &'static Policy,
    protocol: Protocol,
    source: Source,
    dst: &OrigDst,
) -> Judgement {
    if !policy.scope.covers(ctx.netns_cookie()) {
        cold_path();
        count(Counter::Other(hook.hook(), Reason::OtherNetns));
        return Judgement::LeftAlone;
    }
    // Otherwise one process could ride on a number that another one's connection was given.
    if number::is_reserved(&dst.ip) {
        cold_path();
        count(Counter::Other(hook.hook(), Reason::RedirectRange));
        return Judgement::Refused;
    }
    let socket = Socket {
        protocol,
        owner: owner::of(ctx, protocol),
        source,
        device: ctx.device(),
        caller: owner::caller(policy),
    };
    let flow = Outbound::new(socket, *dst);
    let rule = decide_outbound(policy, &flow, &Maps(policy));
    count(Counter::Outbound(hook, rule));
    Judgement::Rule(rule.action(), *flow.dst())
}
