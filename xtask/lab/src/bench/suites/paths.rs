//! The kernel's own path, without a real proxy: connections, round trips and bulk data, both ways,
//! on one processor and on two.

use anyhow::Result;

use crate::bench::{
    Bench, Kind, Settings,
    options::Only,
    processors,
    record::{Case, Cpus, Direction, Plan, Work},
};

const WORK: [Work; 4] = [
    Work::Connect,
    Work::RoundTrip { bytes: 1 },
    Work::RoundTrip { bytes: 1024 },
    Work::Bulk,
];

pub(super) fn run(plan: &Plan, bench: &mut Bench) -> Result<()> {
    let cases: Vec<Case> = all()
        .filter(|case| Only::of(case.work).is_some_and(|part| bench.wants(part)))
        .collect();
    if cases.is_empty() {
        return Ok(());
    }
    // Better now than in the middle of the first round.
    processors(Cpus::Two)?;
    let mut kinds = bench.kinds();
    if bench.wants(Only::Connect) {
        kinds.extend([Kind::Path, Kind::EmptyPrograms, Kind::NeededCalls]);
    }
    let mut arms = Vec::new();
    for pod in 0..plan.pods {
        for kind in &kinds {
            // Commands of others may not bear to be run twice.
            if pod == 0 || !matches!(kind, Kind::Further(_)) {
                arms.push(bench.start(kind, &Settings::default())?);
            }
        }
    }
    bench.interleave(plan.into(), &cases, &mut arms)
}

fn all() -> impl Iterator<Item = Case> {
    WORK.into_iter().flat_map(|work| {
        let both = [Direction::Outbound, Direction::Inbound];
        both.into_iter().flat_map(move |direction| {
            [Cpus::One, Cpus::Two].map(|cpus| Case {
                work,
                direction,
                cpus,
                at: None,
            })
        })
    })
}
