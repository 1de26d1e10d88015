//! Which connections come to the proxy.

use anyhow::Result;
use sidecar_lab::{Agent, Errno, Loader, Pod, pod::POD_IP};

use crate::{
    assert_idle, pod_at,
    stage::{Stage, addr},
};

#[test]
fn every_port_comes_to_the_proxy_but_the_excluded_ones() -> Result<()> {
    let stage = Stage::start(Pod::new("ports")?, &[])?;
    let (proxy, remote) = (
        Agent::spawn(&stage.pod.proxy())?,
        Agent::spawn(&stage.pod.remote())?,
    );
    let inbound = proxy.listen("0.0.0.0:15006")?;
    let own = stage.app.listen("0.0.0.0:8080")?;
    // Nobody listens at 9, and 1 is as good a port as any.
    for port in [8080, 9, 1, 65535] {
        stage.comes_in(&remote, pod_at(port), &inbound)?;
    }
    assert_idle(&own);
    for (port, rule) in [
        (15090, "inbound-excluded-port"),
        (15021, "inbound-excluded-port"),
        (15020, "inbound-excluded-port"),
        (15008, "inbound-tunnel"),
    ] {
        let own = stage.app.listen(&format!("0.0.0.0:{port}"))?;
        stage.counted(&[("sk_lookup", rule, 1)], || {
            let conn = remote.connect((POD_IP, port))?;
            let got = own.accept()?;
            assert_eq!((got.peer, got.local), (conn.local, pod_at(port)));
            Ok(())
        })?;
        drop(own);
        stage.counted(&[("sk_lookup", rule, 1)], || {
            let error = remote.connect((POD_IP, port)).unwrap_err();
            assert_eq!(error.errno(), Errno::ECONNREFUSED);
            Ok(())
        })?;
    }
    assert_idle(&inbound);
    Ok(())
}

#[test]
fn the_proxy_s_own_ports_come_to_its_inbound_port() -> Result<()> {
    let stage = Stage::start(Pod::new("own-ports")?, &[])?;
    let (proxy, remote) = (
        Agent::spawn(&stage.pod.proxy())?,
        Agent::spawn(&stage.pod.remote())?,
    );
    let (inbound, outbound) = (
        proxy.listen("0.0.0.0:15006")?,
        proxy.listen("0.0.0.0:15001")?,
    );
    for port in [15001, 15006] {
        stage.comes_in(&remote, pod_at(port), &inbound)?;
    }
    assert_idle(&outbound);
    Ok(())
}

#[test]
fn loopback_and_the_pod_s_own_address_are_not_inbound() -> Result<()> {
    let stage = Stage::start(Pod::new("from-pod")?, &[])?;
    let proxy = Agent::spawn(&stage.pod.proxy())?;
    let inbound = proxy.listen("0.0.0.0:15006")?;
    let own = stage.app.listen("0.0.0.0:8080")?;
    for to in ["127.0.0.1:8080", "127.3.2.1:8080", "10.244.0.5:8080"] {
        stage.counted(&[("connect4", "3", 1)], || {
            let conn = stage.app.connect(to)?;
            assert_eq!((conn.peer, own.accept()?.peer), (addr(to), conn.local));
            Ok(())
        })?;
    }
    assert_idle(&inbound);
    Ok(())
}

#[test]
fn a_connection_made_before_the_loader_goes_on() -> Result<()> {
    let pod = Pod::new("open")?;
    let (app, remote) = (Agent::spawn(&pod.app())?, Agent::spawn(&pod.remote())?);
    let own = app.listen("0.0.0.0:8080")?;
    let conn = remote.connect(pod_at(8080))?;
    let got = own.accept()?;
    let waiting = remote.connect(pod_at(8080))?;
    let loader = Loader::start(&pod, &[])?;
    let before = loader.counters()?;
    conn.send(b"on")?;
    assert_eq!(got.echo()?, b"on");
    assert_eq!(conn.recv(9)?, b"on");
    assert_eq!(own.accept()?.peer, waiting.local);
    loader.counters()?.expect_delta(&before, &[])?;
    assert_eq!(loader.stop()?.code(), Some(0));
    Ok(())
}
