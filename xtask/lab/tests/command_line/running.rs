//! `explain` and `rules` of what is in effect in a pod: by the very maps that the programs read, so
//! what `explain` says is what the next connection counts.

use std::process::ExitStatus;

use anyhow::{Context as _, Result};
use serde_json::Value;
use sidecar_lab::{Agent, Loader, Pod, PodOptions, loader::run, pod::PROXY_ID};

/// What a subcommand says about the pod.
fn asked(pod: &Pod, args: &[&str]) -> Result<(ExitStatus, String, String)> {
    let cgroup = pod.cgroup();
    let cgroup = cgroup.to_str().context("not UTF-8")?;
    let (command, rest) = args.split_first().context("no command")?;
    let ended = run(&[&[*command, "--cgroup", cgroup], rest].concat())?;
    Ok((ended.status, ended.stdout, ended.stderr))
}

/// A process that is in the pod's network: by it the loader finds the pod.
fn inhabit(pod: &Pod) -> Result<Agent> {
    let agent = Agent::spawn(&pod.app())?;
    // It answers once it is there.
    let _listener = agent.listen("127.0.0.1:0")?;
    Ok(agent)
}

fn explained(pod: &Pod, args: &[&str]) -> Result<Value> {
    let (status, stdout, stderr) = asked(pod, &[&["explain", "--json"], args].concat())?;
    assert_eq!(status.code(), Some(0), "{stderr}");
    serde_json::from_str(&stdout).context(stdout)
}

const SETTINGS: &str = "--dual-stack -u 1337,7 -i 10.0.0.0/8,fd00:96::/64 -x 10.97.0.0/16 -o 5432 -q 3306 \
                        -b 80,8000:8010 -c net1 --redirect-dns --capture-all-dns \
                        --outbound-owner-groups-exclude 888";

#[test]
fn explain_says_what_the_next_connection_counts() -> Result<()> {
    let pod = Pod::with("explain", PodOptions::two_interfaces())?;
    let _first = inhabit(&pod)?;
    let settings: Vec<_> = SETTINGS.split_whitespace().collect();
    let loader = Loader::start(&pod, &settings)?;
    let agent = |uid, gid| Agent::spawn(&pod.app().user(uid, gid));
    for (uid, gid) in [(1000, 1000), (PROXY_ID, 1000), (7, 7), (1000, 888)] {
        let client = agent(uid, gid)?;
        for to in [
            "10.96.0.10:80",
            "10.96.0.10:5432",
            "10.97.0.1:80",
            "203.0.113.1:80",
            "203.0.113.1:3306",
            "10.96.0.10:53",
            "10.244.0.5:80",
            "127.0.0.1:80",
            "127.0.0.9:80",
            "192.168.77.1:80",
            "[fd00:96::1]:80",
            "[fd00:10:244::5]:80",
            "[::6]:80",
            "0.0.0.0:80",
        ] {
            let (uid, gid) = (uid.to_string(), gid.to_string());
            let report = explained(&pod, &["--uid", &uid, "--gid", &gid, "--to", to])?;
            let rule = report["rule"].as_str().context("no rule")?;
            let before = loader.counters()?;
            // Who listens or not, and whether there is a way, is no matter here.
            let _ended = client.connect(to);
            let after = loader.counters()?;
            let hook = if to.starts_with('[') {
                "connect6"
            } else {
                "connect4"
            };
            let moved = after.since(&before);
            assert_eq!(
                moved.get(&(hook.to_owned(), rule.to_owned())),
                Some(&1),
                "user {uid}, group {gid} to {to}: {report} but {moved:?}"
            );
        }
    }
    Ok(())
}

#[test]
fn rules_are_those_of_the_settings_it_runs_with() -> Result<()> {
    let pod = Pod::with("rules", PodOptions::two_interfaces())?;
    let _app = inhabit(&pod)?;
    let settings: Vec<_> = SETTINGS.split_whitespace().collect();
    let _loader = Loader::start(&pod, &settings)?;
    for output in [&["--iptables"][..], &["--json"], &[]] {
        let given = run(&[&["rules"], settings.as_slice(), output].concat())?;
        assert_eq!(given.status.code(), Some(0), "{}", given.stderr);
        let (status, running, stderr) = asked(&pod, &[&["rules"], output].concat())?;
        assert_eq!(status.code(), Some(0), "{stderr}");
        assert_eq!(running, given.stdout);
    }
    // A container's cgroup is as good as the pod's.
    let container = pod.app_cgroup();
    let container = container.to_str().context("not UTF-8")?;
    let ended = run(&["rules", "--cgroup", container])?;
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    Ok(())
}

#[test]
fn where_nothing_runs_it_says_so() -> Result<()> {
    let pod = Pod::new("nothing")?;
    let (status, stdout, stderr) = asked(&pod, &["rules"])?;
    assert_eq!((status.code(), stdout.as_str()), (Some(2), ""));
    assert!(stderr.contains("no redirect is attached"), "{stderr}");
    let running = Loader::start(
        &pod,
        &[
            "--proxy-cgroup",
            pod.proxy_cgroup().to_str().context("not UTF-8")?,
        ],
    )?;
    let report = explained(&pod, &["--uid", "1337", "--to", "10.1.2.3:80"])?;
    assert_eq!(report["rule"], "4");
    assert!(
        report["assumed"]
            .as_str()
            .is_some_and(|text| text.contains("proxy's cgroup"))
    );
    drop(running);
    assert_eq!(asked(&pod, &["rules"])?.0.code(), Some(2));
    Ok(())
}
