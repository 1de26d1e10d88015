//! `/metrics` for Prometheus: what is exposed, and the small server that does it.

mod server;
mod text;

use sidecar_ebpf_common::{counter::Hook, maps::Listeners};

pub use self::{server::serve, text::encode};
use crate::{owner, snapshot::Snapshot};

/// Everything the metrics show, at the moment of one scrape.
#[derive(Clone, Debug)]
pub struct Sample {
    pub counters: Snapshot,
    /// The hooks that have a program attached.
    pub attached: Vec<Hook>,
    /// How many sockets of the proxy are known to listen, for each of its ports.
    pub listeners: Vec<(Listeners, u64)>,
    /// By which credentials connections are judged.
    pub owner: owner::Source,
    /// Destinations that have a number now.
    pub destinations: u64,
    /// Slots for destinations.
    pub destinations_max: u64,
    /// Numbers handed out so far.
    pub destination_numbers: u64,
    /// Addresses and prefixes known to be local to the pod.
    pub local_addresses: u64,
}
