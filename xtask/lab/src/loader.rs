//! The program under test, from the outside: its process, what it says, its counters.

use std::{
    env,
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    counters::{Counters, http_get},
    pod::Pod,
    process::{Child, Line, Stream},
};

/// Names the binary to test.
pub const VARIABLE: &str = "SIDECAR_LOADER";

/// The verifier takes its time on a busy machine.
const READY_PATIENCE: Duration = Duration::from_secs(60);
const STOP_PATIENCE: Duration = Duration::from_secs(20);
const QUIET_PATIENCE: Duration = Duration::from_secs(10);

/// The loader's binary, as the environment names it.
pub fn binary() -> Result<PathBuf> {
    let path = env::var_os(VARIABLE).map(PathBuf::from).with_context(|| {
        format!("{VARIABLE} is not set; `cargo xtask test` builds the loader and sets it")
    })?;
    if !path.is_file() {
        bail!(
            "{VARIABLE} names {}, which is no file; build the loader first",
            path.display()
        );
    }
    Ok(path)
}

/// A running loader. Dropping it sends SIGTERM, and SIGKILL if that does not help.
#[derive(Debug)]
pub struct Loader {
    child: Child,
    metrics: SocketAddr,
}

impl Loader {
    /// Attaches to the pod, with these further arguments, and waits until it says it is ready.
    pub fn start(pod: &Pod, extra_args: &[&str]) -> Result<Self> {
        Self::start_on(&pod.cgroup(), extra_args)
    }

    /// The same with these variables in its environment.
    pub fn start_with_env(pod: &Pod, extra_args: &[&str], env: &[(&str, &str)]) -> Result<Self> {
        Self::begin(&pod.cgroup(), extra_args, env)
    }

    /// The same for any cgroup.
    pub fn start_on(cgroup: &Path, extra_args: &[&str]) -> Result<Self> {
        Self::begin(cgroup, extra_args, &[])
    }

    fn begin(cgroup: &Path, extra_args: &[&str], env: &[(&str, &str)]) -> Result<Self> {
        let mut command = Command::new(binary()?);
        command.arg("--cgroup").arg(cgroup);
        command.args(["--metrics-addr", "127.0.0.1:0", "--output", "json"]);
        command.args(extra_args).envs(env.iter().copied());
        let child = Child::spawn_gentle(command)?;
        let ready = wait_for_event(&child, "ready", READY_PATIENCE)?;
        let metrics = ready
            .get("metrics_addr")
            .and_then(Value::as_str)
            .with_context(|| format!("no metrics_addr in {ready}"))?
            .parse()
            .with_context(|| format!("the metrics_addr in {ready}"))?;
        Ok(Self { child, metrics })
    }

    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    pub fn metrics_addr(&self) -> SocketAddr {
        self.metrics
    }

    /// All counters, now.
    pub fn counters(&self) -> Result<Counters> {
        Counters::scrape(self.metrics).with_context(|| {
            format!(
                "asking the loader for its counters; it said:\n{}",
                self.child.transcript()
            )
        })
    }

    /// Whether `sock_ops` is attached: whether it takes the proxy to be about to listen.
    pub fn is_watching(&self) -> Result<bool> {
        Ok(self.gauge("program_attached{hook=\"sock_ops\"}")? > 0)
    }

    /// How many sockets of the proxy it knows that listen on this port: `outbound`, `inbound` or
    /// `dns`.
    pub fn listeners(&self, port: &str) -> Result<u64> {
        self.gauge(&format!("listeners{{port=\"{port}\"}}"))
    }

    fn gauge(&self, name: &str) -> Result<u64> {
        let metrics = http_get(self.metrics, "/metrics")?;
        let lines = metrics
            .lines()
            .filter_map(|line| line.strip_prefix("sidecar_ebpf_"));
        let value = lines.filter_map(|line| line.strip_prefix(name)).next();
        let value = value.with_context(|| format!("no metric {name}"))?;
        value
            .trim()
            .parse()
            .with_context(|| format!("the metric {name}"))
    }

    /// Waits until it knows the listeners of a proxy that takes both directions, and expects no
    /// more: only then does a connection cost what it costs in a pod where nothing changes.
    pub fn wait_until_quiet(&self) -> Result<()> {
        let deadline = Instant::now() + QUIET_PATIENCE;
        let is_quiet = || {
            let knows_both = self.listeners("outbound")? > 0 && self.listeners("inbound")? > 0;
            anyhow::Ok(knows_both && !self.is_watching()?)
        };
        while !is_quiet()? {
            ensure!(
                Instant::now() < deadline,
                "the loader still waits for listeners after {QUIET_PATIENCE:?}; it said:\n{}",
                self.child.transcript()
            );
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Everything it has said so far, log lines included.
    pub fn transcript(&self) -> String {
        self.child.transcript()
    }

    /// What it has written to stdout so far.
    pub fn events(&self) -> Vec<Value> {
        self.child.lines().iter().filter_map(read_event).collect()
    }

    /// Waits for an event of that name; finds one of the past, too.
    pub fn wait_for_event(&self, name: &str, timeout: Duration) -> Result<Value> {
        wait_for_event(&self.child, name, timeout)
    }

    /// Waits for a line on either stream.
    pub fn wait_for_line(&self, pattern: &str, timeout: Duration) -> Result<String> {
        self.child.wait_for_line(pattern, timeout)
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.child.signal(signal)
    }

    /// SIGTERM, and waits for it to detach and end.
    pub fn stop(&self) -> Result<ExitStatus> {
        self.child.signal(Signal::SIGTERM)?;
        self.child.wait(STOP_PATIENCE)
    }

    /// Waits for the end that something else brings about.
    pub fn wait(&self) -> Result<ExitStatus> {
        self.child.wait(STOP_PATIENCE)
    }
}

/// Starts the loader with exactly these arguments and does not wait for anything.
pub fn spawn<A: Into<OsString> + Clone>(args: &[A]) -> Result<Child> {
    let mut command = Command::new(binary()?);
    command.args(args.iter().cloned().map(Into::into));
    Child::spawn_gentle(command)
}

/// What became of a loader that ended by itself.
#[derive(Clone, Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// Runs the loader with exactly these arguments to its end: for what it refuses to do.
pub fn run(args: &[&str]) -> Result<Ended> {
    let output = Command::new(binary()?)
        .args(args)
        .output()
        .context("running the loader")?;
    Ok(Ended {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

fn wait_for_event(child: &Child, name: &str, timeout: Duration) -> Result<Value> {
    child
        .wait_for(timeout, |line| {
            read_event(line)
                .filter(|event| event.get("event").and_then(Value::as_str) == Some(name))
        })
        .with_context(|| format!("waiting for the loader's event {name:?}"))
}

/// The only place that knows the form of an event: a JSON object on a line of stdout.
fn read_event(line: &Line) -> Option<Value> {
    (line.from == Stream::Stdout)
        .then(|| serde_json::from_str(&line.text).ok())
        .flatten()
}
