//! What the conductor and its helper processes say to each other: one JSON value a line.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// The first line that a helper reads: what it is to be.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) enum Role {
    /// Answers at these sockets; says `"ready"` and then nothing more.
    Serve(Vec<Service>),
    /// Makes probes as this owner case (`None`: as it is), batch by batch.
    Probe(Option<String>),
}

/// Sockets that answer with what they see.
#[derive(Clone, Serialize, Deserialize, Debug)]
pub(crate) struct Service {
    /// What it is called in answers, before the port.
    pub(crate) name: String,
    pub(crate) addrs: Vec<IpAddr>,
    pub(crate) ports: Vec<u16>,
    pub(crate) udp: bool,
    /// It asks for the original destination.
    pub(crate) is_proxy: bool,
}

/// One probe of a batch.
#[derive(Clone, Serialize, Deserialize, Debug)]
pub(crate) struct Order {
    pub(crate) probe: String,
    /// The client's port.
    pub(crate) port: u16,
}

/// What a server saw of a connection or datagram.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub(super) struct Seen {
    /// Its name and port.
    pub server: String,
    pub peer: SocketAddr,
    /// What a proxy was told about the original destination, or the errno.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original: Option<Result<SocketAddr, i32>>,
}

/// The call that failed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub(super) struct Failure {
    pub call: String,
    pub errno: i32,
}

/// What became of one probe. Everything in it must be the same everywhere.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub(super) struct Observation {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Seen>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_name: Option<SocketAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sock_name: Option<SocketAddr>,
    /// Where a datagram's answer came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_from: Option<SocketAddr>,
}
