//! A small transparent proxy that stands in for Envoy: it asks where each connection wanted to
//! go, connects there, and copies bytes both ways.
//!
//! Connections of the inbound listener go on from 127.0.0.6 (IPv6: `::6`), as Envoy's do, so that
//! the redirection knows them.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    str::FromStr,
    sync::{Arc, mpsc::Sender},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Where Istio's inbound connections come from.
pub const INBOUND_SOURCE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);
pub const INBOUND_SOURCE6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);
pub const OUTBOUND_PORT: u16 = 15001;
pub const INBOUND_PORT: u16 = 15006;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the proxy listens, and what it knows about the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyOptions {
    pub outbound: Vec<SocketAddr>,
    pub inbound: Vec<SocketAddr>,
    /// Services whose endpoint is known; outbound connections to others go on as they came.
    pub routes: Vec<Route>,
}

/// The address of a service and that of its only endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub service: SocketAddr,
    pub endpoint: SocketAddr,
}

impl FromStr for Route {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('=').and_then(|(service, endpoint)| {
            let service = service.parse().ok()?;
            let endpoint = endpoint.parse().ok()?;
            Some(Self { service, endpoint })
        });
        parsed.ok_or_else(|| {
            format!("{text:?} is not SERVICE=ENDPOINT, such as 10.96.0.20:80=10.244.0.5:8080")
        })
    }
}

impl Default for ProxyOptions {
    /// Both families, every address, Istio's ports.
    fn default() -> Self {
        Self::on(&[Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()])
    }
}

impl ProxyOptions {
    /// Istio's ports at these addresses.
    pub fn on(addresses: &[IpAddr]) -> Self {
        let at = |port| {
            addresses
                .iter()
                .map(|&ip| SocketAddr::new(ip, port))
                .collect()
        };
        Self {
            outbound: at(OUTBOUND_PORT),
            inbound: at(INBOUND_PORT),
            routes: Vec::new(),
        }
    }

    /// Istio's ports, IPv4 only.
    pub fn ipv4() -> Self {
        Self::on(&[Ipv4Addr::UNSPECIFIED.into()])
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    Outbound,
    Inbound,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        })
    }
}

/// What became of one connection; the proxy's log has one such JSON object per line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyLine {
    pub listener: Direction,
    pub peer: SocketAddr,
    /// The address at which the connection arrived.
    pub local: SocketAddr,
    /// `None` when `SO_ORIGINAL_DST` failed; `onward` says how.
    pub original_dst: Option<SocketAddr>,
    /// Where the proxy connected to, or tried to.
    pub upstream: Option<SocketAddr>,
    pub onward: Onward,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Onward {
    /// Connected; from this address.
    From(SocketAddr),
    /// Closed, and why.
    Refused(String),
}

/// Listens, and serves in threads until the process ends. Each decision goes to `log`.
pub fn start(options: &ProxyOptions, log: &Sender<ProxyLine>) -> Result<()> {
    let mut listeners = Vec::new();
    for (direction, addresses) in [
        (Direction::Outbound, &options.outbound),
        (Direction::Inbound, &options.inbound),
    ] {
        for &addr in addresses {
            let listener =
                listen(addr).with_context(|| format!("{direction} listener at {addr}"))?;
            listeners.push((direction, listener));
        }
    }
    for (direction, listener) in listeners {
        let duty = Arc::new(Duty {
            direction,
            port: listener.local_addr().context("its own port")?.port(),
            routes: options.routes.clone(),
            log: log.clone(),
        });
        thread::spawn(move || serve(&duty, &listener));
    }
    Ok(())
}

fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        // So that one listener per family can have the port.
        socket.set_only_v6(true)?;
    }
    socket.bind(&addr.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

/// What the threads of one listener have to know.
#[derive(Debug)]
struct Duty {
    direction: Direction,
    /// The listener's own port.
    port: u16,
    routes: Vec<Route>,
    log: Sender<ProxyLine>,
}

fn serve(duty: &Arc<Duty>, listener: &TcpListener) {
    loop {
        match listener.accept() {
            Ok((stream, peer)) => {
                let duty = duty.clone();
                // Without a thread the connection is dropped, which its client sees.
                let _ = thread::Builder::new().spawn(move || forward(&duty, stream, peer));
            }
            // Out of file descriptors, most likely: wait for some to come back.
            Err(error) => {
                eprintln!("accepting {} connections: {error}", duty.direction);
                thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

fn forward(duty: &Duty, stream: TcpStream, peer: SocketAddr) {
    let Ok(local) = stream.local_addr() else {
        return;
    };
    let original = original_dst(&SockRef::from(&stream));
    let target = match &original {
        Ok(to) if duty.is_itself(*to, local) => Err(format!("{to} is this listener itself")),
        Ok(to) => Ok(duty.endpoint(*to)),
        Err(error) => Err(format!("SO_ORIGINAL_DST: {error}")),
    };
    let onward = target.clone().and_then(|to| {
        connect_onward(duty.direction, to).map_err(|error| format!("{to}: {error}"))
    });
    let (upstream, outcome) = match onward {
        Ok((upstream, from)) => (Some(upstream), Onward::From(from)),
        Err(why) => (None, Onward::Refused(why)),
    };
    let line = ProxyLine {
        listener: duty.direction,
        peer,
        local,
        original_dst: original.ok(),
        upstream: target.ok(),
        onward: outcome,
    };
    // Nobody reads the log any more when the process is about to end.
    let _ = duty.log.send(line);
    if let Some(upstream) = upstream {
        relay(&stream, &upstream);
    }
}

impl Duty {
    /// Somebody called the listener, and was not redirected to it. A socket chosen by sk_lookup
    /// also has the original destination as its own address, so the port decides.
    fn is_itself(&self, to: SocketAddr, local: SocketAddr) -> bool {
        to == canonical(local) && to.port() == self.port
    }

    /// Inbound connections have found their endpoint already.
    fn endpoint(&self, to: SocketAddr) -> SocketAddr {
        let known = || self.routes.iter().find(|route| route.service == to);
        match self.direction {
            Direction::Outbound => known().map_or(to, |route| route.endpoint),
            Direction::Inbound => to,
        }
    }
}

/// The original destination, asked at the level that fits the connection.
pub(crate) fn original_dst(socket: &SockRef<'_>) -> io::Result<SocketAddr> {
    let local = socket
        .local_addr()?
        .as_socket()
        .ok_or(Errno::EAFNOSUPPORT)?;
    let answer = match canonical(local) {
        SocketAddr::V4(_) => socket.original_dst_v4(),
        SocketAddr::V6(_) => socket.original_dst_v6(),
    }?;
    answer.as_socket().ok_or_else(|| Errno::EAFNOSUPPORT.into())
}

/// IPv4-mapped addresses as the IPv4 addresses they stand for, scope and flow label left out.
fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

fn connect_onward(direction: Direction, to: SocketAddr) -> io::Result<(TcpStream, SocketAddr)> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    if direction == Direction::Inbound {
        let source: IpAddr = match to {
            SocketAddr::V4(_) => INBOUND_SOURCE.into(),
            SocketAddr::V6(_) => INBOUND_SOURCE6.into(),
        };
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    socket.connect_timeout(&to.into(), CONNECT_TIMEOUT)?;
    let stream = TcpStream::from(socket);
    let from = stream.local_addr()?;
    Ok((stream, from))
}

fn relay(downstream: &TcpStream, upstream: &TcpStream) {
    thread::scope(|scope| {
        scope.spawn(|| copy(downstream, upstream));
        copy(upstream, downstream);
    });
}

/// Copies until the end, and passes the end on. After an error nothing can be said to the other
/// side but that it is over.
fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    let mut buffer = [0; 16 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(length) if length > 0 => {
                if to
                    .write_all(buffer.get(..length).unwrap_or_default())
                    .is_err()
                {
                    let _ = from.shutdown(Shutdown::Both);
                    return;
                }
            }
            Ok(_) => {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            Err(_) => {
                let _ = to.shutdown(Shutdown::Both);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn duty(direction: Direction, port: u16) -> Duty {
        Duty {
            direction,
            port,
            routes: vec!["10.96.0.20:80=10.244.0.5:8080".parse().unwrap()],
            log: std::sync::mpsc::channel().0,
        }
    }

    #[test]
    fn a_route_moves_its_service_outbound_alone() {
        let [service, pod, other] = ["10.96.0.20:80", "10.244.0.5:8080", "10.96.0.20:81"]
            .map(|text| text.parse::<SocketAddr>().unwrap());
        let outbound = duty(Direction::Outbound, OUTBOUND_PORT);
        assert_eq!(outbound.endpoint(service), pod);
        assert_eq!(outbound.endpoint(other), other);
        assert_eq!(
            duty(Direction::Inbound, INBOUND_PORT).endpoint(service),
            service
        );
    }

    #[test]
    fn only_a_direct_call_is_a_call_to_the_listener_itself() {
        let inbound = duty(Direction::Inbound, INBOUND_PORT);
        let [app, own, mapped] = [
            "10.244.0.5:8080",
            "10.244.0.5:15006",
            "[::ffff:10.244.0.5]:15006",
        ]
        .map(|text| text.parse::<SocketAddr>().unwrap());
        assert!(inbound.is_itself(own, own) && inbound.is_itself(own, mapped));
        // By sk_lookup, then by netfilter.
        assert!(!inbound.is_itself(app, app) && !inbound.is_itself(app, own));
    }

    #[test]
    fn what_is_no_route_is_refused() {
        for bad in ["", "10.96.0.20:80", "10.96.0.20=10.244.0.5", "a:1=b:2"] {
            let error = bad.parse::<Route>().unwrap_err();
            assert!(error.contains("SERVICE=ENDPOINT"), "{error}");
        }
    }
}
