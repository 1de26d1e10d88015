//! What the programs are loaded for.
#![expect(unsafe_code, reason = "the loader finds a static by its name")]

use sidecar_ebpf_common::policy::Switches;

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

/// All that most pods have. The verifier removes branches, not what was computed for them; so what every
/// connection runs is there twice, once for these, of which the compiler knows. The verifier removes one.
pub(crate) const PLAIN: Switches = Switches::IPV6
    .with(Switches::OUTBOUND_ALL)
    .with(Switches::INBOUND_ALL)
    .with(Switches::INBOUND_PORTS)
    .with(Switches::IPV6_ROUTE)
    .with(Switches::SOURCES)
    .with(Switches::OWN_LISTED);

/// Whether there are no features but [`PLAIN`] ones.
#[inline(always)]
pub(crate) fn are_plain() -> bool {
    PLAIN.has(all())
}
