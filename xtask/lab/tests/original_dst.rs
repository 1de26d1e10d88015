//! What `SO_ORIGINAL_DST` answers, to whom, and that nothing else of `getsockopt` changes. Needs
//! root; leaves nothing behind.
#![expect(clippy::unwrap_used, reason = "in a test it is a failure of the test")]

#[path = "stage/option.rs"]
mod option;
mod stage;

use std::{
    env, io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    time::Duration,
};

use anyhow::Result;
use nix::libc;
use sidecar_lab::{
    Agent, Conn, ConnectOptions, Errno, Level, ListenOptions, Listener, Pod,
    pod::{POD_IP, POD_IP6},
};
use socket2::{Domain, Protocol, Socket, Type};
use stage::{Stage, addr};

const SERVICE: &str = "10.96.0.10:80";
const SERVICE6: &str = "[fd00:96::10]:80";
const ORIGINAL_DST: i32 = 80;

/// The answer must be exactly a `sockaddr_in`, whatever room there is, and the room is left alone.
fn answers_v4(conn: &Conn, expected: SocketAddr) -> Result<()> {
    for length in [16, 28, 128] {
        let answer = conn.original_dst(Level::Ip, length)?;
        assert_eq!((answer.addr, answer.length), (expected, 16));
        assert_eq!(answer.bytes[8..16], [0; 8], "sin_zero");
        assert!(
            answer.bytes[16..].iter().all(|&byte| byte == 0xaa),
            "{:?}",
            answer.bytes
        );
    }
    for length in [0, 1, 8, 15] {
        refuses(conn, Level::Ip, length);
    }
    for length in [16, 28, 128] {
        refuses(conn, Level::Ipv6, length);
    }
    Ok(())
}

fn answers_v6(conn: &Conn, expected: SocketAddr) -> Result<()> {
    for length in [28, 128] {
        let answer = conn.original_dst(Level::Ipv6, length)?;
        assert_eq!((answer.addr, answer.length), (expected, 28));
        assert_eq!(answer.bytes[4..8], [0; 4], "sin6_flowinfo");
        assert_eq!(answer.bytes[24..28], [0; 4], "sin6_scope_id");
        assert!(
            answer.bytes[28..].iter().all(|&byte| byte == 0xaa),
            "{:?}",
            answer.bytes
        );
    }
    for length in [0, 8, 16, 27] {
        refuses(conn, Level::Ipv6, length);
    }
    for length in [16, 28, 128] {
        refuses(conn, Level::Ip, length);
    }
    Ok(())
}

/// As netfilter does: see `the_original_destination_is_told_at_the_right_level` in iptables.rs.
fn answers_after_a_reset(conn: &Conn, got: &Conn, level: Level, to: &str) -> Result<()> {
    conn.disconnect()?;
    assert_eq!(got.recv(1).unwrap_err().errno(), Errno::ECONNRESET);
    assert_eq!(got.original_dst(level, 28)?, addr(to));
    Ok(())
}

fn refuses(conn: &Conn, level: Level, length: u32) {
    let answer = conn.original_dst(level, length);
    // An answer that is no address would be an error without an errno.
    assert!(
        answer.as_ref().is_err_and(|error| error.code != 0),
        "{level:?} {length}: {answer:?}"
    );
}

impl Stage {
    /// A redirected connection of the application's: its two ends.
    fn redirected(
        &self,
        hook: &str,
        options: ConnectOptions,
        outbound: &Listener,
    ) -> Result<(Conn, Conn)> {
        self.counted(&[(hook, "9", 1)], || {
            Ok((self.app.connect_with(options)?, outbound.accept()?))
        })
    }
}

