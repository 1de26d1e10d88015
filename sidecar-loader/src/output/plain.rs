//! The table on a stream that is no terminal: one after the other.

use std::{
    io::{self, Write},
    time::Duration,
};

use super::{
    Output, PodFound, Ready,
    table::{Rows, View, render, title},
    write_all,
};
use crate::snapshot::Snapshot;

/// The `--output table` format for a file or a pipe.
pub struct Plain<W> {
    out: W,
    last: Snapshot,
}

impl<W: Write> Plain<W> {
    pub fn new(out: W) -> Self {
        Self {
            out,
            last: Snapshot::zero(),
        }
    }

    fn table(&mut self, view: &View<'_>) -> io::Result<()> {
        let mut text = Vec::new();
        render(&mut text, view)?;
        write_all(&mut self.out, &String::from_utf8_lossy(&text))
    }
}

impl<W: Write> Output for Plain<W> {
    fn ready(&mut self, ready: &Ready) -> io::Result<()> {
        write_all(&mut self.out, &format!("{}\n\n", title(ready)))
    }

    fn pod_found(&mut self, pod: &PodFound) -> io::Result<()> {
        write_all(&mut self.out, &format!("netns {}\n\n", pod.netns))
    }

    fn counters(&mut self, snapshot: &Snapshot, elapsed: Duration) -> io::Result<()> {
        let new = snapshot.since(&self.last);
        self.table(&View {
            title: None,
            snapshot,
            recent: Some((&new, elapsed)),
            width: None,
            rows: Rows::All,
        })?;
        self.last = snapshot.clone();
        write_all(&mut self.out, "\n")
    }

    fn finish(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        self.table(&View {
            title: None,
            snapshot,
            recent: None,
            width: None,
            rows: Rows::All,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        output::tests::example,
        snapshot::tests::{RULE_4, snapshot},
    };

    #[test]
    fn a_stream_that_is_no_terminal_gets_no_control_characters() {
        let mut out = Vec::new();
        let mut plain = Plain::new(&mut out);
        plain.ready(&example()).unwrap();
        plain
            .counters(&snapshot(&[(RULE_4, 2)]), Duration::from_secs(1))
            .unwrap();
        plain
            .counters(&snapshot(&[(RULE_4, 5)]), Duration::from_secs(2))
            .unwrap();
        plain.finish(&snapshot(&[(RULE_4, 6)])).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(!text.contains('\u{1b}'));
        let four: Vec<_> = text.lines().filter(|line| line.starts_with("4 ")).collect();
        assert!(four[0].ends_with("2         2.0"), "{}", four[0]);
        assert!(four[1].ends_with("5         1.5"), "{}", four[1]);
        assert!(four[2].ends_with(" 6"), "{}", four[2]);
    }
}
