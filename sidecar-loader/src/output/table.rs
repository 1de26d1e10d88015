//! The table of rules, in the manner of `iptables -L -v`.

use std::{
    io::{self, Write},
    time::Duration,
};

use sidecar_ebpf_common::{
    counter::{Counter, OutboundHook},
    rule::{InboundRule, OutboundRule},
};

use super::Ready;
use crate::snapshot::Snapshot;

/// What one table shows, and how.
pub struct View<'a> {
    pub title: Option<&'a str>,
    pub snapshot: &'a Snapshot,
    /// What was counted within a time, for the column of rates.
    pub recent: Option<(&'a Snapshot, Duration)>,
    /// Columns of the terminal; what does not fit is cut. Nothing is cut without.
    pub width: Option<usize>,
    pub rows: Rows,
}

/// Which rules a table lists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rows {
    All,
    /// Those that have decided a connection.
    Moved,
}

const CHAINS: [&str; 2] = [
    "Chain ISTIO_OUTPUT (connect4, connect6)",
    "Chain ISTIO_INBOUND (sk_lookup)",
];
/// The least that is left of an iptables rule in a narrow terminal.
const MIN_RULE_WIDTH: usize = 12;
const GAP: &str = "  ";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Align {
    Left,
    Right,
}

struct Column {
    head: &'static str,
    align: Align,
    /// Whether it gives way when the terminal is narrow.
    shrinks: bool,
}

const fn column(head: &'static str, align: Align, shrinks: bool) -> Column {
    Column {
        head,
        align,
        shrinks,
    }
}

const RULES: &[Column] = &[
    column("RULE", Align::Left, false),
    column("IPTABLES", Align::Left, true),
    column("ACTION", Align::Left, false),
    column("CONNECTIONS", Align::Right, false),
    column("PER SECOND", Align::Right, false),
];

const EXCEPTIONS: &[Column] = &[
    column("HOOK", Align::Left, false),
    column("REASON", Align::Left, false),
    column("EFFECT", Align::Left, false),
    column("COUNT", Align::Right, false),
];

type Row = Vec<String>;

/// Both chains, then what was bypassed or refused, if anything was.
pub fn render(out: &mut impl Write, view: &View<'_>) -> io::Result<()> {
    if let Some(title) = view.title {
        writeln!(out, "{}\n", cut(title, view.width))?;
    }
    let columns = &RULES[..if view.recent.is_some() {
        RULES.len()
    } else {
        RULES.len() - 1
    }];
    let chains = [outbound_rows(view), inbound_rows(view)];
    // One set of widths, so that the two chains stand in line.
    let widths = widths(columns, chains.iter().flatten(), view.width);
    for (number, (name, rows)) in CHAINS.iter().zip(&chains).enumerate() {
        let gap = if number > 0 { "\n" } else { "" };
        writeln!(out, "{gap}{}", cut(name, view.width))?;
        write_rows(out, columns, rows, &widths)?;
    }
    let exceptions = exception_rows(view.snapshot);
    if !exceptions.is_empty() {
        let widths = self::widths(EXCEPTIONS, exceptions.iter(), view.width);
        writeln!(out, "\n{}", cut("Bypassed or refused", view.width))?;
        write_rows(out, EXCEPTIONS, &exceptions, &widths)?;
    }
    let hidden = OutboundRule::ALL.len() + InboundRule::ALL.len()
        - chains.iter().map(Vec::len).sum::<usize>();
    if hidden > 0 {
        writeln!(
            out,
            "\n{}",
            cut(&format!("{hidden} rules have not matched yet"), view.width)
        )?;
    }
    Ok(())
}

fn outbound_rows(view: &View<'_>) -> Vec<Row> {
    let total = |snapshot: &Snapshot, rule| {
        OutboundHook::ALL
            .iter()
            .map(|&hook| snapshot.get(Counter::Outbound(hook, rule)))
            .sum()
    };
    let rows = OutboundRule::ALL.iter().filter_map(|&rule| {
        let text = [rule.label(), rule.iptables(), rule.action().name()];
        rule_row(view, text, |snapshot| total(snapshot, rule))
    });
    rows.collect()
}

fn inbound_rows(view: &View<'_>) -> Vec<Row> {
    let rows = InboundRule::ALL.iter().filter_map(|&rule| {
        let text = [rule.label(), rule.iptables(), rule.action().name()];
        rule_row(view, text, |snapshot| snapshot.get(Counter::Inbound(rule)))
    });
    rows.collect()
}

fn rule_row(view: &View<'_>, text: [&str; 3], count: impl Fn(&Snapshot) -> u64) -> Option<Row> {
    let connections = count(view.snapshot);
    if connections == 0 && view.rows == Rows::Moved {
        return None;
    }
    let mut row: Row = text.map(str::to_owned).into();
    row.push(connections.to_string());
    if let Some((new, elapsed)) = view.recent {
        row.push(rate(count(new), elapsed));
    }
    Some(row)
}

fn rate(new: u64, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64();
    if seconds > 0.0 {
        format!("{:.1}", new as f64 / seconds)
    } else {
        "-".to_owned()
    }
}

fn exception_rows(snapshot: &Snapshot) -> Vec<Row> {
    let exceptions = snapshot
        .exceptions()
        .filter(|exception| exception.count > 0);
    exceptions
        .map(|exception| {
            let count = exception.count.to_string();
            vec![
                exception.hook.into(),
                exception.reason.into(),
                exception.effect.into(),
                count,
            ]
        })
        .collect()
}

