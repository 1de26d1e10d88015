//! One file per kernel hook: read facts, ask, count, apply.

pub(crate) mod answer;
pub(crate) mod bind;
pub(crate) mod connect;
mod connect_udp;
pub(crate) mod getpeername;
pub(crate) mod getsockopt;
mod query;
pub(crate) mod recvmsg;
pub(crate) mod sendmsg;
pub(crate) mod sk_lookup;
pub(crate) mod sock_ops;
