//! The start: where the pod's network namespace comes from.

use std::{fs, time::Instant};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use sidecar_ebpf_common::counter::Hook;
use sidecar_lab::{
    Agent, Errno, Level, Loader, Placement, Pod,
    loader::binary,
    pod::{APP_ID, POD_IP, POD_IP6},
};
use sidecar_loader::program::DNS;

use crate::{
    PATIENCE, SERVICE, SERVICE6, attach::attached_programs, connections, goes_both_ways, network,
    stage::Stage,
};

#[test]
fn an_empty_cgroup_is_waited_for() -> Result<()> {
    let pod = Pod::new("empty")?;
    let loader = Loader::start(&pod, &["--dual-stack"])?;
    let remote = Agent::spawn(&pod.remote())?;
    let service6 = remote.listen("[::]:80")?;
    assert!(
        loader.events()[0]["netns"].is_null(),
        "{:?}",
        loader.events()
    );
    let before = loader.counters()?;
    // The very first thing that the pod does is redirected, whether the loader has noticed the pod
    // or not; as long as nobody listens that means refused.
    let app = Agent::spawn(&pod.app())?;
    assert_eq!(
        app.connect(SERVICE).unwrap_err().errno(),
        Errno::ECONNREFUSED
    );
    // Once it has noticed, the lookup knows why.
    let after = loader.counters()?;
    let redirected = ("connect4", "9", 1);
    let noticed = [redirected, ("sk_lookup", "refusal:no-listener", 1)];
    after
        .expect_delta(&before, &[redirected])
        .or_else(|_| after.expect_delta(&before, &noticed))?;
    drop(service6);

    let found = loader.wait_for_event("pod-found", PATIENCE)?;
    assert!(
        found["netns_cookie"]
            .as_u64()
            .is_some_and(|cookie| cookie > 0),
        "{found}"
    );
    let stage = Stage { app, loader, pod };
    let proxy = Agent::spawn(&stage.pod.proxy())?;
    let (outbound, inbound) = (
        proxy.listen("127.0.0.1:15001")?,
        proxy.listen("0.0.0.0:15006")?,
    );
    let (outbound6, inbound6) = (proxy.listen("[::1]:15001")?, proxy.listen("[::]:15006")?);
    goes_both_ways(
        &stage,
        &remote,
        [&outbound, &inbound],
        SERVICE,
        (POD_IP, 8080).into(),
    )?;
    goes_both_ways(
        &stage,
        &remote,
        [&outbound6, &inbound6],
        SERVICE6,
        (POD_IP6, 8080).into(),
    )
}

#[test]
fn one_that_stays_empty_is_left_as_it_was() -> Result<()> {
    let pod = Pod::new("stays-empty")?;
    let untouched = network(&pod)?;
    let loader = Loader::start(&pod, &[])?;
    // All but sk_lookup, which needs a namespace to be attached to, and those for DNS.
    let waiting = attached_programs(&pod.cgroup(), &pod.netns_path())?;
    assert_eq!(waiting as usize, Hook::ALL.len() - 1 - DNS.len());
    assert_eq!(loader.stop()?.code(), Some(0), "{}", loader.transcript());
    assert_eq!(attached_programs(&pod.cgroup(), &pod.netns_path())?, 0);
    assert_eq!(network(&pod)?, untouched);
    Ok(())
}

/// The proxy is the first to run, and it listens before the loader can know where.
#[test]
fn an_empty_cgroup_in_which_the_proxy_comes_first() -> Result<()> {
    let pod = Pod::new("proxy-first")?;
    let loader = Loader::start(&pod, &[])?;
    let proxy = Agent::spawn(&pod.proxy())?;
    let (outbound, inbound) = (
        proxy.listen("127.0.0.1:15001")?,
        proxy.listen("0.0.0.0:15006")?,
    );
    let app = Agent::spawn(&pod.app())?;
    loader.wait_for_event("pod-found", PATIENCE)?;
    let remote = Agent::spawn(&pod.remote())?;
    let stage = Stage { app, loader, pod };
    // The event says that the namespace is known; the listeners are found a moment later.
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = remote.connect((POD_IP, 8080)) {
        ensure!(Instant::now() < deadline, "{error}");
    }
    drop(inbound.accept()?);
    goes_both_ways(
        &stage,
        &remote,
        [&outbound, &inbound],
        SERVICE,
        (POD_IP, 8080).into(),
    )
}

/// As when a pod's sandbox is made anew: the cgroup stays, the network namespace is another.
#[test]
fn a_pod_that_moves_to_another_namespace_is_followed() -> Result<()> {
    let pod = Pod::new("moves")?;
    let untouched = network(&pod)?;
    let before = Agent::spawn(&pod.app())?;
    let loader = Loader::start(&pod, &[])?;
    drop(before);
    let place = Placement::new(pod.remote_netns_path(), pod.app_cgroup());
    let after = Agent::spawn(&place.user(APP_ID, APP_ID))?;
    loader.wait_for_event("pod-found", PATIENCE)?;
    let counters = loader.counters()?;
    let refused = after.connect("198.51.100.1:80").unwrap_err();
    assert!(refused.is(Errno::ECONNREFUSED), "{refused}");
    let redirected = [
        ("connect4", "9", 1),
        ("sk_lookup", "refusal:no-listener", 1),
    ];
    loader.counters()?.expect_delta(&counters, &redirected)?;
    // Nothing stays in the namespace that the pod has left.
    assert_eq!(network(&pod)?, untouched);
    Ok(())
}

