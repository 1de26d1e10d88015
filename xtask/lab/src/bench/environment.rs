//! Where a run is made.

use std::{collections::BTreeMap, env, fs, process::Command, thread};

use anyhow::{Context, Result};
use jiff::{Timestamp, Unit};
use nix::sys::utsname::uname;

use super::record::Environment;

/// Where the Envoy is that the benchmark uses.
const ENVOY: &str = "SIDECAR_ENVOY";
const CPUINFO: &str = "/proc/cpuinfo";
const MEMINFO: &str = "/proc/meminfo";
const STAT: &str = "/proc/stat";

/// What is compared or makes load, and how it tells its version.
const TOOLS: &[(&str, &str)] = &[
    ("iptables-legacy", "--version"),
    ("iptables-nft", "--version"),
    ("nft", "--version"),
    ("haproxy", "-v"),
    ("wrk", "-v"),
];

impl Environment {
    pub fn collect() -> Result<Self> {
        let now = Timestamp::now().round(Unit::Second).context("the date")?;
        let kernel = uname().context("asking for the kernel's release")?;
        let read = |path| fs::read_to_string(path).with_context(|| format!("reading {path}"));
        let cpus = thread::available_parallelism().context("counting processors")?;
        Ok(Self {
            date: now.to_string(),
            commit: commit(),
            kernel: kernel.release().to_string_lossy().into_owned(),
            cpu: cpu(&read(CPUINFO)?),
            cpus: u32::try_from(cpus.get()).context("counting processors")?,
            memory: memory(&read(MEMINFO)?).with_context(|| format!("no MemTotal in {MEMINFO}"))?,
            stolen: 0.0,
            tools: tools(),
        })
    }
}

/// Time of all processors since boot, in ticks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ProcessorTime {
    stolen: u64,
    all: u64,
}

impl ProcessorTime {
    pub(super) fn now() -> Result<Self> {
        let text = fs::read_to_string(STAT).with_context(|| format!("reading {STAT}"))?;
        Self::read(&text).with_context(|| format!("no line `cpu` as proc_stat(5) has it in {STAT}"))
    }

    /// user, nice, system, idle, iowait, irq, softirq, steal; what guests take is in the first two.
    fn read(stat: &str) -> Option<Self> {
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let ticks = line.split_whitespace().map(str::parse::<u64>);
        let ticks: Vec<u64> = ticks.take(8).collect::<Result<_, _>>().ok()?;
        Some(Self {
            stolen: *ticks.get(7)?,
            all: ticks.iter().sum(),
        })
    }

    /// The share of the time since then that was stolen.
    pub(super) fn stolen_since(self, earlier: Self) -> f64 {
        let all = self.all.saturating_sub(earlier.all).max(1);
        self.stolen.saturating_sub(earlier.stolen) as f64 / all as f64
    }
}

/// Of the tree that this was built from.
fn commit() -> String {
    let tree = env!("CARGO_MANIFEST_DIR");
    first_line("git", &["-C", tree, "describe", "--always", "--dirty"])
        .unwrap_or_else(|| "unknown".into())
}

fn cpu(cpuinfo: &str) -> String {
    // ARM has no model in words; it has the numbers of one.
    ["model name", "Model", "CPU part"]
        .into_iter()
        .find_map(|key| field(cpuinfo, key))
        .unwrap_or("unknown")
        .to_owned()
}

fn memory(meminfo: &str) -> Option<u64> {
    let kibibytes = field(meminfo, "MemTotal")?.strip_suffix(" kB")?;
    Some(kibibytes.trim().parse::<u64>().ok()? * 1024)
}

fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    let mut values = pairs.filter(|(name, _)| name.trim() == key);
    Some(values.next()?.1.trim())
}

/// Those that are there.
fn tools() -> Vec<(String, String)> {
    let mut found = BTreeMap::new();
    for &(tool, flag) in TOOLS {
        if let Some(line) = first_line(tool, &[flag]) {
            found.insert(tool.to_owned(), line);
        }
    }
    if let Some(envoy) = env::var_os(ENVOY).and_then(|path| path.into_string().ok())
        && let Some(line) = first_line(&envoy, &["--version"])
    {
        found.insert("envoy".into(), without(&line, &envoy));
    }
    found.into_iter().collect()
}

/// Envoy's version begins with the path it was started by, which is nobody's business.
fn without(line: &str, path: &str) -> String {
    line.replace(path, "").trim().to_owned()
}

/// The first line that a command has something on, whatever its exit code: `wrk -v` ends with 1.
fn first_line(command: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(command).args(arguments).output().ok()?;
    if command == "git" && !output.status.success() {
        return None;
    }
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let mut lines = text.lines().map(str::trim);
    lines.find(|line| !line.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine() {
        let here = Environment::collect().unwrap();
        assert!(
            here.date.ends_with('Z') && here.date.len() == 20,
            "{here:?}"
        );
        assert!(here.cpus > 0 && here.memory > 1 << 20, "{here:?}");
        assert!(here.kernel.starts_with(|c: char| c.is_ascii_digit()));
        assert!(!here.commit.is_empty() && !here.cpu.is_empty());
    }

    #[test]
    fn processors() {
        assert_eq!(
            cpu("processor\t: 0\nmodel name\t: A B\nmodel name\t: C\n"),
            "A B"
        );
        assert_eq!(cpu("processor\t: 0\nCPU part\t: 0xd0c\n"), "0xd0c");
        assert_eq!(cpu(""), "unknown");
    }

    #[test]
    fn kibibytes() {
        assert_eq!(
            memory("MemTotal:       16 kB\nMemFree: 1 kB\n"),
            Some(16384)
        );
        assert_eq!(memory("MemFree: 1 kB\n"), None);
    }

    #[test]
    fn stolen_time_is_a_share_of_all() {
        let read = |line: &str| ProcessorTime::read(&format!("{line}\ncpu0 1 1 1 1 1 1 1 1\n"));
        let earlier = read("cpu  10 0 10 70 0 0 0 10 5 0").unwrap();
        let later = read("cpu  40 0 10 100 0 0 10 40 35 0").unwrap();
        assert!((later.stolen_since(earlier) - 0.3).abs() < 1e-9);
        assert!(later.stolen_since(later).abs() < 1e-9);
        assert_eq!(read("cpu  1 2 3 4 5 6 7"), None);
        assert_eq!(ProcessorTime::read("intr 1"), None);
    }

    #[test]
    fn what_is_not_there_has_no_version() {
        assert_eq!(first_line("sidecar-no-such-tool", &["--version"]), None);
        assert_eq!(first_line("git", &["no-such-word"]), None);
    }
}
