//! Into which prefixes the addresses of one family fall that the kernel may treat differently, and
//! for each of them an address that stands for the rest.

use std::{collections::BTreeSet, net::IpAddr};

use sidecar_ebpf_common::addr::{Ip, Prefix};

/// A prefix as a number: the address at the left end of 128 bits, for IPv4 too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Net {
    first: u128,
    len: u32,
}

impl Net {
    fn new(address: u128, len: u32) -> Self {
        let mask = match len {
            0 => 0,
            _ => u128::MAX << (128 - len),
        };
        Self {
            first: address & mask,
            len,
        }
    }

    fn contains(self, other: Self) -> bool {
        other.len >= self.len && Self::new(other.first, self.len) == self
    }

    fn halves(self) -> [Self; 2] {
        let len = self.len + 1;
        let second = self.first | 1 << (128 - len);
        [self.first, second].map(|first| Self { first, len })
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub(super) fn has(self, ip: IpAddr) -> bool {
        ip.is_ipv4() == (self == Self::V4)
    }

    pub(super) fn width(self) -> u32 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    fn number(self, ip: IpAddr) -> u128 {
        match ip {
            IpAddr::V4(ip) => u128::from(ip.to_bits()) << 96,
            IpAddr::V6(ip) => ip.to_bits(),
        }
    }

    fn address(self, number: u128) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(((number >> 96) as u32).into()),
            Self::V6 => IpAddr::V6(number.into()),
        }
    }

    /// Where no connection goes that could stand for others: this network, loopback, multicast;
    /// reserved, link-local (which needs an interface), multicast.
    fn unfit(self) -> &'static [Net] {
        const V4: &[Net] = &[
            Net { first: 0, len: 8 },
            Net {
                first: 0x7f << 120,
                len: 8,
            },
            Net {
                first: 0xe0 << 120,
                len: 3,
            },
        ];
        const V6: &[Net] = &[
            Net { first: 0, len: 8 },
            Net {
                first: 0xfe80 << 112,
                len: 10,
            },
            Net {
                first: 0xff << 120,
                len: 8,
            },
        ];
        match self {
            Self::V4 => V4,
            Self::V6 => V6,
        }
    }

    /// The classes of addresses between which IPv6 chooses a source of the same class
    /// (`ip6addrlbl_init_table`, net/ipv6/addrlabel.c).
    fn labels(self) -> &'static [Net] {
        const V6: &[Net] = &[
            Net {
                first: 0xfc << 120,
                len: 7,
            },
            Net {
                first: 0x2002 << 112,
                len: 16,
            },
            Net {
                first: 0x3ffe << 112,
                len: 16,
            },
            Net {
                first: 0xfec0 << 112,
                len: 10,
            },
            Net {
                first: 0x2001_0000 << 96,
                len: 32,
            },
            Net {
                first: 0x2001_0010 << 96,
                len: 28,
            },
        ];
        match self {
            Self::V4 => &[],
            Self::V6 => V6,
        }
    }
}

/// Whether the address lies in the prefix.
pub(super) fn contains(prefix: &Prefix, ip: IpAddr) -> bool {
    let net = IpAddr::from(prefix.ip);
    Family::ALL.into_iter().any(|family| {
        family.has(net)
            && family.has(ip)
            && Net::new(family.number(ip), prefix.len) == Net::new(family.number(net), prefix.len)
    })
}

/// The prefixes of one family.
#[derive(Debug)]
pub(super) struct Nets {
    family: Family,
    all: BTreeSet<Net>,
}

impl Nets {
    /// These prefixes, as far as they are of the family.
    pub(super) fn new<'a>(family: Family, prefixes: impl Iterator<Item = &'a Prefix>) -> Self {
        let all = prefixes
            .map(|prefix| (IpAddr::from(prefix.ip), prefix.len))
            .filter(|(ip, _)| family.has(*ip))
            .map(|(ip, len)| Net::new(family.number(ip), len))
            .collect();
        Self { family, all }
    }

    /// Divides them further where the choice between these source addresses may change: by class,
    /// and where an address that shares more with the destination begins (RFC 6724, rules 6 and 8).
    /// Only IPv6 chooses like that.
    pub(super) fn divide_by(&mut self, sources: &[IpAddr]) {
        if self.family == Family::V4 || sources.len() < 2 {
            return;
        }
        self.all.extend(self.family.labels());
        let numbers: Vec<_> = sources.iter().map(|ip| self.family.number(*ip)).collect();
        for (at, a) in numbers.iter().enumerate() {
            for b in numbers.iter().skip(at + 1) {
                let len = (a ^ b).leading_zeros() + 1;
                self.all.extend([Net::new(*a, len), Net::new(*b, len)]);
            }
        }
    }

    /// Each prefix with an address for which none of the others holds; prefixes that others cover
    /// completely are left out.
    pub(super) fn with_examples(&self) -> impl Iterator<Item = (Prefix, IpAddr)> + '_ {
        self.all.iter().filter_map(|net| {
            let address = self.family.address(self.example(*net)?);
            let ip = Ip::from(self.family.address(net.first));
            Some((Prefix::new(ip, net.len), address))
        })
    }

    fn example(&self, net: Net) -> Option<u128> {
        let width = self.family.width();
        if net.len == width {
            return Some(net.first);
        }
        let unfit = self.family.unfit();
        if unfit.iter().any(|other| other.contains(net)) {
            return None;
        }
        let last = Net {
            first: net.first | u128::MAX >> net.len,
            len: width,
        };
        let finer: Vec<_> = self
            .all
            .range(net..=last)
            .chain(unfit)
            .copied()
            .filter(|other| *other != net && net.contains(*other))
            .collect();
        // The first address of a network may mean the network itself; on a link between two it may
        // be all that is left.
        let first = Net { len: width, ..net };
        let and_first = [finer.as_slice(), &[first]].concat();
        free(net, &and_first).or_else(|| free(net, &finer))
    }
}

