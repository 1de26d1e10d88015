//! What the settings and the pod say: which servers are captured, since when, and by whom.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::Result;
use sidecar_lab::{
    Agent, Child, ConnectOptions, Errno, Loader, Placement, Pod, UdpOptions, pod::APP_ID,
};

use crate::{
    ALL, Dns, KINDS, Kind, ResolvConf, V4, V6, hears, refused_as,
    support::{Rig, to},
};

/// Asks with both kinds of UDP sockets, and asserts the rule.
fn asks(dns: &Dns, kind: Kind, server: usize, rule: &str) {
    let server = kind.server(server);
    let socket = kind.socket(&dns.rig.app);
    dns.rig.expect(&[(kind.sendmsg, rule, 1)], || {
        socket.send_to(b"question", server).unwrap();
        hears(&socket, b"question", server);
    });
    let socket = kind.socket(&dns.rig.app);
    dns.rig.expect(&[(kind.connect, rule, 1)], || {
        socket.connect(server).unwrap();
        socket.send(b"question").unwrap();
        hears(&socket, b"question", server);
        assert_eq!(
            crate::support::canonical(socket.peer_name().unwrap()),
            server
        );
    });
}

/// Asks over UDP without a look at the counters.
fn is_captured(dns: &Dns, server: SocketAddr) -> bool {
    let before = dns.asked().len();
    let socket = V4.socket(&dns.rig.app);
    socket.send_to(b"question", server).unwrap();
    hears(&socket, b"question", server);
    dns.asked().len() > before
}

fn tcp_to(kind: Kind, server: usize) -> ConnectOptions {
    ConnectOptions {
        mapped: kind.ipv6 && kind.pod.is_ipv4(),
        ..to(kind.server(server))
    }
}

#[test]
fn only_listed_servers_are_captured() -> Result<()> {
    let file = ResolvConf::new("listed", &["10.96.0.10", "fd00:96::10", "no address"])?;
    let args = [
        "--dual-stack",
        "--redirect-dns",
        "--resolv-conf",
        file.path(),
    ];
    let dns = Dns::new("dns-listed", &args)?;
    for kind in KINDS {
        asks(&dns, kind, 0, "dns");
        let captured = (kind.connect, "dns", 1);
        dns.rig
            .delivered(captured, &dns.rig.app, tcp_to(kind, 0), &dns.tcp);
    }
    assert_eq!((dns.asked().len(), dns.asked_for_real().len()), (6, 0));
    // Another server's queries: over TCP they are a connection as any other, over UDP nothing.
    for kind in KINDS {
        asks(&dns, kind, 1, "end-of-chain");
        let other = (kind.connect, "9", 1);
        dns.rig
            .delivered(other, &dns.rig.app, tcp_to(kind, 1), &dns.rig.outbound);
    }
    assert_eq!((dns.asked().len(), dns.asked_for_real().len()), (6, 6));
    // One socket may ask both.
    for kind in KINDS {
        let socket = kind.socket(&dns.rig.app);
        for server in [1, 0, 1, 0] {
            socket.send_to(b"question", kind.server(server))?;
            hears(&socket, b"question", kind.server(server));
        }
    }
    assert_eq!((dns.asked().len(), dns.asked_for_real().len()), (12, 12));
    Ok(())
}

#[test]
fn without_a_server_nothing_is_captured() -> Result<()> {
    let file = ResolvConf::new("empty", &[])?;
    let args = ["--redirect-dns", "--resolv-conf", file.path()];
    let dns = Dns::new("dns-empty", &args)?;
    let socket = V4.socket(&dns.rig.app);
    dns.rig.expect(&[], || {
        socket.send_to(b"question", V4.server(0)).unwrap();
        hears(&socket, b"question", V4.server(0));
    });
    assert!(dns.asked().is_empty());
    Ok(())
}

#[test]
fn an_excluded_port_is_not_captured() -> Result<()> {
    let args: Vec<&str> = ALL.into_iter().chain(["-o", "53"]).collect();
    let dns = Dns::new("dns-excluded", &args)?;
    for kind in KINDS {
        asks(&dns, kind, 0, "excluded-port");
        let excluded = (kind.connect, "excluded-port", 1);
        dns.rig
            .delivered(excluded, &dns.rig.app, tcp_to(kind, 0), &dns.real_tcp);
    }
    assert_eq!((dns.asked().len(), dns.asked_for_real().len()), (0, 6));
    Ok(())
}

#[test]
fn without_capture_nothing_is_looked_at() -> Result<()> {
    let dns = Dns::new("dns-off", &["--dual-stack"])?;
    for kind in KINDS {
        let socket = kind.socket(&dns.rig.app);
        dns.rig.expect(&[], || {
            socket.send_to(b"question", kind.server(0)).unwrap();
            hears(&socket, b"question", kind.server(0));
            socket.connect(kind.server(1)).unwrap();
            socket.send(b"question").unwrap();
            hears(&socket, b"question", kind.server(1));
        });
    }
    assert!(dns.asked().is_empty());
    Ok(())
}

#[test]
fn ipv6_without_rules_passes() -> Result<()> {
    let dns = Dns::new("dns-single", &["--redirect-dns", "--capture-all-dns"])?;
    asks(&dns, V4, 0, "dns");
    asks(&dns, V6, 0, "no-ipv6-rules");
    assert_eq!((dns.asked().len(), dns.asked_for_real().len()), (2, 2));
    Ok(())
}

