//! Nothing stays behind: not after a drop, not after a signal, and not for long after a SIGKILL.
//! Needs root.
#![expect(clippy::unwrap_used, reason = "in a test it is a failure of the test")]

use std::{fs, path::Path, process, thread, time::Duration};

use anyhow::Result;
use nix::sys::signal::Signal;
use sidecar_lab::{Agent, Child, Pod, cgroup2_mount, pod};

fn exists(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

/// Everything of a pod that could stay behind.
fn traces(pod_name: &str) -> Vec<String> {
    let directories = [cgroup2_mount().unwrap(), "/run/netns".into()];
    directories
        .iter()
        .flat_map(|directory| fs::read_dir(directory).unwrap())
        .map(|entry| entry.unwrap().path().display().to_string())
        .filter(|path| path.contains(pod_name))
        .collect()
}

#[test]
fn a_dropped_pod_leaves_nothing() -> Result<()> {
    let pod = Pod::new("drop")?;
    let name = pod.name().to_owned();
    let places = [pod.app(), pod.proxy(), pod.node_proxy(), pod.remote()];
    let agents: Vec<Agent> = places.iter().map(Agent::spawn).collect::<Result<_>>()?;
    let pids: Vec<u32> = agents.iter().map(Agent::pid).collect();
    for (agent, place) in agents.iter().zip(&places) {
        // An answer says that it has arrived where it belongs.
        drop(agent.listen("0.0.0.0:0")?);
        let procs = place.cgroup.as_ref().unwrap().join("cgroup.procs");
        assert_eq!(fs::read_to_string(procs)?.trim(), agent.pid().to_string());
    }
    assert_eq!(traces(&name).len(), 5);
    // The pod goes first, so its processes have to be ended by it.
    drop(pod);
    assert_eq!(traces(&name), [] as [String; 0]);
    drop(agents);
    assert!(!pids.into_iter().any(exists));
    Ok(())
}

#[test]
fn what_a_dead_process_left_is_swept() -> Result<()> {
    // Above the largest pid that Linux allows.
    let name = format!("sidecar-lab-4194305-{}-x", process::id());
    let cgroup = cgroup2_mount()?.join(&name);
    fs::create_dir_all(cgroup.join("app"))?;
    let pod = Pod::new("sweeper")?;
    let mut left = pod.app().in_cgroup(cgroup.join("app"));
    left.netns = None;
    let sleeper = left.spawn("sleep", ["600"])?;
    while fs::read_to_string(cgroup.join("app/cgroup.procs"))?.is_empty() {
        thread::sleep(Duration::from_millis(5));
    }
    pod::sweep()?;
    assert_eq!(traces(&name), [] as [String; 0]);
    assert!(!sleeper.wait(Duration::from_secs(5))?.success());
    assert_eq!(
        traces(pod.name()).len(),
        5,
        "the pod of a live process stays"
    );
    Ok(())
}

#[test]
fn a_signal_removes_the_pod() -> Result<()> {
    let mut command = process::Command::new(std::env::current_exe()?);
    command.args(["--exact", "hold_a_pod", "--ignored", "--nocapture"]);
    let child = Child::spawn(command)?;
    let line = child.wait_for_line("holding ", Duration::from_secs(20))?;
    let (_, words) = line.split_once("holding ").unwrap();
    let (name, agent) = words.split_once(' ').unwrap();
    assert_eq!(traces(name).len(), 5);
    child.signal(Signal::SIGTERM)?;
    child.wait(Duration::from_secs(20))?;
    assert_eq!(traces(name), [] as [String; 0]);
    assert!(!exists(agent.parse()?));
    Ok(())
}

#[test]
#[ignore = "the other half of a_signal_removes_the_pod, which runs it in a process of its own"]
fn hold_a_pod() -> Result<()> {
    let pod = Pod::new("held")?;
    let agent = Agent::spawn(&pod.app())?;
    drop(agent.listen("0.0.0.0:0")?);
    println!("holding {} {}", pod.name(), agent.pid());
    thread::sleep(Duration::from_secs(60));
    Ok(())
}