/// An address in `net` and in none of the prefixes inside it.
fn free(net: Net, inside: &[Net]) -> Option<u128> {
    if inside.contains(&net) {
        return None;
    }
    if inside.is_empty() {
        return Some(net.first);
    }
    net.halves().into_iter().find_map(|half| {
        let inside: Vec<_> = inside
            .iter()
            .copied()
            .filter(|other| half.contains(*other))
            .collect();
        free(half, &inside)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        let (ip, len) = text.split_once('/').unwrap();
        Prefix::new(ip.parse::<IpAddr>().unwrap().into(), len.parse().unwrap())
    }

    fn nets(family: Family, prefixes: &[&str], sources: &[&str]) -> Nets {
        let prefixes: Vec<_> = prefixes.iter().map(|text| prefix(text)).collect();
        let mut nets = Nets::new(family, prefixes.iter());
        if !sources.is_empty() {
            let sources: Vec<_> = sources.iter().map(|ip| ip.parse().unwrap()).collect();
            nets.divide_by(&sources);
        }
        nets
    }

    #[track_caller]
    fn assert_examples(nets: &Nets, expected: &[(&str, &str)]) {
        let expected: Vec<_> = expected
            .iter()
            .map(|(net, ip)| (prefix(net), ip.parse::<IpAddr>().unwrap()))
            .collect();
        assert_eq!(nets.with_examples().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn an_example_stands_for_its_prefix_alone() {
        let of_pod = nets(
            Family::V4,
            &[
                "0.0.0.0/0",
                "10.244.0.0/24",
                "10.244.0.5/32",
                "127.0.0.0/8",
                "192.0.2.0/24",
                "::/0",
            ],
            &[],
        );
        assert_examples(
            &of_pod,
            &[
                ("0.0.0.0/0", "1.0.0.0"),
                ("10.244.0.0/24", "10.244.0.1"),
                ("10.244.0.5/32", "10.244.0.5"),
                ("192.0.2.0/24", "192.0.2.1"),
            ],
        );
        let of_pod = nets(
            Family::V6,
            &["::/0", "::1/128", "fd00::/64", "fd00::1/128", "fe80::/64"],
            &[],
        );
        assert_examples(
            &of_pod,
            &[
                ("::/0", "100::"),
                ("::1/128", "::1"),
                ("fd00::/64", "fd00::2"),
                ("fd00::1/128", "fd00::1"),
            ],
        );
    }

    #[test]
    fn a_prefix_that_others_cover_has_none() {
        let covered = nets(
            Family::V4,
            &[
                "0.0.0.0/0",
                "0.0.0.0/1",
                "128.0.0.0/1",
                "10.0.0.0/31",
                "10.0.0.0/32",
                "10.0.0.1/32",
                "10.0.1.0/31",
                "10.0.1.1/32",
            ],
            &[],
        );
        assert_examples(
            &covered,
            &[
                ("0.0.0.0/1", "1.0.0.0"),
                ("10.0.0.0/32", "10.0.0.0"),
                ("10.0.0.1/32", "10.0.0.1"),
                ("10.0.1.0/31", "10.0.1.0"),
                ("10.0.1.1/32", "10.0.1.1"),
                ("128.0.0.0/1", "128.0.0.1"),
            ],
        );
    }

    #[test]
    fn several_ipv6_addresses_divide_a_route() {
        let divided = nets(Family::V6, &["::/0"], &["fd00:1::5", "fd00:3::5"]);
        let found: Vec<_> = divided.with_examples().collect();
        for (net, ip) in [
            ("fc00::/7", "fc00::1"),
            ("fd00::/31", "fd00::1"),
            ("fd00:2::/31", "fd00:2::1"),
            ("2002::/16", "2002::1"),
        ] {
            assert!(
                found.contains(&(prefix(net), ip.parse().unwrap())),
                "{found:?}"
            );
        }
        let v4 = nets(Family::V4, &["0.0.0.0/0"], &["10.0.0.5", "10.0.0.6"]);
        assert_examples(&v4, &[("0.0.0.0/0", "1.0.0.0")]);
    }
}
