//! Where redirected IPv4 connections are left to the kernel's normal lookup, and where not any more. What
//! tells the two apart is who refuses: the kernel does without a counter.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use sidecar_lab::{Agent, Errno, ListenOptions, Listener, Placement, Pod};

use crate::{
    LOST, assert_idle, drain,
    stage::{Stage, addr},
    watch::{SERVICE, SOON, falls_asleep},
};

/// An outbound connection that the rules redirect, and that the kernel refuses.
const BY_KERNEL: [(&str, &str, u64); 1] = [("connect4", "9", 1)];

fn shared(at: &str) -> ListenOptions {
    ListenOptions {
        reuse_port: true,
        ..ListenOptions::at(addr(at))
    }
}

/// A pod at rest whose proxy listens like that; the last one is the inbound listener.
fn start(hint: &str, outbound: Vec<ListenOptions>) -> Result<(Stage, Agent, Vec<Listener>)> {
    let stage = Stage::start(Pod::new(hint)?, &["--dual-stack"])?;
    let proxy = Agent::spawn(&stage.pod.proxy())?;
    let listeners = outbound
        .into_iter()
        .map(|options| Ok(proxy.listen_with(options)?))
        .chain([Ok(proxy.listen("0.0.0.0:15006")?)])
        .collect::<Result<_>>()?;
    falls_asleep(&stage.loader)?;
    Ok((stage, proxy, listeners))
}

fn is_refused(stage: &Stage) {
    let error = stage.app.connect(SERVICE).unwrap_err();
    assert_eq!(error.errno(), Errno::ECONNREFUSED);
}

/// Who refuses while the proxy's outbound listeners are gone and the loader, which sleeps, has not noticed.
fn refused_after_the_proxy(
    stage: &Stage,
    outbound: Vec<Listener>,
    moved: &[(&str, &str, u64)],
) -> Result<()> {
    while_the_loader_sleeps(stage, moved, || {
        drop(outbound);
        is_refused(stage);
        Ok(())
    })
}

/// The counters are the loader's to tell, so they are asked for before and after.
fn while_the_loader_sleeps(
    stage: &Stage,
    moved: &[(&str, &str, u64)],
    act: impl FnOnce() -> Result<()>,
) -> Result<()> {
    stage.counted(moved, || {
        stage.loader.signal(Signal::SIGSTOP)?;
        act()?;
        stage.loader.signal(Signal::SIGCONT)
    })
}

#[test]
fn what_listens_everywhere_is_found_by_the_kernel() -> Result<()> {
    let everywhere = || vec![shared("0.0.0.0:15001")];
    let dual = ListenOptions {
        v6_only: false,
        ..shared("[::]:15001")
    };
    for (hint, outbound) in [
        ("v4", everywhere()),
        ("dual", vec![dual]),
        ("workers", [everywhere(), everywhere()].concat()),
        (
            "families",
            [everywhere(), vec![shared("[::]:15001")]].concat(),
        ),
        (
            "v6-local",
            [everywhere(), vec![shared("[::1]:15001")]].concat(),
        ),
    ] {
        let (stage, _proxy, mut listeners) = start(hint, outbound)?;
        let _inbound = listeners.pop();
        for _ in 0..10 {
            drop(stage.app.connect(SERVICE)?);
        }
        assert_eq!(listeners.iter().map(drain).sum::<usize>(), 10);
        refused_after_the_proxy(&stage, listeners, &BY_KERNEL)?;
    }
    Ok(())
}

#[test]
fn what_does_not_is_looked_up() -> Result<()> {
    let by_device = ListenOptions {
        bind_to_device: Some("eth0".to_owned()),
        ..shared("0.0.0.0:15001")
    };
    for (hint, outbound) in [
        ("local", vec![shared("127.0.0.1:15001")]),
        ("device", vec![by_device]),
        ("v6-only", vec![shared("[::]:15001")]),
        (
            "both",
            vec![shared("127.0.0.1:15001"), shared("0.0.0.0:15001")],
        ),
        (
            "mapped",
            vec![
                ListenOptions {
                    v6_only: false,
                    ..shared("[::ffff:127.0.0.1]:15001")
                },
                shared("0.0.0.0:15001"),
            ],
        ),
    ] {
        let (stage, _proxy, mut listeners) = start(hint, outbound)?;
        let _inbound = listeners.pop();
        refused_after_the_proxy(&stage, listeners, &LOST)?;
    }
    Ok(())
}

/// It is of the proxy's user, so the kernel lets it share the port, but not of the attached cgroup.
#[test]
fn a_stranger_on_the_port_has_listeners_looked_up() -> Result<()> {
    let pod = Pod::new("stranger")?;
    let place = Placement {
        cgroup: pod.remote().cgroup,
        ..pod.proxy()
    };
    let stranger = Agent::spawn(&place)?;
    let _theirs = stranger.listen_with(shared("127.0.0.1:15001"))?;
    let stage = Stage::start(pod, &[])?;
    let proxy = Agent::spawn(&stage.pod.proxy())?;
    let outbound = proxy.listen_with(shared("0.0.0.0:15001"))?;
    let _inbound = proxy.listen("0.0.0.0:15006")?;
    falls_asleep(&stage.loader)?;
    refused_after_the_proxy(&stage, vec![outbound], &LOST)
}

