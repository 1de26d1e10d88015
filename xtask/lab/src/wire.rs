//! What travels between a test and an agent: one JSON object per line, a request and its reply.

use std::{
    collections::BTreeMap,
    fmt, io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::{crowd::CrowdRequest, datagram::DatagramRequest, proxy::ProxyOptions};

pub type OpResult<T> = Result<T, OpError>;

/// How long an operation of an agent may take where nothing else is said.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// A socket operation that failed, with the errno the kernel gave.
///
/// `ETIME` stands for the laboratory's own timeouts, which no socket call returns by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpError {
    pub operation: String,
    /// 0 if the failure has no errno.
    pub code: i32,
    pub detail: String,
}

impl OpError {
    pub fn new(operation: impl Into<String>, detail: impl fmt::Display) -> Self {
        Self {
            operation: operation.into(),
            code: 0,
            detail: detail.to_string(),
        }
    }

    pub fn timeout(operation: impl Into<String>, after: Duration) -> Self {
        Self {
            operation: operation.into(),
            code: Errno::ETIME as i32,
            detail: format!("nothing happened within {after:?}"),
        }
    }

    pub fn errno(&self) -> Errno {
        Errno::from_raw(self.code)
    }

    pub fn is(&self, errno: Errno) -> bool {
        self.code == errno as i32
    }
}

impl fmt::Display for OpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            0 => write!(f, "{}: {}", self.operation, self.detail),
            _ => write!(f, "{}: {:?}: {}", self.operation, self.errno(), self.detail),
        }
    }
}

impl std::error::Error for OpError {}

/// Gives an I/O error the name of the operation it came from.
pub(crate) trait During<T> {
    fn during(self, operation: impl FnOnce() -> String) -> OpResult<T>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, operation: impl FnOnce() -> String) -> OpResult<T> {
        self.map_err(|error| {
            let error = error.into();
            OpError {
                operation: operation(),
                code: error.raw_os_error().unwrap_or(0),
                detail: error.to_string(),
            }
        })
    }
}

/// How a client asks for TCP Fast Open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FastOpen {
    #[default]
    No,
    /// `sendto(MSG_FASTOPEN)` in place of `connect()`.
    SendTo,
    /// The socket option `TCP_FASTOPEN_CONNECT`; the SYN leaves with the first bytes written.
    ConnectOption,
}

/// How to make a client socket and connect it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectOptions {
    pub to: SocketAddr,
    /// Bind to this address first.
    pub from: Option<SocketAddr>,
    /// An AF_INET6 socket to `::ffff:a.b.c.d`, for an IPv4 `to`.
    pub mapped: bool,
    pub mptcp: bool,
    pub fast_open: FastOpen,
    /// What the first segment carries with Fast Open.
    pub first_bytes: Vec<u8>,
    /// `O_NONBLOCK`, then poll until it is decided.
    pub nonblocking: bool,
    /// `IORING_OP_CONNECT` in place of `connect()`.
    pub io_uring: bool,
    pub bind_to_device: Option<String>,
    /// `SO_REUSEADDR` before the bind.
    pub reuse_address: bool,
    pub timeout: Duration,
}

impl ConnectOptions {
    pub fn to(to: SocketAddr) -> Self {
        Self {
            to,
            from: None,
            mapped: false,
            mptcp: false,
            fast_open: FastOpen::No,
            first_bytes: b"first".to_vec(),
            nonblocking: false,
            io_uring: false,
            bind_to_device: None,
            reuse_address: false,
            timeout: DEFAULT_TIMEOUT,
        }
    }
}

/// How to make a listening socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenOptions {
    pub addr: SocketAddr,
    pub reuse_port: bool,
    /// For an IPv6 address; without it `[::]` takes IPv4 too.
    pub v6_only: bool,
    pub mptcp: bool,
    pub fast_open: bool,
    pub bind_to_device: Option<String>,
    /// `IP_TOS`.
    pub tos: u8,
    pub backlog: i32,
}

impl ListenOptions {
    pub fn at(addr: SocketAddr) -> Self {
        Self {
            addr,
            reuse_port: false,
            v6_only: true,
            mptcp: false,
            fast_open: false,
            bind_to_device: None,
            tos: 0,
            backlog: 1024,
        }
    }
}

/// The level at which the original destination is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Level {
    /// `SOL_IP`, option `SO_ORIGINAL_DST`.
    Ip,
    /// `SOL_IPV6`, option `IP6T_SO_ORIGINAL_DST`.
    Ipv6,
}

