//! Who owns a socket: the credentials its file was made with, as iptables' owner match sees them
//! (`owner_mt`, net/netfilter/xt_owner.c: `sk->sk_socket->file->f_cred`), not those of the task that
//! connects.
#![expect(unsafe_code, reason = "follows pointers of the kernel")]

use aya_ebpf::helpers::{
    bpf_get_current_uid_gid,
    generated::{bpf_get_current_ancestor_cgroup_id, bpf_skc_to_tcp_sock},
};
use sidecar_ebpf_common::{
    facts::{Caller, Owner, Protocol},
    owner::CredentialOffsets,
    policy::{Policy, Switches},
    usual::rarely,
};

use crate::{ctx::Sock, probe};

/// Where the kernel keeps them; the loader finds out from the kernel's type information. Constant
/// for the verifier, so the branch that is not taken is not even checked.
#[unsafe(no_mangle)]
static CREDENTIAL_OFFSETS: CredentialOffsets = CredentialOffsets::UNKNOWN;

/// The owner of the socket that connects or sends. Without type information the real user and group
/// of the task. A socket of the kernel itself has no file and is nobody's.
#[inline(always)]
pub(crate) fn of(socket: Sock, protocol: Protocol) -> Owner {
    // SAFETY: an aligned static; volatile, because the loader replaces the value.
    let offsets = unsafe { (&raw const CREDENTIAL_OFFSETS).read_volatile() };
    if rarely(!offsets.are_known()) {
        let ids = bpf_get_current_uid_gid();
        return Owner {
            uid: ids as u32,
            gid: (ids >> 32) as u32,
        };
    }
    let socket = socket.ptr();
    if rarely(protocol == Protocol::Udp) {
        return probe::follow(socket, &offsets).unwrap_or(Owner::NOBODY);
    }
    // SAFETY: a socket from the context; the helper answers null for one that is not TCP.
    let socket = unsafe { bpf_skc_to_tcp_sock(socket.cast()) };
    if rarely(socket.is_null()) {
        return Owner::NOBODY;
    }
    follow(socket.cast(), &offsets).unwrap_or(Owner::NOBODY)
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

/// socket → `struct socket` → `struct file` → `struct cred` → the file system's user and group.
///
/// Plain loads: the verifier knows the type of the socket and follows it by the same offsets
/// (`btf_struct_access`, kernel/bpf/btf.c), and a load that faults reads 0 (`BPF_PROBE_MEM`). Four
/// calls of `bpf_probe_read_kernel` take about 100 ns more.
#[inline(always)]
fn follow(sock: *const u8, offsets: &CredentialOffsets) -> Option<Owner> {
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
