//! `cgroup/connect4` and `connect6`: the outbound decision.

use core::hint::cold_path;

use sidecar_ebpf_common::{
    addr::{Ip, OrigDst, Port},
    counter::{Counter, OutboundHook, Reason},
    facts::{Protocol, Source},
    interface::Interface,
    number::{Number, Rewritten},
    policy::Switches,
    rule::Action,
    usual::{rarely, usually},
};

use super::{
    connect_udp,
    outbound::{Call, Judgement, judge},
};
use crate::{
    CgroupVerdict,
    count::count,
    ctx::{Sock, SockAddr},
    destinations, features, maps, source,
};

pub(crate) fn v4(ctx: &SockAddr) -> CgroupVerdict {
    let socket = ctx.socket();
    if rarely(!socket.is_tcp()) {
        connect_udp::v4(ctx)
    } else if features::are_plain() {
        tcp_v4(ctx, socket, features::PLAIN)
    } else {
        tcp_v4(ctx, socket, features::all())
    }
}

/// Also sees IPv4-mapped destinations, which are IPv4 connections on an AF_INET6 socket.
pub(crate) fn v6(ctx: &SockAddr) -> CgroupVerdict {
    let socket = ctx.socket();
    if rarely(!socket.is_tcp()) {
        connect_udp::v6(ctx)
    } else if features::are_plain() {
        tcp_v6(ctx, socket, features::PLAIN)
    } else {
        tcp_v6(ctx, socket, features::all())
    }
}

#[inline(always)]
fn tcp_v4(ctx: &SockAddr, socket: Sock, features: Switches) -> CgroupVerdict {
    let call = Call {
        hook: OutboundHook::Connect4,
        ctx,
        socket,
        policy: maps::policy(),
        features,
    };
    let dst = OrigDst::new(ctx.address_v4(), ctx.port());
    match redirect(&call, &dst, socket.bound_v4()) {
        Outcome::Pass => CgroupVerdict::Allow,
        Outcome::Rewrite(number, port) => {
            ctx.set_v4(&OrigDst::new(Rewritten::carrying_v4(number).ip(), port));
            CgroupVerdict::Allow
        }
        Outcome::Refuse => CgroupVerdict::Refuse,
    }
}

#[inline(always)]
fn tcp_v6(ctx: &SockAddr, socket: Sock, features: Switches) -> CgroupVerdict {
    let call = Call {
        hook: OutboundHook::Connect6,
        ctx,
        socket,
        policy: maps::policy(),
        features,
    };
    let dst = OrigDst::new(ctx.address_v6(), ctx.port());
    match redirect(&call, &dst, socket.bound_v6()) {
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
fn redirect(call: &Call<'_>, dst: &OrigDst, source: Source) -> Outcome {
    match judge(call, Protocol::Tcp, source, dst) {
        Judgement::LeftAlone => Outcome::Pass,
        Judgement::Refused => Outcome::Refuse,
        Judgement::Rule(action, dst) => {
            // The port first, so that the rest is there once.
            let port = match action {
                Action::Pass => return Outcome::Pass,
                Action::ToOutbound => call.policy.outbound_port,
                Action::ToInbound => call.policy.inbound_port,
                Action::ToDns => call.policy.dns_port,
            };
            rewrite(call, source, dst, port)
        }
    }
}

#[inline(always)]
fn rewrite(call: &Call<'_>, source: Source, dst: OrigDst, port: Port) -> Outcome {
    if rarely(call.socket.device() != Interface::NONE) {
        return refuse(call, Reason::BoundToDevice);
    }
    if rarely(!dst.ip.is_v4()) && !call.policy.switches.has(Switches::IPV6_ROUTE) {
        return refuse(call, Reason::NotReady);
    }
    match destinations::number_for(call.policy, dst) {
        Ok(number) => {
            if usually(source == Source::Unbound) {
                choose_source(call, &dst.ip);
            }
            Outcome::Rewrite(number, port)
        }
        Err(reason) => refuse(call, reason),
    }
}

/// A socket that is bound keeps its address. One that cannot be bound (it has a port already, or the
/// address has just gone) connects from the pod's first address.
#[inline(always)]
fn choose_source(call: &Call<'_>, dst: &Ip) {
    if let Some(ip) = source::for_destination(call.policy, call.features, dst) {
        match call.hook {
            OutboundHook::Connect4 => call.ctx.bind_v4(&ip),
            OutboundHook::Connect6 => call.ctx.bind_v6(&ip),
            OutboundHook::Sendmsg4 | OutboundHook::Sendmsg6 => {}
        }
    }
}

#[inline(always)]
fn refuse(call: &Call<'_>, reason: Reason) -> Outcome {
    cold_path();
    count(Counter::Other(call.hook.hook(), reason));
    Outcome::Refuse
}
