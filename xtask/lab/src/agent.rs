//! A process in a [`Placement`] that does socket operations on command: the test's hands inside
//! the pod. Sockets are closed when their handles are dropped, the process ends with the last
//! handle.

use std::{
    io::{BufRead, BufReader, Write},
    net::{IpAddr, SocketAddr},
    process::{ChildStdin, ChildStdout},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Result;
use serde::de::DeserializeOwned;

use crate::{
    addr::IntoAddr,
    datagram::DatagramRequest,
    process::{Child, Placement, program},
    proxy::{ProxyLine, ProxyOptions},
    wire::{
        BackgroundRequest, ConnRequest, ConnectOptions, Connected, DEFAULT_TIMEOUT, During,
        IdentityRequest, Level, ListenOptions, Listening, LoadOutcome, LoadPlan, LoadReport,
        OpError, OpResult, OriginalDst, Request, Seen, UdpExchange, UdpReply,
    },
};

/// A handle on the process; clones name the same process.
#[derive(Clone, Debug)]
pub struct Agent {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    pipes: Mutex<Pipes>,
    child: Child,
}

#[derive(Debug)]
struct Pipes {
    requests: ChildStdin,
    replies: BufReader<ChildStdout>,
}

impl Agent {
    /// Starts an agent there. It lives until the last handle (agent, listener, connection) goes.
    pub fn spawn(placement: &Placement) -> Result<Self> {
        let agent = program("lab-agent")?;
        let (child, requests, replies) = placement.spawn_dialog(agent)?;
        let pipes = Mutex::new(Pipes {
            requests,
            replies: BufReader::new(replies),
        });
        let agent = Self {
            shared: Arc::new(Shared { pipes, child }),
        };
        // It answers from where it is to be, in its namespace, and not before.
        agent.ask::<()>(&Request::Hello)?;
        Ok(agent)
    }

    pub fn pid(&self) -> u32 {
        self.shared.child.pid()
    }

    /// Listens at that address and no other: `[::]` is IPv6 only here.
    pub fn listen(&self, addr: impl IntoAddr) -> OpResult<Listener> {
        self.listen_with(ListenOptions::at(addr.into_addr()))
    }

    pub fn listen_with(&self, options: ListenOptions) -> OpResult<Listener> {
        let Listening { id, addr } = self.ask(&Request::Listen(options))?;
        Ok(Listener {
            agent: self.clone(),
            id,
            addr,
        })
    }

    /// Binds a socket that [`Listener::start`] has listen.
    pub fn bind_with(&self, options: ListenOptions) -> OpResult<Listener> {
        let Listening { id, addr } = self.ask(&Request::Bind(options))?;
        Ok(Listener {
            agent: self.clone(),
            id,
            addr,
        })
    }

    /// A plain blocking TCP connection.
    pub fn connect(&self, to: impl IntoAddr) -> OpResult<Conn> {
        self.connect_with(ConnectOptions::to(to.into_addr()))
    }

    pub fn connect_with(&self, options: ConnectOptions) -> OpResult<Conn> {
        self.ask_conn(&Request::Connect(options))
    }

    /// One datagram and its answer.
    pub fn udp_exchange(&self, exchange: UdpExchange) -> OpResult<UdpReply> {
        self.ask(&Request::Datagram(DatagramRequest::Exchange(exchange)))
    }

    /// Answers every datagram with itself until the handle is dropped.
    pub fn udp_echo(&self, addr: impl IntoAddr) -> OpResult<UdpEcho> {
        let request = DatagramRequest::Echo(addr.into_addr());
        let Listening { id, addr } = self.ask(&Request::Datagram(request))?;
        Ok(UdpEcho {
            agent: self.clone(),
            id,
            addr,
        })
    }

    /// One ICMP echo request, answered within the usual timeout or `ETIME`.
    pub fn ping(&self, to: impl Into<IpAddr>) -> OpResult<()> {
        let request = DatagramRequest::Ping {
            to: to.into(),
            timeout: DEFAULT_TIMEOUT,
        };
        self.ask(&Request::Datagram(request))
    }

    /// Serves TCP connections in the background, each byte answered with itself; for as long as
    /// the agent lives. Returns the address bound.
    pub fn serve_echo(&self, addr: impl IntoAddr) -> OpResult<SocketAddr> {
        self.ask_background(BackgroundRequest::ServeEcho(addr.into_addr()))
    }

    /// The connections of all echo servers of this agent so far, in order of arrival. A
    /// connection is listed once its first bytes (or its end) have been read.
    pub fn echo_log(&self) -> OpResult<Vec<Seen>> {
        self.ask_background(BackgroundRequest::EchoLog)
    }

    /// Runs the transparent proxy in the background, for as long as the agent lives.
    pub fn serve_proxy(&self, options: ProxyOptions) -> OpResult<()> {
        self.ask_background(BackgroundRequest::ServeProxy(options))
    }

    /// One entry for each connection the proxy has dealt with, in the order of its decisions.
    /// An entry follows the outcome of the onward connection, so a client may see its own
    /// connection succeed before.
    pub fn proxy_log(&self) -> OpResult<Vec<ProxyLine>> {
        self.ask_background(BackgroundRequest::ProxyLog)
    }

    /// Servers for [`Agent::load_connect`]: so many `SO_REUSEPORT` listeners, a thread each, that
    /// compare the original destination of each connection with the one its client names.
    pub fn load_serve(&self, addr: impl IntoAddr, workers: u32) -> OpResult<SocketAddr> {
        self.ask_background(BackgroundRequest::LoadServe {
            addr: addr.into_addr(),
            workers,
        })
    }

    /// Makes all connections of the plan and returns when the last one is done.
    pub fn load_connect(&self, plan: LoadPlan) -> OpResult<LoadOutcome> {
        self.ask_background(BackgroundRequest::LoadConnect(plan))
    }

    /// What [`Agent::load_serve`] has counted so far.
    pub fn load_report(&self) -> OpResult<LoadReport> {
        self.ask_background(BackgroundRequest::LoadReport)
    }

    /// `setgid`, `setuid`: for good. Sockets made before keep the credentials they were made with.
    pub fn become_user(&self, uid: u32, gid: u32) -> OpResult<()> {
        self.ask(&Request::Identity(IdentityRequest::Become { uid, gid }))
    }

    /// `seteuid`: the real uid stays, so it can be taken back.
    pub fn set_effective_uid(&self, uid: u32) -> OpResult<()> {
        self.ask(&Request::Identity(IdentityRequest::SetEffectiveUid(uid)))
    }

    /// `setfsuid` of the thread that makes this agent's sockets (not of its background servers).
    pub fn set_fs_uid(&self, uid: u32) -> OpResult<()> {
        self.ask(&Request::Identity(IdentityRequest::SetFsUid(uid)))
    }

    /// `setfsgid`, likewise.
    pub fn set_fs_gid(&self, gid: u32) -> OpResult<()> {
        self.ask(&Request::Identity(IdentityRequest::SetFsGid(gid)))
    }

    /// What the process has said on stderr, for an error message of the caller's.
    pub fn transcript(&self) -> String {
        self.shared.child.transcript()
    }

    pub fn is_alive(&self) -> Result<bool> {
        self.shared.child.is_alive()
    }

    pub(crate) fn ask<T: DeserializeOwned>(&self, request: &Request) -> OpResult<T> {
        let pid = self.pid();
        let lost = || format!("talking to agent {pid}");
        let mut line = serde_json::to_string(request).map_err(|e| OpError::new(lost(), e))?;
        line.push('\n');
        let mut pipes = self
            .shared
            .pipes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        pipes.requests.write_all(line.as_bytes()).during(lost)?;
        line.clear();
        if pipes.replies.read_line(&mut line).during(lost)? == 0 {
            let said = self.transcript();
            return Err(OpError::new(
                lost(),
                format!("it has ended; it said:\n{said}"),
            ));
        }
        serde_json::from_str::<OpResult<T>>(&line)
            .map_err(|e| OpError::new(lost(), format!("{e} in {line}")))?
    }

    fn ask_background<T: DeserializeOwned>(&self, request: BackgroundRequest) -> OpResult<T> {
        self.ask(&Request::Background(request))
    }

    fn ask_conn(&self, request: &Request) -> OpResult<Conn> {
        let Connected { id, local, peer } = self.ask(request)?;
        Ok(Conn {
            agent: self.clone(),
            id,
            local,
            peer,
        })
    }
}

/// A listening socket; dropping it closes the socket.
#[derive(Debug)]
pub struct Listener {
    pub(crate) agent: Agent,
    pub(crate) id: u64,
    /// As `getsockname` tells it, so with the port chosen for port 0.
    pub addr: SocketAddr,
}

impl Listener {
    pub fn accept(&self) -> OpResult<Conn> {
        self.accept_within(DEFAULT_TIMEOUT)
    }

    /// Fails with `ETIME` when nobody comes in time.
    pub fn accept_within(&self, timeout: Duration) -> OpResult<Conn> {
        self.agent.ask_conn(&Request::Accept {
            listener: self.id,
            timeout,
        })
    }

    /// `listen()`, for one that has only bound.
    pub fn start(&self) -> OpResult<()> {
        self.agent.ask(&Request::StartListening {
            listener: self.id,
            backlog: 1024,
        })
    }

    pub fn close(self) {}
}

impl Drop for Listener {
    fn drop(&mut self) {
        // An agent that is gone has closed it too.
        let _: OpResult<()> = self
            .agent
            .ask(&Request::CloseListener { listener: self.id });
    }
}

/// A connected socket; dropping it closes the socket.
#[derive(Debug)]
pub struct Conn {
    agent: Agent,
    id: u64,
    /// `getsockname` when the connection was made.
    pub local: SocketAddr,
    /// For an accepted socket the address that `accept` gave; for a client `getpeername`.
    pub peer: SocketAddr,
}

impl Conn {
    /// `getsockopt` of option 80 at that level with a buffer of that length.
    pub fn original_dst(&self, level: Level, length: u32) -> OpResult<OriginalDst> {
        self.ask(ConnRequest::OriginalDst { level, length })
    }

    /// `getpeername`, asked now.
    pub fn peer_name(&self) -> OpResult<SocketAddr> {
        self.ask(ConnRequest::PeerName)
    }

    /// `getsockname`, asked now.
    pub fn sock_name(&self) -> OpResult<SocketAddr> {
        self.ask(ConnRequest::SockName)
    }

    pub fn send(&self, bytes: &[u8]) -> OpResult<()> {
        self.ask(ConnRequest::Send(bytes.to_vec()))
    }

    /// One read of at most so many bytes; empty at the end of the stream.
    pub fn recv(&self, max: usize) -> OpResult<Vec<u8>> {
        self.recv_within(max, DEFAULT_TIMEOUT)
    }

    pub fn recv_within(&self, max: usize, timeout: Duration) -> OpResult<Vec<u8>> {
        self.ask(ConnRequest::Recv { max, timeout })
    }

    /// One read, written back; returns what it was.
    pub fn echo(&self) -> OpResult<Vec<u8>> {
        self.ask(ConnRequest::Echo {
            timeout: DEFAULT_TIMEOUT,
        })
    }

    /// Sends, and reads until as many bytes have come back or the stream ends.
    pub fn round_trip(&self, bytes: &[u8]) -> OpResult<Vec<u8>> {
        self.send(bytes)?;
        let mut back = Vec::new();
        while back.len() < bytes.len() {
            let chunk = self.recv(bytes.len() - back.len())?;
            if chunk.is_empty() {
                break;
            }
            back.extend(chunk);
        }
        Ok(back)
    }

    /// Ends the sending direction.
    pub fn shutdown(&self) -> OpResult<()> {
        self.ask(ConnRequest::Shutdown)
    }

    /// `connect(AF_UNSPEC)`: the socket stays, its connection goes.
    pub fn disconnect(&self) -> OpResult<()> {
        self.ask(ConnRequest::Disconnect)
    }

    /// Connects the same socket again and brings `local` and `peer` up to date.
    pub fn reconnect(&mut self, to: impl IntoAddr) -> OpResult<()> {
        let request = ConnRequest::Reconnect {
            to: to.into_addr(),
            timeout: DEFAULT_TIMEOUT,
        };
        let Connected { local, peer, .. } = self.ask(request)?;
        (self.local, self.peer) = (local, peer);
        Ok(())
    }

    pub fn close(self) {}

    fn ask<T: DeserializeOwned>(&self, request: ConnRequest) -> OpResult<T> {
        self.agent.ask(&Request::Conn {
            conn: self.id,
            request,
        })
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        // An agent that is gone has closed it too.
        let _: OpResult<()> = self.agent.ask(&Request::CloseConn { conn: self.id });
    }
}

/// A UDP server that answers each datagram with itself; dropping it closes the socket.
#[derive(Debug)]
pub struct UdpEcho {
    agent: Agent,
    id: u64,
    pub addr: SocketAddr,
}

impl UdpEcho {
    /// Every datagram so far.
    pub fn log(&self) -> OpResult<Vec<Seen>> {
        self.agent.ask(&Request::Datagram(DatagramRequest::EchoLog {
            server: self.id,
        }))
    }
}

impl Drop for UdpEcho {
    fn drop(&mut self) {
        // An agent that is gone has closed it too.
        let request = DatagramRequest::EchoStop { server: self.id };
        let _: OpResult<()> = self.agent.ask(&Request::Datagram(request));
    }
}
