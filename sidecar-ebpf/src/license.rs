//! The licence the kernel is told: some helpers are for GPL-compatible programs only.
#![expect(unsafe_code, reason = "the kernel finds the licence by its section")]

// SAFETY: nothing else in the object uses this section or name.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
