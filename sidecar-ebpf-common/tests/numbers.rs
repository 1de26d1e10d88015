//! Numbers: in an address and out again, ages, slots, counters.

mod support;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use proptest::prelude::*;
use sidecar_ebpf_common::{
    addr::{Ip, OrigDst, Port},
    counter::Counter,
    number::{NUMBER_BITS, Number, Rewritten, Tenant, Tick, is_reserved},
};
use support::ip;

/// The count of the last number.
const LAST: u64 = (1 << NUMBER_BITS) - 1;

#[test]
fn addresses_outside_the_ranges_carry_nothing() {
    for text in [
        "127.0.0.1",
        "127.0.0.6",
        "127.127.255.255",
        "127.192.0.0",
        "127.255.255.255",
        "::1",
        "fd73::1",
    ] {
        assert_eq!(Rewritten::from_ip(ip(text)), None, "{text}");
        assert!(!is_reserved(&ip(text)), "{text}");
    }
    for text in ["127.128.0.0", "127.191.255.255", "fd73:6964:6563:6172::"] {
        assert!(Rewritten::from_ip(ip(text)).is_some(), "{text}");
    }
    let no_number = Rewritten::from_ip(ip("fd73:6964:6563:6172:1::")).unwrap();
    assert_eq!(no_number.number(), None);
}

#[test]
fn the_range_is_what_the_documentation_says() {
    let first = Rewritten::carrying_v4(Number::from_count(0)).ip();
    assert_eq!(IpAddr::from(first).to_string(), "127.128.0.0");
    let last = Rewritten::carrying_v4(Number::from_count(LAST)).ip();
    assert_eq!(IpAddr::from(last).to_string(), "127.191.255.255");
    let seventh = Rewritten::carrying_v6(Number::from_count(7)).ip();
    assert_eq!(IpAddr::from(seventh).to_string(), "fd73:6964:6563:6172::7");
}

#[test]
fn a_slot_that_was_never_used_holds_no_number() {
    let zero = Number::from_count(0);
    let taken = Tenant::new(zero, Tick(9));
    assert!(taken.is(zero));
    assert_eq!(taken.number(), Some(zero));
    assert!(!Tenant::EMPTY.is(zero));
    assert_eq!(Tenant::EMPTY.number(), None);
    assert!(Tenant::EMPTY.may_go(Tick(9), 100));
}

#[test]
fn a_slot_that_is_being_written_is_nobody_else_s() {
    assert_eq!(Tenant::CLAIMED.number(), None);
    assert!(Tenant::CLAIMED.is_claimed());
    assert!(
        !Tenant::EMPTY.is_claimed() && !Tenant::new(Number::from_count(0), Tick(1)).is_claimed()
    );
    assert!(!Tenant::CLAIMED.may_go(Tick(u32::MAX), 0));
}

#[test]
fn a_slot_goes_after_the_hold_time_even_across_a_wrap_of_the_clock() {
    let tenant = Tenant::new(Number::from_count(1), Tick(u32::MAX - 1));
    assert!(!tenant.may_go(Tick(u32::MAX), 3));
    assert!(!tenant.may_go(Tick(1), 3));
    assert!(tenant.may_go(Tick(2), 3));
}

#[test]
fn neighbouring_services_have_hashes_of_their_own() {
    let v4 = |low| Ip::from_v4(Ipv4Addr::new(10, 96, 0, low));
    let v6 = |low| Ip::from_v6(Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, u16::from(low)));
    for service in [&v4 as &dyn Fn(u8) -> Ip, &v6] {
        let hashes = (0..=255).map(|low| OrigDst::new(service(low), Port(80)).hash());
        assert_eq!(hashes.collect::<BTreeSet<_>>().len(), 256);
    }
}

#[test]
fn every_counter_has_its_own_place() {
    let mut seen = BTreeSet::new();
    for counter in Counter::all() {
        assert!(counter.index() < Counter::COUNT, "{counter:?}");
        assert!(seen.insert(counter.index()), "{counter:?}");
    }
}

proptest! {
    #[test]
    fn a_number_survives_its_address(count in any::<u64>()) {
        let number = Number::from_count(count);
        for rewritten in [Rewritten::carrying_v4(number), Rewritten::carrying_v6(number)] {
            let found = Rewritten::from_ip(rewritten.ip()).and_then(Rewritten::number);
            prop_assert_eq!(found, Some(number));
            prop_assert_eq!(Ip::from(IpAddr::from(rewritten.ip())), rewritten.ip());
        }
    }

    #[test]
    fn age_counts_across_the_wrap(count in any::<u64>(), later in 0..(1_u64 << NUMBER_BITS)) {
        let number = Number::from_count(count);
        prop_assert_eq!(u64::from(number.age(count.wrapping_add(later))), later);
    }

    #[test]
    fn two_numbers_of_one_slot_differ(count in any::<u64>(), lap in 1_u64..256) {
        let ring_mask = (1 << 14) - 1;
        let next = count.wrapping_add(lap << 14);
        let (old, new) = (Number::from_count(count), Number::from_count(next));
        prop_assert_eq!(old.slot(ring_mask), new.slot(ring_mask));
        prop_assert_ne!(old, new);
    }
}
