//! Listeners that are not the proxy's, or not of the usual kind.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;
use sidecar_ebpf_common::number::{NUMBER_BITS, V4_RANGE};
use sidecar_lab::{
    Agent, ConnectOptions, Errno, Level, ListenOptions, Listener, Pod, ip_inside, pod::POD_IP,
};

use crate::{
    LOST, assert_idle, pod_at,
    stage::{Stage, addr},
};

#[test]
fn the_redirect_s_addresses_are_nobody_s_to_bind() -> Result<()> {
    let stage = Stage::start(Pod::new("bind")?, &["--dual-stack"])?;
    let first = Ipv4Addr::from_bits(V4_RANGE);
    let last = Ipv4Addr::from_bits(V4_RANGE | ((1 << NUMBER_BITS) - 1));
    let bound = |ip: IpAddr| {
        let at = SocketAddr::new(ip, 15001);
        let options = ListenOptions {
            v6_only: false,
            ..ListenOptions::at(at)
        };
        stage.app.listen_with(options).map(drop)
    };
    for (hook, ip) in [
        ("bind4", IpAddr::from(first)),
        ("bind4", last.into()),
        ("bind6", last.to_ipv6_mapped().into()),
        ("bind6", "fd73:6964:6563:6172::5".parse()?),
    ] {
        stage.counted(&[(hook, "refusal:redirect-range", 1)], || {
            assert_eq!(bound(ip).unwrap_err().errno(), Errno::EPERM);
            Ok(())
        })?;
    }
    let before = Ipv4Addr::from_bits(first.to_bits() - 1);
    let after = Ipv4Addr::from_bits(last.to_bits() + 1);
    stage.counted(&[], || {
        for ip in [
            before.into(),
            after.into(),
            Ipv4Addr::LOCALHOST.into(),
            POD_IP.into(),
        ] {
            bound(ip)?;
        }
        Ok(bound(Ipv6Addr::LOCALHOST.into())?)
    })
}

#[test]
fn an_application_that_has_bound_one_of_them_already_catches_nothing() -> Result<()> {
    let pod = Pod::new("squatter")?;
    let app = Agent::spawn(&pod.app())?;
    // Numbers begin at 0, so the sixth destination's is at this very address.
    let squatter = app.listen("127.128.0.5:15001")?;
    let stage = Stage::start(pod, &[])?;
    let proxy = Agent::spawn(&stage.pod.proxy())?;
    {
        let outbound = proxy.listen("127.0.0.1:15001")?;
        let mut numbers = Vec::new();
        for number in 0..10 {
            let (_conn, got) = stage.goes_out(([10, 96, 0, number], 80).into(), &outbound)?;
            numbers.push(got.local);
        }
        assert!(numbers.contains(&squatter.addr), "{numbers:?}");
        assert_idle(&squatter);
    }
    // And without the proxy it is nobody's turn.
    for number in 0..10 {
        stage.counted(&LOST, || {
            let error = stage.app.connect(([10, 96, 0, number], 80)).unwrap_err();
            assert_eq!(error.errno(), Errno::ECONNREFUSED);
            Ok(())
        })?;
    }
    assert_idle(&squatter);
    Ok(())
}

#[test]
fn a_listener_in_another_namespace_is_not_the_proxy_s() -> Result<()> {
    let pod = Pod::new("elsewhere")?;
    let remote = Agent::spawn(&pod.remote())?;
    let netns = pod.netns_path();
    let mut place = pod.proxy();
    place.netns = Some(pod.remote_netns_path());
    let stranger = Agent::spawn(&place)?;
    let before = stranger.listen("0.0.0.0:15006")?;
    let stage = Stage::start(pod, &["--netns", netns.to_str().unwrap()])?;
    stage.is_refused(&remote, pod_at(8080))?;
    let other = [("bind4", "bypass:other-netns", 1)];
    let _after = stage.counted(&other, || Ok(stranger.listen("0.0.0.0:15001")?))?;
    stage.is_refused(&remote, pod_at(8080))?;
    stage.counted(&[("connect4", "bypass:other-netns", 1)], || {
        let conn = stranger.connect("10.244.0.1:15006")?;
        assert_eq!(before.accept()?.peer, conn.local);
        Ok(())
    })?;
    Ok(())
}