/// A process of the pod that sees this file as its resolv.conf.
fn container(pod: &Pod, file: &Path) -> Result<Child> {
    let place = Placement::new(pod.netns_path(), pod.app_cgroup());
    let script = format!(
        "mount --bind {} /etc/resolv.conf && echo mounted && exec sleep 600",
        file.display()
    );
    let child = place.spawn("unshare", ["-m", "sh", "-c", &script])?;
    child.wait_for_line("mounted", Duration::from_secs(10))?;
    Ok(child)
}

/// So that a socket that asks early is not let past the agent.
#[test]
fn the_servers_of_the_pod_are_found_and_followed() -> Result<()> {
    let file = ResolvConf::new("pod", &["10.96.0.10"])?;
    let pod = Pod::new("dns-pod")?;
    let loader = Loader::start(&pod, &["--redirect-dns"])?;
    let mut rig = Rig::on(pod)?;
    loader.wait_for_event("pod-found", Duration::from_secs(20))?;
    rig.loader = Some(loader);
    let dns = Dns::on(rig)?;
    let becomes = |server: usize, captured: bool| {
        let wanted = || is_captured(&dns, V4.server(server)) == captured;
        for _ in 0..50 {
            if wanted() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        false
    };
    let first = container(&dns.rig.pod, &file.0)?;
    assert!(becomes(0, true), "a server of the first container");
    assert!(becomes(1, false), "nobody's server");
    let other = ResolvConf::new("pod-other", &["10.96.0.11"])?;
    let _second = container(&dns.rig.pod, &other.0)?;
    assert!(becomes(1, true), "a server of the second container");
    assert!(becomes(0, true), "still that of the first");
    drop(first);
    assert!(becomes(0, false), "the first has gone");
    let said = dns.rig.loader.as_ref().unwrap().transcript();
    assert!(said.contains("capturing the DNS queries to "), "{said}");
    Ok(())
}

#[test]
fn a_proxy_outside_the_pod_answers_for_all_servers() -> Result<()> {
    let pod = Pod::new("dns-outside")?;
    let app = Agent::spawn(&pod.app())?;
    let proxy = Agent::spawn(&pod.node_proxy())?;
    let remote = Agent::spawn(&pod.remote())?;
    let cgroup = pod.node_cgroup();
    let args = ALL
        .into_iter()
        .chain(["--proxy-cgroup", cgroup.to_str().unwrap()]);
    let loader = Loader::start(&pod, &args.collect::<Vec<_>>())?;
    let _agent = [
        proxy.udp_echo("127.0.0.1:15053")?,
        proxy.udp_echo("[::1]:15053")?,
    ];
    for kind in KINDS {
        let real = remote.udp_echo(kind.server(1))?;
        let before = loader.counters()?;
        let socket = kind.socket(&app);
        for server in [0, 1, 2, 1, 0] {
            socket.send_to(b"question", kind.server(server))?;
            hears(&socket, b"question", kind.server(server));
        }
        assert!(real.log()?.is_empty());
        // What runs there is not captured, as root neither.
        let upstream = kind.socket(&proxy);
        upstream.send_to(b"upstream", kind.server(1))?;
        hears(&upstream, b"upstream", kind.server(1));
        assert_eq!(real.log()?.len(), 1);
        let after = loader.counters()?;
        after.expect_delta(&before, &[(kind.sendmsg, "dns", 5)])?;
    }
    Ok(())
}

#[test]
fn a_process_in_another_namespace_is_left_alone() -> Result<()> {
    let dns = Dns::new("dns-elsewhere", &ALL)?;
    let place = Placement::new(dns.rig.pod.remote_netns_path(), dns.rig.pod.app_cgroup());
    let elsewhere = Agent::spawn(&place.user(APP_ID, APP_ID))?;
    for kind in [V4, V6] {
        let server = kind.server(0);
        let socket = kind.socket(&elsewhere);
        dns.rig
            .expect(&[(kind.sendmsg, "bypass:other-netns", 1)], || {
                socket.send_to(b"question", server).unwrap();
                hears(&socket, b"question", server);
            });
        dns.rig
            .expect(&[(kind.connect, "bypass:other-netns", 1)], || {
                socket.connect(server).unwrap();
                socket.send(b"question").unwrap();
                hears(&socket, b"question", server);
            });
    }
    assert!(dns.asked().is_empty());
    Ok(())
}

/// The first server of a socket takes no number, any other one does.
#[test]
fn a_full_table_refuses_further_servers() -> Result<()> {
    let args: Vec<&str> = ALL.into_iter().chain(["--destinations", "2"]).collect();
    let dns = Dns::new("dns-full", &args)?;
    let socket = V4.socket(&dns.rig.app);
    for server in V4.servers {
        socket.send_to(server.as_bytes(), server)?;
        hears(&socket, server.as_bytes(), server.parse()?);
    }
    let moved = [
        ("sendmsg4", "dns", 1),
        ("sendmsg4", "refusal:table-full", 1),
    ];
    let refused = dns
        .rig
        .expect(&moved, || socket.send_to(b"question", "10.96.0.99:53"));
    refused_as(refused, Errno::EPERM);
    asks(&dns, V4, 0, "dns");
    let other = V4.socket_with(
        &dns.rig.app,
        UdpOptions {
            bind: Some((V4.pod, 0).into()),
            ..UdpOptions::default()
        },
    );
    other.send_to(b"question", "10.96.0.99:53")?;
    hears(&other, b"question", "10.96.0.99:53".parse()?);
    Ok(())
}
