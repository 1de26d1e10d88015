//! The laboratory itself, without anything that redirects: what the other kernel tests build on.
//! Needs root; leaves nothing behind.
#![expect(clippy::unwrap_used, reason = "in a test it is a failure of the test")]

use std::{fs, net::SocketAddr, time::Duration};

use anyhow::Result;
use sidecar_lab::{
    Agent, ConnectOptions, Errno, FastOpen, Level, ListenOptions, LoadPlan, Pod, PodOptions,
    UdpExchange, inside_netns, pod,
};

const SERVICE: &str = "10.96.0.10:80";
const SERVICE6: &str = "[fd00:96::10]:80";

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn placements_have_their_user_and_namespace() -> Result<()> {
    let pod = Pod::new("users")?;
    for (place, id) in [(pod.app(), 1000), (pod.proxy(), 1337), (pod.remote(), 0)] {
        let agent = Agent::spawn(&place)?;
        drop(agent.listen("0.0.0.0:0")?);
        let status = fs::read_to_string(format!("/proc/{}/status", agent.pid()))?;
        let ids = |kind| format!("{kind}:\t{id}\t{id}\t{id}\t{id}\n");
        assert!(
            status.contains(&ids("Uid")) && status.contains(&ids("Gid")),
            "{status}"
        );
        let namespace = nix::sys::stat::stat(place.netns.as_ref().unwrap())?.st_ino;
        let own = fs::read_link(format!("/proc/{}/ns/net", agent.pid()))?;
        assert_eq!(own.to_str().unwrap(), format!("net:[{namespace}]"));
    }
    Ok(())
}

#[test]
fn one_remote_listener_answers_for_every_service() -> Result<()> {
    let pod = Pod::new("services")?;
    let (app, remote) = (Agent::spawn(&pod.app())?, Agent::spawn(&pod.remote())?);
    let listeners = [remote.listen("0.0.0.0:80")?, remote.listen("[::]:80")?];
    for (number, to) in [
        (0, SERVICE),
        (0, "10.111.255.254:80"),
        (0, "203.0.113.9:80"),
        (1, SERVICE6),
    ] {
        let conn = app.connect(to)?;
        let got = listeners[number].accept()?;
        assert_eq!((conn.peer, got.local), (addr(to), addr(to)));
        assert_eq!(conn.local, got.peer);
        let own: std::net::IpAddr = if number == 0 {
            pod::POD_IP.into()
        } else {
            pod::POD_IP6.into()
        };
        assert_eq!(conn.local.ip(), own);
        conn.send(b"hello")?;
        assert_eq!(got.echo()?, b"hello");
        assert_eq!(conn.recv(99)?, b"hello");
        conn.shutdown()?;
        assert_eq!(got.recv(99)?, b"");
    }
    let inbound = Agent::spawn(&pod.app())?.listen((pod::POD_IP, 8080))?;
    assert_eq!(
        remote.connect(inbound.addr)?.local.ip(),
        inbound.accept()?.peer.ip()
    );
    Ok(())
}

#[test]
fn failures_keep_their_errno() -> Result<()> {
    let pod = Pod::new("errno")?;
    let app = Agent::spawn(&pod.app())?;
    assert_eq!(
        app.connect(SERVICE).unwrap_err().errno(),
        Errno::ECONNREFUSED
    );
    assert_eq!(app.listen("0.0.0.0:80").unwrap().addr, addr("0.0.0.0:80"));
    assert_eq!(
        app.listen((pod::REMOTE_IP, 80)).unwrap_err().errno(),
        Errno::EADDRNOTAVAIL
    );
    let listener = app.listen("0.0.0.0:80")?;
    assert_eq!(
        app.listen("0.0.0.0:80").unwrap_err().errno(),
        Errno::EADDRINUSE
    );
    let early = listener
        .accept_within(Duration::from_millis(50))
        .unwrap_err();
    assert_eq!(early.errno(), Errno::ETIME);
    // Nobody answers for an address of the pod's network that nobody has.
    let mut silent = ConnectOptions::to(addr("10.244.0.77:80"));
    silent.timeout = Duration::from_millis(200);
    assert_eq!(
        app.connect_with(silent.clone()).unwrap_err().errno(),
        Errno::ETIME
    );
    silent.nonblocking = true;
    assert_eq!(
        app.connect_with(silent.clone()).unwrap_err().errno(),
        Errno::ETIME
    );
    silent.io_uring = true;
    assert_eq!(app.connect_with(silent).unwrap_err().errno(), Errno::ETIME);
    pod.ip("route del default\n")?;
    assert_eq!(
        app.connect(SERVICE).unwrap_err().errno(),
        Errno::ENETUNREACH
    );
    // No conntrack in this namespace, so nothing has an original destination.
    let conn = app.connect(listener.addr)?;
    let errno = conn.original_dst(Level::Ip, 16).unwrap_err().errno();
    assert!(
        [Errno::ENOENT, Errno::ENOPROTOOPT].contains(&errno),
        "{errno}"
    );
    Ok(())
}

