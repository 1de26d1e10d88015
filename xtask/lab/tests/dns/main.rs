//! DNS capture: which queries go to the proxy's agent, over TCP and UDP, and that neither the
//! application nor the agent is told anything else than with Istio's iptables rules. Needs root;
//! leaves nothing behind.
#![expect(clippy::unwrap_used, reason = "in a test it is a failure of the test")]

mod connected;
mod iptables;
mod pod;
mod resolv_conf;
mod resolver;
#[path = "../support/mod.rs"]
mod support;
mod tcp;
mod unconnected;

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::Result;
use resolv_conf::ResolvConf;
use sidecar_lab::{
    Agent, Datagrams, Errno, OpResult, Seen, UdpEcho, UdpOptions,
    pod::{POD_IP, POD_IP6},
};
use support::{Front, Rig};

/// What captures all queries.
const ALL: [&str; 3] = ["--dual-stack", "--redirect-dns", "--capture-all-dns"];

/// Where the agent listens, and nowhere else.
const LOCALHOST: [&str; 2] = ["127.0.0.1", "[::1]"];

/// Long enough for a datagram inside one machine.
const SOON: Duration = Duration::from_millis(100);

/// What differs between the kinds of sockets.
#[derive(Clone, Copy, Debug)]
struct Kind {
    connect: &'static str,
    /// A datagram to an IPv4-mapped address meets the hook for IPv4.
    sendmsg: &'static str,
    /// An AF_INET6 socket.
    ipv6: bool,
    pod: IpAddr,
    localhost: &'static str,
    servers: [&'static str; 3],
}

const V4: Kind = Kind {
    connect: "connect4",
    sendmsg: "sendmsg4",
    ipv6: false,
    pod: IpAddr::V4(POD_IP),
    localhost: "127.0.0.1",
    servers: ["10.96.0.10:53", "10.96.0.11:53", "203.0.113.53:53"],
};

const V6: Kind = Kind {
    connect: "connect6",
    sendmsg: "sendmsg6",
    ipv6: true,
    pod: IpAddr::V6(POD_IP6),
    localhost: "[::1]",
    servers: ["[fd00:96::10]:53", "[fd00:96::11]:53", "[fd00:96::53]:53"],
};

/// IPv4 on an AF_INET6 socket.
const MAPPED: Kind = Kind {
    connect: "connect6",
    ipv6: true,
    ..V4
};

const KINDS: [Kind; 3] = [V4, V6, MAPPED];

impl Kind {
    fn server(&self, index: usize) -> SocketAddr {
        self.servers[index].parse().unwrap()
    }

    /// A socket that nobody has bound.
    fn socket(&self, agent: &Agent) -> Datagrams {
        self.socket_with(agent, UdpOptions::default())
    }

    fn socket_with(&self, agent: &Agent, options: UdpOptions) -> Datagrams {
        let options = UdpOptions {
            ipv6: self.ipv6,
            ..options
        };
        agent.udp(options).unwrap()
    }
}

/// A pod whose proxy runs an agent that answers queries on localhost.
struct Dns {
    rig: Rig,
    /// Port 15053 over TCP.
    tcp: Front,
    /// Port 53 over TCP of everything that is not the pod.
    real_tcp: Front,
    /// The same over UDP: IPv4, IPv6.
    udp: [UdpEcho; 2],
    /// Real servers: all of IPv4, then all of IPv6.
    real_udp: Vec<UdpEcho>,
}

impl Dns {
    fn new(hint: &str, args: &[&str]) -> Result<Self> {
        let mut rig = Rig::new(hint)?;
        rig.load(args)?;
        Self::on(rig)
    }

    /// Whatever redirects there, or will.
    fn on(rig: Rig) -> Result<Self> {
        let udp = [
            rig.proxy.udp_echo("127.0.0.1:15053")?,
            rig.proxy.udp_echo("[::1]:15053")?,
        ];
        let servers = V4.servers.iter().chain(&V6.servers);
        let real_udp = servers
            .map(|&server| rig.remote.udp_echo(server))
            .collect::<OpResult<_>>()?;
        Ok(Self {
            tcp: Front::on(&rig.proxy, LOCALHOST, 15053)?,
            real_tcp: Front::outside(&rig.remote, 53)?,
            udp,
            real_udp,
            rig,
        })
    }

    /// What the agent has been asked over UDP so far.
    fn asked(&self) -> Vec<Seen> {
        let logs = self.udp.iter().map(|echo| echo.log().unwrap());
        logs.flatten().collect()
    }

    /// What the real servers have been asked so far.
    fn asked_for_real(&self) -> Vec<Seen> {
        let logs = self.real_udp.iter().map(|echo| echo.log().unwrap());
        logs.flatten().collect()
    }

    /// The agent has got exactly this question, from there.
    #[track_caller]
    fn was_asked(&self, before: &[Seen], question: &[u8]) -> SocketAddr {
        let asked = self.asked();
        let new: Vec<&Seen> = asked.iter().filter(|seen| !before.contains(seen)).collect();
        let [seen] = new.as_slice() else {
            panic!("the agent was asked {new:?}, not {question:?} alone");
        };
        assert_eq!(seen.first_bytes, question);
        seen.peer
    }
}

#[track_caller]
fn refused_as<T: std::fmt::Debug>(result: OpResult<T>, errno: Errno) {
    assert_eq!(result.unwrap_err().errno(), errno);
}

/// Waits for a datagram and asserts what it is and from where.
#[track_caller]
fn hears(socket: &Datagrams, bytes: &[u8], from: SocketAddr) {
    let reply = socket.receive().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(support::canonical(reply.source), from, "recvfrom's source");
    assert_eq!(reply.payload, bytes);
}
