//! The table on a terminal, drawn again and again in the same place.

use std::{
    io::{self, Write},
    time::Duration,
};

use crossterm::{
    cursor::{Hide, MoveToPreviousLine, Show},
    queue,
    terminal::{Clear, ClearType},
};

use super::{
    Output, PodFound, Ready,
    table::{Rows, View, render, title},
};
use crate::snapshot::Snapshot;

/// Columns and lines of a terminal that does not tell.
const DEFAULT_SIZE: (u16, u16) = (80, 24);

/// The `--output table` format for a terminal.
pub struct Live<W: Write> {
    out: W,
    size: fn() -> io::Result<(u16, u16)>,
    ready: Option<Ready>,
    last: Snapshot,
    /// Lines of the table that stands on the terminal.
    drawn: u16,
    cursor_hidden: bool,
}

impl<W: Write> Live<W> {
    /// `size` tells columns and lines.
    pub fn new(out: W, size: fn() -> io::Result<(u16, u16)>) -> Self {
        let last = Snapshot::zero();
        Self {
            out,
            size,
            ready: None,
            last,
            drawn: 0,
            cursor_hidden: false,
        }
    }

    /// Replaces what was drawn last by `text`.
    fn replace(&mut self, text: &str) -> io::Result<()> {
        let mut bytes = Vec::new();
        if self.drawn > 0 {
            queue!(bytes, MoveToPreviousLine(self.drawn))?;
        }
        queue!(bytes, Clear(ClearType::FromCursorDown))?;
        bytes.extend_from_slice(text.as_bytes());
        self.out.write_all(&bytes)?;
        self.out.flush()?;
        self.drawn = 0;
        Ok(())
    }

    fn draw(&mut self, snapshot: &Snapshot, elapsed: Duration) -> io::Result<()> {
        let (width, height) = self.size();
        let new = snapshot.since(&self.last);
        let title = self.ready.as_ref().map(title);
        let table = |rows| {
            text(&View {
                title: title.as_deref(),
                snapshot,
                recent: Some((&new, elapsed)),
                width: Some(usize::from(width)),
                rows,
            })
        };
        // What has scrolled away cannot be drawn over, and the cursor needs a line of its own.
        let room = usize::from(height.saturating_sub(1)).max(1);
        let mut text = table(Rows::All)?;
        if text.lines().count() > room {
            text = table(Rows::Moved)?;
        }
        let lines: Vec<_> = text.lines().take(room).collect();
        let drawn = u16::try_from(lines.len()).unwrap_or(u16::MAX);
        self.replace(&format!("{}\n", lines.join("\n")))?;
        self.drawn = drawn;
        Ok(())
    }

    fn size(&self) -> (u16, u16) {
        match (self.size)() {
            Ok((width, height)) if width > 0 && height > 0 => (width, height),
            Ok(_) | Err(_) => DEFAULT_SIZE,
        }
    }

    fn hide_cursor(&mut self) -> io::Result<()> {
        self.cursor_hidden = true;
        queue!(self.out, Hide)?;
        self.out.flush()
    }

    fn show_cursor(&mut self) -> io::Result<()> {
        if self.cursor_hidden {
            self.cursor_hidden = false;
            queue!(self.out, Show)?;
            self.out.flush()?;
        }
        Ok(())
    }
}

fn text(view: &View<'_>) -> io::Result<String> {
    let mut bytes = Vec::new();
    render(&mut bytes, view)?;
    String::from_utf8(bytes).map_err(io::Error::other)
}

impl<W: Write> Output for Live<W> {
    fn ready(&mut self, ready: &Ready) -> io::Result<()> {
        self.ready = Some(ready.clone());
        self.hide_cursor()?;
        self.draw(&Snapshot::zero(), Duration::ZERO)
    }

    fn pod_found(&mut self, pod: &PodFound) -> io::Result<()> {
        if let Some(ready) = &mut self.ready {
            ready.netns = Some(pod.netns.clone());
            ready.netns_cookie = Some(pod.netns_cookie);
        }
        Ok(())
    }