#[test]
fn the_client_s_end_answers_as_netfilter_does() -> Result<()> {
    let stage = Stage::start(Pod::new("client-end")?, &["--dual-stack"])?;
    let proxy = Agent::spawn(&stage.pod.proxy())?;
    let outbound = proxy.listen_with(any_family(15001))?;
    for (hook, service, level) in [
        ("connect4", SERVICE, Level::Ip),
        ("connect6", SERVICE6, Level::Ipv6),
    ] {
        let to = ConnectOptions::to(addr(service));
        let (conn, _got) = stage.redirected(hook, to, &outbound)?;
        let answer = stage.counted(&[], || Ok(conn.original_dst(level, 128)?))?;
        assert_eq!(answer, addr(service));
    }
    Ok(())
}

fn any_family(port: u16) -> ListenOptions {
    let any = SocketAddr::new("::".parse().unwrap(), port);
    ListenOptions {
        v6_only: false,
        ..ListenOptions::at(any)
    }
}

#[test]
fn of_redirected_ipv4() -> Result<()> {
    let stage = Stage::start(Pod::new("redirected4")?, &[])?;
    let proxy = Agent::spawn(&stage.pod.proxy())?;
    let outbound = proxy.listen("0.0.0.0:15001")?;
    for to in [SERVICE, "203.0.113.9:65535", "10.111.255.254:1"] {
        let (conn, got) = stage.redirected("connect4", ConnectOptions::to(addr(to)), &outbound)?;
        stage.counted(&[], || {
            answers_v4(&got, addr(to))?;
            // It is an answer about the connection, not a thing to be taken away.
            answers_v4(&got, addr(to))?;
            assert_eq!(got.peer, conn.local);
            assert_eq!(got.peer.ip(), POD_IP);
            answers_after_a_reset(&conn, &got, Level::Ip, to)
        })?;
    }
    Ok(())
}

#[test]
fn of_redirected_ipv6() -> Result<()> {
    let stage = Stage::start(Pod::new("redirected6")?, &["--dual-stack"])?;
    let proxy = Agent::spawn(&stage.pod.proxy())?;
    for options in [ListenOptions::at(addr("[::]:15001")), any_family(15001)] {
        let outbound = proxy.listen_with(options)?;
        let (conn, got) =
            stage.redirected("connect6", ConnectOptions::to(addr(SERVICE6)), &outbound)?;
        stage.counted(&[], || {
            answers_v6(&got, addr(SERVICE6))?;
            assert_eq!(
                (got.peer.ip(), got.peer),
                (IpAddr::from(POD_IP6), conn.local)
            );
            answers_after_a_reset(&conn, &got, Level::Ipv6, SERVICE6)
        })?;
    }
    Ok(())
}

#[test]
fn of_redirected_ipv4_on_ipv6_sockets() -> Result<()> {
    let stage = Stage::start(Pod::new("mapped")?, &[])?;
    let proxy = Agent::spawn(&stage.pod.proxy())?;
    let plain = ConnectOptions::to(addr(SERVICE));
    let mapped = ConnectOptions {
        mapped: true,
        ..plain.clone()
    };
    {
        let both = proxy.listen_with(any_family(15001))?;
        for (hook, options) in [("connect4", &plain), ("connect6", &mapped)] {
            let (conn, got) = stage.redirected(hook, options.clone(), &both)?;
            assert_eq!(got.peer.ip(), POD_IP.to_ipv6_mapped());
            stage.counted(&[], || {
                answers_v4(&got, addr(SERVICE))?;
                answers_after_a_reset(&conn, &got, Level::Ip, SERVICE)
            })?;
        }
    }
    let four = proxy.listen("0.0.0.0:15001")?;
    let (_conn, got) = stage.redirected("connect6", mapped, &four)?;
    stage.counted(&[], || answers_v4(&got, addr(SERVICE)))
}

#[test]
fn of_mptcp() -> Result<()> {
    let stage = Stage::start(Pod::new("mptcp-dst")?, &["--dual-stack"])?;
    let proxy = Agent::spawn(&stage.pod.proxy())?;
    for both in [false, true] {
        let options = ListenOptions {
            mptcp: both,
            ..any_family(15001)
        };
        let outbound = proxy.listen_with(options)?;
        for mptcp in [false, true] {
            let to = |service| ConnectOptions {
                mptcp,
                ..ConnectOptions::to(addr(service))
            };
            let (_conn, got) = stage.redirected("connect4", to(SERVICE), &outbound)?;
            stage.counted(&[], || answers_v4(&got, addr(SERVICE)))?;
            let (_conn, got) = stage.redirected("connect6", to(SERVICE6), &outbound)?;
            stage.counted(&[], || answers_v6(&got, addr(SERVICE6)))?;
        }
    }
    Ok(())
}

