//! What a process writes, line by line, for whoever waits for a certain line.

use std::{
    io::{BufRead, BufReader, Read},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

const SETTLE_PATIENCE: Duration = Duration::from_secs(1);

/// A line that a process has written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub from: Stream,
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

#[derive(Debug, Default)]
pub(crate) struct Transcript {
    said: Mutex<Said>,
    news: Condvar,
}

#[derive(Debug, Default)]
struct Said {
    lines: Vec<Line>,
    open_streams: u32,
}

impl Transcript {
    /// Reads the pipe to its end, on a thread of its own.
    pub(crate) fn follow(self: &Arc<Self>, from: Stream, pipe: impl Read + Send + 'static) {
        self.lock().open_streams += 1;
        let transcript = self.clone();
        thread::spawn(move || {
            let mut reader = BufReader::new(pipe);
            let mut bytes = Vec::new();
            while matches!(reader.read_until(b'\n', &mut bytes), Ok(length) if length > 0) {
                let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
                bytes.clear();
                transcript.lock().lines.push(Line { from, text });
                transcript.news.notify_all();
            }
            transcript.lock().open_streams -= 1;
            transcript.news.notify_all();
        });
    }

    pub(crate) fn lines(&self) -> Vec<Line> {
        self.lock().lines.clone()
    }

    pub(crate) fn text(&self) -> String {
        self.lock().text()
    }

    /// Waits until the closure finds what it wants in a line, past ones included. Fails at the
    /// deadline, and as soon as nothing more can come.
    pub(crate) fn wait_for<T>(
        &self,
        timeout: Duration,
        mut find: impl FnMut(&Line) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + timeout;
        let mut seen = 0;
        let mut said = self.lock();
        loop {
            if let Some(found) = said.lines.iter().skip(seen).find_map(&mut find) {
                return Ok(found);
            }
            seen = said.lines.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if said.open_streams == 0 {
                bail!(
                    "it never came; the process has ended and said:\n{}",
                    said.text()
                );
            }
            if left.is_zero() {
                bail!(
                    "it did not come within {timeout:?}; the process said:\n{}",
                    said.text()
                );
            }
            let waited = self.news.wait_timeout(said, left);
            said = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until the last line is here; not for long, as a grandchild may hold the pipe open.
    pub(crate) fn settle(&self) {
        let deadline = Instant::now() + SETTLE_PATIENCE;
        let mut said = self.lock();
        while said.open_streams > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            said = self
                .news
                .wait_timeout(said, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Said {
    fn text(&self) -> String {
        self.lines
            .iter()
            .map(|line| format!("  {}\n", line.text))
            .collect()
    }
}
