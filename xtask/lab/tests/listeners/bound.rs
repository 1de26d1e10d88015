//! Where the proxy's listeners are bound.

use std::net::{IpAddr, Ipv6Addr};

use anyhow::Result;
use sidecar_lab::{
    Agent, Errno, ListenOptions, Pod,
    pod::{POD_IP, POD_IP6},
};

use crate::{
    LOST, assert_idle, pod_at, pod6_at,
    stage::{Stage, addr},
};

#[test]
fn a_proxy_on_localhost_gets_outbound_only() -> Result<()> {
    let stage = Stage::start(Pod::new("localhost")?, &["--dual-stack"])?;
    let (proxy, remote) = (
        Agent::spawn(&stage.pod.proxy())?,
        Agent::spawn(&stage.pod.remote())?,
    );
    let own = [
        stage.app.listen("0.0.0.0:8080")?,
        stage.app.listen("[::]:8080")?,
    ];
    for (loopback, service, to, source) in [
        (
            "127.0.0.1",
            "10.96.0.10:80",
            pod_at(8080),
            IpAddr::from(POD_IP),
        ),
        (
            "[::1]",
            "[fd00:96::10]:80",
            pod6_at(8080),
            IpAddr::from(POD_IP6),
        ),
    ] {
        let outbound = proxy.listen(&format!("{loopback}:15001"))?;
        let (_conn, got) = stage.goes_out(addr(service), &outbound)?;
        assert_eq!(got.peer.ip(), source);
        // REDIRECT in PREROUTING sends to the address of the interface, where nobody listens.
        let inbound = proxy.listen(&format!("{loopback}:15006"))?;
        stage.is_refused(&remote, to)?;
        assert_idle(&inbound);
    }
    own.iter().for_each(assert_idle);
    Ok(())
}

#[test]
fn a_proxy_on_the_pod_s_address_gets_inbound_only() -> Result<()> {
    let stage = Stage::start(Pod::new("pod-ip")?, &[])?;
    let (proxy, remote) = (
        Agent::spawn(&stage.pod.proxy())?,
        Agent::spawn(&stage.pod.remote())?,
    );
    let inbound = proxy.listen((POD_IP, 15006))?;
    stage.comes_in(&remote, pod_at(8080), &inbound)?;
    let outbound = proxy.listen((POD_IP, 15001))?;
    stage.counted(&LOST, || {
        let error = stage.app.connect("10.96.0.10:80").unwrap_err();
        assert_eq!(error.errno(), Errno::ECONNREFUSED);
        Ok(())
    })?;
    assert_idle(&outbound);
    Ok(())
}

#[test]
fn both_families_through_listeners_of_either_kind() -> Result<()> {
    let stage = Stage::start(Pod::new("families")?, &["--dual-stack"])?;
    let (proxy, remote) = (
        Agent::spawn(&stage.pod.proxy())?,
        Agent::spawn(&stage.pod.remote())?,
    );
    {
        let (four, six) = (proxy.listen("0.0.0.0:15006")?, proxy.listen("[::]:15006")?);
        stage.comes_in(&remote, pod_at(8080), &four)?;
        stage.comes_in(&remote, pod6_at(8080), &six)?;
        drop(four);
        // One for IPv6 only does not take IPv4.
        stage.is_refused(&remote, pod_at(8080))?;
    }
    let both = |port| {
        let any = (Ipv6Addr::UNSPECIFIED, port).into();
        proxy.listen_with(ListenOptions {
            v6_only: false,
            ..ListenOptions::at(any)
        })
    };
    let (inbound, outbound) = (both(15006)?, both(15001)?);
    let (_conn, got) = stage.comes_in(&remote, pod_at(8080), &inbound)?;
    assert_eq!(got.local, addr("[::ffff:10.244.0.5]:8080"));
    stage.comes_in(&remote, pod6_at(8080), &inbound)?;
    let (_conn, got) = stage.goes_out(addr("10.96.0.10:80"), &outbound)?;
    assert_eq!(got.peer.ip(), POD_IP.to_ipv6_mapped());
    stage.goes_out(addr("[fd00:96::10]:80"), &outbound)?;
    Ok(())
}

#[test]
fn without_ipv6_rules_ipv6_passes() -> Result<()> {
    let stage = Stage::start(Pod::new("v4-rules")?, &[])?;
    let (proxy, remote) = (
        Agent::spawn(&stage.pod.proxy())?,
        Agent::spawn(&stage.pod.remote())?,
    );
    let (inbound, outbound) = (proxy.listen("[::]:15006")?, proxy.listen("[::]:15001")?);
    let own = stage.app.listen("[::]:8080")?;
    let service = remote.listen("[::]:80")?;
    stage.counted(&[("sk_lookup", "no-ipv6-rules", 1)], || {
        let conn = remote.connect(pod6_at(8080))?;
        assert_eq!(own.accept()?.peer, conn.local);
        Ok(())
    })?;
    stage.counted(&[("connect6", "no-ipv6-rules", 1)], || {
        let conn = stage.app.connect("[fd00:96::10]:80")?;
        assert_eq!(service.accept()?.peer, conn.local);
        Ok(())
    })?;
    assert_idle(&inbound);
    assert_idle(&outbound);
    Ok(())
}
