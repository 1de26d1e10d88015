//! When `sock_ops` is attached, and that nothing is missed while it is not.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use sidecar_lab::{Agent, Errno, ListenOptions, Listener, Loader, Placement, Pod};

use crate::{
    CAPTURED, assert_idle, pod_at, pod6_at,
    stage::{Stage, addr},
};

/// How long the loader may take to fall asleep, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a proxy that listens may be unknown.
pub(crate) const SOON: Duration = Duration::from_secs(1);
pub(crate) const SERVICE: &str = "10.96.0.10:80";

fn is_watching(loader: &Loader) -> Result<bool> {
    let says = loader.is_watching()?;
    let links = links(loader.pid())?;
    // Both may change in between.
    if links != usize::from(says) {
        thread::sleep(Duration::from_millis(50));
        return is_watching(loader);
    }
    Ok(says)
}

/// Links of `sock_ops` that the process holds, as the kernel tells it.
fn links(process: u32) -> Result<usize> {
    /// `BPF_CGROUP_SOCK_OPS` (include/uapi/linux/bpf.h).
    const SOCK_OPS: &str = "attach_type:\t3";
    let mut count = 0;
    for entry in fs::read_dir(format!("/proc/{process}/fdinfo"))? {
        let info = fs::read_to_string(entry?.path()).unwrap_or_default();
        count += usize::from(
            info.contains("link_type:\tcgroup") && info.lines().any(|line| line == SOCK_OPS),
        );
    }
    Ok(count)
}

pub(crate) fn falls_asleep(loader: &Loader) -> Result<()> {
    becomes(loader, false)
}

