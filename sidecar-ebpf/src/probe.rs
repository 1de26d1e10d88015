//! The owner of a UDP socket. The kernel has no helper that gives the verifier the type of one
//! (`bpf_skc_to_udp6_sock` takes IPv6 only), so the pointers are followed by hand.
#![expect(unsafe_code, reason = "follows pointers of the kernel")]

use aya_ebpf::{bindings::bpf_sock, helpers::generated::bpf_probe_read_kernel};
use sidecar_ebpf_common::{facts::Owner, owner::SocketOffsets};

/// socket → `struct socket` → `struct file` → `struct cred` → the file system's user and group.
#[inline(always)]
pub(crate) fn follow(sock: *const bpf_sock, offsets: &SocketOffsets) -> Option<Owner> {
    // The verifier allows no arithmetic on a socket's pointer. A copy of it is a number.
    let sock: u64 = read(&raw const sock as u64)?;
    let socket = pointer(sock, offsets.sock_sk_socket)?;
    let file = pointer(socket, offsets.socket_file)?;
    let cred = pointer(file, offsets.file_f_cred)?;
    // `fsgid` follows `fsuid`.
    let [uid, gid]: [u32; 2] = read(cred + u64::from(offsets.cred_fsuid))?;
    Some(Owner { uid, gid })
}

#[inline(always)]
fn pointer(base: u64, offset: u32) -> Option<u64> {
    read(base + u64::from(offset)).filter(|&found| found != 0)
}

/// What lies there; `None` if nothing does. For types of which every bit pattern is a value.
#[inline(always)]
fn read<T: Default>(from: u64) -> Option<T> {
    let mut value = T::default();
    // SAFETY: the helper fails on an address that cannot be read; `value` has the size that is said.
    let status = unsafe {
        bpf_probe_read_kernel(
            (&raw mut value).cast(),
            size_of::<T>() as u32,
            from as *const core::ffi::c_void,
        )
    };
    (status == 0).then_some(value)
}
