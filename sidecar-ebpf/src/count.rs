//! The one place that counts.

use sidecar_ebpf_common::counter::Counter;

use crate::maps;

/// Adds one. The map is per CPU, and the addition is atomic all the same: on a preemptible kernel
/// two tasks may run the same program on one CPU in turn.
#[inline(always)]
pub(crate) fn count(counter: Counter) {
    maps::increment(counter.index());
}
