//! Real Envoy and real haproxy behind Istio's own rules: that their configurations forward both
//! ways and that their logs tell what netfilter tells. Needs root; leaves nothing behind.
#![expect(clippy::unwrap_used, reason = "in a test it is a failure of the test")]

use std::{fs, net::SocketAddr, time::Duration};

use anyhow::Result;
use sidecar_lab::{
    Agent, ConnectOptions, Placement, Pod, inside_netns,
    iptables::{Backend, install_istio_rules},
    pod::{POD_IP, POD_IP6, PROXY_ID},
    proxy::Direction,
    real::{AccessEntry, Envoy, EnvoyOptions, Haproxy, HaproxyOptions},
};

const PATIENCE: Duration = Duration::from_secs(5);

struct Lab {
    app: Agent,
    remote: Agent,
    pod: Pod,
}

fn lab(hint: &str, backend: Backend) -> Result<Lab> {
    let pod = Pod::new(hint)?;
    install_istio_rules(&pod, backend, true)?;
    let app = Agent::spawn(&pod.app())?;
    let remote = Agent::spawn(&pod.remote())?;
    for ip in ["0.0.0.0", "[::]"] {
        remote.serve_echo(&format!("{ip}:80"))?;
        app.serve_echo(&format!("{ip}:8080"))?;
    }
    Ok(Lab { app, remote, pod })
}

impl Lab {
    /// A service that the application calls, and the address at which the application is called.
    fn families() -> [(SocketAddr, SocketAddr); 2] {
        [
            ("10.96.0.10:80".parse().unwrap(), (POD_IP, 8080).into()),
            ("[fd00:96::10]:80".parse().unwrap(), (POD_IP6, 8080).into()),
        ]
    }

    /// One connection out and one in; what the log, which waits for that many entries, must say.
    fn both_directions(
        &self,
        (service, own): (SocketAddr, SocketAddr),
        log: impl Fn(usize) -> Result<Vec<AccessEntry>>,
    ) -> Result<()> {
        let done = log(0)?.len();
        let conn = self.app.connect(service)?;
        assert_eq!(conn.peer, service);
        assert_eq!(conn.round_trip(b"out")?, b"out");
        let from = conn.local;
        conn.close();
        let entry = log(done + 1)?.pop().unwrap();
        assert_eq!(entry.listener, Direction::Outbound);
        assert_eq!(
            (entry.original_dst, entry.upstream),
            (service, Some(service))
        );
        assert_eq!((entry.peer, entry.peer.ip()), (from, own.ip()));
        assert_eq!((entry.received, entry.sent, &entry.flags), (3, 3, &None));
        let seen = self.remote.echo_log()?.pop().unwrap();
        assert_eq!(entry.upstream_local, Some(seen.peer), "{entry:?}");

        let conn = self.remote.connect(own)?;
        assert_eq!(conn.round_trip(b"inwards")?, b"inwards");
        let from = conn.local;
        conn.close();
        let entry = log(done + 2)?.pop().unwrap();
        assert_eq!(entry.listener, Direction::Inbound);
        assert_eq!((entry.original_dst, entry.upstream), (own, Some(own)));
        assert_eq!((entry.peer, entry.received, entry.sent), (from, 7, 7));
        let seen = self.app.echo_log()?.pop().unwrap();
        assert_eq!(entry.upstream_local, Some(seen.peer));
        let source = if own.is_ipv4() { "127.0.0.6" } else { "::6" };
        assert_eq!(seen.peer.ip().to_string(), source);
        Ok(())
    }

    /// Connections to the proxy's own ports end, each with one refusal in the log.
    fn no_loops(&self, log: impl Fn(usize) -> Result<Vec<AccessEntry>>) -> Result<()> {
        let done = log(0)?.len();
        for port in [15001, 15006] {
            let conn = self.app.connect((POD_IP, port))?;
            // A refusal may come as an end or as a reset.
            assert!(conn.recv(1).map_or(true, |bytes| bytes.is_empty()));
        }
        for entry in &log(done + 2)?[done..] {
            assert!(
                entry.flags.is_some() && entry.upstream.is_none(),
                "{entry:?}"
            );
        }
        assert_eq!(log(0)?.len(), done + 2);
        Ok(())
    }
}

/// How many sockets listen at that port in the pod's network, over IPv4 and over IPv6.
fn listening_at(pod: &Pod, port: u16) -> Result<(usize, usize)> {
    // "  0: 00000000:3A99 00000000:0000 0A …": local, remote, state; 0A is LISTEN.
    let count = |table: &str| -> Result<usize> {
        let path = format!("/proc/thread-self/net/{table}");
        let text = inside_netns(&pod.netns_path(), || fs::read_to_string(path))??;
        let end = format!(":{port:04X}");
        let listens = |line: &&str| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            fields.len() > 3 && fields[1].ends_with(&end) && fields[3] == "0A"
        };
        Ok(text.lines().filter(listens).count())
    };
    Ok((count("tcp")?, count("tcp6")?))
}

