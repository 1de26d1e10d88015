//! Programs that make the calls which no redirect can do without, and as little else as possible: one
//! way, no rule, no table. The benchmark runs them beside the real ones, to tell what of their time is
//! the kernel's.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(unsafe_code, reason = "the benchmark finds statics by their names")]
#![expect(
    dead_code,
    unused_imports,
    reason = "of the modules that the real programs are made of, these need a part"
)]

mod atomic;
mod ctx;
mod features;
mod license;
mod owner;
mod probe;

use aya_ebpf::{
    macros::{cgroup_sock_addr, cgroup_sockopt, map, sk_lookup},
    maps::PerCpuArray,
    programs::{SkLookupContext, SockAddrContext, SockoptContext},
};
use ctx::{SockAddr, Sockopt};
use sidecar_ebpf_common::{
    addr::{Ip, OrigDst, Port},
    facts::Protocol,
    number::{Number, Rewritten},
};

const PROXY: u32 = 1337;
const OUTBOUND: Port = Port(15001);
/// `SO_ORIGINAL_DST` at `SOL_IP` (linux/netfilter_ipv4.h).
const ORIGINAL_DST: (i32, i32) = (0, 80);
/// 10.96.0.1:80, which is the answer for all connections.
const SERVICE: OrigDst = OrigDst::new(Ip::from_v4_word(0x0a60_0001_u32.to_be()), Port(80));

/// The cookie of the pod's namespace. Constant for the verifier, because the benchmark writes it before.
#[unsafe(no_mangle)]
static NETNS: u64 = 0;

/// Connections that were redirected.
#[map]
static COUNTER: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

#[inline(always)]
fn is_pod(cookie: u64) -> bool {
    // SAFETY: an aligned static; volatile, because the benchmark replaces the value.
    cookie == unsafe { (&raw const NETNS).read_volatile() }
}

#[cgroup_sock_addr(connect4)]
fn calls_connect4(ctx: SockAddrContext) -> i32 {
    let ctx = SockAddr::new(&ctx);
    let identity = owner::identify(&ctx, Protocol::Tcp);
    if is_pod(identity.netns) && identity.owner.uid != PROXY {
        if let Some(counter) = COUNTER.get_ptr_mut(0) {
            // SAFETY: the map value is eight aligned bytes that live as long as the program.
            unsafe { atomic::increment(counter) };
        }
        // As many destinations as there are, without a table.
        let low = u32::from_be(ctx.address_v4().words()[0]) & 0xff;
        let number = Number::from_count(low.into());
        ctx.set_v4(&OrigDst::new(Rewritten::carrying_v4(number).ip(), OUTBOUND));
    }
    1
}

/// The kernel finds a listener that is bound to every address.
#[sk_lookup]
fn calls_sk_lookup(_: SkLookupContext) -> u32 {
    1
}

/// Of the proxy's end of a connection, which is the one that asks: its peer carries no number.
#[cgroup_sock_addr(getpeername4)]
fn calls_getpeername4(_: SockAddrContext) -> i32 {
    1
}

#[cgroup_sockopt(getsockopt)]
fn calls_getsockopt(ctx: SockoptContext) -> i32 {
    let ctx = Sockopt::new(&ctx);
    if (ctx.level(), ctx.name()) == ORIGINAL_DST && is_pod(ctx.netns_cookie()) {
        ctx.answer_v4(&SERVICE);
    }
    1
}

/// The verifier refuses a program in which this can be reached.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