#[test]
fn of_direct_connections() -> Result<()> {
    let stage = Stage::start(Pod::new("direct")?, &["--dual-stack"])?;
    let (proxy, remote) = (
        Agent::spawn(&stage.pod.proxy())?,
        Agent::spawn(&stage.pod.remote())?,
    );
    let (own, own6) = (
        stage.app.listen("0.0.0.0:15090")?,
        stage.app.listen("[::]:15090")?,
    );
    let excluded = [("sk_lookup", "inbound-excluded-port", 1)];
    let passed = |ip: IpAddr, listener: &Listener| {
        stage.counted(&excluded, || {
            Ok((remote.connect((ip, 15090))?, listener.accept()?))
        })
    };
    let (_conn, got) = passed(POD_IP.into(), &own)?;
    let (_conn6, got6) = passed(POD_IP6.into(), &own6)?;
    let captured = [("sk_lookup", "inbound-all", 1)];
    let inbound = proxy.listen_with(any_family(15006))?;
    let _conns = stage.counted(&captured, || Ok(remote.connect((POD_IP, 8080))?))?;
    let taken = inbound.accept()?;
    let _conns6 = stage.counted(&captured, || Ok(remote.connect((POD_IP6, 8080))?))?;
    let taken6 = inbound.accept()?;
    stage.counted(&[], || {
        answers_v4(&got, (POD_IP, 15090).into())?;
        answers_v6(&got6, (POD_IP6, 15090).into())?;
        answers_v4(&taken, (POD_IP, 8080).into())?;
        answers_v6(&taken6, (POD_IP6, 8080).into())
    })
}

/// What Istio's init container checks before a pod may start (tools/istio-iptables/pkg/validation).
#[test]
fn istio_validation_passes() -> Result<()> {
    let stage = Stage::start(Pod::new("validation")?, &["--dual-stack"])?;
    let validation = Agent::spawn(&stage.pod.proxy())?;
    for (loopback, passthrough, hook, level, length) in [
        ("127.0.0.1", "127.0.0.6", "connect4", Level::Ip, 16),
        ("[::1]", "[::6]", "connect6", Level::Ipv6, 28),
    ] {
        let at = |ip: &str, port: u16| addr(&format!("{ip}:{port}"));
        let _outbound = validation.listen(at(loopback, 15001))?;
        let inbound = validation.listen(at(loopback, 15006))?;
        let to = at(passthrough, 15002);
        let options = ConnectOptions {
            from: Some(at(loopback, 0)),
            ..ConnectOptions::to(to)
        };
        let conn = stage.counted(&[(hook, "2", 1)], || Ok(validation.connect_with(options)?))?;
        let got = inbound.accept()?;
        assert_eq!((got.peer, conn.peer), (conn.local, to));
        assert_eq!(conn.local.ip(), at(loopback, 0).ip());
        assert_eq!(
            stage.counted(&[], || Ok(got.original_dst(level, length)?))?,
            to
        );
        // It compares what it reads back with what it sent.
        conn.send(b"validation")?;
        assert_eq!(got.echo()?, b"validation");
        assert_eq!(conn.recv(99)?, b"validation");
    }
    Ok(())
}

#[test]
fn a_socket_without_a_connection_has_none() -> Result<()> {
    let stage = Stage::start(Pod::new("unconnected")?, &["--dual-stack"])?;
    stage.counted(&[], || {
        in_the_pod(&stage, "unconnected_sockets_have_no_answer")
    })
}

