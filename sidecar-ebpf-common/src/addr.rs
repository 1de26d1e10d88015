//! Addresses and ports as the rules see them. The only file that knows about byte order.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address family in a map: the number is part of every hash and trie key that holds an [`Ip`].
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Family(u32);

impl Family {
    pub const V4: Self = Self(4);
    pub const V6: Self = Self(6);
}

/// An IPv4 or IPv6 address, 20 bytes: the family, then four words in network byte order as the
/// kernel's contexts hold them. IPv4 uses the first word; the others are zero, so that equal
/// addresses are equal bytes. An IPv4-mapped IPv6 address is an IPv4 address here, because its
/// packets are IPv4 packets and meet the IPv4 rules.
#[repr(C)]
#[derive(Clone, Copy, Eq, PartialOrd, Ord, Debug)]
pub struct Ip {
    family: Family,
    words: [u32; 4],
}

const _: () = assert!(size_of::<Ip>() == 20);

/// Word by word: the derived comparison calls `bcmp`, which the BPF target does not have.
impl PartialEq for Ip {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        self.family.0 == other.family.0
            && self.words[0] == other.words[0]
            && self.words[1] == other.words[1]
            && self.words[2] == other.words[2]
            && self.words[3] == other.words[3]
    }
}

/// `::ffff:0:0/96`, third word, as it lies in memory.
const MAPPED: u32 = 0xffff_u32.to_be();

impl Ip {
    pub const LOOPBACK_V4: Self = Self::from_v4(Ipv4Addr::LOCALHOST);
    pub const LOOPBACK_V6: Self = Self::from_v6(Ipv6Addr::LOCALHOST);
    pub const UNSPECIFIED_V4: Self = Self::from_v4(Ipv4Addr::UNSPECIFIED);
    pub const UNSPECIFIED_V6: Self = Self::from_v6(Ipv6Addr::UNSPECIFIED);

    /// From an IPv4 address word in network byte order (`user_ip4`, `local_ip4`, …).
    #[inline(always)]
    pub const fn from_v4_word(word: u32) -> Self {
        Self {
            family: Family::V4,
            words: [word, 0, 0, 0],
        }
    }

    /// From the four words of an IPv6 address in network byte order (`user_ip6`, …).
    #[inline(always)]
    pub const fn from_v6_words(words: [u32; 4]) -> Self {
        if is_mapped(words) {
            Self::from_v4_word(words[3])
        } else {
            Self {
                family: Family::V6,
                words,
            }
        }
    }

    pub const fn from_v4(addr: Ipv4Addr) -> Self {
        Self::from_v4_word(u32::from_ne_bytes(addr.octets()))
    }

    pub const fn from_v6(addr: Ipv6Addr) -> Self {
        let bits = addr.to_bits();
        Self::from_v6_words([
            ((bits >> 96) as u32).to_be(),
            ((bits >> 64) as u32).to_be(),
            ((bits >> 32) as u32).to_be(),
            (bits as u32).to_be(),
        ])
    }

    #[inline(always)]
    pub const fn family(&self) -> Family {
        self.family
    }

    #[inline(always)]
    pub fn is_v4(&self) -> bool {
        self.family == Family::V4
    }

    /// The words in network byte order; an IPv4 address is the first.
    #[inline(always)]
    pub const fn words(&self) -> [u32; 4] {
        self.words
    }

    /// 0.0.0.0 or `::`, which `connect()` takes for the loopback address.
    #[inline(always)]
    pub fn is_unspecified(&self) -> bool {
        self.words[0] | self.words[1] | self.words[2] | self.words[3] == 0
    }

    /// 127.0.0.0/8 or `::1`.
    #[inline(always)]
    pub fn is_loopback(&self) -> bool {
        if self.is_v4() {
            u32::from_be(self.words[0]) >> 24 == 127
        } else {
            *self == Self::LOOPBACK_V6
        }
    }
}

#[inline(always)]
const fn is_mapped(words: [u32; 4]) -> bool {
    words[0] == 0 && words[1] == 0 && words[2] == MAPPED
}

impl From<IpAddr> for Ip {
    fn from(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(addr) => Self::from_v4(addr),
            IpAddr::V6(addr) => Self::from_v6(addr),
        }
    }
}

impl From<Ip> for IpAddr {
    fn from(ip: Ip) -> Self {
        if ip.is_v4() {
            Self::V4(Ipv4Addr::from_bits(u32::from_be(ip.words[0])))
        } else {
            let bits = ip.words.iter().fold(0u128, |bits, &word| {
                (bits << 32) | u128::from(u32::from_be(word))
            });
            Self::V6(Ipv6Addr::from_bits(bits))
        }
    }
}

/// A TCP or UDP port in host byte order.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Port(pub u16);

impl Port {
    /// Where DNS servers answer.
    pub const DNS: Self = Self(53);

    /// From a context field that holds the port in network byte order in its low half
    /// (`bpf_sock_addr.user_port`, `bpf_sock.dst_port`).
    #[inline(always)]
    pub const fn from_be_word(word: u32) -> Self {
        Self(u16::from_be(word as u16))
    }

    /// The inverse of [`Port::from_be_word`].
    #[inline(always)]
    pub const fn to_be_word(self) -> u32 {
        self.0.to_be() as u32
    }
}

/// Where an application wanted to go, before anything was rewritten: what `SO_ORIGINAL_DST` tells.
/// 24 bytes, the key of the number table.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct OrigDst {
    pub ip: Ip,
    pub port: Port,
    zero: u16,
}

const _: () = assert!(size_of::<OrigDst>() == 24);

impl OrigDst {
    /// All zero: no destination, as it has no family.
    pub const NONE: Self = Self {
        ip: Ip {
            family: Family(0),
            words: [0; 4],
        },
        port: Port(0),
        zero: 0,
    };

    /// How many values [`OrigDst::hash`] has.
    pub const HASHES: usize = 1 << Self::HASH_BITS;
    const HASH_BITS: u32 = 9;

    #[inline(always)]
    pub const fn new(ip: Ip, port: Port) -> Self {
        Self { ip, port, zero: 0 }
    }

    /// A hash of few instructions: a product's high bits depend on all of what is multiplied.
    #[inline(always)]
    pub const fn hash(&self) -> usize {
        let [a, b, c, d] = self.ip.words();
        let word = a ^ b ^ c ^ d ^ (self.port.0 as u32) << 8;
        (word.wrapping_mul(0x9e37_79b1) >> (32 - Self::HASH_BITS)) as usize
    }
}

/// The key of a longest-prefix-match trie over addresses of both families: the family counts as
/// the first 32 bits, so that `::/0` does not match an IPv4 address.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Prefix {
    pub ip: Ip,
    /// Bits of the address itself: 0 to 32 or 128.
    pub len: u32,
}

impl Prefix {
    /// Bits of the family word that stands in front of the address.
    pub const FAMILY_BITS: u32 = 32;
    /// The length with which a single address is looked up.
    pub const FULL_BITS: u32 = Self::FAMILY_BITS + 128;

    pub const fn new(ip: Ip, len: u32) -> Self {
        Self { ip, len }
    }

    /// The prefix length as the trie wants it.
    pub const fn trie_bits(&self) -> u32 {
        Self::FAMILY_BITS + self.len
    }
}
