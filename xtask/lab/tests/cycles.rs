//! Attaching and detaching leaves nothing behind, however often.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test, and its measurement"
)]

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use aya::{
    maps::loaded_maps,
    programs::{loaded_links, loaded_programs},
};
use clap::Parser as _;
use sidecar_lab::Pod;
use sidecar_loader::{
    cgroup::Cgroup,
    cli::{self, Cli},
    config::Config,
    netns::Netns,
    redirect::{Cgroups, Redirect},
};

const ATTACH_CYCLES: u32 = 10_000;
const LOAD_CYCLES: u32 = 50;
const PATIENCE: Duration = Duration::from_secs(30);
/// What the allocator may keep, however many cycles there were.
const MEMORY_SLACK_KIB: u64 = 4 * 1024;

fn load(pod: &Pod) -> Redirect {
    let cgroup = pod.cgroup();
    let cli = Cli::try_parse_from([
        "loader",
        "--cgroup",
        cgroup.to_str().unwrap(),
        "--dual-stack",
    ]);
    let cli = cli.unwrap();
    let config = Config::resolve(&cli.istio, &cli.unsupported, &cli.ring, &|_| None).unwrap();
    let pod = Cgroup::open("--cgroup", &cgroup).unwrap();
    Redirect::load(config, Cgroups { pod, proxy: None }, 0).unwrap()
}

async fn cycle(redirect: &mut Redirect, pod: &Pod) {
    let netns = Netns::open(&cli::Netns::Path(pod.netns_path().to_owned())).unwrap();
    redirect.attach(netns).await.unwrap();
    redirect.detach().await.unwrap();
}

/// Everything that could leak.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    programs: usize,
    maps: usize,
    links: usize,
    files: usize,
    threads: usize,
}

impl Held {
    fn now() -> Self {
        Self {
            programs: loaded_programs().count(),
            maps: loaded_maps().count(),
            links: loaded_links().count(),
            files: entries("/proc/self/fd"),
            threads: entries("/proc/self/task"),
        }
    }
}

fn entries(dir: &str) -> usize {
    fs::read_dir(dir).unwrap().count()
}

fn resident_kib() -> u64 {
    let status = fs::read_to_string(Path::new("/proc/self/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The kernel frees maps and programs some time after the last descriptor is closed: waits until
/// nothing changes any more.
async fn at_rest() -> Held {
    let mut last = Held::now();
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = Held::now();
        if now == last {
            return now;
        }
        last = now;
    }
}

/// Other programs on the machine come and go, so what is left must be gone within a while.
async fn settles_at(expected: &Held) {
    let start = Instant::now();
    loop {
        let now = at_rest().await;
        if now == *expected {
            return;
        }
        assert!(
            start.elapsed() < PATIENCE,
            "{now:?} after the cycles, {expected:?} before"
        );
    }
}

#[tokio::test]
async fn ten_thousand_cycles_leak_nothing() {
    let pod = Pod::new("cycles").unwrap();
    let mut redirect = load(&pod);
    for _ in 0..100 {
        cycle(&mut redirect, &pod).await;
    }
    let (before, memory) = (at_rest().await, resident_kib());
    let start = Instant::now();
    for _ in 0..ATTACH_CYCLES {
        cycle(&mut redirect, &pod).await;
    }
    println!(
        "{:.2} ms to attach and detach",
        start.elapsed().as_secs_f64() * 1e3 / f64::from(ATTACH_CYCLES)
    );
    settles_at(&before).await;
    let grown = resident_kib().saturating_sub(memory);
    assert!(
        grown < MEMORY_SLACK_KIB,
        "{grown} KiB more resident after {ATTACH_CYCLES} cycles"
    );
}

#[tokio::test]
async fn loading_again_and_again_leaks_nothing() {
    let pod = Pod::new("loads").unwrap();
    drop(load(&pod));
    let (before, memory) = (at_rest().await, resident_kib());
    let start = Instant::now();
    for _ in 0..LOAD_CYCLES {
        let mut redirect = load(&pod);
        cycle(&mut redirect, &pod).await;
    }
    println!(
        "{:.0} ms to load, attach, detach and unload",
        start.elapsed().as_secs_f64() * 1e3 / f64::from(LOAD_CYCLES)
    );
    settles_at(&before).await;
    let grown = resident_kib().saturating_sub(memory);
    assert!(
        grown < MEMORY_SLACK_KIB,
        "{grown} KiB more resident after {LOAD_CYCLES} loads"
    );
}