fn envoy_serves(hint: &str, backend: Backend, options: &EnvoyOptions) -> Result<()> {
    let lab = lab(hint, backend)?;
    let envoy = Envoy::start(&lab.pod.proxy(), options)?;
    // One per worker and address.
    let ipv4 = if options.v4_mapped { 0 } else { 2 };
    for port in [15001, 15006] {
        assert_eq!(listening_at(&lab.pod, port)?, (ipv4, 2));
    }
    envoy_forwards(&lab, &envoy)
}

fn envoy_forwards(lab: &Lab, envoy: &Envoy) -> Result<()> {
    assert!(envoy.version().contains("version"), "{}", envoy.version());
    let log = |count| envoy.wait_for_access(count, PATIENCE);
    for family in Lab::families() {
        lab.both_directions(family, log)?;
    }
    // An IPv6 socket with an IPv4 destination is an IPv4 connection.
    let (service, _) = Lab::families()[0];
    let mut mapped = ConnectOptions::to(service);
    mapped.mapped = true;
    let conn = lab.app.connect_with(mapped)?;
    assert_eq!(conn.round_trip(b"mapped")?, b"mapped");
    conn.close();
    assert_eq!(log(5)?[4].original_dst, service);
    lab.no_loops(log)?;
    for entry in envoy.access_log()? {
        let port = match entry.listener {
            Direction::Outbound => 15001,
            Direction::Inbound => 15006,
        };
        assert_eq!(entry.direct_local.map(|local| local.port()), Some(port));
    }
    Ok(())
}

#[test]
fn envoy_with_a_listener_per_family() -> Result<()> {
    envoy_serves("envoy-dual", Backend::Legacy, &EnvoyOptions::default())
}

#[test]
fn envoy_with_one_listener_for_both_families() -> Result<()> {
    envoy_serves("envoy-mapped", Backend::Nft, &EnvoyOptions::mapped())
}

#[test]
fn envoy_outside_with_its_sockets_inside() -> Result<()> {
    let lab = lab("envoy-node", Backend::Legacy)?;
    // Root may make sockets elsewhere; Istio's rules know it by its group.
    let outside = Placement {
        netns: None,
        cgroup: Some(lab.pod.node_cgroup()),
        uid: Some(0),
        gid: Some(PROXY_ID),
    };
    let envoy = Envoy::start(&outside, &EnvoyOptions::node(lab.pod.netns_path()))?;
    let home = |process: &str| fs::read_link(format!("/proc/{process}/ns/net"));
    assert_eq!(home(&envoy.pid().to_string())?, home("self")?);
    assert_eq!(listening_at(&lab.pod, 15001)?, (2, 2));
    envoy_forwards(&lab, &envoy)
}

#[test]
fn envoy_without_rules_reports_its_own_address_and_refuses() -> Result<()> {
    let pod = Pod::new("envoy-bare")?;
    let remote = Agent::spawn(&pod.remote())?;
    let envoy = Envoy::start(&pod.proxy(), &EnvoyOptions::ipv4())?;
    let own = SocketAddr::from((POD_IP, 15006));
    let conn = remote.connect(own)?;
    assert!(conn.recv(1).map_or(true, |bytes| bytes.is_empty()));
    let entry = envoy.wait_for_access(1, PATIENCE)?.pop().unwrap();
    assert_eq!((entry.original_dst, entry.direct_local), (own, Some(own)));
    assert_eq!(entry.flags.as_deref(), Some("UH"));
    Ok(())
}

#[test]
fn a_port_that_is_taken_is_reported() -> Result<()> {
    let pod = Pod::new("taken")?;
    let other = Agent::spawn(&pod.app())?;
    let _listener = other.listen("0.0.0.0:15001")?;
    let error = Envoy::start(&pod.proxy(), &EnvoyOptions::ipv4()).unwrap_err();
    assert!(
        format!("{error:#}").contains("Address already in use"),
        "{error:#}"
    );
    let error = Haproxy::start(&pod.proxy(), &HaproxyOptions::default()).unwrap_err();
    assert!(format!("{error:#}").contains("15001"), "{error:#}");
    Ok(())
}

#[test]
fn haproxy_serves_ipv4() -> Result<()> {
    let lab = lab("haproxy", Backend::Nft)?;
    let haproxy = Haproxy::start(&lab.pod.proxy(), &HaproxyOptions::default())?;
    assert!(haproxy.version().starts_with("HAProxy version"));
    assert_eq!(listening_at(&lab.pod, 15006)?, (2, 0));
    let log = |count| haproxy.wait_for_access(count, PATIENCE);
    lab.both_directions(Lab::families()[0], log)?;
    lab.no_loops(log)?;
    Ok(())
}