#[test]
fn other_options_are_the_kernel_s() -> Result<()> {
    let stage = Stage::start(Pod::new("others")?, &[])?;
    let proxy = Agent::spawn(&stage.pod.proxy())?;
    let outbound = proxy.listen("0.0.0.0:15001")?;
    // To itself, and to a service.
    stage.counted(&[("connect4", "3", 1), ("connect4", "9", 1)], || {
        in_the_pod(&stage, "options_are_as_without_a_program")
    })?;
    drop(outbound.accept()?);
    Ok(())
}

/// Runs an ignored test of this program in the application's container.
fn in_the_pod(stage: &Stage, test: &str) -> Result<()> {
    let arguments = ["--exact", test, "--ignored", "--nocapture"];
    let child = stage.pod.app().spawn(env::current_exe()?, arguments)?;
    let status = child.wait(Duration::from_secs(20))?;
    let said = child.transcript();
    assert!(
        status.success() && said.contains("1 passed"),
        "{status}: {said}"
    );
    Ok(())
}

fn original_dst(socket: impl AsFd) -> [io::Result<Vec<u8>>; 2] {
    [
        option::get(&socket, libc::SOL_IP, ORIGINAL_DST, 16),
        option::get(&socket, libc::SOL_IPV6, ORIGINAL_DST, 28),
    ]
}

#[test]
#[ignore = "the other half of a_socket_without_a_connection_has_none, which runs it in a pod"]
fn unconnected_sockets_have_no_answer() -> Result<()> {
    let refuses = |what: &str, socket: &dyn AsFd| {
        for answer in original_dst(socket.as_fd()) {
            assert!(answer.is_err(), "{what}: {answer:?}");
        }
    };
    for (any, domain) in [("0.0.0.0:0", Domain::IPV4), ("[::]:0", Domain::IPV6)] {
        for protocol in [Protocol::TCP, Protocol::MPTCP] {
            let socket = Socket::new(domain, Type::STREAM, Some(protocol))?;
            refuses("new", &socket);
            socket.bind(&addr(any).into())?;
            refuses("bound", &socket);
            socket.listen(1)?;
            refuses("listening", &socket);
        }
        let udp = UdpSocket::bind(addr(any))?;
        refuses("udp", &udp);
        udp.connect(addr(if domain == Domain::IPV4 {
            "127.0.0.1:9"
        } else {
            "[::1]:9"
        }))?;
        refuses("connected udp", &udp);
    }
    let (one, _other) = std::os::unix::net::UnixStream::pair()?;
    refuses("unix", &one);
    Ok(())
}

#[test]
#[ignore = "the other half of other_options_are_the_kernel_s, which runs it in a pod"]
fn options_are_as_without_a_program() -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let direct = TcpStream::connect(listener.local_addr()?)?;
    let redirected = TcpStream::connect(SERVICE)?;
    for socket in [&direct, &redirected] {
        let info = |length| option::get(socket, libc::IPPROTO_TCP, libc::TCP_INFO, length);
        let usual = info(4096)?;
        assert!(usual.len() > 100, "{}", usual.len());
        // Above a page the kernel shows nothing to a program; up to 6.4 it fails the caller if the
        // program does not say that it does not mind.
        for length in [4097, 8192, 65536] {
            assert_eq!(info(length)?.len(), usual.len());
        }
        // The first byte is the state: established.
        assert_eq!(info(8192)?[0], 1);
        let congestion = option::get(socket, libc::IPPROTO_TCP, libc::TCP_CONGESTION, 16)?;
        assert!(
            congestion.iter().any(u8::is_ascii_lowercase),
            "{congestion:?}"
        );
        let kind = option::get(socket, libc::SOL_SOCKET, libc::SO_TYPE, 4)?;
        assert_eq!(kind, libc::SOCK_STREAM.to_ne_bytes());
        // The same number at another level is another option.
        let other = option::get(socket, libc::IPPROTO_TCP, ORIGINAL_DST, 16).unwrap_err();
        assert_eq!(other.raw_os_error(), Some(Errno::ENOPROTOOPT as i32));
    }
    Ok(())
}
