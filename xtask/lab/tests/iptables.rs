//! Istio's own rules in a pod of the laboratory: that the proxy, the agents and the load machinery
//! see what netfilter's redirection shows them. What is asserted here of iptables, the other
//! kernel tests assert of the eBPF programs. Needs root; leaves nothing behind.
#![expect(clippy::unwrap_used, reason = "in a test it is a failure of the test")]

use std::{net::SocketAddr, thread, time::Duration};

use anyhow::Result;
use sidecar_lab::{
    Agent, ConnectOptions, Errno, Level, LoadPlan, Pod,
    iptables::{Backend, INBOUND_CHAIN, IstioRules, OUTPUT_CHAIN, install_istio_rules},
    pod::{POD_IP, POD_IP6},
    proxy::{Direction, Onward, ProxyLine, ProxyOptions},
};

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

struct Lab {
    rules: IstioRules,
    app: Agent,
    proxy: Agent,
    remote: Agent,
    _pod: Pod,
}

fn lab(hint: &str, backend: Backend) -> Result<Lab> {
    let pod = Pod::new(hint)?;
    let rules = install_istio_rules(&pod, backend, true)?;
    let app = Agent::spawn(&pod.app())?;
    let proxy = Agent::spawn(&pod.proxy())?;
    let remote = Agent::spawn(&pod.remote())?;
    Ok(Lab {
        rules,
        app,
        proxy,
        remote,
        _pod: pod,
    })
}

impl Lab {
    /// The counters of the nine rules moved by this since the last look.
    fn moved(&self, before: &mut Vec<u64>, v6: bool) -> Result<Vec<(usize, u64)>> {
        let now = if v6 {
            self.rules.counters6(OUTPUT_CHAIN)?
        } else {
            self.rules.counters(OUTPUT_CHAIN)?
        };
        let old = std::mem::replace(before, now.clone());
        let deltas = now.into_iter().enumerate();
        Ok(deltas
            .map(|(at, count)| (at + 1, count - old.get(at).copied().unwrap_or(0)))
            .filter(|(_, delta)| *delta > 0)
            .collect())
    }

    fn proxied(&self, count: usize) -> Result<Vec<ProxyLine>> {
        for _ in 0..500 {
            let log = self.proxy.proxy_log()?;
            if log.len() >= count {
                return Ok(log);
            }
            thread::sleep(Duration::from_millis(10));
        }
        anyhow::bail!("no {count} lines in {:?}", self.proxy.proxy_log()?)
    }
}

#[test]
fn both_directions_go_through_the_proxy_legacy() -> Result<()> {
    both_directions_go_through_the_proxy(Backend::Legacy)
}

#[test]
fn both_directions_go_through_the_proxy_nft() -> Result<()> {
    both_directions_go_through_the_proxy(Backend::Nft)
}

fn both_directions_go_through_the_proxy(backend: Backend) -> Result<()> {
    let lab = lab("proxy", backend)?;
    lab.proxy.serve_proxy(ProxyOptions::default())?;
    lab.remote.serve_echo("0.0.0.0:80")?;
    lab.remote.serve_echo("[::]:80")?;
    lab.app.serve_echo("0.0.0.0:8080")?;
    lab.app.serve_echo("[::]:8080")?;
    for (service, pod, v6) in [
        (
            addr("10.96.0.10:80"),
            SocketAddr::new(POD_IP.into(), 8080),
            false,
        ),
        (
            addr("[fd00:96::10]:80"),
            SocketAddr::new(POD_IP6.into(), 8080),
            true,
        ),
    ] {
        let done = lab.proxy.proxy_log()?.len();
        let mut counters = Vec::new();
        lab.moved(&mut counters, v6)?;

        let conn = lab.app.connect(service)?;
        assert_eq!(conn.peer, service);
        assert_eq!(conn.round_trip(b"out")?, b"out");
        let line = lab.proxied(done + 1)?.pop().unwrap();
        assert_eq!(
            (line.listener, line.original_dst),
            (Direction::Outbound, Some(service))
        );
        assert_eq!((line.peer, line.peer.ip()), (conn.local, pod.ip()));
        assert_eq!(lab.moved(&mut counters, v6)?, [(4, 1), (9, 1)]);

        let conn = lab.remote.connect(pod)?;
        assert_eq!(conn.round_trip(b"in")?, b"in");
        let line = lab.proxied(done + 2)?.pop().unwrap();
        assert_eq!(
            (line.listener, line.original_dst),
            (Direction::Inbound, Some(pod))
        );
        assert_eq!(line.peer, conn.local);
        let Onward::From(source) = line.onward else {
            panic!("{line:?}")
        };
        assert_eq!(lab.app.echo_log()?.last().unwrap().peer, source);
        assert_eq!(
            source.ip().to_string(),
            if v6 { "::6" } else { "127.0.0.6" }
        );
        assert_eq!(lab.moved(&mut counters, v6)?, [(1, 1)]);
    }
    assert_eq!(lab.rules.counters(INBOUND_CHAIN)?, [0, 0, 0, 0, 1]);
    assert_eq!(lab.rules.counters6(INBOUND_CHAIN)?, [0, 0, 0, 0, 1]);
    Ok(())
}

