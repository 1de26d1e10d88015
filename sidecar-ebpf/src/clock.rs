//! The time, to a second or so.
#![expect(
    unsafe_code,
    reason = "a helper, and the loader finds a static by its name"
)]

use aya_ebpf::helpers::generated::bpf_jiffies64;
use sidecar_ebpf_common::number::Tick;

/// How many nanoseconds a jiffy is. The loader asks the kernel.
#[unsafe(no_mangle)]
static JIFFY: u64 = 4_000_000;

/// The verifier puts a load in place of this helper (`do_misc_fixups`, kernel/bpf/verifier.c); one that
/// tells nanoseconds is a call, which reads the timekeeper under its sequence lock.
#[inline(always)]
pub(crate) fn now() -> Tick {
    // SAFETY: a helper without arguments; an aligned static, volatile because the loader replaces it.
    let (jiffies, jiffy) = unsafe { (bpf_jiffies64(), (&raw const JIFFY).read_volatile()) };
    Tick::from_nanos(jiffies.wrapping_mul(jiffy))
}