/// What `getsockopt` returned, raw and read as a socket address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginalDst {
    pub addr: SocketAddr,
    /// The length the kernel set on return.
    pub length: u32,
    /// The whole buffer handed in, which began as 0xaa in every byte.
    pub bytes: Vec<u8>,
}

impl PartialEq<SocketAddr> for OriginalDst {
    fn eq(&self, other: &SocketAddr) -> bool {
        self.addr == *other
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UdpExchange {
    pub to: SocketAddr,
    pub from: Option<SocketAddr>,
    pub payload: Vec<u8>,
    /// `connect()` and `send()` in place of `sendto()`.
    pub connected: bool,
    pub timeout: Duration,
}

impl UdpExchange {
    pub fn to(to: SocketAddr) -> Self {
        Self {
            to,
            from: None,
            payload: b"ping".to_vec(),
            connected: false,
            timeout: DEFAULT_TIMEOUT,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UdpReply {
    pub payload: Vec<u8>,
    /// Where the answer came from.
    pub source: SocketAddr,
}

/// A connection or datagram as a server of the agent saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    pub peer: SocketAddr,
    pub local: SocketAddr,
    /// The first bytes read.
    pub first_bytes: Vec<u8>,
}

/// Many connections from one process, spread over many destinations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadPlan {
    pub threads: u32,
    /// In all, over all threads.
    pub connections: u32,
    /// Destinations are the addresses from here on …
    pub base: IpAddr,
    /// … so many of them …
    pub addresses: u32,
    /// … each at the ports from here on …
    pub first_port: u16,
    /// … so many of them.
    pub ports: u16,
    /// For each single step of a connection.
    pub timeout: Duration,
}

/// What the clients of a load run saw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadOutcome {
    /// Connected, sent, answered.
    pub ok: u64,
    /// Failures by step and errno, such as `connect ECONNREFUSED`.
    pub failed: BTreeMap<String, u64>,
    pub elapsed: Duration,
}

/// What the servers of a load run saw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadReport {
    /// The original destination was the one the client meant.
    pub right: u64,
    /// It was another one.
    pub wrong: u64,
    /// `SO_ORIGINAL_DST` failed.
    pub missing: u64,
    /// The client said nothing, so there was nothing to compare.
    pub silent: u64,
    /// The first wrong or missing ones, in words.
    pub examples: Vec<String>,
}

/// Each request has an answer of one type, which both ends know: it is named in brackets where it
/// is not nothing.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Nothing but an answer.
    Hello,
    /// [`Listening`]
    Listen(ListenOptions),
    /// Without listening. [`Listening`]
    Bind(ListenOptions),
    StartListening {
        listener: u64,
        backlog: i32,
    },
    CloseListener {
        listener: u64,
    },
    /// [`Connected`]
    Accept {
        listener: u64,
        timeout: Duration,
    },
    /// [`Connected`]
    Connect(ConnectOptions),
    Conn {
        conn: u64,
        request: ConnRequest,
    },
    CloseConn {
        conn: u64,
    },
    Datagram(DatagramRequest),
    Background(BackgroundRequest),
    Crowd(CrowdRequest),
    Identity(IdentityRequest),
}

/// About an open connection.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ConnRequest {
    Disconnect,
    /// [`Connected`]
    Reconnect {
        to: SocketAddr,
        timeout: Duration,
    },
    /// [`OriginalDst`]
    OriginalDst {
        level: Level,
        length: u32,
    },
    /// [`SocketAddr`]
    PeerName,
    /// [`SocketAddr`]
    SockName,
    Send(Vec<u8>),
    /// [`Vec<u8>`]
    Recv {
        max: usize,
        timeout: Duration,
    },
    /// [`Vec<u8>`]
    Echo {
        timeout: Duration,
    },
    Shutdown,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum BackgroundRequest {
    /// [`SocketAddr`]
    ServeEcho(SocketAddr),
    /// [`Vec<Seen>`]
    EchoLog,
    ServeProxy(ProxyOptions),
    /// A [`ProxyLine`](crate::proxy::ProxyLine) each.
    ProxyLog,
    /// [`SocketAddr`]
    LoadServe {
        addr: SocketAddr,
        workers: u32,
    },
    /// [`LoadOutcome`]
    LoadConnect(LoadPlan),
    /// [`LoadReport`]
    LoadReport,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum IdentityRequest {
    Become { uid: u32, gid: u32 },
    SetEffectiveUid(u32),
    SetFsUid(u32),
    SetFsGid(u32),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Listening {
    pub(crate) id: u64,
    pub(crate) addr: SocketAddr,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Connected {
    pub(crate) id: u64,
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
}
