//! Datagrams: UDP exchanges, a UDP echo server, and ping.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{errno::Errno, poll::PollFlags};
use socket2::{Domain, Protocol, Socket, Type};

use super::{Log, snapshot, tcp::wait_for};
use crate::wire::{During, OpError, OpResult, Seen, UdpExchange, UdpReply};

/// How often the echo server looks whether it should end.
const TICK: Duration = Duration::from_millis(50);

pub(super) fn exchange(exchange: &UdpExchange) -> OpResult<UdpReply> {
    let UdpExchange { to, timeout, .. } = *exchange;
    let name = || format!("udp exchange with {to}");
    let wildcard = if to.is_ipv4() {
        IpAddr::from(Ipv4Addr::UNSPECIFIED)
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let from = exchange
        .from
        .unwrap_or_else(|| SocketAddr::new(wildcard, 0));
    let socket = UdpSocket::bind(from).during(|| format!("bind to {from}"))?;
    if exchange.connected {
        socket.connect(to).during(|| format!("connect to {to}"))?;
        socket.send(&exchange.payload).during(name)?;
    } else {
        socket.send_to(&exchange.payload, to).during(name)?;
    }
    wait_for(&socket, PollFlags::POLLIN, timeout, name)?;
    let mut payload = vec![0; 2048];
    let (length, source) = socket.recv_from(&mut payload).during(name)?;
    payload.truncate(length);
    Ok(UdpReply { payload, source })
}

/// A thread that answers each datagram with itself.
pub(super) struct EchoServer {
    log: Log<Seen>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl EchoServer {
    pub(super) fn start(addr: SocketAddr) -> OpResult<(Self, SocketAddr)> {
        let name = || format!("udp echo at {addr}");
        let socket = UdpSocket::bind(addr).during(name)?;
        socket.set_read_timeout(Some(TICK)).during(name)?;
        let local = socket.local_addr().during(name)?;
        let (log, ended) = (Log::default(), Arc::new(AtomicBool::new(false)));
        let thread = thread::spawn({
            let (log, ended) = (log.clone(), ended.clone());
            move || {
                while !ended.load(Ordering::Relaxed) {
                    echo_once(&socket, local, &log);
                }
            }
        });
        Ok((
            Self {
                log,
                ended,
                thread: Some(thread),
            },
            local,
        ))
    }

    pub(super) fn log(&self) -> Vec<Seen> {
        snapshot(&self.log)
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // The socket is closed when this returns.
            let _ = thread.join();
        }
    }
}

fn echo_once(socket: &UdpSocket, local: SocketAddr, log: &Log<Seen>) {
    let mut buffer = [0; 2048];
    // Errors are the timeout of this tick, or a bounced earlier answer.
    let Ok((length, peer)) = socket.recv_from(&mut buffer) else {
        return;
    };
    let bytes = buffer.get(..length).unwrap_or_default();
    let seen = Seen {
        peer,
        local,
        first_bytes: bytes.to_vec(),
    };
    log.lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .push(seen);
    // A client that has gone does not hear it.
    let _ = socket.send_to(bytes, peer);
}

/// One ICMP echo request through a datagram socket, which needs no privilege in a pod.
pub(super) fn ping(to: IpAddr, timeout: Duration) -> OpResult<()> {
    let name = || format!("ping {to}");
    let (domain, protocol, request, reply) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8, 0),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129),
    };
    let socket = Socket::new(domain, Type::DGRAM, Some(protocol)).during(name)?;
    socket
        .connect(&SocketAddr::new(to, 0).into())
        .during(name)?;
    // Type, code, checksum and identifier (both the kernel's), sequence number.
    socket.send(&[request, 0, 0, 0, 0, 0, 0, 1]).during(name)?;
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        wait_for(&socket, PollFlags::POLLIN, left, name)?;
        let mut answer = [0; 64];
        match io::Read::read(&mut &socket, &mut answer) {
            Ok(length) if length > 0 && answer.first() == Some(&reply) => return Ok(()),
            Ok(_) if left.is_zero() => return Err(OpError::timeout(name(), timeout)),
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(Errno::EINTR as i32) => {}
            Err(error) => return Err(error).during(name),
        }
    }
}
