//! The compiled eBPF programs, as `build.rs` found them.

/// The object file, aligned as the ELF parser wants it.
#[cfg(feature = "ebpf")]
pub(crate) static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("SIDECAR_EBPF_OBJECT"));
/// Without the feature there is no binary either, only the parts that need no kernel.
#[cfg(not(feature = "ebpf"))]
pub(crate) static OBJECT: &[u8] = &[];