fn mptcp(agent: &Agent, at: &str) -> Result<Listener> {
    let options = ListenOptions {
        mptcp: true,
        ..ListenOptions::at(addr(at))
    };
    Ok(agent.listen_with(options)?)
}

#[test]
fn an_mptcp_listener_gets_outbound_connections() -> Result<()> {
    let stage = Stage::start(Pod::new("mptcp")?, &[])?;
    let proxy = Agent::spawn(&stage.pod.proxy())?;
    let outbound = stage.counted(&[], || mptcp(&proxy, "0.0.0.0:15001"))?;
    let inbound = stage.counted(&[], || mptcp(&proxy, "0.0.0.0:15006"))?;
    serves_outbound_only(&stage, &outbound, &inbound)
}

#[test]
fn an_mptcp_listener_that_is_there_before_the_loader_gets_them_too() -> Result<()> {
    let pod = Pod::new("mptcp-first")?;
    let proxy = Agent::spawn(&pod.proxy())?;
    let (outbound, inbound) = (
        mptcp(&proxy, "0.0.0.0:15001")?,
        mptcp(&proxy, "0.0.0.0:15006")?,
    );
    let stage = Stage::start(pod, &[])?;
    serves_outbound_only(&stage, &outbound, &inbound)
}

fn serves_outbound_only(stage: &Stage, outbound: &Listener, inbound: &Listener) -> Result<()> {
    let service = addr("10.96.0.10:80");
    stage.goes_out(service, outbound)?;
    stage.counted(&[("connect4", "9", 1)], || {
        let options = ConnectOptions {
            mptcp: true,
            ..ConnectOptions::to(service)
        };
        let conn = stage.app.connect_with(options)?;
        let got = outbound.accept()?;
        assert_eq!(got.peer, conn.local);
        assert_eq!(got.original_dst(Level::Ip, 16)?, service);
        Ok(())
    })?;
    // The kernel does not let such a listener be handed a connection: refused, not passed.
    let own = stage.app.listen("0.0.0.0:8080")?;
    stage.is_refused(&Agent::spawn(&stage.pod.remote())?, pod_at(8080))?;
    assert_idle(inbound);
    assert_idle(&own);
    Ok(())
}

/// Only the pod itself may use the redirect's addresses. IPv4 needs no help: the kernel drops what
/// comes from outside for 127.0.0.0/8.
#[test]
fn nobody_outside_reaches_the_redirect_s_addresses() -> Result<()> {
    let stage = Stage::start(Pod::new("outside")?, &["--dual-stack"])?;
    let (proxy, remote) = (
        Agent::spawn(&stage.pod.proxy())?,
        Agent::spawn(&stage.pod.remote())?,
    );
    let (outbound, inbound) = (proxy.listen("[::]:15001")?, proxy.listen("[::]:15006")?);
    let own = stage.app.listen("[::]:8080")?;
    // Number 0 is a destination's.
    stage.goes_out(addr("[fd00:96::10]:80"), &outbound)?;
    let route = [
        "route",
        "add",
        "fd73:6964:6563:6172::/64",
        "via",
        "fd00:10:244::5",
    ];
    ip_inside(&stage.pod.remote_netns_path(), route, "")?;
    for port in [15001, 15006, 8080] {
        stage.counted(&[("sk_lookup", "refusal:foreign-source", 1)], || {
            let to = addr(&format!("[fd73:6964:6563:6172::]:{port}"));
            assert_eq!(remote.connect(to).unwrap_err().errno(), Errno::ECONNREFUSED);
            Ok(())
        })?;
    }
    for listener in [&outbound, &inbound, &own] {
        assert_idle(listener);
    }
    Ok(())
}
