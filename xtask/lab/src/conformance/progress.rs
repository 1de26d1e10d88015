//! Where a run is, on stderr: one line that is written over on a terminal, else one line a step.

use std::io::{IsTerminal as _, Write as _, stderr};

pub(crate) struct Progress {
    of: usize,
    done: usize,
    is_terminal: bool,
}

impl Progress {
    pub(crate) fn new(of: usize) -> Self {
        Self {
            of,
            done: 0,
            is_terminal: stderr().is_terminal(),
        }
    }

    /// The next step begins.
    pub(crate) fn step(&mut self, what: &str, differences: usize) {
        const WIDTH: usize = 20;
        let full = WIDTH * self.done / self.of.max(1);
        let bar = format!("{}{}", "#".repeat(full), ".".repeat(WIDTH - full));
        self.done += 1;
        let (done, of) = (self.done, self.of);
        let what: String = what.chars().take(60).collect();
        let line = format!("[{bar}] {done}/{of} configurations, {differences} differences  {what}");
        let mut out = stderr().lock();
        // What nobody can read, nobody misses.
        let _ = if self.is_terminal {
            write!(out, "\r\x1b[K{line}").and_then(|()| out.flush())
        } else {
            writeln!(out, "{line}")
        };
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_terminal {
            eprintln!("\r\x1b[K");
        }
    }
}