#[test]
fn a_proxy_does_not_go_on_to_itself() -> Result<()> {
    let lab = lab("itself", Backend::Legacy)?;
    lab.proxy.serve_proxy(ProxyOptions::default())?;
    for to in [(POD_IP, 15006), (POD_IP, 15001)] {
        let conn = lab.remote.connect(to)?;
        assert_eq!(conn.recv(1)?, b"", "{to:?}");
    }
    let refused = lab.proxied(3)?.into_iter().filter(|line| {
        matches!(&line.onward, Onward::Refused(why) if why.contains("is this listener itself"))
    });
    assert_eq!(refused.count(), 2);
    Ok(())
}

#[test]
fn the_original_destination_is_told_at_the_right_level() -> Result<()> {
    let lab = lab("level", Backend::Legacy)?;
    let mut dual = sidecar_lab::ListenOptions::at(addr("[::]:15001"));
    dual.v6_only = false;
    let listener = lab.proxy.listen_with(dual)?;
    let (service, service6) = (addr("10.96.0.10:80"), addr("[fd00:96::10]:80"));

    let conn = lab.app.connect(service)?;
    let got = listener.accept()?;
    // The kernel fills in what it knows and leaves the length as it was.
    for length in [16, 28, 128] {
        let told = got.original_dst(Level::Ip, length)?;
        assert_eq!((told.addr, told.length), (service, length));
    }
    assert_eq!(
        got.original_dst(Level::Ip, 8).unwrap_err().errno(),
        Errno::EINVAL
    );
    // A reset leaves the answer.
    conn.disconnect()?;
    assert_eq!(got.recv(1).unwrap_err().errno(), Errno::ECONNRESET);
    assert_eq!(got.original_dst(Level::Ip, 16)?, service);

    let _conn6 = lab.app.connect(service6)?;
    let got = listener.accept()?;
    for length in [28, 128] {
        let told = got.original_dst(Level::Ipv6, length)?;
        assert_eq!((told.addr, told.length), (service6, length));
    }
    assert_eq!(
        got.original_dst(Level::Ip, 16).unwrap_err().errno(),
        Errno::ENOENT
    );

    // An IPv6 socket with an IPv4 destination is IPv4 to the rules.
    let mut mapped = ConnectOptions::to(service);
    mapped.mapped = true;
    let _mapped = lab.app.connect_with(mapped)?;
    assert_eq!(listener.accept()?.original_dst(Level::Ip, 16)?, service);
    Ok(())
}

#[test]
fn under_load_every_destination_is_right() -> Result<()> {
    let lab = lab("load", Backend::Legacy)?;
    lab.proxy.load_serve("0.0.0.0:15001", 2)?;
    lab.proxy.load_serve("[::]:15001", 2)?;
    for base in ["10.96.0.0", "fd00:96::"] {
        let before = lab.proxy.load_report()?;
        let outcome = lab.app.load_connect(LoadPlan {
            threads: 16,
            connections: 10_000,
            base: base.parse()?,
            addresses: 500,
            first_port: 80,
            ports: 5,
            timeout: Duration::from_secs(20),
        })?;
        let report = lab.proxy.load_report()?;
        assert_eq!(
            (outcome.ok, outcome.failed.len()),
            (10_000, 0),
            "{outcome:?}"
        );
        assert_eq!(report.right - before.right, 10_000, "{report:?}");
        assert_eq!(
            (report.wrong, report.missing, report.silent),
            (0, 0, 0),
            "{report:?}"
        );
    }
    Ok(())
}
