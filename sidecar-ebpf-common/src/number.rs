//! How a destination travels inside a loopback address.
//!
//! Each destination (address and port) that is redirected gets a *number*. The connection goes to
//! a loopback address that carries the number, so whoever holds a socket of it can find the
//! destination again, and nothing is stored per connection.
//!
//! Numbers are handed out from a counter that wraps at 2^22. A number's low bits name its slot in
//! a ring of [`Destination`]s, the bits above tell the laps of the ring apart: a slot that has been
//! given to another destination answers the old number with "unknown", never with a wrong address.
//!
//! Two rules keep a number that is in use from being taken away:
//!
//! * a destination whose number is more than half a ring old gets a new one at its next connection in
//!   another tick, so popular destinations never stand where slots are about to be reused;
//! * a slot is reused only if its number was last handed out at least [`Policy::hold`] ticks ago.
//!   If it was not, the table counts as full and the connection is refused.
//!
//! So with `R` slots, up to `R / 2` new destinations per hold time can never be refused, and each
//! number is good for at least the hold time after the last `connect()` that got it.
//!
//! [`Policy::hold`]: crate::policy::Policy::hold

use crate::addr::{Ip, OrigDst};

/// Bits of a number: what 127.128.0.0/10 leaves free.
pub const NUMBER_BITS: u32 = 22;
const NUMBER_MASK: u32 = (1 << NUMBER_BITS) - 1;

/// 127.128.0.0/10: inside 127.0.0.0/8, so the kernel drops packets for it that come from outside
/// (`ip_route_input_slow`, net/ipv4/route.c), and clear of 127.0.0.1, Istio's 127.0.0.6 and the
/// broadcast address 127.255.255.255.
pub const V4_RANGE: u32 = 0x7f80_0000;
pub const V4_RANGE_LEN: u32 = 10;

/// fd73:6964:6563:6172::/64, a unique local prefix (RFC 4193) that the loader makes local to the
/// pod's namespace: IPv6 has one loopback address only.
pub const V6_RANGE: [u32; 2] = [0xfd73_6964, 0x6563_6172];
pub const V6_RANGE_LEN: u32 = 64;

/// Whether the address lies in one of the two ranges, which nobody but the redirect may use.
#[inline(always)]
pub fn is_reserved(ip: &Ip) -> bool {
    let words = ip.words();
    if ip.is_v4() {
        u32::from_be(words[0]) & !NUMBER_MASK == V4_RANGE
    } else {
        words[0] == V6_RANGE[0].to_be() && words[1] == V6_RANGE[1].to_be()
    }
}

/// The number of a destination: 22 bits.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Number(u32);

impl Number {
    /// The number that the counter value `count` stands for.
    #[inline(always)]
    pub const fn from_count(count: u64) -> Self {
        Self(count as u32 & NUMBER_MASK)
    }

    #[inline(always)]
    pub const fn slot(self, ring_mask: u32) -> u32 {
        self.0 & ring_mask
    }

    /// How many numbers have been handed out since this one, modulo 2^22.
    #[inline(always)]
    pub const fn age(self, count: u64) -> u32 {
        (count as u32).wrapping_sub(self.0) & NUMBER_MASK
    }

    /// Whether the next connection to this destination should get a new number.
    #[inline(always)]
    pub const fn is_old(self, count: u64, ring_mask: u32) -> bool {
        self.age(count) > ring_mask / 2
    }
}

/// A loopback address that carries a number: where a redirected connection really goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rewritten(Ip);

impl Rewritten {
    /// The address of the same family as the destination.
    #[inline(always)]
    pub const fn carrying_v4(number: Number) -> Self {
        Self(Ip::from_v4_word((V4_RANGE | number.0).to_be()))
    }

    #[inline(always)]
    pub const fn carrying_v6(number: Number) -> Self {
        Self(Ip::from_v6_words([
            V6_RANGE[0].to_be(),
            V6_RANGE[1].to_be(),
            0,
            number.0.to_be(),
        ]))
    }