fn becomes(loader: &Loader, watching: bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while is_watching(loader)? != watching {
        ensure!(
            Instant::now() < deadline,
            "is it watching after {PATIENCE:?}? {}: {}",
            !watching,
            loader.transcript()
        );
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Connects from outside until it is let in; tells how long that took.
fn let_in(remote: &Agent) -> Result<Duration> {
    let start = Instant::now();
    while let Err(error) = remote.connect(pod_at(8080)) {
        ensure!(start.elapsed() < SOON, "refused for {SOON:?}: {error}");
        thread::sleep(Duration::from_millis(2));
    }
    Ok(start.elapsed())
}

fn both(proxy: &Agent) -> Result<[Listener; 2]> {
    Ok([
        proxy.listen("127.0.0.1:15001")?,
        proxy.listen("0.0.0.0:15006")?,
    ])
}

/// Port 15006, to be shared with others.
fn shared() -> ListenOptions {
    ListenOptions {
        reuse_port: true,
        ..ListenOptions::at(addr("0.0.0.0:15006"))
    }
}

fn start(hint: &str) -> Result<(Stage, Agent, Agent)> {
    let stage = Stage::start(Pod::new(hint)?, &["--dual-stack"])?;
    let (proxy, remote) = (
        Agent::spawn(&stage.pod.proxy())?,
        Agent::spawn(&stage.pod.remote())?,
    );
    Ok((stage, proxy, remote))
}

#[test]
fn watches_until_the_proxy_listens_and_not_longer() -> Result<()> {
    let (stage, proxy, remote) = start("quiet")?;
    // Longer than it takes to fall asleep.
    thread::sleep(SOON);
    assert!(is_watching(&stage.loader)?, "the proxy is not there yet");
    let outbound = proxy.listen("127.0.0.1:15001")?;
    thread::sleep(SOON);
    assert!(is_watching(&stage.loader)?, "15006 is missing");
    let inbound = proxy.listen("0.0.0.0:15006")?;
    falls_asleep(&stage.loader)?;
    let known = ["outbound", "inbound", "dns"].map(|port| stage.loader.listeners(port).unwrap());
    assert_eq!(known, [1, 1, 0]);
    for _ in 0..20 {
        stage.comes_in(&remote, pod_at(8080), &inbound)?;
        stage.goes_out(addr(SERVICE), &outbound)?;
    }
    assert!(!is_watching(&stage.loader)?);
    drop(inbound);
    assert_eq!(stage.loader.listeners("inbound")?, 0);
    Ok(())
}

#[test]
fn without_inbound_nobody_waits_for_an_inbound_listener() -> Result<()> {
    let stage = Stage::start(Pod::new("outbound-only")?, &["-b", ""])?;
    let proxy = Agent::spawn(&stage.pod.proxy())?;
    let outbound = proxy.listen("127.0.0.1:15001")?;
    falls_asleep(&stage.loader)?;
    stage.goes_out(addr(SERVICE), &outbound)?;
    Ok(())
}

#[test]
fn other_ports_wake_nobody() -> Result<()> {
    let (stage, proxy, _remote) = start("other-ports")?;
    let _listeners = both(&proxy)?;
    falls_asleep(&stage.loader)?;
    for port in ["0", "8080", "15000", "15002", "15021"] {
        drop(stage.app.listen(&format!("0.0.0.0:{port}"))?);
        drop(stage.app.listen(&format!("[::]:{port}"))?);
        assert!(!is_watching(&stage.loader)?, "port {port}");
    }
    let echo = proxy.udp_echo("127.0.0.1:15053")?;
    assert!(!is_watching(&stage.loader)?, "UDP");
    drop(echo);
    Ok(())
}

#[test]
fn a_proxy_that_restarts_is_back_at_once() -> Result<()> {
    let (stage, proxy, remote) = start("restart")?;
    let own = stage.app.listen("0.0.0.0:8080")?;
    let mut running = Some((both(&proxy)?, proxy));
    for _ in 0..5 {
        falls_asleep(&stage.loader)?;
        // It dies with its process, and comes back before anybody has noticed.
        drop(running.take());
        let proxy = Agent::spawn(&stage.pod.proxy())?;
        let [outbound, inbound] = both(&proxy)?;
        let took = let_in(&remote)?;
        println!("known {took:?} after listen()");
        drop(inbound.accept()?);
        stage.comes_in(&remote, pod_at(8080), &inbound)?;
        stage.goes_out(addr(SERVICE), &outbound)?;
        running = Some(([outbound, inbound], proxy));
    }
    assert_idle(&own);
    Ok(())
}

#[test]
fn a_proxy_outside_the_pod_is_seen_too() -> Result<()> {
    let pod = Pod::new("node-proxy")?;
    let node = pod.node_cgroup();
    let stage = Stage::start(pod, &["--proxy-cgroup", node.to_str().unwrap()])?;
    let (proxy, remote) = (
        Agent::spawn(&stage.pod.node_proxy())?,
        Agent::spawn(&stage.pod.remote())?,
    );
    let [outbound, inbound] = both(&proxy)?;
    falls_asleep(&stage.loader)?;
    for _ in 0..3 {
        let _later = proxy.listen("[::]:15006")?;
        becomes(&stage.loader, true)?;
        falls_asleep(&stage.loader)?;
        stage.comes_in(&remote, pod_at(8080), &inbound)?;
        stage.goes_out(addr(SERVICE), &outbound)?;
    }
    Ok(())
}

/// As when it is gone and its programs stay attached: nothing gets past the proxy, and what the
/// loader has missed it makes up for.
#[test]
fn while_the_loader_sleeps_a_new_proxy_gets_nothing_and_nobody_else_does() -> Result<()> {
    let (stage, proxy, remote) = start("stopped")?;
    let own = stage.app.listen("0.0.0.0:8080")?;
    let listeners = both(&proxy)?;
    falls_asleep(&stage.loader)?;
    stage.loader.signal(Signal::SIGSTOP)?;
    drop(listeners);
    let [outbound, inbound] = both(&proxy)?;
    for _ in 0..5 {
        for refused in [remote.connect(pod_at(8080)), stage.app.connect(SERVICE)] {
            assert_eq!(refused.unwrap_err().errno(), Errno::ECONNREFUSED);
        }
    }
    stage.loader.signal(Signal::SIGCONT)?;
    let_in(&remote)?;
    drop(inbound.accept()?);
    stage.comes_in(&remote, pod_at(8080), &inbound)?;
    stage.goes_out(addr(SERVICE), &outbound)?;
    assert_idle(&own);
    Ok(())
}

#[test]
fn a_proxy_that_is_gone_is_watched_for() -> Result<()> {
    let (stage, proxy, remote) = start("gone")?;
    let [_outbound, inbound] = both(&proxy)?;
    falls_asleep(&stage.loader)?;
    drop(inbound);
    becomes(&stage.loader, true)?;
    // So the next one is known when listen() returns.
    let inbound = proxy.listen("[::]:15006")?;
    stage.comes_in(&remote, pod6_at(8080), &inbound)?;
    Ok(())
}

#[test]
fn a_worker_that_comes_later_takes_over() -> Result<()> {
    let (stage, proxy, remote) = start("hot-restart")?;
    let _outbound = proxy.listen("127.0.0.1:15001")?;
    let mut current = proxy.listen_with(shared())?;
    for _ in 0..5 {
        falls_asleep(&stage.loader)?;
        let next_proxy = Agent::spawn(&stage.pod.proxy())?;
        let next = next_proxy.listen_with(shared())?;
        becomes(&stage.loader, true)?;
        // At no time is there nobody; the old one may have some of them in its queue.
        for _ in 0..20 {
            drop(remote.connect(pod_at(8080))?);
        }
        drop(current);
        let conn = stage.counted(&[CAPTURED], || Ok(remote.connect(pod_at(8080))?))?;
        drop(conn);
        current = next;
    }
    Ok(())
}

#[test]
fn a_socket_that_binds_now_and_listens_later_is_not_missed() -> Result<()> {
    let (stage, proxy, remote) = start("warming")?;
    let _outbound = proxy.listen("127.0.0.1:15001")?;
    let first = proxy.listen_with(shared())?;
    falls_asleep(&stage.loader)?;
    let second = proxy.bind_with(shared())?;
    becomes(&stage.loader, true)?;
    thread::sleep(Duration::from_secs(3));
    assert!(is_watching(&stage.loader)?, "it may listen at any time");
    second.start()?;
    // It is registered by itself, not found after a refusal.
    drop(first);
    stage.comes_in(&remote, pod_at(8080), &second)?;
    falls_asleep(&stage.loader)
}

#[test]
fn a_socket_that_binds_and_never_listens_disturbs_nobody() -> Result<()> {
    let (stage, proxy, remote) = start("never")?;
    let [outbound, inbound] = both(&proxy)?;
    falls_asleep(&stage.loader)?;
    let taken = addr("127.0.0.1:15001");
    for _ in 0..1000 {
        stage.app.bind_with(ListenOptions::at(taken)).unwrap_err();
    }
    let idle = stage
        .app
        .bind_with(ListenOptions::at(addr("127.0.0.2:15001")))?;
    stage.comes_in(&remote, pod_at(8080), &inbound)?;
    stage.goes_out(addr(SERVICE), &outbound)?;
    drop(idle);
    assert!(is_watching(&stage.loader)?);
    let proxy = Agent::spawn(&stage.pod.proxy())?;
    drop((outbound, inbound));
    let [outbound, inbound] = both(&proxy)?;
    stage.comes_in(&remote, pod_at(8080), &inbound)?;
    stage.goes_out(addr(SERVICE), &outbound)?;
    Ok(())
}

/// Neither its bind nor its listen passes the pod's cgroup: the first connection is refused, and
/// has it looked for.
#[test]
fn a_listener_from_elsewhere_is_found_after_a_refusal() -> Result<()> {
    let (stage, proxy, remote) = start("handed-over")?;
    let own = stage.app.listen("0.0.0.0:8080")?;
    let outbound = proxy.listen("127.0.0.1:15001")?;
    let inbound = proxy.listen_with(shared())?;
    falls_asleep(&stage.loader)?;
    let elsewhere = Placement {
        cgroup: stage.pod.remote().cgroup,
        ..stage.pod.proxy()
    };
    let elsewhere = Agent::spawn(&elsewhere)?;
    let handed_over = elsewhere.listen_with(shared())?;
    // A socket stays in the cgroup it was made in; its process comes to the pod.
    let procs = stage
        .pod
        .proxy()
        .cgroup
        .context("no cgroup")?
        .join("cgroup.procs");
    fs::write(&procs, elsewhere.pid().to_string())
        .with_context(|| format!("writing to {}", procs.display()))?;
    assert!(!is_watching(&stage.loader)?);
    drop(inbound);
    let took = let_in(&remote)?;
    println!("found {took:?} after the first refusal");
    drop(handed_over.accept()?);
    stage.counted(&[CAPTURED], || {
        let conn = remote.connect(pod_at(8080))?;
        assert_eq!(handed_over.accept()?.peer, conn.local);
        Ok(())
    })?;
    stage.goes_out(addr(SERVICE), &outbound)?;
    assert_idle(&own);
    Ok(())
}
