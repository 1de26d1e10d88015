//! Which way is usual: that of an application's IPv4 connection to a service that is captured. The
//! compiler then keeps what only the others need out of its registers, and out of its way.

use core::hint::cold_path;

/// The condition, which holds as a rule.
#[inline(always)]
#[must_use]
pub const fn usually(condition: bool) -> bool {
    if condition {
        true
    } else {
        cold_path();
        false
    }
}

/// The condition, which does not hold as a rule.
#[inline(always)]
#[must_use]
pub const fn rarely(condition: bool) -> bool {
    if condition {
        cold_path();
        true
    } else {
        false
    }
}
