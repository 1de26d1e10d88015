//! `sk_lookup`: inbound without address translation, and listeners for the redirect's own range.

use core::hint::cold_path;

use sidecar_ebpf_common::{
    addr::{Ip, Port},
    counter::{Counter, Hook, Reason},
    decide::decide_inbound,
    facts::{Inbound, Tables as _},
    maps::Listeners,
    number::{self, Rewritten},
    policy::Policy,
    rule::Action,
    usual::{rarely, usually},
};

use crate::{
    count::count,
    ctx::{Ends, SkLookup},
    events, features,
    listeners::{self, From},
    maps::{self, Maps},
};

/// What an sk_lookup program returns. A dropped SYN is answered with a reset
/// (`__inet_lookup_listener` finds no socket).
#[derive(Clone, Copy)]
pub(crate) enum LookupVerdict {
    /// The socket that was assigned, else the normal lookup.
    Pass,
    Drop,
}

impl core::convert::From<LookupVerdict> for u32 {
    fn from(verdict: LookupVerdict) -> Self {
        match verdict {
            LookupVerdict::Drop => 0,
            LookupVerdict::Pass => 1,
        }
    }
}

pub(crate) fn steer(ctx: &SkLookup<'_>) -> LookupVerdict {
    if rarely(!ctx.is_tcp()) {
        return LookupVerdict::Pass;
    }
    let port = ctx.local_port();
    if usually(ctx.is_v4()) {
        let Ends { local, remote } = ctx.ends_v4();
        // The usual way, without what addresses of the other family take, or a pod with many.
        if Rewritten::from_ip(local).is_some()
            && usually(maps::policy().own.contains(&remote) || remote.is_loopback())
        {
            return match listeners::at(port) {
                Some(listeners) if usually(maps::are_found_by_kernel(listeners)) => {
                    LookupVerdict::Pass
                }
                _ => own(ctx, &local, port),
            };
        }
    }
    cold_path();
    let policy = maps::policy();
    let Ends { local, remote } = ctx.ends();
    let is_redirected = Rewritten::from_ip(local).is_some();
    if !is_from_pod(policy, &remote) {
        if is_redirected {
            drop(Reason::ForeignSource)
        } else {
            inbound(ctx, policy, &local, port)
        }
    } else if is_redirected {
        own(ctx, &local, port)
    } else {
        // The outbound rules have decided about it at connect().
        LookupVerdict::Pass
    }
}

/// A packet from an address of this namespace has not come from outside: for IPv4 the kernel drops
/// such a packet as martian (`fib_validate_source`, net/ipv4/fib_frontend.c), for IPv6 its answer
/// would never leave. The ingress interface does not tell: for a connection to an address of eth0
/// it names eth0 although the packet came over lo.
#[inline(always)]
fn is_from_pod(policy: &'static Policy, remote: &Ip) -> bool {
    remote.is_loopback() || number::is_reserved(remote) || tables(policy).is_own(remote)
}

/// A connection that `connect` redirected. A registered listener has it even if it is bound to
/// 127.0.0.1 only or some application is bound to the very address.
#[inline(always)]
fn own(ctx: &SkLookup<'_>, dst: &Ip, port: Port) -> LookupVerdict {
    let Some(listeners) = listeners::at(port) else {
        return drop(Reason::RedirectRange);
    };
    // The normal lookup is for a listener that cannot register, if there is one; otherwise it could
    // only find somebody else's.
    if listeners::assign(ctx.0, dst, listeners, From::Pod) || maps::has_unregistered(listeners) {
        LookupVerdict::Pass
    } else {
        no_listener()
    }
}

#[inline(always)]
fn inbound(ctx: &SkLookup<'_>, policy: &'static Policy, dst: &Ip, port: Port) -> LookupVerdict {
    let flow = Inbound {
        dst: *dst,
        port,
        interface: ctx.interface(),
    };
    let rule = decide_inbound(policy, &flow, &tables(policy));
    count(Counter::Inbound(rule));
    let listeners = match rule.action() {
        Action::Pass => return LookupVerdict::Pass,
        Action::ToOutbound => Listeners::Outbound,
        Action::ToInbound => Listeners::Inbound,
        Action::ToDns => Listeners::Dns,
    };
    if listeners::assign(ctx.0, dst, listeners, From::Outside) {
        LookupVerdict::Pass
    } else {
        // Passing would hand the connection to the application without the proxy.
        no_listener()
    }
}

#[inline(always)]
fn tables(policy: &'static Policy) -> Maps {
    Maps {
        policy,
        features: features::all(),
    }
}

#[inline(always)]
fn no_listener() -> LookupVerdict {
    events::no_listener();
    drop(Reason::NoListener)
}

#[inline(always)]
fn drop(reason: Reason) -> LookupVerdict {
    count(Counter::Other(Hook::SkLookup, reason));
    LookupVerdict::Drop
}
