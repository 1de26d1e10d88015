//! What the programs are loaded for.
#![expect(unsafe_code, reason = "the loader finds a static by its name")]

use sidecar_ebpf_common::policy::{Policy, Switches};

/// The switches that may ever be on. Constant for the verifier, because the loader writes it before:
/// it removes the code of the others before it compiles the rest, so that they cost neither time,
/// memory nor a place in the processor's caches. (What a connection costs is mostly the fetching of
/// instructions, as TCP itself has displaced them since the last one.)
#[unsafe(no_mangle)]
static FEATURES: Switches = Switches::ALL;

#[inline(always)]
pub(crate) fn all() -> Switches {
    // SAFETY: an aligned static; volatile, because the loader replaces the value.
    unsafe { (&raw const FEATURES).read_volatile() }
}

/// Whether the switch is on.
#[inline(always)]
pub(crate) fn has(policy: &Policy, switch: Switches) -> bool {
    policy.switches.among(all()).has(switch)
}
