//! DNS queries over UDP: which datagrams are questions for the agent, and how they get there.
//!
//! The agent listens on localhost only, so a question goes there, from the address that the kernel
//! would have chosen for the server. Whom the socket asked is kept with the socket
//! ([`asked`]). A socket that is not connected may ask several servers: only the first one is kept.
//! A question to another one carries that server's number in its *source* address; the agent
//! answers to that address and from that address ([`answer`](super::answer)), so that its answer
//! tells the server.

use sidecar_ebpf_common::{
    addr::{Ip, OrigDst, Port},
    counter::{Counter, OutboundHook, Reason},
    facts::{Protocol, Source},
    interface::Interface,
    number::{self, Rewritten},
    policy::{Policy, Switches},
    rule::Action,
};

use super::outbound::{self, Call, Judgement};
use crate::{asked, count::count, ctx::SockAddr, destinations, features, maps};

/// What becomes of a datagram, or of a connection of a UDP socket.
pub(crate) enum Verdict {
    Pass,
    /// It is a question for this server: the agent gets it.
    Ask(OrigDst),
    Refuse,
}

/// The policy, if this is UDP and DNS is captured now.
#[inline(always)]
pub(crate) fn policy(ctx: &SockAddr) -> Option<&'static Policy> {
    answers_policy(ctx).filter(|policy| policy.switches.has(Switches::DNS))
}

/// The policy for what has been asked already: it is answered also when the pod's servers have
/// changed meanwhile.
#[inline(always)]
pub(crate) fn answers_policy(ctx: &SockAddr) -> Option<&'static Policy> {
    if !asked::may_be_captured() || !ctx.is_udp() {
        return None;
    }
    Some(maps::policy())
}

/// Only datagrams to port 53 are counted: no rule redirects any other.
#[inline(always)]
pub(crate) fn judge(
    hook: OutboundHook,
    ctx: &SockAddr,
    policy: &'static Policy,
    dst: &OrigDst,
    source: Source,
) -> Verdict {
    if dst.port != Port::DNS && !number::is_reserved(&dst.ip) {
        return Verdict::Pass;
    }
    let call = Call {
        hook,
        ctx,
        socket: ctx.socket(),
        policy,
        features: features::all(),
    };
    match outbound::judge(&call, Protocol::Udp, source, dst) {
        Judgement::Rule(Action::ToDns, _) if call.socket.device() != Interface::NONE => {
            refuse(hook, Reason::BoundToDevice)
        }
        Judgement::Rule(Action::ToDns, server) => Verdict::Ask(server),
        // `ISTIO_REDIRECT` and `ISTIO_IN_REDIRECT` are for TCP.
        Judgement::Rule(Action::Pass | Action::ToOutbound | Action::ToInbound, _)
        | Judgement::LeftAlone => Verdict::Pass,
        Judgement::Refused => Verdict::Refuse,
    }
}

#[inline(always)]
pub(crate) fn refuse(hook: OutboundHook, reason: Reason) -> Verdict {
    count(Counter::Other(hook.hook(), reason));
    Verdict::Refuse
}

/// Where the agent listens for questions to a server of this family.
#[inline(always)]
pub(crate) fn agent(policy: &Policy, server: &OrigDst) -> OrigDst {
    OrigDst::new(localhost(server), policy.dns_port)
}

/// Whether answers come from here.
#[inline(always)]
pub(crate) fn is_agent(policy: &Policy, from: &OrigDst) -> bool {
    from.port == policy.dns_port && from.ip == localhost(from)
}

#[inline(always)]
fn localhost(like: &OrigDst) -> Ip {
    if like.ip.is_v4() {
        Ip::LOOPBACK_V4
    } else {
        Ip::LOOPBACK_V6
    }
}

/// How a question of a socket that is not connected to its server gets to the agent.
pub(crate) enum Way {
    /// The answer is for the server that is kept with the socket.
    Kept,
    /// From this address, which tells the server.
    From(Rewritten),
}

/// `is_bound`: the socket hears datagrams for one address only, so none for an address that carries
/// a number. Then the latest server counts for all answers.
///
/// A connected socket keeps the server it is connected to. If it asks another one, it does not hear
/// the answer, with iptables neither.
#[inline(always)]
pub(crate) fn way(
    ctx: &SockAddr,
    policy: &Policy,
    server: &OrigDst,
    is_bound: bool,
) -> Result<Way, Reason> {
    let kept = asked::server(ctx);
    if kept == Some(*server) {
        return Ok(Way::Kept);
    }
    if !ctx.is_connected() && (is_bound || kept.is_none()) {
        return if asked::remember(ctx, server) {
            Ok(Way::Kept)
        } else {
            Err(Reason::HelperFailed)
        };
    }
    if !server.ip.is_v4() && !policy.switches.has(Switches::IPV6_ROUTE) {
        return Err(Reason::NotReady);
    }
    let number = destinations::number_for(policy, *server)?;
    Ok(Way::From(if server.ip.is_v4() {
        Rewritten::carrying_v4(number)
    } else {
        Rewritten::carrying_v6(number)
    }))
}
