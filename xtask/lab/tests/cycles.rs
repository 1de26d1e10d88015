//! Attaching and detaching leaves nothing behind, however often.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test, and its measurement"
)]

use std::{
    collections::BTreeSet,
    fmt::Debug,
    fs,
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
const ATTACH_SLACK_KIB: u64 = 4 * 1024;
/// A load reads the kernel's type information, some 9 MiB; now and then a second buffer of that size
/// stays with the allocator, after 200 loads as after 50. A leak of a map or of the object comes
/// with each load.
const LOAD_SLACK_KIB: u64 = 14 * 1024;

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

/// What this process holds.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    programs: BTreeSet<u32>,
    maps: BTreeSet<u32>,
    files: usize,
    threads: usize,
}

impl Held {
    fn now() -> Self {
        let (mut programs, mut maps) = (BTreeSet::new(), BTreeSet::new());
        for file in fs::read_dir("/proc/self/fdinfo").unwrap().flatten() {
            // The listing's own descriptor is gone by now.
            let text = fs::read_to_string(file.path()).unwrap_or_default();
            let id = |name: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(name))?;
                line.trim().parse::<u32>().ok()
            };
            programs.extend(id("prog_id:"));
            maps.extend(id("map_id:"));
        }
        Self {
            programs,
            maps,
            files: entries("/proc/self/fd"),
            threads: entries("/proc/self/task"),
        }
    }
}

/// What is left in the kernel of the programs and maps with these ids, whoever holds it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Left {
    programs: usize,
    maps: usize,
    links: usize,
}

impl Left {
    fn of(programs: &BTreeSet<u32>, maps: &BTreeSet<u32>) -> Self {
        // What vanishes while it is listed is not left.
        let ours = |id: u32| programs.contains(&id);
        Self {
            programs: loaded_programs()
                .flatten()
                .filter(|info| ours(info.id()))
                .count(),
            maps: loaded_maps()
                .flatten()
                .filter(|info| maps.contains(&info.id()))
                .count(),
            links: loaded_links()
                .flatten()
                .filter(|info| ours(info.program_id()))
                .count(),
        }
    }
}

fn entries(dir: &str) -> usize {
    fs::read_dir(dir).unwrap().count()
}

fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The kernel frees programs and maps some time after the last descriptor is closed.
async fn becomes<T: PartialEq + Debug>(look: impl Fn() -> T, expected: T) {
    let start = Instant::now();
    loop {
        let now = look();
        if now == expected {
            return;
        }
        assert!(
            start.elapsed() < PATIENCE,
            "{now:?} after the cycles, expected {expected:?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn ten_thousand_cycles_leak_nothing() {
    let pod = Pod::new("cycles").unwrap();
    let mut redirect = load(&pod);
    for _ in 0..100 {
        cycle(&mut redirect, &pod).await;
    }
    let (before, memory) = at_rest().await;
    let start = Instant::now();
    for _ in 0..ATTACH_CYCLES {
        cycle(&mut redirect, &pod).await;
    }
    let each = start.elapsed().as_secs_f64() * 1e3 / f64::from(ATTACH_CYCLES);
    println!("{each:.2} ms to attach and detach");
    let (programs, maps) = (before.programs.clone(), before.maps.clone());
    assert!(!programs.is_empty() && !maps.is_empty(), "{before:?}");
    let loaded = Left {
        programs: programs.len(),
        maps: maps.len(),
        links: 0,
    };
    becomes(|| Left::of(&programs, &maps), loaded).await;
    becomes(Held::now, before).await;
    assert_memory(memory, ATTACH_CYCLES, ATTACH_SLACK_KIB);
}

#[tokio::test]
async fn loading_again_and_again_leaks_nothing() {
    let pod = Pod::new("loads").unwrap();
    // The allocator keeps what the first loads needed.
    for _ in 0..5 {
        cycle(&mut load(&pod), &pod).await;
    }
    let (before, memory) = at_rest().await;
    let (mut programs, mut maps) = (BTreeSet::new(), BTreeSet::new());
    let start = Instant::now();
    for _ in 0..LOAD_CYCLES {
        let mut redirect = load(&pod);
        let held = Held::now();
        programs.extend(held.programs);
        maps.extend(held.maps);
        cycle(&mut redirect, &pod).await;
    }
    let each = start.elapsed().as_secs_f64() * 1e3 / f64::from(LOAD_CYCLES);
    println!("{each:.0} ms to load, attach, detach and unload");
    assert!(programs.len() >= LOAD_CYCLES as usize, "{programs:?}");
    becomes(|| Left::of(&programs, &maps), Left::default()).await;
    becomes(Held::now, before).await;
    assert_memory(memory, LOAD_CYCLES, LOAD_SLACK_KIB);
}

/// What is held, and resident, once the tasks that were ended have closed their sockets.
async fn at_rest() -> (Held, u64) {
    tokio::time::sleep(Duration::from_millis(500)).await;
    (Held::now(), resident_kib())
}

fn assert_memory(before: u64, cycles: u32, slack: u64) {
    let grown = resident_kib().saturating_sub(before);
    println!("{grown} KiB more resident");
    assert!(
        grown < slack,
        "{grown} KiB more resident after {cycles} cycles"
    );
}
