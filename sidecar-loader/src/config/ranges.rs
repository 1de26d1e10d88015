//! Lists of address ranges.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sidecar_ebpf_common::{
    addr::{Ip, Prefix},
    maps::MAX_RANGES,
};

use super::{
    flag::Setting,
    ids::is_plain_number,
    problem::{Collector, quote},
};

/// The ranges of one flag.
#[derive(Default)]
pub(super) struct Ranges {
    /// As they were given.
    pub(super) written: Vec<(IpAddr, u8)>,
    /// In order, without repetition, host bits zero.
    pub(super) prefixes: Vec<Prefix>,
    /// Whether a range is written with a loopback address, which makes Istio leave out rules.
    pub(super) loopback: bool,
}

/// One range as written, in the manner of Go's `netip.ParsePrefix`, which Istio uses: the length is
/// not optional, and host bits may be set.
#[derive(Clone, Copy)]
struct Written {
    addr: IpAddr,
    len: u8,
}

pub(super) fn parse(setting: &Setting, collector: &mut Collector) -> Ranges {
    let written = collector.items(setting, parse_range);
    let loopback = written.iter().any(Written::is_loopback);
    if let Some(mapped) = written.iter().find(|range| range.is_mapped()) {
        // Istio makes an ip6tables rule of it, which the IPv4 packets of such a connection never
        // meet. The same, but said aloud.
        collector.note(format!(
            "{setting}: {}/{} matches nothing, because IPv4-mapped connections meet the IPv4 \
             rules; write it as an IPv4 range",
            mapped.addr, mapped.len
        ));
    }
    let mut prefixes: Vec<_> = written
        .iter()
        .filter(|range| !range.is_mapped())
        .map(Written::masked)
        .collect();
    prefixes.sort_by_key(|prefix| (prefix.ip, prefix.len));
    prefixes.dedup();
    if prefixes.len() > MAX_RANGES as usize {
        collector.refuse(format!(
            "{setting}: {} different ranges, but at most {MAX_RANGES} are possible; join \
             neighbouring ranges",
            prefixes.len()
        ));
    }
    Ranges {
        written: written
            .iter()
            .map(|range| (range.addr, range.len))
            .collect(),
        prefixes,
        loopback,
    }
}

/// The range that is localhost: an IPv4 loopback address and a length, which Istio limits
/// (`ValidateIPv4LoopbackCidr` in tools/common/config/validation.go). Host bits are zero then, as
/// iptables reads it.
pub(super) fn parse_loopback(setting: &Setting, collector: &mut Collector) -> (Ipv4Addr, u8) {
    let range = parse_range(&setting.value).and_then(|range| match range.addr {
        IpAddr::V4(addr) if addr.is_loopback() && range.len >= 8 => {
            let mask = u32::MAX << (32 - u32::from(range.len));
            Ok((Ipv4Addr::from_bits(addr.to_bits() & mask), range.len))
        }
        IpAddr::V4(_) | IpAddr::V6(_) => Err(format!(
            "{} is not possible; expected an IPv4 loopback address and a length from 8 to 32, like \
             127.0.0.0/8",
            quote(&setting.value)
        )),
    });
    range.unwrap_or_else(|problem| {
        collector.refuse(format!("{setting}: {problem}"));
        (Ipv4Addr::LOCALHOST, 32)
    })
}

fn parse_range(item: &str) -> Result<Written, String> {
    let expected = "expected an address and a length like 10.0.0.0/8 or fd00::/8";
    if item == "*" {
        return Err(format!(
            "\"*\" is not possible here or beside other items; {expected}"
        ));
    }
    let Some((addr, len)) = item.split_once('/') else {
        let hint = match item.parse() {
            Ok(IpAddr::V4(_)) => format!("; one address is {item}/32"),
            Ok(IpAddr::V6(_)) => format!("; one address is {item}/128"),
            Err(_) => String::new(),
        };
        return Err(format!("{} is not a range; {expected}{hint}", quote(item)));
    };
    let addr: IpAddr = addr
        .parse()
        .map_err(|_| format!("{} is not a range; {expected}", quote(item)))?;
    let bits: u8 = if addr.is_ipv4() { 32 } else { 128 };
    let len = if is_plain_number(len) {
        len.parse().ok()
    } else {
        None
    };
    match len {
        Some(len) if len <= bits => Ok(Written { addr, len }),
        _ => Err(format!(
            "{} has no usable length; expected a number from 0 to {bits} after the slash",
            quote(item)
        )),
    }
}

impl Written {
    /// Goes by the address as written, as Istio does: 127.0.0.1/0 counts, 126.0.0.0/7 does not.
    fn is_loopback(&self) -> bool {
        match self.addr {
            IpAddr::V4(addr) => addr.is_loopback(),
            IpAddr::V6(addr) => {
                addr.is_loopback() || addr.to_ipv4_mapped().is_some_and(|addr| addr.is_loopback())
            }
        }
    }

    /// Whether every address of it is an IPv4-mapped one.
    fn is_mapped(&self) -> bool {
        match self.addr {
            IpAddr::V4(_) => false,
            IpAddr::V6(addr) => self.len >= 96 && addr.to_ipv4_mapped().is_some(),
        }
    }

    /// With host bits zero, as iptables reads it.
    fn masked(&self) -> Prefix {
        let len = u32::from(self.len);
        let ip = match self.addr {
            IpAddr::V4(addr) => {
                let mask = u32::MAX.checked_shl(32 - len).unwrap_or(0);
                Ip::from_v4(Ipv4Addr::from_bits(addr.to_bits() & mask))
            }
            IpAddr::V6(addr) => {
                let mask = u128::MAX.checked_shl(128 - len).unwrap_or(0);
                Ip::from_v6(Ipv6Addr::from_bits(addr.to_bits() & mask))
            }
        };
        Prefix::new(ip, len)
    }
}
