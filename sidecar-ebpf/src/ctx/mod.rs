//! Reads and writes of the kernel's context structures.
//!
//! Each field access is volatile and on its own: LLVM otherwise merges neighbouring ones or moves
//! them past a pointer adjustment, and the verifier then refuses the program ("invalid bpf_context
//! access", "dereference of modified ctx ptr"; `is_valid_access` of each program type in
//! net/core/filter.c allows the exact field at its exact width only).

mod bind;
mod datagram;
mod sk_lookup;
mod sock;
mod sock_addr;
mod sock_ops;
mod sockopt;

pub(crate) use self::{
    sk_lookup::{Ends, SkLookup},
    sock::Sock,
    sock_addr::SockAddr,
    sock_ops::SockOps,
    sockopt::Sockopt,
};

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;
/// An accepted MPTCP socket, of which `IPPROTO_TCP` are the subflows (include/uapi/linux/in.h).
const IPPROTO_MPTCP: u32 = 262;

/// Reads one field of a structure behind a raw pointer.
macro_rules! field {
    ($ptr:expr, $($field:tt)+) => {
        (&raw const (*$ptr).$($field)+).read_volatile()
    };
}
use field;

/// Reads four neighbouring words one by one.
macro_rules! words {
    ($ptr:expr, $($field:tt)+) => {[
        (&raw const (*$ptr).$($field)+[0]).read_volatile(),
        (&raw const (*$ptr).$($field)+[1]).read_volatile(),
        (&raw const (*$ptr).$($field)+[2]).read_volatile(),
        (&raw const (*$ptr).$($field)+[3]).read_volatile(),
    ]};
}
use words;
