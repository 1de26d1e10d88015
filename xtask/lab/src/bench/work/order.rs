//! What a worker is told and answers: one JSON object a line, each answer a `Result`.

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

/// The answer's type stands in brackets.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Listens at these ports on the wildcard address, and hands copies of the sockets out. [`()`]
    Listen(Vec<u16>),
    /// Takes such copies, and then an eventfd: they follow after the first answer. [`()`, twice]
    Take(Vec<u16>),
    /// Connects to itself, in one thread. [[`Drove`]]
    BothEnds { listener: u16, drive: Drive },
    /// The client's end. [[`Drove`]]
    Drive(Drive),
    /// The server's end: as long as the connection lives, or until the next order. [`()` when it is
    /// ready, [`Served`] when it is done]
    Serve(Serve),
    /// Ends a [`Order::Serve`]; nobody answers.
    Stop,
}

impl Order {
    /// How long it takes at least.
    pub(crate) const fn time(&self) -> Duration {
        match self {
            Self::BothEnds { drive, .. } | Self::Drive(drive) => drive.time,
            Self::Listen(_) | Self::Take(_) | Self::Serve(_) | Self::Stop => Duration::ZERO,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Drive {
    pub(crate) job: Job,
    /// Where to connect to, in turn.
    pub(crate) targets: Vec<SocketAddr>,
    pub(crate) time: Duration,
    pub(crate) cpu: usize,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Serve {
    pub(crate) job: Job,
    pub(crate) listener: u16,
    pub(crate) cpu: usize,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Job {
    Connect,
    RoundTrip { bytes: u32 },
    Bulk,
}

/// What the client's end did. Times in nanoseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Drove {
    pub(crate) operations: u64,
    pub(crate) connections: u64,
    pub(crate) elapsed: u64,
    pub(crate) cpu: u64,
    pub(crate) p50: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
    /// Of the server's end, where one thread is both.
    pub(crate) accepted: Accepted,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Served {
    pub(crate) cpu: u64,
    pub(crate) accepted: Accepted,
}

/// What the server's end saw of the connections.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Accepted {
    pub(crate) connections: u64,
    /// How many of them have an original destination by `SO_ORIGINAL_DST`.
    pub(crate) redirected: u64,
    /// One of these destinations.
    pub(crate) example: Option<SocketAddr>,
}
