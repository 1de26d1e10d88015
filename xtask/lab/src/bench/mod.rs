//! The benchmark: what a redirect costs, against iptables, nftables and none at all.

pub mod record;
