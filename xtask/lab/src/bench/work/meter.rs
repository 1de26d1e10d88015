//! Times, latencies and processor time of one slice.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use nix::{
    sched::{CpuSet, sched_setaffinity},
    sys::{
        resource::{UsageWho, getrusage},
        time::TimeValLike as _,
    },
    unistd::Pid,
};

use super::order::{Accepted, Drive, Drove};

/// Latencies are kept to three digits, up to this many nanoseconds; what is longer counts as this.
const LONGEST: u64 = 60_000_000_000;

pub(super) struct Meter {
    latencies: Histogram<u64>,
    time: Duration,
    cpu: u64,
    start: Instant,
    last: Instant,
}

impl Meter {
    /// Goes to the processor, and begins.
    pub(super) fn start(drive: &Drive) -> Result<Self> {
        pin(drive.cpu)?;
        let latencies = Histogram::new_with_max(LONGEST, 3).context("making a histogram")?;
        let cpu = processor_time()?;
        let start = Instant::now();
        Ok(Self {
            latencies,
            time: drive.time,
            cpu,
            start,
            last: start,
        })
    }

    /// One more operation is done; whether there is time for another. The next one begins now.
    pub(super) fn next(&mut self) -> bool {
        let now = Instant::now();
        let latency = now - self.last;
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.latencies.saturating_record(nanos);
        self.last = now;
        now - self.start < self.time
    }

    /// Nothing is to be done any more for these operations.
    pub(super) fn end(self, connections: u64, accepted: Accepted) -> Result<Drove> {
        let elapsed = self.start.elapsed();
        let at = |quantile| self.latencies.value_at_quantile(quantile);
        Ok(Drove {
            operations: self.latencies.len(),
            connections,
            elapsed: u64::try_from(elapsed.as_nanos()).context("more than centuries")?,
            cpu: processor_time()? - self.cpu,
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            accepted,
        })
    }
}

/// User and system time of this process, in nanoseconds. The kernel's work on packets counts for
/// whoever it interrupts.
pub(super) fn processor_time() -> Result<u64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let time = usage.user_time() + usage.system_time();
    Ok(u64::try_from(time.num_microseconds())? * 1000)
}

pub(super) fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu).with_context(|| format!("processor {cpu}"))?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("pinning to processor {cpu}"))
}
