//! `cgroup/getsockopt`: `SO_ORIGINAL_DST`, as netfilter would answer it.

use sidecar_ebpf_common::{
    addr::OrigDst,
    counter::{Counter, Hook},
    number::Rewritten,
};

use crate::{count::count, ctx::Sockopt, destinations, maps};

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
    if ctx.len() > MAX_VISIBLE {
        ctx.keep_kernel_answer();
        return;
    }
    if ctx.name() != ORIGINAL_DST {
        return;
    }
    // The level asked decides, not the socket's family: a dual-stack listener accepts both kinds.
    match ctx.level() {
        SOL_IP => {
            if let Some(addr) = answer(ctx)
                && addr.ip.is_v4()
            {
                ctx.answer_v4(&addr);
            }
        }
        SOL_IPV6 => {
            if let Some(addr) = answer(ctx)
                && !addr.ip.is_v4()
            {
                ctx.answer_v6(&addr);
            }
        }
        _ => {}
    }
}

/// Where the connection was going. A redirected one has a number at the proxy's end as local
/// address and at the application's end as peer; any other is where it is, as conntrack says.
#[inline(always)]
fn answer(ctx: &Sockopt) -> Option<OrigDst> {
    let policy = maps::policy();
    if !policy.scope.covers(ctx.netns_cookie()) {
        return None;
    }
    let ends = ctx.ends()?;
    let Some(rewritten) =
        Rewritten::from_ip(ends.local.ip).or_else(|| Rewritten::from_ip(ends.peer))
    else {
        return Some(ends.local);
    };
    match destinations::destination_of(policy, rewritten) {
        // The number of an IPv4 destination may not stand in an IPv6 address, nor the reverse.
        Ok(asked) if asked.ip.is_v4() == rewritten.ip().is_v4() => Some(asked),
        Ok(_) => None,
        Err(reason) => {
            count(Counter::Other(Hook::Getsockopt, reason));
            None
        }
    }
}
