//! A helper process that answers one line with one line.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{ChildStdin, ChildStdout},
};

use anyhow::{Context as _, Result, ensure};
use serde::{Serialize, de::DeserializeOwned};

use super::wire::Role;
use crate::process::{Child, Placement, program};

/// A running `lab-prober`.
pub(crate) struct Dialog {
    process: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Dialog {
    /// Starts one there, and waits until it is what it is told to be.
    pub(crate) fn start(place: &Placement, role: &Role) -> Result<Self> {
        let (process, stdin, stdout) = place.spawn_dialog(program("lab-prober")?)?;
        let mut dialog = Self {
            process,
            stdin,
            stdout: BufReader::new(stdout),
        };
        let ready: String = dialog.ask(role).with_context(|| format!("as {role:?}"))?;
        ensure!(ready == "ready", "lab-prober says {ready:?}");
        Ok(dialog)
    }

    pub(crate) fn ask<T: DeserializeOwned>(&mut self, question: &impl Serialize) -> Result<T> {
        self.tell(question)
            .and_then(|()| self.listen())
            .with_context(|| format!("lab-prober; it said: {}", self.process.transcript()))
    }

    fn tell(&mut self, question: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_string(question)?;
        line.push('\n');
        self.stdin.write_all(line.as_bytes())?;
        self.stdin.flush()?;
        Ok(())
    }

    fn listen<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        let length = self.stdout.read_line(&mut line)?;
        ensure!(length > 0, "it ended");
        serde_json::from_str(&line).with_context(|| format!("its answer {line:?}"))
    }
}
