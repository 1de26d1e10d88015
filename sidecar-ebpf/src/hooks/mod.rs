//! One file per kernel hook: read facts, ask, count, apply.

pub(crate) mod bind;
pub(crate) mod connect;
pub(crate) mod getpeername;
pub(crate) mod getsockopt;
pub(crate) mod sk_lookup;
pub(crate) mod sock_ops;
