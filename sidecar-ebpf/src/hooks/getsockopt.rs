//! `cgroup/getsockopt`: `SO_ORIGINAL_DST`, as netfilter would answer it.

use core::hint::cold_path;

use sidecar_ebpf_common::{
    addr::OrigDst,
    counter::{Counter, Hook},
    number::Rewritten,
    policy::Policy,
    usual::{rarely, usually},
};

use crate::{
    count::count,
    ctx::{Sock, Sockopt},
    destinations, maps,
};

const SOL_IP: i32 = 0;
const SOL_IPV6: i32 = 41;
/// `SO_ORIGINAL_DST` at `SOL_IP` (linux/netfilter_ipv4.h) and `IP6T_SO_ORIGINAL_DST` at `SOL_IPV6`
/// (linux/netfilter_ipv6/ip6_tables.h) share the number.
const ORIGINAL_DST: i32 = 80;

/// The kernel shows a program at most a page of an option. Since 5.8 it fails the caller with
/// EFAULT if the program leaves a larger length standing (`__cgroup_bpf_run_filter_getsockopt`,
/// kernel/bpf/cgroup.c; d8fe449a9c51).
const MAX_VISIBLE: i32 = 4096;

/// Leaves every other option, and every socket it has no answer for, to the kernel.
pub(crate) fn original_dst(ctx: &Sockopt) {
    if rarely(ctx.len() > MAX_VISIBLE) {
        ctx.keep_kernel_answer();
        return;
    }
    if ctx.name() != ORIGINAL_DST {
        return;
    }
    let level = ctx.level();
    if rarely(level != SOL_IP) && level != SOL_IPV6 {
        return;
    }
    let policy = maps::policy();
    if rarely(!policy.scope.covers(ctx.netns_cookie())) {
        return;
    }
    let socket = ctx.socket();
    if rarely(!socket.is_tcp()) {
        return;
    }
    // The usual way to its end, without what addresses of the other family take.
    if usually(level == SOL_IP)
        && usually(socket.is_v4())
        && let Some(rewritten) = Rewritten::from_ip(socket.source_v4())
    {
        if let Some(addr) = asked_for(policy, rewritten) {
            ctx.answer_v4(&addr);
        }
        return;
    }
    cold_path();
    let Some(addr) = answer(policy, socket) else {
        return;
    };
    // The level asked decides, not the socket's family: a dual-stack listener accepts both kinds.
    if level == SOL_IP && addr.ip.is_v4() {
        ctx.answer_v4(&addr);
    } else if level == SOL_IPV6 && !addr.ip.is_v4() {
        ctx.answer_v6(&addr);
    }
}

/// Where the connection was going. A redirected one has a number at the proxy's end as local address and
/// at the application's end as peer; any other is where it is, as conntrack says.
#[inline(always)]
fn answer(policy: &Policy, socket: Sock) -> Option<OrigDst> {
    let (local, peer) = if socket.is_v6() {
        (socket.source_v6(), socket.peer_v6())
    } else {
        (socket.source_v4(), socket.peer_v4())
    };
    // Nobody can bind to an address that carries a number: this is the proxy's end, whatever has become
    // of the connection. After a reset netfilter answers, too.
    if let Some(rewritten) = Rewritten::from_ip(local) {
        return asked_for(policy, rewritten);
    }
    if !socket.is_connected() {
        return None;
    }
    match Rewritten::from_ip(peer) {
        Some(rewritten) => asked_for(policy, rewritten),
        None => Some(OrigDst::new(local, socket.source_port())),
    }
}

#[inline(always)]
fn asked_for(policy: &Policy, rewritten: Rewritten) -> Option<OrigDst> {
    match destinations::destination_of(policy, rewritten) {
        // The number of an IPv4 destination may not stand in an IPv6 address, nor the reverse.
        Ok(asked) if usually(asked.ip.is_v4() == rewritten.ip().is_v4()) => Some(asked),
        Ok(_) => None,
        Err(reason) => {
            cold_path();
            count(Counter::Other(Hook::Getsockopt, reason));
            None
        }
    }
}
