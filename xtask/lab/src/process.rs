//! Processes and where they run.

use std::{
    env,
    ffi::{OsStr, OsString},
    io::Write,
    os::fd::OwnedFd,
    path::PathBuf,
    process::{self, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

pub use crate::transcript::{Line, Stream};
use crate::{cleanup::Cleanup, transcript::Transcript};

/// How long a process may take to follow a SIGTERM.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// How often a process is asked whether it has ended.
const POLL: Duration = Duration::from_millis(5);

/// Where a process runs. What is `None` is inherited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    pub netns: Option<PathBuf>,
    pub cgroup: Option<PathBuf>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

impl Placement {
    pub fn new(netns: PathBuf, cgroup: PathBuf) -> Self {
        Self {
            netns: Some(netns),
            cgroup: Some(cgroup),
            uid: None,
            gid: None,
        }
    }

    /// The same place under another user and group, without supplementary groups.
    pub fn user(self, uid: u32, gid: u32) -> Self {
        Self {
            uid: Some(uid),
            gid: Some(gid),
            ..self
        }
    }

    /// The same place in another cgroup.
    pub fn in_cgroup(self, cgroup: PathBuf) -> Self {
        Self {
            cgroup: Some(cgroup),
            ..self
        }
    }

    /// A command that starts the program there: `lab-exec` goes to the place and becomes it.
    pub fn command<A: AsRef<OsStr>>(
        &self,
        program_to_run: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = A>,
    ) -> Result<Command> {
        let mut command = Command::new(program("lab-exec")?);
        let mut option = |name: &str, value: Option<OsString>| {
            if let Some(value) = value {
                command.arg(name).arg(value);
            }
        };
        option("--netns", self.netns.clone().map(Into::into));
        option("--cgroup", self.cgroup.clone().map(Into::into));
        option("--uid", self.uid.map(|uid| uid.to_string().into()));
        option("--gid", self.gid.map(|gid| gid.to_string().into()));
        command.arg("--").arg(program_to_run).args(args);
        Ok(command)
    }

    /// Starts the program there; the guard ends it.
    pub fn spawn<A: AsRef<OsStr>>(
        &self,
        program: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = A>,
    ) -> Result<Child> {
        Child::spawn(self.command(program, args)?)
    }

    /// Starts a program whose stdin and stdout the caller keeps; only stderr is captured.
    pub(crate) fn spawn_dialog(
        &self,
        program: PathBuf,
    ) -> Result<(Child, ChildStdin, ChildStdout)> {
        let mut command = self.command(program, [] as [&str; 0])?;
        command.stdin(Stdio::piped());
        let mut process = start(command)?;
        let stdin = process.stdin.take().context("its stdin is not piped")?;
        let stdout = process.stdout.take().context("its stdout is not piped")?;
        Ok((Child::guard(process, Farewell::Kill), stdin, stdout))
    }

    /// The same with this as its stdin.
    pub(crate) fn spawn_on(
        &self,
        program: PathBuf,
        stdin: OwnedFd,
    ) -> Result<(Child, ChildStdout)> {
        let mut command = self.command(program, [] as [&str; 0])?;
        command.stdin(Stdio::from(stdin));
        let mut process = start(command)?;
        let stdout = process.stdout.take().context("its stdout is not piped")?;
        Ok((Child::guard(process, Farewell::Kill), stdout))
    }
}

/// Finds a program of this workspace: where Cargo says, else beside this program or one level up,
/// for tests live in `deps`.
pub fn program(name: &str) -> Result<PathBuf> {
    if let Some(path) = env::var_os(format!("CARGO_BIN_EXE_{name}")) {
        return Ok(path.into());
    }
    let own = env::current_exe().context("finding this program's own path")?;
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join(name))
        .find(|path| path.exists())
        .with_context(|| {
            format!(
                "no {name} beside {}; build it: cargo build -p sidecar-lab",
                own.display()
            )
        })
}

/// Runs a program to its end with that stdin, and returns its stdout.
pub fn run<A: AsRef<OsStr>>(
    program: &str,
    args: impl IntoIterator<Item = A>,
    stdin: &str,
) -> Result<String> {
    let mut command = Command::new(program);
    command.args(args);
    run_command(command, stdin)
}

/// Runs a prepared command to its end with that stdin, and returns its stdout.
pub fn run_command(mut command: Command, stdin: &str) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::piped());
    let mut process = start(command)?;
    if let Some(mut pipe) = process.stdin.take() {
        // Short enough for the pipe; a program that does not read it says why on stderr.
        let _ = pipe.write_all(stdin.as_bytes());
    }
    let output = process
        .wait_with_output()
        .with_context(|| format!("waiting for {name}"))?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{name} ended with {}: {}",
        output.status,
        words.trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn start(mut command: Command) -> Result<process::Child> {
    let name = command.get_program().to_string_lossy().into_owned();
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {name} (is it installed?)"))
}

