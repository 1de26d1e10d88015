//! Others beside the loader.

use std::time::Duration;

use anyhow::Result;
use sidecar_lab::{Agent, Errno, Pod, pod::POD_IP};

use crate::{SERVICE, attach::Foreign, goes_both_ways, passes, stage::Stage};

/// `BPF_F_ALLOW_MULTI` (include/uapi/linux/bpf.h).
const ALLOW_MULTI: u32 = 2;

#[test]
fn two_loaders_do_not_meet() -> Result<()> {
    let stages = [
        Stage::start(Pod::new("one")?, &[])?,
        Stage::start(
            Pod::new("two")?,
            &["--istio-local-outbound-ports-exclude", "80"],
        )?,
    ];
    let mut proxies = Vec::new();
    for stage in &stages {
        let (proxy, remote) = (
            Agent::spawn(&stage.pod.proxy())?,
            Agent::spawn(&stage.pod.remote())?,
        );
        let ports = [
            proxy.listen("0.0.0.0:15001")?,
            proxy.listen("0.0.0.0:15006")?,
        ];
        proxies.push((remote, ports));
    }
    let [one, two] = &stages;
    let (remote_one, [outbound, inbound]) = &proxies[0];
    let (remote_two, [_, inbound_two]) = &proxies[1];
    two.counted(&[], || {
        goes_both_ways(
            one,
            remote_one,
            [outbound, inbound],
            SERVICE,
            (POD_IP, 8080).into(),
        )
    })?;
    let service = remote_two.listen("0.0.0.0:80")?;
    one.counted(&[], || {
        two.counted(&[("connect4", "excluded-port", 1)], || {
            passes(&two.app, &service, SERVICE)
        })
    })?;
    // The end of one is no event for the other.
    assert_eq!(two.loader.stop()?.code(), Some(0));
    goes_both_ways(
        one,
        remote_one,
        [outbound, inbound],
        SERVICE,
        (POD_IP, 8080).into(),
    )?;
    let own = two.app.listen("0.0.0.0:8080")?;
    passes(remote_two, &own, "10.244.0.5:8080")?;
    inbound_two
        .accept_within(Duration::from_millis(20))
        .unwrap_err();
    Ok(())
}

#[test]
fn others_may_be_attached_too() -> Result<()> {
    let pod = Pod::new("others")?;
    let cgroup = pod.cgroup();
    let earlier = Foreign::attach(&cgroup, ALLOW_MULTI, true)?;
    let stage = Stage::start(pod, &[])?;
    let later = Foreign::attach(&stage.pod.app_cgroup(), ALLOW_MULTI, true)?;
    let (proxy, remote) = (
        Agent::spawn(&stage.pod.proxy())?,
        Agent::spawn(&stage.pod.remote())?,
    );
    let (outbound, inbound) = (
        proxy.listen("0.0.0.0:15001")?,
        proxy.listen("0.0.0.0:15006")?,
    );
    let works = || {
        goes_both_ways(
            &stage,
            &remote,
            [&outbound, &inbound],
            SERVICE,
            (POD_IP, 8080).into(),
        )
    };
    works()?;
    drop((earlier, later));
    works()?;
    // The other one has its say: a refusal of any program is a refusal.
    let refuses = Foreign::attach(&cgroup, ALLOW_MULTI, false)?;
    assert_eq!(
        stage.app.connect(SERVICE).unwrap_err().errno(),
        Errno::EPERM
    );
    drop(refuses);
    works()?;
    assert_eq!(stage.loader.stop()?.code(), Some(0));
    Ok(())
}