/// Whoever listens on the port of a proxy that has gone has bound to it first, and that takes it back at once,
/// loader or not.
#[test]
fn nobody_else_inherits_the_port() -> Result<()> {
    let (stage, _proxy, mut listeners) = start("heir", vec![shared("0.0.0.0:15001")])?;
    let _inbound = listeners.pop();
    let by_both = [("connect4", "9", 2), LOST[1]];
    while_the_loader_sleeps(&stage, &by_both, || {
        drop(listeners);
        is_refused(&stage);
        let heir = stage.app.listen("0.0.0.0:15001")?;
        is_refused(&stage);
        assert_idle(&heir);
        Ok(())
    })
}

/// What all of this rests on. The normal lookup prefers a socket at the very address that carries the number,
/// and one that was bound there before the loader came may stay.
#[test]
fn the_kernel_lets_nobody_listen_beside_the_proxy() -> Result<()> {
    let pod = Pod::new("beside")?;
    let app = Agent::spawn(&pod.app())?;
    let bound: Vec<Listener> = (0..8)
        .map(|number| Ok(app.bind_with(ListenOptions::at(([127, 128, 0, number], 15001).into()))?))
        .collect::<Result<_>>()?;
    let stage = Stage::start(pod, &[])?;
    let proxy = Agent::spawn(&stage.pod.proxy())?;
    let outbound = proxy.listen("0.0.0.0:15001")?;
    let _inbound = proxy.listen("0.0.0.0:15006")?;
    falls_asleep(&stage.loader)?;
    for squatter in &bound {
        assert_eq!(squatter.start().unwrap_err().errno(), Errno::EADDRINUSE);
    }
    for number in 0..16 {
        stage.goes_out(([10, 96, 0, number], 80).into(), &outbound)?;
    }
    Ok(())
}

/// Whoever has the proxy's port in another namespace does not matter.
#[test]
fn a_bind_elsewhere_takes_nothing_back() -> Result<()> {
    let pod = Pod::new("bind-elsewhere")?;
    let netns = pod.netns_path();
    let mut place = pod.app();
    place.netns = Some(pod.remote_netns_path());
    let elsewhere = Agent::spawn(&place)?;
    let stage = Stage::start(pod, &["--netns", netns.to_str().unwrap()])?;
    let proxy = Agent::spawn(&stage.pod.proxy())?;
    let outbound = proxy.listen("0.0.0.0:15001")?;
    let _inbound = proxy.listen("0.0.0.0:15006")?;
    falls_asleep(&stage.loader)?;
    let _bound = elsewhere.listen("0.0.0.0:15001")?;
    refused_after_the_proxy(&stage, vec![outbound], &BY_KERNEL)
}

/// The agent's port, at which nobody is expected without DNS capture, so nobody wakes.
#[test]
fn a_listener_that_closes_takes_no_other_port_back() -> Result<()> {
    let (stage, proxy, mut listeners) = start("one-of-two", vec![shared("0.0.0.0:15001")])?;
    let _inbound = listeners.pop();
    let agent = proxy.listen("0.0.0.0:15053")?;
    // Until it is seen that this one listens, and has for a while.
    thread::sleep(SOON);
    falls_asleep(&stage.loader)?;
    assert_eq!(stage.loader.listeners("dns")?, 1);
    drop(agent);
    thread::sleep(SOON);
    refused_after_the_proxy(&stage, listeners, &BY_KERNEL)
}

#[test]
fn a_loader_that_runs_counts_refusals_soon() -> Result<()> {
    let (stage, proxy, mut listeners) = start("soon", vec![shared("0.0.0.0:15001")])?;
    let _inbound = listeners.pop();
    drop(listeners);
    let start = Instant::now();
    let counted = |stage: &Stage| -> Result<u64> {
        Ok(stage
            .loader
            .counters()?
            .get("sk_lookup", "refusal:no-listener"))
    };
    while counted(&stage)? == 0 {
        ensure!(start.elapsed() < SOON, "nothing is counted for {SOON:?}");
        stage.app.connect(SERVICE).unwrap_err();
        thread::sleep(Duration::from_millis(10));
    }
    // And a proxy that comes back is served, by the one way and by the other.
    let outbound = proxy.listen("0.0.0.0:15001")?;
    stage.goes_out(addr(SERVICE), &outbound)?;
    falls_asleep(&stage.loader)?;
    stage.goes_out(addr(SERVICE), &outbound)?;
    refused_after_the_proxy(&stage, vec![outbound], &BY_KERNEL)
}