/// The width of each column: that of its longest cell, less for the one that shrinks if the line
/// would be longer than `limit`.
fn widths<'a>(
    columns: &[Column],
    rows: impl Iterator<Item = &'a Row>,
    limit: Option<usize>,
) -> Vec<usize> {
    let mut widths: Vec<_> = columns.iter().map(|column| column.head.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = widths.iter().sum::<usize>() + GAP.len() * (columns.len() - 1);
    let excess = limit.map_or(0, |limit| line.saturating_sub(limit));
    for (width, column) in widths.iter_mut().zip(columns) {
        if column.shrinks {
            *width = width.saturating_sub(excess).max(MIN_RULE_WIDTH.min(*width));
        }
    }
    widths
}

fn write_rows(
    out: &mut impl Write,
    columns: &[Column],
    rows: &[Row],
    widths: &[usize],
) -> io::Result<()> {
    let heads: Row = columns
        .iter()
        .map(|column| column.head.to_owned())
        .collect();
    for row in std::iter::once(&heads).chain(rows) {
        let cells = row
            .iter()
            .zip(columns)
            .zip(widths)
            .map(|((cell, column), &width)| {
                let cell = cut(cell, Some(width));
                match column.align {
                    Align::Left => format!("{cell:<width$}"),
                    Align::Right => format!("{cell:>width$}"),
                }
            });
        writeln!(out, "{}", cells.collect::<Vec<_>>().join(GAP).trim_end())?;
    }
    Ok(())
}

/// `text` in at most `width` columns, with a mark where something is missing.
fn cut(text: &str, width: Option<usize>) -> String {
    match width {
        Some(width) if text.chars().count() > width => {
            let kept = text.chars().take(width.saturating_sub(1));
            if width == 0 {
                String::new()
            } else {
                kept.chain(['…']).collect()
            }
        }
        _ => text.to_owned(),
    }
}

/// The line above the table.
pub(super) fn title(ready: &Ready) -> String {
    let netns = ready.netns.as_deref().unwrap_or("not known yet");
    let mut title = format!(
        "loader {}  cgroup {}  netns {netns}",
        ready.version,
        ready.cgroup.display()
    );
    if let Some(addr) = ready.metrics_addr {
        title.push_str(&format!("  metrics http://{addr}/metrics"));
    }
    title
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        output::tests::example,
        snapshot::tests::{FULL, INBOUND, RULE_4, RULE_9, RULE_9_V6, SLOTS, snapshot},
    };

    fn rendered(view: &View<'_>) -> String {
        let mut out = Vec::new();
        render(&mut out, view).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn byte_for_byte() {
        let total = snapshot(&[
            (RULE_9, 10),
            (RULE_9_V6, 2),
            (RULE_4, 12_345),
            (INBOUND, 1),
            (FULL, 3),
        ]);
        let new = snapshot(&[(RULE_9, 3), (RULE_9_V6, 2)]);
        let text = rendered(&View {
            title: Some(&title(&example())),
            snapshot: &total,
            recent: Some((&new, Duration::from_secs(2))),
            width: Some(80),
            rows: Rows::Moved,
        });
        let expected = "\
loader 0.1.0  cgroup /sys/fs/cgroup/pod  netns /run/netns/pod  metrics http://1…

Chain ISTIO_OUTPUT (connect4, connect6)
RULE         IPTABLES                 ACTION             CONNECTIONS  PER SECOND
4            -m owner --uid-owner 1…  pass                     12345         0.0
9            -j ISTIO_REDIRECT        redirect-outbound           12         2.5

Chain ISTIO_INBOUND (sk_lookup)
RULE         IPTABLES                 ACTION             CONNECTIONS  PER SECOND
inbound-all  -p tcp -j ISTIO_IN_RED…  redirect-inbound             1         0.0

Bypassed or refused
HOOK      REASON      EFFECT   COUNT
connect6  table-full  refusal      3

24 rules have not matched yet
";
        assert_eq!(text, expected);
    }

    #[test]
    fn every_rule_has_a_line_and_nothing_is_cut_without_a_width() {
        let text = rendered(&View {
            title: None,
            snapshot: &Snapshot::zero(),
            recent: None,
            width: None,
            rows: Rows::All,
        });
        for rule in OutboundRule::ALL {
            let found = text.lines().filter(|line| {
                line.split_whitespace().next() == Some(rule.label())
                    && line.contains(rule.iptables())
                    && line.contains(rule.action().name())
                    && line.ends_with(" 0")
            });
            assert!(found.count() >= 1, "{rule:?}: {text}");
        }
        for rule in InboundRule::ALL {
            assert!(
                text.contains(rule.label()) && text.contains(rule.iptables()),
                "{rule:?}"
            );
        }
        let rules = OutboundRule::ALL.len() + InboundRule::ALL.len();
        assert_eq!(text.lines().count(), rules + 2 * 2 + 1);
        assert!(!text.contains("PER SECOND") && !text.contains('…'));
        assert!(!text.contains("Bypassed") && !text.contains("not matched"));
    }

    #[test]
    fn no_line_is_longer_than_the_terminal_is_wide() {
        let total = snapshot(&[(RULE_9, u64::from(u32::MAX)), (SLOTS, 1)]);
        for width in [72, 80, 100, 132] {
            let text = rendered(&View {
                title: Some(&title(&example())),
                snapshot: &total,
                recent: Some((&total, Duration::from_secs(1))),
                width: Some(width),
                rows: Rows::Moved,
            });
            for line in text.lines() {
                assert!(line.chars().count() <= width, "{width}: {line}");
            }
        }
    }
}
