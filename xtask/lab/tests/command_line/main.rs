//! What the loader refuses, how it says so, and that a refusal changes nothing; and the formats that
//! machines read. Needs root; leaves nothing behind.
#![expect(clippy::unwrap_used, reason = "in a test it is a failure of the test")]

#[path = "../stage/attach.rs"]
mod attach;
mod commands;
mod formats;
mod refusals;
mod running;

use std::{ffi::OsString, path::Path, time::Duration};

use anyhow::{Context, Result};
use attach::attached_programs;
use sidecar_lab::{
    Agent, Child, Pod, ip_inside,
    loader::spawn,
    process::{Line, Stream},
};

const PATIENCE: Duration = Duration::from_secs(10);

/// What a loader said that ended by itself.
struct Refusal {
    stdout: String,
    stderr: String,
    code: Option<i32>,
}

fn end_of(child: &Child) -> Result<Refusal> {
    // A refusal comes at once; one that is none would stay.
    let code = child.wait(PATIENCE)?.code();
    let (stdout, stderr): (Vec<_>, Vec<_>) = child
        .lines()
        .into_iter()
        .partition(|line| line.from == Stream::Stdout);
    let join = |lines: Vec<Line>| lines.into_iter().map(|line| line.text + "\n").collect();
    Ok(Refusal {
        stdout: join(stdout),
        stderr: join(stderr),
        code,
    })
}

impl Refusal {
    /// Exit code 2, no data, and an error that has these words.
    fn says(&self, words: &[&str]) {
        let Self {
            stdout,
            stderr,
            code,
        } = self;
        assert_eq!((*code, stdout.as_str()), (Some(2), ""), "{stderr}");
        for word in words {
            assert!(stderr.contains(word), "no {word:?} in:\n{stderr}");
        }
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}

/// A pod with an application in it, whose network and cgroups must stay as they are.
struct Untouched {
    app: Agent,
    pod: Pod,
    routes: String,
}

impl Untouched {
    fn new(hint: &str) -> Result<Self> {
        let pod = Pod::new(hint)?;
        let app = Agent::spawn(&pod.app())?;
        app.echo_log()?;
        let routes = routes(&pod)?;
        Ok(Self { app, pod, routes })
    }

    fn refuses(&self, arguments: &[&str], words: &[&str]) -> Result<()> {
        self.refuses_at(&self.pod.cgroup(), arguments, words)
    }

    fn refuses_at(&self, cgroup: &Path, arguments: &[&str], words: &[&str]) -> Result<()> {
        let mut all: Vec<OsString> = vec!["--cgroup".into(), cgroup.into()];
        all.extend(arguments.iter().map(OsString::from));
        end_of(&spawn(&all)?)
            .with_context(|| format!("{all:?}"))?
            .says(words);
        self.check(0)
    }

    /// That many programs are attached, all of them somebody else's.
    fn check(&self, others: u32) -> Result<()> {
        let (cgroup, app, netns) = (
            self.pod.cgroup(),
            self.pod.app_cgroup(),
            self.pod.netns_path(),
        );
        assert_eq!(attached_programs(&cgroup, &netns)?, others);
        assert_eq!(attached_programs(&app, &netns)?, 0);
        assert_eq!(routes(&self.pod)?, self.routes);
        Ok(())
    }
}

fn routes(pod: &Pod) -> Result<String> {
    let show = |family| {
        let question = [family, "route", "show", "table", "all"];
        ip_inside(&pod.netns_path(), question, "")
    };
    let text = show("-4")? + &show("-6")?;
    // What IPv6 adds by itself to a link that has just come up.
    let by_itself = |line: &&str| ["fe80:", "ff00::/8"].iter().any(|own| line.contains(own));
    Ok(text
        .lines()
        .filter(|line| !by_itself(line))
        .collect::<Vec<_>>()
        .join("\n"))
}
