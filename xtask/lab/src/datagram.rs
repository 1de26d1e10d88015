//! Datagrams: what is asked of an agent, and a UDP socket of an [`Agent`] that stays open: it asks
//! and hears several others, connects and disconnects. For one question and its answer there is
//! [`Agent::udp_exchange`].

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    addr::IntoAddr,
    agent::Agent,
    wire::{ConnRequest, Connected, DEFAULT_TIMEOUT, OpResult, Request, UdpExchange, UdpReply},
};

/// How to make a UDP socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UdpOptions {
    /// AF_INET6; IPv4 addresses are then written as IPv4-mapped ones.
    pub ipv6: bool,
    pub bind: Option<SocketAddr>,
    pub bind_to_device: Option<String>,
}

/// About datagrams. As with [`Request`], an answer is named in brackets.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum DatagramRequest {
    /// [`UdpReply`]
    Exchange(UdpExchange),
    /// [`Listening`]
    Echo(SocketAddr),
    /// [`Vec<Seen>`]
    EchoLog {
        server: u64,
    },
    EchoStop {
        server: u64,
    },
    /// The socket's number: [`u64`]
    Open(UdpOptions),
    Socket {
        socket: u64,
        request: UdpRequest,
    },
    Ping {
        to: IpAddr,
        timeout: Duration,
    },
}

/// About a UDP socket.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum UdpRequest {
    Connect(SocketAddr),
    SendTo {
        to: SocketAddr,
        /// The source address, as IP_PKTINFO names it.
        from: Option<IpAddr>,
        bytes: Vec<u8>,
    },
    /// [`UdpReply`]
    Receive {
        timeout: Duration,
    },
}

/// The socket; dropping it closes it.
#[derive(Debug)]
pub struct Datagrams {
    agent: Agent,
    id: u64,
}

impl Agent {
    pub fn udp(&self, options: UdpOptions) -> OpResult<Datagrams> {
        let request = Request::Datagram(DatagramRequest::Open(options));
        Ok(Datagrams {
            agent: self.clone(),
            id: self.ask(&request)?,
        })
    }
}

impl Datagrams {
    pub fn connect(&self, to: impl IntoAddr) -> OpResult<()> {
        self.ask_udp(UdpRequest::Connect(to.into_addr()))
    }

    /// To an address of its own family, also where the socket is of the other: the kernel takes an
    /// AF_INET address for an AF_INET6 socket.
    pub fn connect_as_it_is(&self, to: impl IntoAddr) -> OpResult<()> {
        let request = ConnRequest::Reconnect {
            to: to.into_addr(),
            timeout: DEFAULT_TIMEOUT,
        };
        self.ask::<Connected>(request).map(drop)
    }

    /// `connect(AF_UNSPEC)`.
    pub fn disconnect(&self) -> OpResult<()> {
        self.ask(ConnRequest::Disconnect)
    }

    /// To whom it is connected.
    pub fn send(&self, bytes: &[u8]) -> OpResult<()> {
        self.ask(ConnRequest::Send(bytes.to_vec()))
    }

    pub fn send_to(&self, bytes: &[u8], to: impl IntoAddr) -> OpResult<()> {
        self.send_from(bytes, to, None)
    }

    /// From that address, which need not be the one it is bound to.
    pub fn send_from(&self, bytes: &[u8], to: impl IntoAddr, from: Option<IpAddr>) -> OpResult<()> {
        self.ask_udp(UdpRequest::SendTo {
            to: to.into_addr(),
            from,
            bytes: bytes.to_vec(),
        })
    }

    pub fn receive(&self) -> OpResult<UdpReply> {
        self.receive_within(DEFAULT_TIMEOUT)
    }

    /// Fails with `ETIME` when nothing comes in time.
    pub fn receive_within(&self, timeout: Duration) -> OpResult<UdpReply> {
        self.ask_udp(UdpRequest::Receive { timeout })
    }

    /// `getpeername`.
    pub fn peer_name(&self) -> OpResult<SocketAddr> {
        self.ask(ConnRequest::PeerName)
    }

    /// `getsockname`.
    pub fn sock_name(&self) -> OpResult<SocketAddr> {
        self.ask(ConnRequest::SockName)
    }

    fn ask<T: serde::de::DeserializeOwned>(&self, request: ConnRequest) -> OpResult<T> {
        self.agent.ask(&Request::Conn {
            conn: self.id,
            request,
        })
    }

    fn ask_udp<T: serde::de::DeserializeOwned>(&self, request: UdpRequest) -> OpResult<T> {
        self.agent.ask(&Request::Datagram(DatagramRequest::Socket {
            socket: self.id,
            request,
        }))
    }
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        // An agent that is gone has closed it too.
        let _: OpResult<()> = self.agent.ask(&Request::CloseConn { conn: self.id });
    }
}
