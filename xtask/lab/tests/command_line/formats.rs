//! What the loader writes for people, machines and Prometheus.

use std::{ffi::OsString, path::PathBuf, process::Command, thread, time::Duration};

use anyhow::Result;
use serde_json::Value;
use sidecar_ebpf_common::counter::{Counter, Effect, Hook};
use sidecar_lab::{
    Child, Loader,
    counters::http_get,
    loader::{binary, spawn},
    process::{Stream, run},
};
use sidecar_loader::program::DNS;

use crate::{PATIENCE, Untouched, end_of};

#[test]
fn help_and_version_are_data() -> Result<()> {
    for (flag, word) in [
        ("--help", "--proxy-cgroup"),
        ("-h", "--cgroup"),
        ("--version", "loader"),
    ] {
        let end = end_of(&spawn(&[flag])?)?;
        assert_eq!((end.code, end.stderr.as_str()), (Some(0), ""));
        assert!(end.stdout.contains(word), "{}", end.stdout);
    }
    let end = end_of(&spawn(&[] as &[&str])?)?;
    end.says(&["--cgroup"]);
    Ok(())
}

#[test]
fn every_line_of_json_is_an_event() -> Result<()> {
    let pod = Untouched::new("json")?;
    let loader = Loader::start(&pod.pod, &["--interval", "0.1"])?;
    pod.app.connect("10.96.0.10:80").unwrap_err();
    thread::sleep(Duration::from_millis(500));
    assert_eq!(loader.stop()?.code(), Some(0));
    // `events` leaves out what is no JSON, so the number of lines says whether all are.
    let events = loader.events();
    let names: Vec<&str> = events
        .iter()
        .map(|event| event["event"].as_str().unwrap())
        .collect();
    let ["ready", middle @ .., "detached", "final"] = names.as_slice() else {
        panic!("{names:?}");
    };
    assert!(
        middle.len() >= 3 && middle.iter().all(|name| *name == "counters"),
        "{names:?}"
    );
    for event in &events {
        assert_eq!(event["schema"], 1);
        assert!(
            event["time"]
                .as_str()
                .is_some_and(|time| time.ends_with('Z')),
            "{event}"
        );
    }
    let ready = &events[0];
    assert_eq!(ready["cgroup"], pod.pod.cgroup().to_str().unwrap());
    let hooks: Vec<&str> = ready["hooks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|hook| hook.as_str().unwrap())
        .collect();
    assert!(
        Hook::ALL
            .iter()
            .all(|hook| hooks.contains(&hook.name()) != DNS.contains(hook)),
        "{hooks:?}"
    );
    assert_eq!(total(events.last().unwrap()), 1);
    pod.check(0)
}

#[test]
fn each_line_of_either_stream_is_where_it_belongs() -> Result<()> {
    let pod = Untouched::new("formats")?;
    for (output, first) in [(None, "event=ready"), (Some("json"), "\"event\":\"ready\"")] {
        let mut arguments: Vec<OsString> = vec!["--cgroup".into(), pod.pod.cgroup().into()];
        arguments.extend(
            output
                .iter()
                .flat_map(|format| ["--output".into(), format.into()]),
        );
        let child = spawn(&arguments)?;
        child.wait_for_line(first, PATIENCE)?;
        pod.app.connect("10.96.0.10:80").unwrap_err();
        assert_eq!(child.stop()?.code(), Some(0));
        let stdout: Vec<String> = child
            .lines()
            .into_iter()
            .filter(|line| line.from == Stream::Stdout)
            .map(|line| line.text)
            .collect();
        assert!(stdout[0].contains(first), "{stdout:?}");
        for line in &stdout {
            match output {
                Some(_) => assert!(serde_json::from_str::<Value>(line).is_ok(), "{line}"),
                None => assert!(
                    line.starts_with("time=") && line.contains(" event="),
                    "{line}"
                ),
            }
        }
        pod.check(0)?;
    }
    Ok(())
}

fn total(event: &Value) -> u64 {
    let decisions = event["decisions"].as_array().unwrap().iter();
    decisions
        .map(|decision| decision["connections"].as_u64().unwrap())
        .sum()
}

#[test]
fn metrics_have_every_series_at_zero() -> Result<()> {
    let pod = Untouched::new("metrics")?;
    let loader = Loader::start(&pod.pod, &[])?;
    let counters = loader.counters()?;
    assert_eq!(counters.rows.len(), Counter::all().count());
    assert!(
        counters.rows.values().all(|&count| count == 0),
        "{counters:?}"
    );
    for counter in Counter::all() {
        let (hook, name, action) = match counter {
            Counter::Outbound(hook, rule) => {
                (hook.hook(), rule.label().to_owned(), rule.action().name())
            }
            Counter::Inbound(rule) => (
                Hook::SkLookup,
                rule.label().to_owned(),
                rule.action().name(),
            ),
            Counter::Other(hook, reason) => match reason.effect() {
                Effect::Bypass => (hook, format!("bypass:{}", reason.name()), ""),
                Effect::Refusal => (hook, format!("refusal:{}", reason.name()), ""),
            },
        };
        let here = counters
            .rows
            .keys()
            .filter(|row| row.hook == hook.name() && row.name == name);
        let actions: Vec<&str> = here.map(|row| row.action.as_str()).collect();
        assert_eq!(actions, [action], "{hook:?} {name}");
    }
    // Prometheus' own conventions: help and type once per family, a family's samples together.
    let text = http_get(loader.metrics_addr(), "/metrics")?;
    for family in ["decisions", "bypasses", "refusals"] {
        let count = |line: &str| text.lines().filter(|found| found.starts_with(line)).count();
        assert_eq!(
            count(&format!("# HELP sidecar_ebpf_{family} ")),
            1,
            "{text}"
        );
        assert_eq!(
            count(&format!("# TYPE sidecar_ebpf_{family} counter")),
            1,
            "{text}"
        );
    }
    // Off unless asked for: this loader listens at the one address that it was given.
    let error = http_get(loader.metrics_addr(), "/").unwrap_err();
    assert!(error.to_string().contains("404"), "{error}");
    Ok(())
}

#[test]
fn without_metrics_it_listens_nowhere() -> Result<()> {
    let pod = Untouched::new("quiet")?;
    let arguments: [PathBuf; 2] = ["--cgroup".into(), pod.pod.cgroup()];
    let child = spawn(&arguments)?;
    child.wait_for_line("event=ready", PATIENCE)?;
    let listening = run("ss", ["-Hltnp"], "")?;
    let own = format!("pid={},", child.pid());
    assert!(!listening.contains(&own), "{listening}");
    assert_eq!(child.stop()?.code(), Some(0));
    pod.check(0)
}

/// `loader … | head -n 1`: nobody reads on, so there is nothing left to run for.
#[test]
fn it_ends_with_its_reader() -> Result<()> {
    let pod = Untouched::new("pipe")?;
    let mut command = Command::new("sh");
    command
        .args(["-c", "\"$0\" \"$@\" | head -n 1"])
        .arg(binary()?);
    command
        .arg("--cgroup")
        .arg(pod.pod.cgroup())
        .args(["--output", "json", "--interval", "0.1"]);
    let shell = Child::spawn(command)?;
    // The shell waits for both ends of the pipe.
    assert_eq!(shell.wait(PATIENCE)?.code(), Some(0));
    let said: Vec<_> = shell
        .lines()
        .into_iter()
        .filter(|line| line.from == Stream::Stdout)
        .collect();
    assert!(
        said.len() == 1 && said[0].text.contains("\"ready\""),
        "{said:?}"
    );
    assert!(
        !shell.transcript().contains("ERROR"),
        "{}",
        shell.transcript()
    );
    pod.check(0)
}
