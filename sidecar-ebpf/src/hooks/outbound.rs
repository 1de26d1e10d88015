//! The outbound decision, for whatever hook asks for it: facts in, the rule out and counted.

use sidecar_ebpf_common::{
    addr::OrigDst,
    counter::{Counter, OutboundHook, Reason},
    decide::decide_outbound,
    facts::{Outbound, Protocol, Socket, Source},
    number,
    policy::{Policy, Switches},
    rule::Action,
    usual::rarely,
};

use crate::{
    count::count,
    ctx::{Sock, SockAddr},
    maps::Maps,
    owner,
};

pub(crate) enum Judgement {
    /// What a rule says, and where the connection goes without it.
    Rule(Action, OrigDst),
    /// The socket belongs to another network namespace: the rules were not asked.
    LeftAlone,
    Refused,
}

/// The call of a hook: what is asked, and by which rules.
pub(crate) struct Call<'a> {
    pub(crate) hook: OutboundHook,
    pub(crate) ctx: &'a SockAddr,
    pub(crate) socket: Sock,
    pub(crate) policy: &'static Policy,
    /// The switches that the policy can have.
    pub(crate) features: Switches,
}

#[inline(always)]
pub(crate) fn judge(
    call: &Call<'_>,
    protocol: Protocol,
    source: Source,
    dst: &OrigDst,
) -> Judgement {
    let Call {
        hook,
        policy,
        features,
        ..
    } = *call;
    let identity = owner::identify(call.ctx, protocol);
    if rarely(!policy.scope.covers(identity.netns)) {
        count(Counter::Other(hook.hook(), Reason::OtherNetns));
        return Judgement::LeftAlone;
    }
    // Otherwise one process could ride on a number that another one's connection was given.
    if rarely(number::is_reserved(&dst.ip)) {
        count(Counter::Other(hook.hook(), Reason::RedirectRange));
        return Judgement::Refused;
    }
    let socket = Socket {
        protocol,
        owner: identity.owner,
        source,
        device: call.socket.device(),
        caller: owner::caller(policy, features),
    };
    let flow = Outbound::new(socket, *dst);
    let rule = decide_outbound(policy, &flow, &Maps { policy, features });
    let action = rule.action();
    count(Counter::Outbound(hook, rule));
    Judgement::Rule(action, *flow.dst())
}
