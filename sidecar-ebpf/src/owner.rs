//! Whose a socket is: the credentials its file was made with, as iptables' owner match sees them
//! (`owner_mt`, net/netfilter/xt_owner.c: `sk->sk_socket->file->f_cred`), not those of the task that
//! connects; and its network namespace.
#![expect(unsafe_code, reason = "follows pointers of the kernel")]

use aya_ebpf::helpers::{
    bpf_get_current_uid_gid,
    generated::{bpf_get_current_ancestor_cgroup_id, bpf_skc_to_tcp_sock},
};
use sidecar_ebpf_common::{
    facts::{Caller, Owner, Protocol},
    owner::SocketOffsets,
    policy::{Policy, Switches},
    usual::{rarely, usually},
};

use crate::{
    ctx::{Sock, SockAddr},
    probe,
};

/// Where the kernel keeps them; the loader finds out from the kernel's type information. Constant
/// for the verifier, so the branch that is not taken is not even checked.
#[unsafe(no_mangle)]
static SOCKET_OFFSETS: SocketOffsets = SocketOffsets::UNKNOWN;

pub(crate) struct Identity {
    /// The cookie of its network namespace.
    pub(crate) netns: u64,
    pub(crate) owner: Owner,
}

/// Of the socket that connects or sends.
#[inline(always)]
pub(crate) fn identify(ctx: &SockAddr, protocol: Protocol) -> Identity {
    let offsets = offsets();
    if usually(protocol == Protocol::Tcp) && usually(offsets.are_known()) {
        // SAFETY: a socket from the context; the helper answers null for one that is not TCP.
        let socket = unsafe { bpf_skc_to_tcp_sock(ctx.socket().ptr().cast()) };
        if usually(!socket.is_null()) {
            return Identity {
                netns: netns_cookie(socket.cast(), &offsets),
                owner: follow(socket.cast(), &offsets).unwrap_or(Owner::NOBODY),
            };
        }
    }
    Identity {
        netns: ctx.netns_cookie(),
        owner: match protocol {
            Protocol::Udp => of_udp(ctx.socket()),
            Protocol::Tcp if offsets.are_known() => Owner::NOBODY,
            Protocol::Tcp => of_task(),
        },
    }
}

/// The owner of a UDP socket. A socket of the kernel itself has no file and is nobody's.
#[inline(always)]
pub(crate) fn of_udp(socket: Sock) -> Owner {
    let offsets = offsets();
    if rarely(!offsets.are_known()) {
        return of_task();
    }
    probe::follow(socket.ptr(), &offsets).unwrap_or(Owner::NOBODY)
}

#[inline(always)]
fn offsets() -> SocketOffsets {
    // SAFETY: an aligned static; volatile, because the loader replaces the value.
    unsafe { (&raw const SOCKET_OFFSETS).read_volatile() }
}

/// Without type information: the real user and group of the task.
#[inline(always)]
fn of_task() -> Owner {
    let ids = bpf_get_current_uid_gid();
    Owner {
        uid: ids as u32,
        gid: (ids >> 32) as u32,
    }
}

/// Whether the process that connects may be the proxy, where the proxy is told by its cgroup too.
#[inline(always)]
pub(crate) fn caller(policy: &Policy, features: Switches) -> Caller {
    if !policy.switches.among(features).has(Switches::PROXY_CGROUP) {
        return Caller::MayBeProxy;
    }
    let proxy = &policy.proxy_cgroup;
    // SAFETY: a helper that takes a number and returns one; 0 if there is no such level.
    if unsafe { bpf_get_current_ancestor_cgroup_id(proxy.level as i32) } == proxy.id {
        Caller::MayBeProxy
    } else {
        Caller::Application
    }
}

/// As `bpf_get_netns_cookie` tells it, without a call: by the same plain loads as below it takes some 20 ns
/// less of a connect. The kernel sets it when it makes the namespace (Linux 5.12, 3d368ab87cf6).
#[inline(always)]
fn netns_cookie(sock: *const u8, offsets: &SocketOffsets) -> u64 {
    let net = pointer(sock, offsets.sock_net).wrapping_add(offsets.net_cookie as usize);
    // SAFETY: a member of a structure that the verifier knows.
    unsafe { net.cast::<u64>().read_volatile() }
}

/// socket → `struct socket` → `struct file` → `struct cred` → the file system's user and group.
///
/// Plain loads: the verifier knows the type of the socket and follows it by the same offsets
/// (`btf_struct_access`, kernel/bpf/btf.c), and a load that faults reads 0 (`BPF_PROBE_MEM`). Four
/// calls of `bpf_probe_read_kernel` take about 100 ns more.
#[inline(always)]
fn follow(sock: *const u8, offsets: &SocketOffsets) -> Option<Owner> {
    // Below a null pointer everything reads as null.
    let socket = pointer(sock, offsets.sock_sk_socket);
    let file = pointer(socket, offsets.socket_file);
    let cred = pointer(file, offsets.file_f_cred);
    if rarely(cred.is_null()) {
        return None;
    }
    let ids = cred.wrapping_add(offsets.cred_fsuid as usize).cast::<u32>();
    // SAFETY: a member of a structure that the verifier knows; `fsgid` follows `fsuid`.
    let (uid, gid) = unsafe { (ids.read_volatile(), ids.wrapping_add(1).read_volatile()) };
    Some(Owner { uid, gid })
}

#[inline(always)]
fn pointer(base: *const u8, offset: u32) -> *const u8 {
    // SAFETY: a member of a structure that the verifier knows.
    unsafe {
        base.wrapping_add(offset as usize)
            .cast::<*const u8>()
            .read_volatile()
    }
}