    /// `ip` as a rewritten address, if it lies in one of the two ranges.
    #[inline(always)]
    pub fn from_ip(ip: Ip) -> Option<Self> {
        is_reserved(&ip).then_some(Self(ip))
    }

    #[inline(always)]
    pub const fn ip(self) -> Ip {
        self.0
    }

    /// The number inside; `None` if the address lies in the range but carries none.
    #[inline(always)]
    pub fn number(self) -> Option<Number> {
        let words = self.0.words();
        if self.0.is_v4() {
            Some(Number(u32::from_be(words[0]) & NUMBER_MASK))
        } else {
            let low = u32::from_be(words[3]);
            if words[2] == 0 && low <= NUMBER_MASK {
                Some(Number(low))
            } else {
                None
            }
        }
    }
}

/// Coarse kernel time in units of 2^30 ns (1.07 s), wrapping after 146 years.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Tick(pub u32);

impl Tick {
    /// Nanoseconds of one tick, as a power of two.
    pub const SHIFT: u32 = 30;

    #[inline(always)]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self((nanos >> Self::SHIFT) as u32)
    }

    #[inline(always)]
    pub const fn since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }
}

/// Which number lives in a slot, and when it was last handed out. Eight aligned bytes, so that it
/// can be compared and exchanged as a whole.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tenant {
    /// [`Tenant::TAKEN`] and the number, [`Tenant::CLAIMED`], or 0 for a slot that was never used.
    tagged: u32,
    pub last_used: Tick,
}

const _: () = assert!(size_of::<Tenant>() == 8);

impl Tenant {
    /// Tells number 0 from an empty slot.
    const TAKEN: u32 = 1 << 31;

    /// What a new map holds: nobody has used the slot.
    pub const EMPTY: Self = Self {
        tagged: 0,
        last_used: Tick(0),
    };

    /// Somebody is writing the slot: it holds no number, and nobody else may write it.
    pub const CLAIMED: Self = Self {
        tagged: 1 << 30,
        last_used: Tick(0),
    };

    #[inline(always)]
    pub const fn new(number: Number, last_used: Tick) -> Self {
        Self {
            tagged: number.0 | Self::TAKEN,
            last_used,
        }
    }

    #[inline(always)]
    pub const fn is(&self, number: Number) -> bool {
        self.tagged == number.0 | Self::TAKEN
    }

    #[inline(always)]
    pub const fn number(&self) -> Option<Number> {
        if self.tagged & Self::TAKEN != 0 {
            Some(Number(self.tagged & NUMBER_MASK))
        } else {
            None
        }
    }

    /// Whether somebody is writing the slot.
    #[inline(always)]
    pub const fn is_claimed(&self) -> bool {
        self.tagged == Self::CLAIMED.tagged
    }

    /// Whether another destination may have the slot.
    #[inline(always)]
    pub const fn may_go(&self, now: Tick, hold: u32) -> bool {
        self.tagged == 0 || self.tagged & Self::TAKEN != 0 && now.since(self.last_used) > hold
    }
}

/// One slot of the ring.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Destination {
    pub tenant: Tenant,
    pub dst: OrigDst,
}

const _: () = assert!(size_of::<Destination>() == 32);

impl Destination {
    /// What a new map holds.
    pub const EMPTY: Self = Self {
        tenant: Tenant::EMPTY,
        dst: OrigDst::NONE,
    };
}

/// What has been handed out.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dealt {
    /// The destination that was last asked for of those with this [`OrigDst::hash`]: a copy of its
    /// slot, which takes a few instructions to find where a look into a hash map takes two calls. What
    /// was handed out in this tick is reserved, whatever else happens, so it may be handed out again
    /// without a look at the slot; later the slot has to confirm it.
    pub recent: [Destination; OrigDst::HASHES],
    /// How many numbers.
    pub handed_out: u64,
}

const _: () = assert!(size_of::<Dealt>() == 32 * OrigDst::HASHES + 8);