#[test]
fn every_way_to_connect_arrives() -> Result<()> {
    let pod = Pod::new("ways")?;
    let (app, remote) = (Agent::spawn(&pod.app())?, Agent::spawn(&pod.remote())?);
    let mut at = ListenOptions::at(addr("0.0.0.0:80"));
    (at.mptcp, at.fast_open) = (true, true);
    let listener = remote.listen_with(at)?;
    let plain = ConnectOptions::to(addr(SERVICE));
    let with = |change: fn(&mut ConnectOptions)| {
        let mut options = plain.clone();
        change(&mut options);
        options
    };
    let ways = [
        with(|_| {}),
        with(|o| o.mapped = true),
        with(|o| o.mptcp = true),
        with(|o| o.nonblocking = true),
        with(|o| o.io_uring = true),
        with(|o| o.bind_to_device = Some("eth0".into())),
        with(|o| o.from = Some(addr("10.244.0.5:4321"))),
        with(|o| (o.from, o.mapped) = (Some(addr("10.244.0.5:4322")), true)),
        with(|o| o.fast_open = FastOpen::SendTo),
        with(|o| o.fast_open = FastOpen::ConnectOption),
        with(|o| o.fast_open = FastOpen::SendTo),
        with(|o| o.fast_open = FastOpen::ConnectOption),
    ];
    for way in ways {
        let conn = app.connect_with(way.clone())?;
        let got = listener.accept()?;
        assert_eq!(got.peer.ip(), pod::POD_IP, "{way:?}");
        assert_eq!(conn.peer.ip().to_canonical(), plain.to.ip(), "{way:?}");
        assert_eq!(conn.peer.is_ipv6(), way.mapped, "{way:?}");
        if let Some(from) = way.from {
            assert_eq!(got.peer, from);
        }
        if way.fast_open == FastOpen::No {
            conn.send(b"first")?;
        }
        assert_eq!(got.recv(99)?, b"first", "{way:?}");
    }
    // The last ones had their cookies, so data travelled in the SYN.
    let netstat = inside_netns(&pod.netns_path(), || {
        fs::read_to_string("/proc/thread-self/net/netstat")
    })??;
    assert!(
        netstat_value(&netstat, "TCPFastOpenActive") >= 2,
        "{netstat}"
    );
    Ok(())
}

fn netstat_value(netstat: &str, name: &str) -> u64 {
    let lines: Vec<Vec<&str>> = netstat
        .lines()
        .map(|line| line.split(' ').collect())
        .collect();
    let (names, values) = lines
        .chunks(2)
        .map(|pair| (&pair[0], &pair[1]))
        .find(|(names, _)| names.contains(&name))
        .unwrap();
    let at = names.iter().position(|found| *found == name).unwrap();
    values[at].parse().unwrap()
}

#[test]
fn a_socket_connects_again_after_af_unspec() -> Result<()> {
    let pod = Pod::new("again")?;
    let (app, remote) = (Agent::spawn(&pod.app())?, Agent::spawn(&pod.remote())?);
    let listener = remote.listen("0.0.0.0:80")?;
    let mut conn = app.connect(SERVICE)?;
    drop(listener.accept()?);
    conn.disconnect()?;
    assert_eq!(conn.peer_name().unwrap_err().errno(), Errno::ENOTCONN);
    conn.reconnect("10.96.0.11:80")?;
    assert_eq!(listener.accept()?.local, addr("10.96.0.11:80"));
    assert_eq!(conn.peer_name()?, addr("10.96.0.11:80"));
    Ok(())
}

