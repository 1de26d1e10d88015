//! Sockets that are bound before they connect.

use std::time::Duration;

use anyhow::Result;
use sidecar_lab::{ConnectOptions, Errno, pod::POD_IP};

use crate::{BY_9, BY_9_V6, SERVICE, SERVICE6, rig, support::connect4, with};

#[test]
fn a_bound_source_address_is_kept() -> Result<()> {
    let rig = rig("bound")?;
    rig.pod.add_address([10, 244, 0, 66].into())?;
    rig.pod.add_address("fd00:10:244::66".parse()?)?;
    let from = |addr: &str, source: &str| {
        let source = source.parse().unwrap();
        with(addr, |options| options.from = Some(source))
    };
    for source in [
        "10.244.0.5:0",
        "10.244.0.66:0",
        "127.0.0.1:0",
        "127.0.0.6:0",
    ] {
        let options = from(SERVICE, source);
        let ip = options.from.unwrap().ip();
        let mapped = ConnectOptions {
            mapped: true,
            ..options.clone()
        };
        let ends = rig.delivered(BY_9, &rig.app, options, &rig.outbound);
        assert_eq!((ends.client.local.ip(), ends.server.peer.ip()), (ip, ip));
        let ends = rig.delivered(BY_9_V6, &rig.app, mapped, &rig.outbound);
        assert_eq!(
            (ends.client.local.ip().to_canonical(), ends.server.peer.ip()),
            (ip, ip)
        );
    }
    for source in ["[fd00:10:244::5]:0", "[fd00:10:244::66]:0", "[::1]:0"] {
        let options = from(SERVICE6, source);
        let ip = options.from.unwrap().ip();
        let ends = rig.delivered(BY_9_V6, &rig.app, options, &rig.outbound);
        assert_eq!((ends.client.local.ip(), ends.server.peer.ip()), (ip, ip));
    }
    // A port that is bound, too.
    let ends = rig.delivered(
        BY_9,
        &rig.app,
        from(SERVICE, "10.244.0.66:4321"),
        &rig.outbound,
    );
    assert_eq!(ends.server.peer, "10.244.0.66:4321".parse()?);
    let ends = rig.delivered(BY_9, &rig.app, from(SERVICE, "0.0.0.0:4322"), &rig.outbound);
    assert_eq!(ends.server.peer, (POD_IP, 4322).into());
    Ok(())
}

/// Netfilter's REDIRECT makes a SYN for the proxy of it that leaves by the device, and loses it.
#[test]
fn a_socket_bound_to_a_device_never_gets_past_the_proxy() -> Result<()> {
    let rig = rig("device")?;
    let bound = |addr: &str, device: &str| {
        let device = device.to_owned();
        with(addr, |options| options.bind_to_device = Some(device))
    };
    let mapped = ConnectOptions {
        mapped: true,
        ..bound(SERVICE, "eth0")
    };
    for (hook, rule, by, options) in [
        ("connect4", "9", &rig.app, bound(SERVICE, "eth0")),
        ("connect6", "9", &rig.app, bound(SERVICE6, "eth0")),
        ("connect6", "9", &rig.app, mapped),
        (
            "connect4",
            "2",
            &rig.proxy,
            bound("10.244.0.5:8080", "eth0"),
        ),
    ] {
        let refusal = [(hook, rule, 1), (hook, "refusal:bound-to-device", 1)];
        let refused = rig.expect(&refusal, || by.connect_with(options));
        assert_eq!(refused.unwrap_err().errno(), Errno::EPERM);
    }
    // Bound to lo it stays in the pod, where nobody has that address.
    for (hook, addr) in [("connect4", SERVICE), ("connect6", SERVICE6)] {
        let mut lost = bound(addr, "lo");
        lost.timeout = Duration::from_millis(100);
        rig.expect(&[(hook, "3", 1)], || rig.app.connect_with(lost))
            .unwrap_err();
    }
    for listener in &rig.service.listeners {
        let arrived = listener.accept_within(Duration::from_millis(20));
        assert_eq!(arrived.unwrap_err().errno(), Errno::ETIME);
    }

    // What is not redirected goes by whatever device it likes.
    let direct = connect4("4");
    rig.delivered(direct, &rig.proxy, bound(SERVICE, "eth0"), &rig.service);
    let own = bound("10.244.0.5:8080", "eth0");
    rig.delivered(connect4("3"), &rig.app, own, &rig.application);
    Ok(())
}
