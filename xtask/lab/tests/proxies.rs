//! Real Envoy and real haproxy behind the loader: that they forward both ways, and that their
//! access logs tell what Istio's own rules would make them tell. Needs root; leaves nothing behind.
#![expect(clippy::unwrap_used, reason = "in a test it is a failure of the test")]

mod stage;

use std::{fs, net::SocketAddr, time::Duration};

use anyhow::Result;
use sidecar_lab::{
    Agent, ConnectOptions, Errno, Placement, Pod,
    pod::{POD_IP, POD_IP6},
    proxy::Direction,
    real::{AccessEntry, Envoy, EnvoyOptions, Haproxy, HaproxyOptions},
};
use stage::{Stage, addr};

const PATIENCE: Duration = Duration::from_secs(5);

type Moves = &'static [(&'static str, &'static str, u64)];

/// A service that the application calls, the address at which the application is called, and what
/// each of the two moves.
struct Family {
    service: &'static str,
    own: SocketAddr,
    passthrough: &'static str,
    out: Moves,
    inwards: Moves,
}

/// A proxy in the pod's cgroup: rule 4 lets it out, rule 1 lets it in to the application.
fn sidecar() -> [Family; 2] {
    [
        Family {
            service: "10.96.0.10:80",
            own: (POD_IP, 8080).into(),
            passthrough: "127.0.0.6",
            out: &[("connect4", "9", 1), ("connect4", "4", 1)],
            inwards: &[("sk_lookup", "inbound-all", 1), ("connect4", "1", 1)],
        },
        Family {
            service: "[fd00:96::10]:80",
            own: (POD_IP6, 8080).into(),
            passthrough: "::6",
            out: &[("connect6", "9", 1), ("connect6", "4", 1)],
            inwards: &[("sk_lookup", "inbound-all", 1), ("connect6", "1", 1)],
        },
    ]
}

/// A proxy elsewhere: its own connections are nobody's business.
fn sidecarless() -> [Family; 2] {
    let [mut four, mut six] = sidecar();
    (four.out, six.out) = (&[("connect4", "9", 1)], &[("connect6", "9", 1)]);
    four.inwards = &[("sk_lookup", "inbound-all", 1)];
    six.inwards = four.inwards;
    [four, six]
}

struct Lab {
    remote: Agent,
    stage: Stage,
}

fn lab(pod: Pod, arguments: &[&str]) -> Result<Lab> {
    let remote = Agent::spawn(&pod.remote())?;
    let stage = Stage::start(pod, arguments)?;
    for ip in ["0.0.0.0", "[::]"] {
        remote.serve_echo(&format!("{ip}:80"))?;
        stage.app.serve_echo(&format!("{ip}:8080"))?;
    }
    Ok(Lab { remote, stage })
}

impl Lab {
    /// One connection out and one in; what the log, which waits for that many entries, must say.
    fn both_directions(
        &self,
        family: &Family,
        log: impl Fn(usize) -> Result<Vec<AccessEntry>>,
    ) -> Result<()> {
        let (service, own) = (addr(family.service), family.own);
        let done = log(0)?.len();
        let entry = self.stage.counted(family.out, || {
            let conn = self.stage.app.connect(service)?;
            assert_eq!((conn.peer, conn.peer_name()?), (service, service));
            assert_eq!(conn.round_trip(b"out")?, b"out");
            let from = conn.local;
            conn.close();
            let entry = log(done + 1)?.pop().unwrap();
            assert_eq!((entry.peer, entry.peer.ip()), (from, own.ip()));
            Ok(entry)
        })?;
        assert_eq!(entry.listener, Direction::Outbound);
        assert_eq!(
            (entry.original_dst, entry.upstream),
            (service, Some(service))
        );
        assert_eq!((entry.received, entry.sent, &entry.flags), (3, 3, &None));
        let seen = self.remote.echo_log()?.pop().unwrap();
        assert_eq!(entry.upstream_local, Some(seen.peer), "{entry:?}");

        let entry = self.stage.counted(family.inwards, || {
            let conn = self.remote.connect(own)?;
            assert_eq!(conn.round_trip(b"inwards")?, b"inwards");
            let from = conn.local;
            conn.close();
            let entry = log(done + 2)?.pop().unwrap();
            assert_eq!((entry.peer, entry.received, entry.sent), (from, 7, 7));
            Ok(entry)
        })?;
        assert_eq!(entry.listener, Direction::Inbound);
        assert_eq!((entry.original_dst, entry.upstream), (own, Some(own)));
        // No address was translated on the way.
        assert!(
            entry.direct_local.is_none_or(|local| local == own),
            "{entry:?}"
        );
        let seen = self.stage.app.echo_log()?.pop().unwrap();
        assert_eq!(entry.upstream_local, Some(seen.peer));
        assert_eq!(seen.peer.ip().to_string(), family.passthrough);
        Ok(())
    }

