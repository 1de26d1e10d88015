//! One JSON object per line, each with the schema's version and the name of its event.

use std::{
    io::{self, Write},
    time::{Duration, SystemTime},
};

use serde::Serialize;

use super::{Output, PodFound, Ready, rfc3339, write_all};
use crate::snapshot::Snapshot;

/// Changes whenever a field changes its meaning or goes away; a new field does not change it.
pub const SCHEMA: u32 = 1;

/// The `--output json` format.
pub struct Json<W> {
    out: W,
    now: fn() -> SystemTime,
}

#[derive(Serialize)]
struct Event<'a, T> {
    schema: u32,
    event: &'a str,
    time: String,
    #[serde(flatten)]
    fields: T,
}

#[derive(Serialize)]
struct Counters<'a> {
    /// Seconds since counters were last reported; not in the final event.
    #[serde(skip_serializing_if = "Option::is_none")]
    elapsed: Option<f64>,
    #[serde(flatten)]
    counters: &'a Snapshot,
}

#[derive(Serialize)]
struct Detached {
    seconds: f64,
}

impl<W: Write> Json<W> {
    pub fn new(out: W, now: fn() -> SystemTime) -> Self {
        Self { out, now }
    }

    fn event(&mut self, event: &str, fields: impl Serialize) -> io::Result<()> {
        let event = Event {
            schema: SCHEMA,
            event,
            time: rfc3339((self.now)()),
            fields,
        };
        let mut line = serde_json::to_string(&event)?;
        line.push('\n');
        write_all(&mut self.out, &line)
    }
}

impl<W: Write> Output for Json<W> {
    fn ready(&mut self, ready: &Ready) -> io::Result<()> {
        self.event("ready", ready)
    }

    fn pod_found(&mut self, pod: &PodFound) -> io::Result<()> {
        self.event("pod-found", pod)
    }

    fn counters(&mut self, snapshot: &Snapshot, elapsed: Duration) -> io::Result<()> {
        let elapsed = Some(elapsed.as_secs_f64());
        self.event(
            "counters",
            Counters {
                elapsed,
                counters: snapshot,
            },
        )
    }

    fn detached(&mut self, took: Duration) -> io::Result<()> {
        let seconds = took.as_secs_f64();
        self.event("detached", Detached { seconds })
    }

    fn finish(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        self.event(
            "final",
            Counters {
                elapsed: None,
                counters: snapshot,
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        output::tests::example,
        snapshot::tests::{RULE_4, RULE_9, snapshot},
    };

    fn events() -> Vec<Value> {
        let mut out = Vec::new();
        let mut output = Json::new(&mut out, || SystemTime::UNIX_EPOCH);
        output.ready(&example()).unwrap();
        let pod = PodFound {
            netns: "pid 42".to_owned(),
            netns_cookie: 4097,
        };
        output.pod_found(&pod).unwrap();
        output
            .counters(&snapshot(&[(RULE_9, 3)]), Duration::from_millis(1500))
            .unwrap();
        output.detached(Duration::from_millis(2)).unwrap();
        output
            .finish(&snapshot(&[(RULE_9, 4), (RULE_4, 1)]))
            .unwrap();
        let text = String::from_utf8(out).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn every_line_is_an_object_with_schema_event_and_time() {
        let names: Vec<_> = events()
            .iter()
            .map(|event| {
                assert_eq!(event["schema"], 1);
                assert_eq!(event["time"], "1970-01-01T00:00:00.000Z");
                event["event"].as_str().unwrap().to_owned()
            })
            .collect();
        assert_eq!(
            names,
            ["ready", "pod-found", "counters", "detached", "final"]
        );
    }

    #[test]
    fn ready_tells_what_is_attached_where() {
        let ready = events().remove(0);
        assert_eq!(
            ready,
            json!({
                "schema": 1, "event": "ready", "time": "1970-01-01T00:00:00.000Z",
                "version": "0.1.0", "cgroup": "/sys/fs/cgroup/pod", "netns": "/run/netns/pod",
                "netns_cookie": 4097, "metrics_addr": "127.0.0.1:9464",
                "hooks": ["connect4", "sk_lookup"],
                "load_seconds": 0.25, "attach_seconds": 0.005,
            })
        );
    }

    #[test]
    fn counters_come_back_as_they_were() {
        let events = events();
        let connections = |event: &Value, rule: &str| {
            let decisions = event["decisions"].as_array().unwrap();
            let mut found = decisions
                .iter()
                .filter(|d| d["hook"] == "connect4" && d["rule"] == rule);
            let found = (found.next().unwrap(), found.next());
            assert_eq!(found.1, None, "one entry per hook and rule");
            found.0["connections"].as_u64().unwrap()
        };
        assert_eq!(
            (connections(&events[2], "9"), connections(&events[2], "4")),
            (3, 0)
        );
        assert_eq!(events[3]["seconds"], 0.002);
        assert_eq!(
            (connections(&events[4], "9"), connections(&events[4], "4")),
            (4, 1)
        );
        assert_eq!(events[2]["elapsed"], 1.5);
        assert_eq!(events[4].get("elapsed"), None);
        assert!(
            events[4]["exceptions"]
                .as_array()
                .unwrap()
                .iter()
                .all(|e| e["count"] == 0)
        );
    }
}