#[test]
fn the_namespace_may_be_named_by_path_or_process() -> Result<()> {
    let pod = Pod::new("named")?;
    let (app, remote) = (Agent::spawn(&pod.app())?, Agent::spawn(&pod.remote())?);
    let proxy = Agent::spawn(&pod.proxy())?;
    let (outbound, inbound) = (
        proxy.listen("0.0.0.0:15001")?,
        proxy.listen("0.0.0.0:15006")?,
    );
    let (mut app, mut pod) = (app, pod);
    let path = pod.netns_path().to_str().unwrap().to_owned();
    for netns in [path, app.pid().to_string()] {
        let loader = Loader::start(&pod, &["--netns", &netns])?;
        let ready = loader.events().remove(0);
        assert!(
            ready["netns"]
                .as_str()
                .is_some_and(|said| said.contains(&netns)),
            "{ready}"
        );
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
    }
    Ok(())
}

/// A named namespace needs no process: inbound is captured before there is one.
#[test]
fn a_named_namespace_of_an_empty_cgroup() -> Result<()> {
    let pod = Pod::new("named-empty")?;
    let netns = pod.netns_path();
    let loader = Loader::start(&pod, &["--netns", netns.to_str().unwrap()])?;
    let remote = Agent::spawn(&pod.remote())?;
    let before = loader.counters()?;
    assert_eq!(
        remote.connect((POD_IP, 8080)).unwrap_err().errno(),
        Errno::ECONNREFUSED
    );
    let refused = [
        ("sk_lookup", "inbound-all", 1),
        ("sk_lookup", "refusal:no-listener", 1),
    ];
    loader.counters()?.expect_delta(&before, &refused)?;
    let (app, proxy) = (Agent::spawn(&pod.app())?, Agent::spawn(&pod.proxy())?);
    let (outbound, inbound) = (
        proxy.listen("127.0.0.1:15001")?,
        proxy.listen("0.0.0.0:15006")?,
    );
    let stage = Stage { app, loader, pod };
    goes_both_ways(
        &stage,
        &remote,
        [&outbound, &inbound],
        SERVICE,
        (POD_IP, 8080).into(),
    )
}

/// The loader itself as the first process of a pid namespace in the pod's network, which is then
/// its "host's": the flag is tried without touching the machine's own network.
#[test]
fn the_host_s_own_namespace_takes_a_flag() -> Result<()> {
    let pod = Pod::new("as-host")?;
    let (app, remote) = (Agent::spawn(&pod.app())?, Agent::spawn(&pod.remote())?);
    let loader = binary()?;
    let inside = Placement {
        netns: Some(pod.netns_path()),
        ..Placement::default()
    };
    let start = |flags: &[&str]| {
        let cgroup = pod.cgroup();
        let fixed = [
            "--pid",
            "--fork",
            "--mount-proc",
            "--kill-child=SIGTERM",
            "--",
        ];
        let own = [
            "--cgroup",
            cgroup.to_str().unwrap(),
            "--netns",
            "1",
            "--output",
            "json",
        ];
        let arguments = [&fixed, &[loader.to_str().unwrap()] as &[&str], &own, flags].concat();
        inside.spawn("unshare", arguments)
    };
    let refused = start(&[])?;
    assert_eq!(refused.wait(PATIENCE)?.code(), Some(2));
    assert!(
        refused.transcript().contains("--allow-host-netns"),
        "{}",
        refused.transcript()
    );
    assert_eq!(attached_programs(&pod.cgroup(), &pod.netns_path())?, 0);

    let accepted = start(&["--allow-host-netns"])?;
    accepted.wait_for_line("\"ready\"", PATIENCE)?;
    let proxy = Agent::spawn(&pod.proxy())?;
    let (outbound, inbound) = (
        proxy.listen("0.0.0.0:15001")?,
        proxy.listen("0.0.0.0:15006")?,
    );
    let (conn, got) = (app.connect(SERVICE)?, outbound.accept()?);
    assert_eq!(
        (got.peer, got.original_dst(Level::Ip, 16)?.addr),
        (conn.local, conn.peer)
    );
    drop((remote.connect((POD_IP, 8080))?, inbound.accept()?));
    let child = first_child(accepted.pid())?;
    kill(Pid::from_raw(child), Signal::SIGTERM)?;
    assert_eq!(
        accepted.wait(PATIENCE)?.code(),
        Some(0),
        "{}",
        accepted.transcript()
    );
    let last: Value = serde_json::from_str(&accepted.lines().pop().unwrap().text)?;
    assert_eq!(connections(&last, "connect4", "9"), 1);
    assert_eq!(connections(&last, "sk_lookup", "inbound-all"), 1);
    assert_eq!(attached_programs(&pod.cgroup(), &pod.netns_path())?, 0);
    Ok(())
}

fn first_child(process: u32) -> Result<i32> {
    let path = format!("/proc/{process}/task/{process}/children");
    let children = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let first = children.split_whitespace().next().context("no child")?;
    Ok(first.parse()?)
}