    /// Connections to the proxy's own ports end, each with one refusal in the log.
    fn no_loops(&self, log: impl Fn(usize) -> Result<Vec<AccessEntry>>) -> Result<()> {
        let done = log(0)?.len();
        for port in [15001, 15006] {
            self.stage.counted(&[("connect4", "3", 1)], || {
                let conn = self.stage.app.connect((POD_IP, port))?;
                // A refusal may come as an end or as a reset.
                assert!(conn.recv(1).map_or(true, |bytes| bytes.is_empty()));
                Ok(())
            })?;
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

    fn envoy_forwards(&self, envoy: &Envoy, families: &[Family]) -> Result<()> {
        let log = |count| envoy.wait_for_access(count, PATIENCE);
        for family in families {
            self.both_directions(family, log)?;
        }
        // An IPv6 socket with an IPv4 destination is an IPv4 connection, of connect6.
        let own = families[0].out.iter().filter(|moved| moved.1 != "9");
        let moved: Vec<_> = own.copied().chain([("connect6", "9", 1)]).collect();
        let done = log(0)?.len();
        let service = addr(families[0].service);
        self.stage.counted(&moved, || {
            let options = ConnectOptions {
                mapped: true,
                ..ConnectOptions::to(service)
            };
            let conn = self.stage.app.connect_with(options)?;
            assert_eq!(conn.round_trip(b"mapped")?, b"mapped");
            conn.close();
            assert_eq!(log(done + 1)?[done].original_dst, service);
            Ok(())
        })?;
        self.no_loops(log)
    }
}

#[test]
fn envoy_as_a_sidecar() -> Result<()> {
    let lab = lab(Pod::new("envoy")?, &["--dual-stack"])?;
    // Its first connections wait for nobody: it starts after the loader, as in a pod.
    let envoy = Envoy::start(&lab.stage.pod.proxy(), &EnvoyOptions::default())?;
    lab.envoy_forwards(&envoy, &sidecar())
}

#[test]
fn envoy_with_one_listener_for_both_families() -> Result<()> {
    let lab = lab(Pod::new("envoy-mapped")?, &["--dual-stack"])?;
    let envoy = Envoy::start(&lab.stage.pod.proxy(), &EnvoyOptions::mapped())?;
    lab.envoy_forwards(&envoy, &sidecar())
}

#[test]
fn envoy_that_runs_before_the_loader() -> Result<()> {
    let pod = Pod::new("envoy-first")?;
    let envoy = Envoy::start(&pod.proxy(), &EnvoyOptions::default())?;
    lab(pod, &["--dual-stack"])?.envoy_forwards(&envoy, &sidecar())
}

/// The proxy's own calls to its pod come in through its inbound port: rule 2.
#[test]
fn envoy_calls_its_own_pod() -> Result<()> {
    let lab = lab(Pod::new("envoy-self")?, &[])?;
    lab.stage.app.serve_echo("0.0.0.0:80")?;
    let envoy = Envoy::start(&lab.stage.pod.proxy(), &EnvoyOptions::ipv4())?;
    // The address of a service that is this very pod: Envoy calls what it is told to call, and
    // that is an address of the pod.
    lab.stage.pod.ip("addr add 10.96.0.99/32 dev lo\n")?;
    let service = addr("10.96.0.99:80");
    let proxy = Agent::spawn(&lab.stage.pod.proxy())?;
    // The loader has heard of the address when the application's call to it stays local.
    let deadline = std::time::Instant::now() + PATIENCE;
    while lab.stage.app.connect(service)?.peer == service && !is_rule_3(&lab)? {
        assert!(
            std::time::Instant::now() < deadline,
            "the new address is not known"
        );
    }
    let done = envoy.access_log()?.len();
    let moved = [("connect4", "2", 1), ("connect4", "1", 1)];
    lab.stage.counted(&moved, || {
        let conn = proxy.connect(service)?;
        assert_eq!(conn.round_trip(b"self")?, b"self");
        conn.close();
        let entry = envoy.wait_for_access(done + 1, PATIENCE)?.pop().unwrap();
        assert_eq!(entry.listener, Direction::Inbound);
        assert_eq!(
            (entry.original_dst, entry.upstream),
            (service, Some(service))
        );
        Ok(())
    })
}

fn is_rule_3(lab: &Lab) -> Result<bool> {
    Ok(lab.stage.loader.counters()?.get("connect4", "3") > 0)
}

#[test]
fn haproxy_as_a_sidecar() -> Result<()> {
    let lab = lab(Pod::new("haproxy")?, &[])?;
    let haproxy = Haproxy::start(&lab.stage.pod.proxy(), &HaproxyOptions::default())?;
    let log = |count| haproxy.wait_for_access(count, PATIENCE);
    lab.both_directions(&sidecar()[0], log)?;
    lab.no_loops(log)
}

/// A pod without a sidecar, and a proxy of the node in another cgroup, as root.
fn sidecarless_lab(hint: &str) -> Result<Lab> {
    let pod = Pod::new(hint)?;
    let node = pod.node_cgroup();
    lab(
        pod,
        &["--dual-stack", "--proxy-cgroup", node.to_str().unwrap()],
    )
}

fn is_in(process: u32, netns: &std::path::Path) -> Result<bool> {
    let inode = |path: &std::path::Path| nix::sys::stat::stat(path).map(|stat| stat.st_ino);
    Ok(inode(format!("/proc/{process}/ns/net").as_ref())? == inode(netns)?)
}

#[test]
fn sidecarless_with_envoy_inside_the_pod_s_network() -> Result<()> {
    let lab = sidecarless_lab("node-inside")?;
    let envoy = Envoy::start(&lab.stage.pod.node_proxy(), &EnvoyOptions::default())?;
    assert!(is_in(envoy.pid(), &lab.stage.pod.netns_path())?);
    lab.envoy_forwards(&envoy, &sidecarless())
}

#[test]
fn sidecarless_with_envoy_outside_and_its_sockets_inside() -> Result<()> {
    let lab = sidecarless_lab("node-outside")?;
    let pod = &lab.stage.pod;
    let outside = Placement {
        netns: None,
        cgroup: Some(pod.node_cgroup()),
        uid: Some(0),
        gid: Some(0),
    };
    let envoy = Envoy::start(&outside, &EnvoyOptions::node(pod.netns_path()))?;
    assert!(!is_in(envoy.pid(), &pod.netns_path())?);
    let procs = fs::read_to_string(pod.node_cgroup().join("cgroup.procs"))?;
    assert_eq!(procs.trim(), envoy.pid().to_string());
    lab.envoy_forwards(&envoy, &sidecarless())
}

#[test]
fn sidecarless_with_envoy_that_listens_already() -> Result<()> {
    let pod = Pod::new("node-first")?;
    let outside = Placement {
        netns: None,
        cgroup: Some(pod.node_cgroup()),
        uid: Some(0),
        gid: Some(0),
    };
    let envoy = Envoy::start(&outside, &EnvoyOptions::node(pod.netns_path()))?;
    let node = pod.node_cgroup();
    let lab = lab(
        pod,
        &["--dual-stack", "--proxy-cgroup", node.to_str().unwrap()],
    )?;
    lab.envoy_forwards(&envoy, &sidecarless())
}

/// Where the proxy is told by its cgroup, a process of the pod's with its uid is exempt all the same.
#[test]
fn sidecarless_pods_keep_their_rules() -> Result<()> {
    let lab = sidecarless_lab("node-rules")?;
    let exempt = Agent::spawn(&lab.stage.pod.proxy())?;
    lab.stage.counted(&[("connect4", "4", 1)], || {
        assert_eq!(exempt.connect("10.96.0.10:80")?.round_trip(b"x")?, b"x");
        Ok(())
    })?;
    // A listener of the pod's is not the proxy's: it would take what is not meant for it.
    let squatter = lab.stage.app.listen("0.0.0.0:15006")?;
    let refused = [
        ("sk_lookup", "inbound-all", 1),
        ("sk_lookup", "refusal:no-listener", 1),
    ];
    lab.stage.counted(&refused, || {
        let error = lab.remote.connect((POD_IP, 8080)).unwrap_err();
        assert_eq!(error.errno(), Errno::ECONNREFUSED);
        Ok(())
    })?;
    squatter
        .accept_within(Duration::from_millis(20))
        .unwrap_err();
    Ok(())
}