/// How a guard ends its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Farewell {
    Kill,
    TermThenKill,
}

/// A running process. Dropping it kills and reaps it; if that happens in a panic, what it said
/// is printed.
#[derive(Debug)]
pub struct Child {
    process: Arc<Mutex<process::Child>>,
    pid: u32,
    transcript: Arc<Transcript>,
    _cleanup: Cleanup,
}

impl Child {
    /// Starts a command and captures what it writes.
    pub fn spawn(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::null());
        Ok(Self::guard(start(command)?, Farewell::Kill))
    }

    /// The same for a program that has to tidy up: its guard sends SIGTERM and waits before it
    /// kills.
    pub fn spawn_gentle(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::null());
        Ok(Self::guard(start(command)?, Farewell::TermThenKill))
    }

    fn guard(mut process: process::Child, farewell: Farewell) -> Self {
        let pid = process.id();
        let transcript = Arc::new(Transcript::default());
        if let Some(stdout) = process.stdout.take() {
            transcript.follow(Stream::Stdout, stdout);
        }
        if let Some(stderr) = process.stderr.take() {
            transcript.follow(Stream::Stderr, stderr);
        }
        let process = Arc::new(Mutex::new(process));
        let cleanup = Cleanup::register({
            let process = process.clone();
            move || {
                let mut process = lock(&process);
                if farewell == Farewell::TermThenKill {
                    ask_to_end(&mut process);
                }
                // Both fail only for a process that has been reaped.
                let _ = process.kill();
                let _ = process.wait();
            }
        });
        Self {
            process,
            pid,
            transcript,
            _cleanup: cleanup,
        }
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    pub fn is_alive(&self) -> Result<bool> {
        Ok(self.try_wait()?.is_none())
    }

    /// Everything written so far, by line.
    pub fn lines(&self) -> Vec<Line> {
        self.transcript.lines()
    }

    /// Everything written so far, as one text.
    pub fn transcript(&self) -> String {
        self.transcript.text()
    }

    /// Waits until a line, on either stream, contains the pattern; looks at past lines first.
    pub fn wait_for_line(&self, pattern: &str, timeout: Duration) -> Result<String> {
        self.wait_for(timeout, |line| {
            line.text.contains(pattern).then(|| line.text.clone())
        })
        .with_context(|| format!("waiting for a line with {pattern:?}"))
    }

    /// Waits until the closure finds what it wants in a line; looks at past lines first.
    pub fn wait_for<T>(
        &self,
        timeout: Duration,
        find: impl FnMut(&Line) -> Option<T>,
    ) -> Result<T> {
        self.transcript
            .wait_for(timeout, find)
            .with_context(|| format!("listening to process {}", self.pid))
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        send_signal(&mut lock(&self.process), signal)
    }

    /// Waits for the end of the process, and for the last line it wrote.
    pub fn wait(&self, timeout: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.try_wait()? {
                self.transcript.settle();
                return Ok(status);
            }
            ensure!(
                Instant::now() < deadline,
                "process {} has not ended within {timeout:?}; it said:\n{}",
                self.pid,
                self.transcript()
            );
            thread::sleep(POLL);
        }
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(&self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait(STOP_PATIENCE)
    }

    fn try_wait(&self) -> Result<Option<ExitStatus>> {
        lock(&self.process)
            .try_wait()
            .with_context(|| format!("asking after {}", self.pid))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("process {} said:\n{}", self.pid, self.transcript());
        }
    }
}

/// Does nothing when the process has ended. The exclusive borrow keeps others from reaping it in
/// between, so the pid is still its own.
fn send_signal(process: &mut process::Child, signal: Signal) -> Result<()> {
    if process
        .try_wait()
        .context("asking after a process")?
        .is_none()
    {
        let pid = Pid::from_raw(i32::try_from(process.id()).context("a pid above i32::MAX")?);
        kill(pid, signal).with_context(|| format!("sending {signal} to {pid}"))?;
    }
    Ok(())
}

fn ask_to_end(process: &mut process::Child) {
    let deadline = Instant::now() + STOP_PATIENCE;
    if send_signal(process, Signal::SIGTERM).is_ok() {
        while matches!(process.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(POLL);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
