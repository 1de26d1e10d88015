//! Several listeners of the proxy at one port, and when they come.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use sidecar_ebpf_common::maps::Listeners;
use sidecar_lab::{Agent, Errno, ListenOptions, Listener, Pod};

use crate::{
    AT_ONCE, assert_idle, drain, pod_at, pod6_at,
    stage::{Stage, addr},
};

/// One listener of a group that shares its port.
fn worker(agent: &Agent, at: &str) -> Result<Listener> {
    let options = ListenOptions {
        reuse_port: true,
        ..ListenOptions::at(addr(at))
    };
    Ok(agent.listen_with(options)?)
}

#[test]
fn workers_come_and_go() -> Result<()> {
    let stage = Stage::start(Pod::new("workers")?, &[])?;
    let remote = Agent::spawn(&stage.pod.remote())?;
    let own = stage.app.listen("0.0.0.0:8080")?;
    let agents: Vec<Agent> = (0..3)
        .map(|_| Agent::spawn(&stage.pod.proxy()))
        .collect::<Result<_>>()?;
    let mut workers: Vec<Listener> = agents
        .iter()
        .map(|agent| worker(agent, "0.0.0.0:15006"))
        .collect::<Result<_>>()?;
    // Whichever closes, be it the first in the listener map or another.
    for closing in [0, 1] {
        let all = 30;
        stage.counted(&[("sk_lookup", "inbound-all", all)], || {
            for _ in 0..all {
                drop(remote.connect(pod_at(8080))?);
            }
            Ok(())
        })?;
        let shares: Vec<usize> = workers.iter().map(drain).collect();
        assert_eq!(shares.iter().sum::<usize>() as u64, all);
        assert!(!shares.contains(&0), "not shared: {shares:?}");
        let before = stage.loader.counters()?;
        let all = closes_under_load(&remote, workers.remove(closing))?;
        let after = stage.loader.counters()?;
        after.expect_delta(&before, &[("sk_lookup", "inbound-all", all)])?;
        for worker in &workers {
            drain(worker);
        }
        assert_idle(&own);
    }
    stage.comes_in(&remote, pod_at(8080), &workers[0])?;
    drop(workers);
    stage.is_refused(&remote, pod_at(8080))?;
    stage.is_refused(&remote, pod_at(15006))?;
    let again = worker(&agents[1], "0.0.0.0:15006")?;
    stage.comes_in(&remote, pod_at(8080), &again)?;
    assert_idle(&own);
    Ok(())
}

/// Connections are made while a worker closes. Those on their way to it may be reset, as without
/// any redirect; those made after it has closed may not. Returns how many there were.
fn closes_under_load(remote: &Agent, closing: Listener) -> Result<u64> {
    let (closed, done) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let clients = scope.spawn(|| -> Result<u64> {
            let (mut all, mut after) = (0, 0);
            while !done.load(Ordering::SeqCst) || after < 100 {
                // Not so many that they overflow the listeners' queues.
                thread::sleep(Duration::from_micros(500));
                let late = closed.load(Ordering::SeqCst);
                let result = remote.connect(pod_at(8080));
                ensure!(!late || result.is_ok(), "after the close: {result:?}");
                all += 1;
                after += u32::from(late);
            }
            Ok(all)
        });
        thread::sleep(Duration::from_millis(50));
        drop(closing);
        closed.store(true, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(50));
        done.store(true, Ordering::SeqCst);
        clients.join().unwrap()
    })
}

#[test]
fn more_workers_than_slots_share_the_work() -> Result<()> {
    const SLOTS: usize = Listeners::SLOTS as usize;
    const MORE: usize = 4;
    let stage = Stage::start(Pod::new("crowd")?, &[])?;
    let (proxy, remote) = (
        Agent::spawn(&stage.pod.proxy())?,
        Agent::spawn(&stage.pod.remote())?,
    );
    let full = [("sock_ops", "bypass:slots-full", MORE as u64)];
    let listen = |at: &str| -> Result<Vec<Listener>> {
        stage.counted(&full, || {
            (0..SLOTS + MORE).map(|_| worker(&proxy, at)).collect()
        })
    };
    let (mut inbound, outbound) = (listen("0.0.0.0:15006")?, listen("0.0.0.0:15001")?);
    let all = 1000;
    stage.counted(
        &[("sk_lookup", "inbound-all", all), ("connect4", "9", all)],
        || {
            for _ in 0..all {
                drop((
                    remote.connect(pod_at(8080))?,
                    stage.app.connect("10.96.0.10:80")?,
                ));
            }
            Ok(())
        },
    )?;
    for workers in [&inbound, &outbound] {
        let shares: Vec<usize> = workers.iter().map(drain).collect();
        assert_eq!(shares.iter().sum::<usize>() as u64, all);
        let late = shares[SLOTS..].iter().sum::<usize>();
        assert!(late > 0, "those without a slot have no share: {shares:?}");
    }
    // What is left are those for which there was no slot: after a restart of the proxy these may
    // be all there are.
    inbound.drain(..SLOTS);
    let deadline = Instant::now() + Duration::from_secs(5);
    while let Err(error) = remote.connect(pod_at(8080)) {
        assert_eq!(error.errno(), Errno::ECONNREFUSED);
        ensure!(
            Instant::now() < deadline,
            "{MORE} workers listen and get nothing"
        );
        thread::sleep(AT_ONCE);
    }
    assert_eq!(inbound.iter().map(drain).sum::<usize>(), 1);
    Ok(())
}

#[test]
fn a_proxy_that_listens_already_is_found() -> Result<()> {
    let pod = Pod::new("earlier")?;
    let (proxy, remote) = (Agent::spawn(&pod.proxy())?, Agent::spawn(&pod.remote())?);
    let workers = [
        worker(&proxy, "0.0.0.0:15006")?,
        worker(&proxy, "0.0.0.0:15006")?,
    ];
    let inbound6 = proxy.listen("[::]:15006")?;
    // Bound so that only a registered listener can have what goes to the redirect's range.
    let (outbound, outbound6) = (
        proxy.listen("127.0.0.1:15001")?,
        proxy.listen("[::1]:15001")?,
    );
    let stage = Stage::start(pod, &["--dual-stack"])?;
    stage.counted(&[("sk_lookup", "inbound-all", 30)], || {
        for _ in 0..30 {
            drop(remote.connect(pod_at(8080))?);
        }
        Ok(())
    })?;
    let shares = workers.each_ref().map(drain);
    assert!(
        shares[0] + shares[1] == 30 && !shares.contains(&0),
        "{shares:?}"
    );
    let [first, second] = workers;
    drop(first);
    stage.comes_in(&remote, pod_at(8080), &second)?;
    stage.comes_in(&remote, pod6_at(8080), &inbound6)?;
    stage.goes_out(addr("10.96.0.10:80"), &outbound)?;
    stage.goes_out(addr("[fd00:96::10]:80"), &outbound6)?;
    // One that is found and one that comes later are told apart by nothing.
    drop((outbound, second));
    let (outbound, inbound) = (
        proxy.listen("127.0.0.1:15001")?,
        proxy.listen("0.0.0.0:15006")?,
    );
    stage.goes_out(addr("10.96.0.10:80"), &outbound)?;
    stage.comes_in(&remote, pod_at(8080), &inbound)?;
    Ok(())
}