#[test]
fn datagrams_and_pings_are_answered() -> Result<()> {
    let pod = Pod::new("udp")?;
    let (app, remote) = (Agent::spawn(&pod.app())?, Agent::spawn(&pod.remote())?);
    for (server, service) in [("10.96.0.10:53", SERVICE), ("[fd00:96::10]:53", SERVICE6)] {
        let echo = remote.udp_echo(server)?;
        for connected in [false, true] {
            let mut exchange = UdpExchange::to(addr(server));
            exchange.connected = connected;
            let reply = app.udp_exchange(exchange.clone())?;
            assert_eq!(
                (reply.payload, reply.source),
                (exchange.payload, addr(server))
            );
        }
        assert_eq!(echo.log()?.len(), 2);
        app.ping(addr(service).ip())?;
    }
    let mut nobody = UdpExchange::to(addr("10.96.0.10:54"));
    nobody.connected = true;
    assert_eq!(
        app.udp_exchange(nobody).unwrap_err().errno(),
        Errno::ECONNREFUSED
    );
    Ok(())
}

#[test]
fn without_ipv6_there_is_none() -> Result<()> {
    let pod = Pod::with("v4", PodOptions::ipv4_only())?;
    let app = Agent::spawn(&pod.app())?;
    let errno = app.connect(SERVICE6).unwrap_err().errno();
    assert!(
        [Errno::ENETUNREACH, Errno::EADDRNOTAVAIL].contains(&errno),
        "{errno}"
    );
    assert_eq!(
        app.listen("[::1]:80").unwrap_err().errno(),
        Errno::EADDRNOTAVAIL
    );
    Ok(())
}

#[test]
fn addresses_come_and_go() -> Result<()> {
    let pod = Pod::new("addresses")?;
    let app = Agent::spawn(&pod.app())?;
    for ip in ["10.244.0.66", "fd00:10:244::66"].map(|text| text.parse().unwrap()) {
        assert_eq!(
            app.listen((ip, 80)).unwrap_err().errno(),
            Errno::EADDRNOTAVAIL
        );
        pod.add_address(ip)?;
        drop(app.listen((ip, 80))?);
        pod.remove_address(ip)?;
        assert_eq!(
            app.listen((ip, 80)).unwrap_err().errno(),
            Errno::EADDRNOTAVAIL
        );
    }
    Ok(())
}

#[test]
fn identities_change_as_asked() -> Result<()> {
    let pod = Pod::new("identity")?;
    let agent = Agent::spawn(&pod.app().user(0, 0))?;
    let uids = || {
        let status = fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
        status
            .lines()
            .find_map(|line| line.strip_prefix("Uid:\t").map(str::to_owned))
            .unwrap()
    };
    agent.set_fs_uid(1337)?;
    assert_eq!(uids(), "0\t0\t0\t1337");
    agent.set_fs_uid(0)?;
    agent.set_effective_uid(1337)?;
    assert_eq!(uids(), "0\t1337\t0\t1337");
    agent.set_effective_uid(0)?;
    agent.become_user(1337, 1337)?;
    assert_eq!(uids(), "1337\t1337\t1337\t1337");
    assert_eq!(agent.become_user(0, 0).unwrap_err().errno(), Errno::EPERM);
    agent.set_fs_uid(0).unwrap_err();
    Ok(())
}

#[test]
fn the_load_servers_notice_a_wrong_destination() -> Result<()> {
    let pod = Pod::new("load")?;
    let (app, remote) = (Agent::spawn(&pod.app())?, Agent::spawn(&pod.remote())?);
    remote.load_serve("0.0.0.0:80", 2)?;
    let plan = LoadPlan {
        threads: 4,
        connections: 50,
        base: [10, 96, 0, 0].into(),
        addresses: 10,
        first_port: 80,
        ports: 2,
        timeout: Duration::from_secs(5),
    };
    let outcome = app.load_connect(plan)?;
    // Ten to port 80, ten to port 81 where nobody listens, and so on.
    assert_eq!(outcome.ok, 30);
    assert_eq!(outcome.failed.get("connect ECONNREFUSED"), Some(&20));
    let report = remote.load_report()?;
    assert_eq!(
        (report.right, report.wrong, report.missing, report.silent),
        (0, 0, 30, 0)
    );
    Ok(())
}
