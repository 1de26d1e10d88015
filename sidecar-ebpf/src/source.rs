//! The source address of a redirected connection: the one that the kernel chooses for the real
//! destination, because netfilter redirects a packet that has its source already.
//!
//! Left to itself a rewritten connection gets the source of the redirect's own route, which is
//! [`Policy::sources`]; so only another one has to be said.

use sidecar_ebpf_common::{
    addr::Ip,
    decide::PASSTHROUGH_V6,
    interface::Interface,
    policy::{Policy, Switches},
    usual::rarely,
};

use crate::{features, maps};

/// The address that an unbound socket must be bound to before its connection to `dst` is
/// rewritten; `None` if it gets the right one by itself.
///
/// Looks nothing up for a destination outside the pod unless the policy says that sources differ.
#[inline(always)]
pub(crate) fn for_destination(policy: &Policy, features: Switches, dst: &Ip) -> Option<Ip> {
    let source = right_source(policy, features, dst)?;
    if source == usual(policy, dst) || source.is_unspecified() {
        None
    } else {
        Some(source)
    }
}

/// The source towards `dst`; `None` if it is not known.
#[inline(always)]
pub(crate) fn towards(policy: &Policy, dst: &Ip) -> Option<Ip> {
    let source = right_source(policy, features::all(), dst).unwrap_or(usual(policy, dst));
    (!source.is_unspecified()).then_some(source)
}

#[inline(always)]
fn usual(policy: &Policy, dst: &Ip) -> Ip {
    if dst.is_v4() {
        policy.sources.v4()
    } else {
        policy.sources.v6()
    }
}

#[inline(always)]
fn right_source(policy: &Policy, features: Switches, dst: &Ip) -> Option<Ip> {
    if rarely(dst.is_loopback()) {
        // All of 127.0.0.0/8 is one local route, with 127.0.0.1 as source.
        return Some(if dst.is_v4() { Ip::LOOPBACK_V4 } else { *dst });
    }
    // To one of its own addresses an IPv6 host talks from that address (RFC 6724, rule 1).
    if *dst == PASSTHROUGH_V6 {
        return Some(*dst);
    }
    // Where sources differ, the map has the pod's own addresses too.
    if rarely(policy.switches.among(features).has(Switches::SOURCES)) {
        let route = maps::route_to(dst)?;
        let is_its_own = route.source.is_unspecified() && route.interface == Interface::LO;
        return Some(if is_its_own { *dst } else { route.source });
    }
    None
}