    fn counters(&mut self, snapshot: &Snapshot, elapsed: Duration) -> io::Result<()> {
        self.draw(snapshot, elapsed)?;
        self.last = snapshot.clone();
        Ok(())
    }

    /// Leaves the whole table on the terminal, without rates.
    fn finish(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        let (width, _) = self.size();
        let title = self.ready.as_ref().map(title);
        let last = text(&View {
            title: title.as_deref(),
            snapshot,
            recent: None,
            width: Some(usize::from(width)),
            rows: Rows::All,
        })?;
        self.replace(&last)?;
        self.show_cursor()
    }
}

impl<W: Write> Drop for Live<W> {
    fn drop(&mut self) {
        // A terminal that is gone needs no cursor.
        let _ = self.show_cursor();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        output::tests::example,
        snapshot::tests::{RULE_9, snapshot},
    };

    const SECOND: Duration = Duration::from_secs(1);

    fn written(
        size: fn() -> io::Result<(u16, u16)>,
        write: impl FnOnce(&mut Live<&mut Vec<u8>>) -> io::Result<()>,
    ) -> String {
        let mut out = Vec::new();
        write(&mut Live::new(&mut out, size)).unwrap();
        String::from_utf8(out).unwrap()
    }

    /// What each drawing wrote, from its clearing of the old one on.
    fn drawings(text: &str) -> Vec<&str> {
        text.split("\u{1b}[J").skip(1).collect()
    }

    #[test]
    fn each_drawing_starts_where_the_last_one_did() {
        let text = written(
            || Ok((120, 60)),
            |live| {
                live.ready(&example())?;
                live.counters(&snapshot(&[(RULE_9, 4)]), SECOND)?;
                live.counters(&snapshot(&[(RULE_9, 5)]), SECOND)
            },
        );
        let drawings = drawings(&text);
        assert_eq!(drawings.len(), 3);
        for pair in drawings.windows(2) {
            let lines = pair[0].matches('\n').count();
            assert!(
                pair[0].ends_with(&format!("\n\u{1b}[{lines}F")),
                "{:?}",
                pair[0]
            );
        }
        let nine = drawings[2]
            .lines()
            .find(|line| line.starts_with("9 "))
            .unwrap();
        assert_eq!(
            nine.split_whitespace().rev().take(2).collect::<Vec<_>>(),
            ["1.0", "5"]
        );
    }

    #[test]
    fn a_drawing_never_exceeds_the_terminal() {
        let text = written(
            || Ok((40, 6)),
            |live| live.counters(&snapshot(&[(RULE_9, 4)]), SECOND),
        );
        let drawing = drawings(&text)[0];
        assert!(drawing.lines().count() <= 5, "{drawing}");
        assert!(
            drawing.contains("\n9 "),
            "what moved comes first: {drawing}"
        );
    }

    #[test]
    fn the_last_table_is_whole_and_the_cursor_comes_back() {
        let text = written(
            || Err(io::Error::other("no size")),
            |live| {
                live.ready(&example())?;
                live.finish(&snapshot(&[(RULE_9, 4)]))
            },
        );
        let last = drawings(&text)[1];
        assert!(
            last.contains("\ninbound-all ") && !last.contains("PER SECOND"),
            "{last}"
        );
        assert!(text.contains("\u{1b}[?25l"));
        assert_eq!(text.matches("\u{1b}[?25h").count(), 1);
    }

    #[test]
    fn a_drop_brings_the_cursor_back() {
        let text = written(|| Ok((80, 24)), |live| live.ready(&example()));
        assert!(text.ends_with("\u{1b}[?25h"));
    }

    #[test]
    fn slots_are_shown_only_when_counted() {
        let text = written(
            || Ok((120, 60)),
            |live| live.counters(&Snapshot::zero(), SECOND),
        );
        assert!(!text.contains("Bypassed or refused"));
    }
}
