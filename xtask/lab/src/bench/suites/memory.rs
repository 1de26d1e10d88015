//! Kernel memory: of a pod in which nothing happens, and of a connection that stays open.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::times;
use crate::{
    Loader, Pod,
    bench::{
        Arm, Bench, Kind, Settings,
        holders::{Holders, free_ports},
        kernel::{self, Held},
        options::Only,
        record::{Plan, Quantity},
    },
    conformance::Installed,
    ip_inside,
};

/// Goes to all destinations, so that these are known.
const FIRST: u64 = 64;
/// The kernel frees much of what is given back a little later.
const SETTLE: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn run(plan: &Plan, bench: &mut Bench) -> Result<()> {
    if !bench.wants(Only::Memory) {
        return Ok(());
    }
    let (times, connections) = (times(plan, 2, 5), if plan.quick { 2_000 } else { 9_000 });
    let kinds = bench.kinds();
    bench.expect_steps(u64::from(times) * kinds.len() as u64);
    for _ in 0..times {
        for kind in &kinds {
            bench.step();
            bench.say(&format!("memory of {}", kind.name()));
            pod(bench, kind)?;
            open(bench, kind, connections)?;
        }
    }
    Ok(())
}

/// Only what makes the redirect: the pod itself is there before.
fn pod(bench: &mut Bench, kind: &Kind) -> Result<()> {
    let pod = Pod::new("memory")?;
    thread::sleep(SETTLE);
    let before = kernel::memory_in_use()?;
    // Held until the second look.
    let (loader, _rules) = match kind {
        Kind::Ours => {
            let netns = pod.netns_path();
            let netns = netns.to_str().context("a path that is no text")?;
            (Some(Loader::start(&pod, &["--netns", netns])?), None)
        }
        Kind::Rules(backend) => (None, Some(Installed::new(&pod, *backend, &[])?)),
        Kind::None | Kind::Path | Kind::EmptyPrograms | Kind::NeededCalls | Kind::Further(_) => {
            return Ok(());
        }
    };
    bench.mention(kind);
    thread::sleep(SETTLE);
    let growth = kernel::memory_in_use()? as f64 - before as f64;
    bench.find(&Quantity::PodMemoryGrowth, kind.name(), None, growth);
    if let Some(loader) = loader {
        let memory = Held::of(loader.pid())?.memory()?;
        bench.find(&Quantity::PodMemory, kind.name(), None, memory as f64);
    }
    Ok(())
}

/// What is kept for connections, at one moment.
struct Kept {
    by_redirect: u64,
    in_all: u64,
}

impl Kept {
    fn now(arm: &Arm) -> Result<Self> {
        let by_redirect = match (arm.kind(), arm.loader()) {
            (Kind::Rules(_), _) => {
                kernel::tracked(&arm.pod.netns_path())? * kernel::object_size("nf_conntrack")?
            }
            (_, Some(loader)) => {
                let tracked = kernel::tracked(&arm.pod.netns_path())?;
                ensure!(
                    tracked == 0,
                    "{} has conntrack follow connections",
                    arm.name
                );
                Held::of(loader.pid())?.map_memory()
            }
            (_, None) => 0,
        };
        Ok(Self {
            by_redirect,
            in_all: kernel::memory_in_use()?,
        })
    }
}

fn open(bench: &mut Bench, kind: &Kind, connections: u64) -> Result<()> {
    let mut arm = bench.start(kind, &Settings::default())?;
    free_ports(&arm)?;
    let mut holders = Holders::default();
    holders.grow(&arm, FIRST)?;
    await_addresses(&arm)?;
    thread::sleep(SETTLE);
    let before = Kept::now(&arm)?;
    holders.grow(&arm, FIRST + connections)?;
    ensure!(
        holders.opened == FIRST + connections && holders.failed == 0,
        "{}: {} connections came about, {} did not",
        arm.name,
        holders.opened,
        holders.failed
    );
    thread::sleep(SETTLE);
    let after = Kept::now(&arm)?;
    holders.prove(&mut arm, 0)?;
    let each = |before: u64, after: u64| (after as f64 - before as f64) / connections as f64;
    let kept = each(before.by_redirect, after.by_redirect);
    let grown = each(before.in_all, after.in_all);
    if !matches!(kind, Kind::Further(_)) {
        bench.find(&Quantity::ConnectionMemory, &arm.name, None, kept);
    }
    bench.find(&Quantity::ConnectionMemoryGrowth, &arm.name, None, grown);
    Ok(())
}

/// A new address takes a moment to become the pod's own, and then a place in a map.
fn await_addresses(arm: &Arm) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let tentative = ["-6", "address", "show", "tentative"];
    while !ip_inside(&arm.pod.netns_path(), tentative, "")?.is_empty() {
        ensure!(
            Instant::now() < deadline,
            "an address of {} stays tentative",
            arm.name
        );
        thread::sleep(SETTLE);
    }
    Ok(())
}
