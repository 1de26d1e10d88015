//! The end, and that nothing is left after it.

use std::{net::Ipv4Addr, path::Path};

use anyhow::Result;
use nix::sys::signal::Signal;
use sidecar_ebpf_common::{
    counter::Hook,
    number::{V4_RANGE, V4_RANGE_LEN},
};
use sidecar_lab::{Agent, Conn, Level, Loader, Pod, pod::POD_IP};
use sidecar_loader::program::DNS;

use crate::{
    SERVICE,
    attach::attached_programs,
    connections, goes_both_ways, network,
    objects::Objects,
    passes,
    stage::{Stage, addr},
};

/// One program and one link for each.
const HOOKS: usize = Hook::ALL.len();
const HOOKS_WITHOUT_DNS: usize = HOOKS - DNS.len();

fn still_talk(conn: &Conn, got: &Conn) -> Result<()> {
    conn.send(b"still")?;
    assert_eq!(got.echo()?, b"still");
    assert_eq!(conn.recv(9)?, b"still");
    Ok(())
}

fn detaches_on(signal: Signal, args: &[&str], hooks: usize) -> Result<()> {
    let pod = Pod::new("signal")?;
    let untouched = network(&pod)?;
    let stage = Stage::start(pod, args)?;
    let (proxy, remote) = (
        Agent::spawn(&stage.pod.proxy())?,
        Agent::spawn(&stage.pod.remote())?,
    );
    let Stage { app, loader, pod } = &stage;

    let objects = Objects::of(loader.pid())?;
    assert_eq!(
        (objects.programs.len(), objects.links.len()),
        (hooks, hooks),
        "{objects:?}"
    );
    assert!(objects.maps.len() >= 10, "{objects:?}");
    assert_eq!(objects.left(), objects);
    assert_eq!(
        attached_programs(&pod.cgroup(), &pod.netns_path())?,
        hooks as u32
    );
    let touched = network(pod)?;
    let range = format!("local {}/{V4_RANGE_LEN} ", Ipv4Addr::from_bits(V4_RANGE));
    for added in [&range, "local fd73:6964:6563:6172::/64 ", " ::6/128"] {
        assert!(
            touched.contains(added) && !untouched.contains(added),
            "{added}: {touched}"
        );
    }

    let (outbound, inbound) = (
        proxy.listen("0.0.0.0:15001")?,
        proxy.listen("0.0.0.0:15006")?,
    );
    let (conn, got) = (app.connect(SERVICE)?, outbound.accept()?);
    let (from_outside, taken) = (remote.connect((POD_IP, 8080))?, inbound.accept()?);

    loader.signal(signal)?;
    assert_eq!(loader.wait()?.code(), Some(0), "{}", loader.transcript());
    let last = loader.events().pop().unwrap();
    assert_eq!(last["event"], "final");
    assert_eq!(connections(&last, "connect4", "9"), 1);
    assert_eq!(connections(&last, "sk_lookup", "inbound-all"), 1);
    objects.vanish()?;
    assert_eq!(attached_programs(&pod.cgroup(), &pod.netns_path())?, 0);
    assert_eq!(network(pod)?, untouched);

    // What was connected stays so, and what comes is not redirected.
    still_talk(&conn, &got)?;
    still_talk(&from_outside, &taken)?;
    passes(app, &remote.listen("0.0.0.0:80")?, SERVICE)?;
    passes(&remote, &app.listen("0.0.0.0:8080")?, "10.244.0.5:8080")?;
    Ok(())
}

#[test]
fn sigterm_detaches_and_nothing_is_left() -> Result<()> {
    let args = ["--dual-stack", "--redirect-dns", "--capture-all-dns"];
    detaches_on(Signal::SIGTERM, &args, HOOKS)
}

#[test]
fn sigint_detaches_and_nothing_is_left() -> Result<()> {
    detaches_on(Signal::SIGINT, &["--dual-stack"], HOOKS_WITHOUT_DNS)
}

#[test]
fn what_a_killed_loader_leaves_the_next_one_takes_away() -> Result<()> {
    let stage = Stage::start(Pod::new("killed")?, &["--dual-stack"])?;
    let Stage { app, loader, pod } = &stage;
    let objects = Objects::of(loader.pid())?;
    loader.signal(Signal::SIGKILL)?;
    assert!(!loader.wait()?.success());
    objects.vanish()?;
    let remote = Agent::spawn(&pod.remote())?;
    let service = remote.listen("0.0.0.0:80")?;
    passes(app, &service, SERVICE)?;

    let next = Loader::start(pod, &["--dual-stack"])?;
    let outbound = Agent::spawn(&pod.proxy())?.listen("0.0.0.0:15001")?;
    let conn = app.connect(SERVICE)?;
    let got = outbound.accept()?;
    assert_eq!((got.peer, got.peer.ip()), (conn.local, POD_IP.into()));
    assert_eq!(got.original_dst(Level::Ip, 16)?, addr(SERVICE));
    assert_eq!(next.stop()?.code(), Some(0));
    let left = network(pod)?;
    assert!(
        !left.contains("127.128.0.0") && !left.contains("fd73:"),
        "{left}"
    );
    passes(app, &service, SERVICE)?;
    Ok(())
}

/// What starts and ends often must not leave a trace each time.
#[test]
fn many_starts_and_ends_leave_nothing() -> Result<()> {
    let pod = Pod::new("often")?;
    let untouched = network(&pod)?;
    let (app, remote) = (Agent::spawn(&pod.app())?, Agent::spawn(&pod.remote())?);
    let proxy = Agent::spawn(&pod.proxy())?;
    let (outbound, inbound) = (
        proxy.listen("0.0.0.0:15001")?,
        proxy.listen("0.0.0.0:15006")?,
    );
    let (mut app, mut pod) = (app, pod);
    for _ in 0..25 {
        let loader = Loader::start(&pod, &["--dual-stack"])?;
        let objects = Objects::of(loader.pid())?;
        let stage = Stage { app, loader, pod };
        goes_both_ways(
            &stage,
            &remote,
            [&outbound, &inbound],
            SERVICE,
            (POD_IP, 8080).into(),
        )?;
        assert_eq!(stage.loader.stop()?.code(), Some(0));
        Stage { app, pod, .. } = stage;
        objects.vanish()?;
        assert_eq!(network(&pod)?, untouched);
        assert_eq!(attached_programs(&pod.cgroup(), &pod.netns_path())?, 0);
    }
    let service = remote.listen("0.0.0.0:80")?;
    passes(&app, &service, SERVICE)?;
    Ok(())
}

/// The pod ends under the loader's hands.
#[test]
fn a_pod_that_goes_takes_its_programs_along() -> Result<()> {
    let stage = Stage::start(Pod::new("gone")?, &[])?;
    let Stage { app, loader, pod } = stage;
    let objects = Objects::of(loader.pid())?;
    drop(app);
    let cgroup = pod.cgroup();
    drop(pod);
    assert!(!Path::new(&cgroup).exists());
    assert_eq!(loader.wait()?.code(), Some(0), "{}", loader.transcript());
    objects.vanish()
}
