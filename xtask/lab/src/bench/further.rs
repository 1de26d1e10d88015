//! Further arms, from a file: what others load and attach, beside ours.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use super::{
    arm::{INBOUND_PORT, OUTBOUND_PORT},
    kind::Kind,
    record::Direction,
};
use crate::{
    cleanup::Cleanup,
    conformance::Redirected,
    pod::{APP_ID, POD_IP, PROXY_ID, Pod},
    process::{Child, run_command},
};

/// One entry of the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Further {
    pub name: String,
    pub description: String,
    /// Makes the redirect; it works when these commands have ended.
    #[serde(default)]
    setup: Vec<String>,
    /// A command that makes it and stays: SIGTERM ends it.
    run: Option<String>,
    /// A line of `run` that says that the redirect works.
    ready: Option<String>,
    /// Undoes `setup`.
    #[serde(default)]
    teardown: Vec<String>,
    /// Prints how many connections were redirected so far.
    counter: Option<Counters>,
    #[serde(default = "both")]
    directions: Vec<Direction>,
}

/// A command for each direction.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Counters {
    outbound: Option<String>,
    inbound: Option<String>,
}

fn both() -> Vec<Direction> {
    vec![Direction::Outbound, Direction::Inbound]
}

/// The arms that a file describes: a JSON array.
pub(super) fn read(file: &Path) -> Result<Vec<Kind>> {
    let about = || format!("the arms in {}", file.display());
    let text = fs::read_to_string(file).with_context(about)?;
    let arms: Vec<Further> = serde_json::from_str(&text).with_context(about)?;
    let mut names: Vec<&str> = Kind::BUILT_IN.iter().map(Kind::name).collect();
    for arm in &arms {
        arm.check(&names).with_context(about)?;
        names.push(&arm.name);
    }
    Ok(arms
        .into_iter()
        .map(|arm| Kind::Further(Arc::new(arm)))
        .collect())
}

impl Further {
    fn check(&self, taken: &[&str]) -> Result<()> {
        let name = self.name.as_str();
        self.check_itself()
            .with_context(|| format!("the arm {name:?}"))?;
        ensure!(!taken.contains(&name), "two arms are called {name:?}");
        Ok(())
    }

    fn check_itself(&self) -> Result<()> {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        ensure!(
            !self.name.is_empty() && self.name.len() <= 32 && self.name.chars().all(is_word),
            "a name is made of at most 32 letters, digits, - and _: it names a cgroup"
        );
        ensure!(!self.directions.is_empty(), "no direction");
        ensure!(
            !self.setup.is_empty() || self.run.is_some(),
            "neither `setup` nor `run`"
        );
        ensure!(
            self.ready.is_none() || self.run.is_some(),
            "`ready` without `run`"
        );
        if let Some(counters) = &self.counter {
            for direction in &self.directions {
                ensure!(
                    counters.command(*direction).is_some(),
                    "a counter for the other direction only; either all or none"
                );
            }
        }
        Ok(())
    }
}

impl Counters {
    fn command(&self, direction: Direction) -> Option<&str> {
        match direction {
            Direction::Outbound => self.outbound.as_deref(),
            Direction::Inbound => self.inbound.as_deref(),
        }
    }
}

/// A further arm at work in its pod.
#[derive(Debug)]
pub(super) struct Running {
    further: Arc<Further>,
    shell: Shell,
    process: Option<Child>,
    // After the process: what set-up made may be in its use.
    _teardown: Cleanup,
}

/// How long `run` may take to say that it is ready.
const PATIENCE: Duration = Duration::from_secs(60);

impl Running {
    pub(super) fn start(further: &Arc<Further>, pod: &Pod) -> Result<Self> {
        let shell = Shell::new(pod);
        let teardown = Cleanup::register({
            let (further, shell) = (further.clone(), shell.clone());
            move || {
                if let Err(error) = shell.run_all(&further.teardown) {
                    eprintln!("taking down the arm {}: {error:#}", further.name);
                }
            }
        });
        shell.run_all(&further.setup)?;
        let process = match &further.run {
            Some(command) => Some(start(&shell, command, further.ready.as_deref())?),
            None => None,
        };
        Ok(Self {
            further: further.clone(),
            shell,
            process,
            _teardown: teardown,
        })
    }

    pub(super) fn covers(&self, direction: Direction) -> bool {
        self.further.directions.contains(&direction)
    }

    pub(super) fn has_counters(&self) -> bool {
        self.further.counter.is_some()
    }

    pub(super) fn redirected(&self) -> Result<Redirected> {
        let count = |direction| {
            let counters = self.further.counter.as_ref();
            let Some(command) = counters.and_then(|it| it.command(direction)) else {
                return Ok(0);
            };
            let text = self.shell.run(command)?;
            let number = text.trim().parse();
            number.with_context(|| format!("`{command}` printed {text:?}, which is no number"))
        };
        Ok(Redirected {
            outbound: count(Direction::Outbound)?,
            inbound: count(Direction::Inbound)?,
        })
    }

    pub(super) fn tear_down(&self) -> Result<()> {
        if let Some(process) = &self.process {
            process.stop()?;
        }
        self.shell.run_all(&self.further.teardown)
    }
}

fn start(shell: &Shell, command: &str, ready: Option<&str>) -> Result<Child> {
    // `exec`, so that the signal reaches the program and not the shell.
    let child = Child::spawn_gentle(shell.command(&format!("exec {command}")))?;
    match ready {
        Some(line) => {
            let deadline = Instant::now() + PATIENCE;
            while child
                .wait_for_line(line, Duration::from_millis(200))
                .is_err()
            {
                if !child.is_alive()? || Instant::now() > deadline {
                    bail!("`{command}` is not ready; it said:\n{}", child.transcript());
                }
            }
        }
        None => ensure!(child.is_alive()?, "`{command}` has ended"),
    }
    Ok(child)
}

/// Runs commands by sh, with variables that name the pod's parts.
#[derive(Clone, Debug)]
struct Shell {
    variables: Vec<(&'static str, PathBuf)>,
}

/// What the commands find in their environment.
pub(super) const VARIABLES: &str = "CGROUP, APP_CGROUP, PROXY_CGROUP, NETNS, POD_IP, PROXY_UID, \
                             PROXY_GID, APP_UID, OUTBOUND_PORT, INBOUND_PORT";

impl Shell {
    fn new(pod: &Pod) -> Self {
        let variables = vec![
            ("CGROUP", pod.cgroup()),
            ("APP_CGROUP", pod.app_cgroup()),
            ("PROXY_CGROUP", pod.proxy_cgroup()),
            ("NETNS", pod.netns_path()),
            ("POD_IP", POD_IP.to_string().into()),
            ("PROXY_UID", PROXY_ID.to_string().into()),
            ("PROXY_GID", PROXY_ID.to_string().into()),
            ("APP_UID", APP_ID.to_string().into()),
            ("OUTBOUND_PORT", OUTBOUND_PORT.to_string().into()),
            ("INBOUND_PORT", INBOUND_PORT.to_string().into()),
        ];
        Self { variables }
    }

    fn command(&self, text: &str) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", text])
            .envs(self.variables.iter().cloned());
        command
    }

    fn run(&self, text: &str) -> Result<String> {
        run_command(self.command(text), "").with_context(|| format!("`{text}`"))
    }

    fn run_all(&self, texts: &[String]) -> Result<()> {
        texts.iter().try_for_each(|text| self.run(text).map(drop))
    }
}
