//! The kernel side. Each entry point hands its context to a hook; a hook reads facts, asks
//! `sidecar_ebpf_common::decide`, counts the answer and applies it.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod asked;
mod atomic;
mod clock;
mod count;
mod ctx;
mod destinations;
mod events;
mod features;
mod hooks;
mod license;
mod listeners;
mod maps;
mod owner;
mod probe;
mod source;

use aya_ebpf::{
    macros::{cgroup_sock_addr, cgroup_sockopt, sk_lookup, sock_ops},
    programs::{SkLookupContext, SockAddrContext, SockOpsContext, SockoptContext},
};
use ctx::{SkLookup, SockAddr, SockOps, Sockopt};

/// What a cgroup program returns: 1 lets the call go on, 0 makes it fail with EPERM.
#[derive(Clone, Copy)]
enum CgroupVerdict {
    Allow,
    Refuse,
}

impl From<CgroupVerdict> for i32 {
    fn from(verdict: CgroupVerdict) -> Self {
        match verdict {
            CgroupVerdict::Allow => 1,
            CgroupVerdict::Refuse => 0,
        }
    }
}

#[cgroup_sock_addr(bind4)]
fn sidecar_bind4(ctx: SockAddrContext) -> i32 {
    hooks::bind::v4(&SockAddr::new(&ctx)).into()
}

#[cgroup_sock_addr(bind6)]
fn sidecar_bind6(ctx: SockAddrContext) -> i32 {
    hooks::bind::v6(&SockAddr::new(&ctx)).into()
}

#[cgroup_sock_addr(connect4)]
fn sidecar_connect4(ctx: SockAddrContext) -> i32 {
    hooks::connect::v4(&SockAddr::new(&ctx)).into()
}

#[cgroup_sock_addr(connect6)]
fn sidecar_connect6(ctx: SockAddrContext) -> i32 {
    hooks::connect::v6(&SockAddr::new(&ctx)).into()
}

#[cgroup_sock_addr(getpeername4)]
fn sidecar_getpeername4(ctx: SockAddrContext) -> i32 {
    hooks::getpeername::v4(&SockAddr::new(&ctx));
    CgroupVerdict::Allow.into()
}

#[cgroup_sock_addr(getpeername6)]
fn sidecar_getpeername6(ctx: SockAddrContext) -> i32 {
    hooks::getpeername::v6(&SockAddr::new(&ctx));
    CgroupVerdict::Allow.into()
}

#[cgroup_sock_addr(sendmsg4)]
fn sidecar_sendmsg4(ctx: SockAddrContext) -> i32 {
    hooks::sendmsg::v4(&SockAddr::new(&ctx)).into()
}

#[cgroup_sock_addr(sendmsg6)]
fn sidecar_sendmsg6(ctx: SockAddrContext) -> i32 {
    hooks::sendmsg::v6(&SockAddr::new(&ctx)).into()
}

/// For a proxy that is not in the pod's cgroup.
#[cgroup_sock_addr(sendmsg4)]
fn sidecar_answer4(ctx: SockAddrContext) -> i32 {
    hooks::answer::v4(&SockAddr::new(&ctx));
    CgroupVerdict::Allow.into()
}

#[cgroup_sock_addr(sendmsg6)]
fn sidecar_answer6(ctx: SockAddrContext) -> i32 {
    hooks::answer::v6(&SockAddr::new(&ctx));
    CgroupVerdict::Allow.into()
}

#[cgroup_sock_addr(recvmsg4)]
fn sidecar_recvmsg4(ctx: SockAddrContext) -> i32 {
    hooks::recvmsg::v4(&SockAddr::new(&ctx));
    CgroupVerdict::Allow.into()
}

#[cgroup_sock_addr(recvmsg6)]
fn sidecar_recvmsg6(ctx: SockAddrContext) -> i32 {
    hooks::recvmsg::v6(&SockAddr::new(&ctx));
    CgroupVerdict::Allow.into()
}

#[cgroup_sockopt(getsockopt)]
fn sidecar_getsockopt(ctx: SockoptContext) -> i32 {
    hooks::getsockopt::original_dst(&Sockopt::new(&ctx));
    CgroupVerdict::Allow.into()
}

#[sock_ops]
fn sidecar_sock_ops(ctx: SockOpsContext) -> u32 {
    hooks::sock_ops::listen(&SockOps::new(&ctx));
    1
}

#[sk_lookup]
fn sidecar_sk_lookup(ctx: SkLookupContext) -> u32 {
    hooks::sk_lookup::steer(&SkLookup::new(&ctx)).into()
}

/// The verifier refuses a program in which this can be reached.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
