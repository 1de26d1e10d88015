//! What the programs tell of the proxy's sockets: a ring buffer that can be waited for.

use std::future::pending;

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{MapData, RingBuf},
};
use sidecar_ebpf_common::{listen::Event, maps};
use tokio::io::unix::AsyncFd;

use crate::sys;

pub struct Events(AsyncFd<RingBuf<MapData>>);

impl Events {
    /// Within a tokio runtime.
    pub(crate) fn take(ebpf: &mut Ebpf) -> Result<Self> {
        let map = ebpf.take_map(maps::EVENTS);
        let map = map.with_context(|| format!("no map {}", maps::EVENTS))?;
        let ring = RingBuf::try_from(map).with_context(|| format!("map {}", maps::EVENTS))?;
        let ring = sys::wait_for_ring(ring).context("waiting for events of the programs")?;
        Ok(Self(ring))
    }

    /// Waits until there may be one.
    pub(crate) async fn arrived(&mut self) {
        match self.0.readable_mut().await {
            // Not until the next one: what is there now is drained before this is asked again.
            Ok(mut guard) => guard.clear_ready(),
            // The runtime ends.
            Err(_) => pending().await,
        }
    }

    /// Those that have come.
    pub(crate) fn drain(&mut self) -> Vec<Event> {
        let ring = self.0.get_mut();
        let mut events = Vec::new();
        while let Some(entry) = ring.next() {
            events.extend(Event::read(&entry));
        }
        events
    }
}
