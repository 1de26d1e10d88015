//! One line per event and per counter that moved: `key=value` pairs, quoted where needed.

use std::{
    fmt::{Display, Write as _},
    io::{self, Write},
    time::{Duration, SystemTime},
};

use super::{Output, PodFound, Ready, rfc3339, write_all};
use crate::snapshot::Snapshot;

/// The `--output log` format.
pub struct Log<W> {
    out: W,
    now: fn() -> SystemTime,
    last: Snapshot,
}

/// One line under construction.
struct Line(String);

impl Line {
    fn new(time: &str, event: &str) -> Self {
        Self(format!("time={time} event={event}"))
    }

    fn with(mut self, key: &str, value: impl Display) -> Self {
        let value = value.to_string();
        let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '=' | '\\');
        self.0.push(' ');
        self.0.push_str(key);
        self.0.push('=');
        if !value.is_empty() && value.chars().all(plain) {
            self.0.push_str(&value);
        } else {
            // Writing to a string cannot fail.
            let _ = write!(self.0, "{value:?}");
        }
        self
    }

    fn with_some(self, key: &str, value: Option<impl Display>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    fn end(mut self) -> String {
        self.0.push('\n');
        self.0
    }
}

impl<W: Write> Log<W> {
    pub fn new(out: W, now: fn() -> SystemTime) -> Self {
        Self {
            out,
            now,
            last: Snapshot::zero(),
        }
    }

    fn time(&self) -> String {
        rfc3339((self.now)())
    }

    /// A line per counter that moved since `earlier`.
    fn moved(&self, event: &str, snapshot: &Snapshot, earlier: &Snapshot) -> String {
        let time = self.time();
        let new = snapshot.since(earlier);
        let decisions = snapshot
            .decisions()
            .zip(new.decisions())
            .filter(|(_, new)| new.connections > 0);
        let decisions = decisions.map(|(total, new)| {
            Line::new(&time, event)
                .with("hook", total.hook)
                .with("rule", total.rule)
                .with("action", total.action)
                .with("connections", total.connections)
                .with("new", new.connections)
        });
        let exceptions = snapshot
            .exceptions()
            .zip(new.exceptions())
            .filter(|(_, new)| new.count > 0);
        let exceptions = exceptions.map(|(total, new)| {
            Line::new(&time, event)
                .with("hook", total.hook)
                .with("reason", total.reason)
                .with("effect", total.effect)
                .with("count", total.count)
                .with("new", new.count)
        });
        decisions.chain(exceptions).map(Line::end).collect()
    }
}

impl<W: Write> Output for Log<W> {
    fn ready(&mut self, ready: &Ready) -> io::Result<()> {
        let hooks: Vec<_> = ready.hooks.iter().map(|hook| hook.name()).collect();
        let line = Line::new(&self.time(), "ready")
            .with("version", ready.version)
            .with("cgroup", ready.cgroup.display())
            .with_some("netns", ready.netns.as_ref())
            .with_some("netns_cookie", ready.netns_cookie)
            .with_some("metrics_addr", ready.metrics_addr)
            .with("hooks", hooks.join(","));
        write_all(&mut self.out, &line.end())
    }

    fn pod_found(&mut self, pod: &PodFound) -> io::Result<()> {
        let line = Line::new(&self.time(), "pod-found")
            .with("netns", &pod.netns)
            .with("netns_cookie", pod.netns_cookie);
        write_all(&mut self.out, &line.end())
    }

    fn counters(&mut self, snapshot: &Snapshot, _elapsed: Duration) -> io::Result<()> {
        let lines = self.moved("counter", snapshot, &self.last);
        self.last = snapshot.clone();
        write_all(&mut self.out, &lines)
    }

    /// What moved since the last time, then that this is the end.
    fn finish(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        let mut lines = self.moved("counter", snapshot, &self.last);
        let connections: u64 = snapshot
            .decisions()
            .map(|decision| decision.connections)
            .sum();
        let last = Line::new(&self.time(), "final").with("connections", connections);
        lines.push_str(&last.end());
        write_all(&mut self.out, &lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        output::tests::example,
        snapshot::tests::{FULL, INBOUND, RULE_9, snapshot},
    };

    const SECOND: Duration = Duration::from_secs(1);

    fn written(write: impl FnOnce(&mut Log<&mut Vec<u8>>) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        write(&mut Log::new(&mut out, || SystemTime::UNIX_EPOCH)).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn only_counters_that_moved_have_a_line() {
        let text = written(|log| {
            log.counters(&snapshot(&[(RULE_9, 3)]), SECOND)?;
            log.counters(&snapshot(&[(RULE_9, 3)]), SECOND)?;
            log.counters(&snapshot(&[(RULE_9, 5), (FULL, 1)]), SECOND)?;
            log.finish(&snapshot(&[(RULE_9, 5), (FULL, 1), (INBOUND, 1)]))
        });
        let time = "time=1970-01-01T00:00:00.000Z";
        let expected = [
            "event=counter hook=connect4 rule=9 action=redirect-outbound connections=3 new=3",
            "event=counter hook=connect4 rule=9 action=redirect-outbound connections=5 new=2",
            "event=counter hook=connect6 reason=table-full effect=refusal count=1 new=1",
            "event=counter hook=sk_lookup rule=inbound-all action=redirect-inbound connections=1 \
             new=1",
            "event=final connections=6",
        ];
        let expected: String = expected.map(|line| format!("{time} {line}\n")).concat();
        assert_eq!(text, expected);
    }

    #[test]
    fn values_with_blanks_are_quoted_and_unknown_ones_left_out() {
        let ready = Ready {
            cgroup: "/sys/fs/cgroup/my pod".into(),
            netns: None,
            netns_cookie: None,
            ..example()
        };
        assert_eq!(
            written(|log| log.ready(&ready)),
            "time=1970-01-01T00:00:00.000Z event=ready version=0.1.0 \
             cgroup=\"/sys/fs/cgroup/my pod\" metrics_addr=127.0.0.1:9464 hooks=connect4,sk_lookup\n"
        );
    }
}
