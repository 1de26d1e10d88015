//! What comes in.

use super::*;

#[test]
fn inbound_lists() {
    let mut wishes = Wishes {
        inbound_all: false,
        inbound_included: vec![8080],
        ..Wishes::istio()
    };
    expect_in(&wishes, "10.244.0.5", 8080, In::IncludedPort);
    expect_in(&wishes, "10.244.0.5", 8081, In::EndOfChain);
    // The excluded ports say nothing beside a list.
    expect_in(&wishes, "10.244.0.5", 15090, In::EndOfChain);
    wishes.inbound_included.clear();
    expect_in(&wishes, "10.244.0.5", 8080, In::Off);
}

#[test]
fn the_proxy_s_own_ports_are_captured_from_outside() {
    let istio = Wishes::istio();
    expect_in(&istio, "10.244.0.5", 15001, In::Everything);
    expect_in(&istio, "10.244.0.5", 15006, In::Everything);
}
