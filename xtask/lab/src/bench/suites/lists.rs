//! Connects of a pod with long lists: excluded ranges and excluded ports, none of which matches.

use anyhow::Result;

use super::{CONNECT, sweep};
use crate::bench::{
    Arm, Bench, Kind, Settings,
    options::Only,
    record::{Plan, Point, Sweep},
};

const RANGES: [u64; 5] = [1, 10, 100, 1_000, 10_000];
const PORTS: [u64; 3] = [1, 10, 100];

pub(super) fn run(plan: &Plan, bench: &mut Bench) -> Result<()> {
    if !bench.wants(Only::Lists) {
        return Ok(());
    }
    let (ranges, ports) = if plan.quick {
        (vec![1, 10_000], vec![1, 100])
    } else {
        (RANGES.to_vec(), PORTS.to_vec())
    };
    go(plan, bench, Sweep::ExcludedRanges, &ranges)?;
    go(plan, bench, Sweep::ExcludedPorts, &ports)
}

/// All points are there at once, so that each round compares all of them.
fn go(plan: &Plan, bench: &mut Bench, sweep_: Sweep, values: &[u64]) -> Result<()> {
    let mut arms: Vec<Arm> = Vec::new();
    for &value in values {
        let settings = Settings {
            flags: vec![flag(sweep_, value)],
            at: Some(Point {
                sweep: sweep_,
                value,
            }),
            ..Settings::default()
        };
        for kind in bench.kinds() {
            // Others have no such settings.
            if !matches!(kind, Kind::Further(_)) {
                arms.push(bench.start(&kind, &settings)?);
            }
        }
    }
    bench.interleave(sweep(plan), &[CONNECT], &mut arms)
}

fn flag(sweep: Sweep, value: u64) -> String {
    let (name, items) = match sweep {
        Sweep::ExcludedPorts => (
            "istio-local-outbound-ports-exclude",
            (0..value).map(|n| (20_000 + n).to_string()).collect(),
        ),
        Sweep::ExcludedRanges | Sweep::OpenConnections | Sweep::TrackingRoom => {
            ("istio-service-exclude-cidr", ranges(value))
        }
    };
    format!("--{name}={}", items.join(","))
}

/// Ranges of which none holds a service of the benchmark, the nearest ones first. So many as short
/// as one argument of a program must be (128 KiB).
fn ranges(count: u64) -> Vec<String> {
    // Beside the services: what looks an address up has to go far for these.
    let near = (1..=1_000).map(|n| format!("10.96.{}.{}/31", 1 + n / 128, n % 128 * 2));
    let far = [17, 18, 19, 20].into_iter().flat_map(|length| {
        (1..10).flat_map(move |first| {
            (0..256).map(move |second| format!("{first}.{second}.0.0/{length}"))
        })
    });
    near.chain(far).take(count as usize).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ten_thousand_ranges_fit_into_one_argument() {
        let all = ranges(10_000);
        assert_eq!(all.len(), 10_000);
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 10_000);
        let flag = flag(Sweep::ExcludedRanges, 10_000);
        assert!(flag.len() < 128 << 10, "{}", flag.len());
    }
}
