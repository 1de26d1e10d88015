//! One file per kernel hook: read facts, ask, count, apply. What several of them share is in
//! `outbound` (the decision), `connect_udp`, `query` and `answer` (DNS over UDP).

pub(crate) mod answer;
pub(crate) mod bind;
pub(crate) mod connect;
mod connect_udp;
pub(crate) mod getpeername;
pub(crate) mod getsockopt;
mod outbound;
mod query;
pub(crate) mod recvmsg;
pub(crate) mod sendmsg;
pub(crate) mod sk_lookup;
pub(crate) mod sock_ops;
