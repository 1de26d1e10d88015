//! `cgroup/connect4` and `connect6`: the outbound decision.

use core::hint::cold_path;

use sidecar_ebpf_common::{
    addr::{Ip, OrigDst, Port},
    counter::{Counter, OutboundHook, Reason},
    facts::{Protocol, Source},
    interface::Interface,
    number::{Number, Rewritten},
    policy::{Policy, Switches},
    rule::Action,
};

use super::{
    connect_udp,
    outbound::{Judgement, judge},
};
use crate::{CgroupVerdict, count::count, ctx::SockAddr, destinations, maps, source};

pub(crate) fn v4(ctx: &SockAddr) -> CgroupVerdict {
    if !ctx.is_tcp() {
        return connect_udp::v4(ctx);
    }
    let dst = OrigDst::new(ctx.address_v4(), ctx.port());
    match redirect(OutboundHook::Connect4, ctx, &dst, ctx.source_v4()) {
        Outcome::Pass => CgroupVerdict::Allow,
        Outcome::Rewrite(number, port) => {
            ctx.set_v4(&OrigDst::new(Rewritten::carrying_v4(number).ip(), port));
            CgroupVerdict::Allow
        }
        Outcome::Refuse => CgroupVerdict::Refuse,
    }
}

/// Also sees IPv4-mapped destinations, which are IPv4 connections on an AF_INET6 socket.
pub(crate) fn v6(ctx: &SockAddr) -> CgroupVerdict {
    if !ctx.is_tcp() {
        return connect_udp::v6(ctx);
    }
    let dst = OrigDst::new(ctx.address_v6(), ctx.port());
    match redirect(OutboundHook::Connect6, ctx, &dst, ctx.source_v6()) {
        Outcome::Pass => CgroupVerdict::Allow,
        Outcome::Rewrite(number, port) => {
            let rewritten = if dst.ip.is_v4() {
                Rewritten::carrying_v4(number)
            } else {
                Rewritten::carrying_v6(number)
            };
            ctx.set_v6(&OrigDst::new(rewritten.ip(), port));
            CgroupVerdict::Allow
        }
        Outcome::Refuse => CgroupVerdict::Refuse,
    }
}

enum Outcome {
    Pass,
    Rewrite(Number, Port),
    Refuse,
}

#[inline(always)]
fn redirect(hook: OutboundHook, ctx: &SockAddr, dst: &OrigDst, source: Source) -> Outcome {
    let policy = maps::policy();
    match judge(hook, ctx, policy, Protocol::Tcp, source, dst) {
        Judgement::LeftAlone => Outcome::Pass,
        Judgement::Refused => Outcome::Refuse,
        Judgement::Rule(action, dst) => {
            // The port first, so that the rest is there once.
            let port = match action {
                Action::Pass => return Outcome::Pass,
                Action::ToOutbound => policy.outbound_port,
                Action::ToInbound => policy.inbound_port,
                Action::ToDns => policy.dns_port,
            };
            rewrite(hook, ctx, policy, source, dst, port)
        }
    }
}

#[inline(always)]
fn rewrite(
    hook: OutboundHook,
    ctx: &SockAddr,
    policy: &Policy,
    source: Source,
    dst: OrigDst,
    port: Port,
) -> Outcome {
    if ctx.device() != Interface::NONE {
        return refuse(hook, Reason::BoundToDevice);
    }
    if !dst.ip.is_v4() && !policy.switches.has(Switches::IPV6_ROUTE) {
        return refuse(hook, Reason::NotReady);
    }
    match destinations::number_for(policy, dst) {
        Ok(number) => {
            if source == Source::Unbound {
                choose_source(hook, ctx, policy, &dst.ip);
            }
            Outcome::Rewrite(number, port)
        }
        Err(reason) => refuse(hook, reason),
    }
}

/// A socket that is bound keeps its address. One that cannot be bound (it has a port already, or the
/// address has just gone) connects from the pod's first address.
#[inline(always)]
fn choose_source(hook: OutboundHook, ctx: &SockAddr, policy: &Policy, dst: &Ip) {
    if let Some(ip) = source::for_destination(policy, dst) {
        match hook {
            OutboundHook::Connect4 => ctx.bind_v4(&ip),
            OutboundHook::Connect6 => ctx.bind_v6(&ip),
            OutboundHook::Sendmsg4 | OutboundHook::Sendmsg6 => {}
        }
    }
}

#[inline(always)]
fn refuse(hook: OutboundHook, reason: Reason) -> Outcome {
    cold_path();
    count(Counter::Other(hook.hook(), reason));
    Outcome::Refuse
}
