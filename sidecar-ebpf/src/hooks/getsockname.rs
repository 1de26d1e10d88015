//! `cgroup/getsockname4` and `getsockname6`: the application sees the source address that its
//! connection has without a redirect.

use crate::{ctx::SockAddr, source};

pub(crate) fn v4(ctx: &SockAddr) {
    if let Some(source) = source::behind(ctx, &ctx.address_v4()) {
        ctx.set_address_v4(&source);
    }
}

/// Also sees IPv4-mapped addresses; only those have a stand-in.
pub(crate) fn v6(ctx: &SockAddr) {
    if let Some(source) = source::behind(ctx, &ctx.address_v6()) {
        ctx.set_address_v6(&source);
    }
}
