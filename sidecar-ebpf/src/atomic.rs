//! Atomic additions. The BPF target of rustc says it has no atomic read-modify-write, so
//! `core::sync::atomic` offers none; the instruction set does (RFC 9669, section 5.3).
#![expect(unsafe_code, reason = "inline assembly")]

use core::arch::asm;

/// Adds one. Every kernel has this instruction.
///
/// # Safety
///
/// `value` must point to eight aligned bytes of a map value.
#[inline(always)]
pub(crate) unsafe fn increment(value: *mut u64) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("lock *(u64 *)({value} + 0) += {one}", value = in(reg) value, one = in(reg) 1_u64);
    }
}

/// Adds one and returns what was there before. Linux 5.12 on x86-64, 5.18 on arm64.
///
/// # Safety
///
/// `value` must point to eight aligned bytes of a map value.
#[inline(always)]
pub(crate) unsafe fn take_ticket(value: *mut u64) -> u64 {
    let mut ticket = 1_u64;
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "{ticket} = atomic_fetch_add((u64 *)({value} + 0), {ticket})",
            value = in(reg) value,
            ticket = inout(reg) ticket,
        );
    }
    ticket
}

/// Writes `new` if `expected` is there, and returns what was there. Same kernels as
/// [`take_ticket`].
///
/// # Safety
///
/// `value` must point to eight aligned bytes of a map value.
#[inline(always)]
pub(crate) unsafe fn compare_exchange(value: *mut u64, expected: u64, new: u64) -> u64 {
    let found: u64;
    // SAFETY: the caller's promise. The instruction compares with r0 and leaves what it found there.
    unsafe {
        asm!(
            "r0 = cmpxchg_64({value} + 0, r0, {new})",
            value = in(reg) value,
            new = in(reg) new,
            inout("r0") expected => found,
        );
    }
    found
}
