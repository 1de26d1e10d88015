//! Traffic of an excluded interface passes, in both directions and both families; all other does
//! not.

use std::{net::IpAddr, time::Duration};

use anyhow::Result;
use sidecar_lab::{
    Errno, Pod, ip_inside, loader,
    pod::{POD_IP, POD_IP6, SECOND_IP, SECOND_IP6, SECOND_REMOTE_IP, SECOND_REMOTE_IP6},
};

use crate::{
    SECOND, SECOND6, SERVICE, SERVICE6, by_device, loaded, mapped,
    support::{Moved, Rig, connect4, connect6, sk_lookup, to},
    two_interfaces,
};

const OUT4: Moved<'_> = connect4("excluded-interface");
const OUT6: Moved<'_> = connect6("excluded-interface");
const IN: Moved<'_> = sk_lookup("inbound-excluded-interface");

#[test]
fn what_leaves_by_an_excluded_interface_passes() -> Result<()> {
    let rig = loaded("out", &["-c", "net1"])?;
    let front = &rig.service;
    for by in [&rig.app, &rig.proxy] {
        rig.delivered(OUT4, by, to(SECOND), front);
        rig.delivered(OUT4, by, to((SECOND_REMOTE_IP, 80)), front);
        rig.delivered(OUT6, by, mapped(SECOND), front);
        rig.delivered(OUT6, by, to(SECOND6), front);
        rig.delivered(OUT6, by, to((SECOND_REMOTE_IP6, 80)), front);
    }
    others_are_redirected(&rig);
    // The pod's own address on that interface is reached over lo.
    rig.delivered(
        connect4("2"),
        &rig.proxy,
        to((SECOND_IP, 8080)),
        &rig.inbound,
    );
    rig.delivered(
        connect6("2"),
        &rig.proxy,
        to((SECOND_IP6, 8080)),
        &rig.inbound,
    );
    rig.delivered(
        connect4("3"),
        &rig.app,
        to((SECOND_IP, 8080)),
        &rig.application,
    );
    Ok(())
}

fn others_are_redirected(rig: &Rig) {
    rig.delivered(connect4("9"), &rig.app, to(SERVICE), &rig.outbound);
    rig.delivered(connect6("9"), &rig.app, mapped(SERVICE), &rig.outbound);
    rig.delivered(connect6("9"), &rig.app, to(SERVICE6), &rig.outbound);
    rig.delivered(connect4("4"), &rig.proxy, to(SERVICE), &rig.service);
    for ip in [IpAddr::from(POD_IP), POD_IP6.into()] {
        let inbound = sk_lookup("inbound-all");
        rig.delivered(inbound, &rig.remote, to((ip, 8080)), &rig.inbound);
    }
}

#[test]
fn what_comes_in_by_an_excluded_interface_passes() -> Result<()> {
    let rig = loaded("in", &["-c", "net1"])?;
    // The interface counts, not the address: one of eth0 that is reached through net1.
    rig.pod.ip("addr add 10.245.0.5/32 dev eth0\n")?;
    let there = rig.pod.remote_netns_path();
    let route = "route add 10.245.0.5/32 via 192.168.77.2 dev net1\n";
    ip_inside(&there, ["-batch", "-"], route)?;
    let through = IpAddr::from([10, 245, 0, 5]);
    for ip in [SECOND_IP.into(), IpAddr::from(SECOND_IP6), through] {
        rig.delivered(IN, &rig.remote, to((ip, 8080)), &rig.application);
    }
    others_are_redirected(&rig);
    Ok(())
}

#[test]
fn names_are_matched_as_iptables_matches_them() -> Result<()> {
    let mut rig = two_interfaces("names")?;
    for names in ["net+", "+", "eth1,net1", "nothing,net+,net1"] {
        rig.load(&["--dual-stack", "-c", names])?;
        rig.delivered(OUT4, &rig.app, to(SECOND), &rig.service);
        rig.delivered(OUT6, &rig.app, to(SECOND6), &rig.service);
        let own = to((SECOND_IP, 8080));
        rig.delivered(IN, &rig.remote, own, &rig.application);
    }
    for names in ["net", "net10", "net1x+", "et+h0", ""] {
        rig.load(&["--dual-stack", "-c", names])?;
        rig.delivered(connect4("9"), &rig.app, to(SECOND), &rig.outbound);
        rig.delivered(connect6("9"), &rig.app, to(SECOND6), &rig.outbound);
        let all = sk_lookup("inbound-all");
        rig.delivered(all, &rig.remote, to((SECOND_IP, 8080)), &rig.inbound);
        others_are_redirected(&rig);
    }
    Ok(())
}

#[test]
fn the_loopback_interface_can_be_excluded() -> Result<()> {
    let rig = loaded("lo", &["-c", "lo"])?;
    for by in [&rig.app, &rig.proxy] {
        for own in ["127.0.0.1:8080", "127.0.0.9:8080", "10.244.0.5:8080"] {
            rig.delivered(OUT4, by, to(own), &rig.application);
        }
        for own in ["[::1]:8080", "[fd00:10:244::5]:8080", "[fd00:77::2]:8080"] {
            rig.delivered(OUT6, by, to(own), &rig.application);
        }
    }
    others_are_redirected(&rig);
    rig.delivered(connect4("9"), &rig.app, to(SECOND), &rig.outbound);
    Ok(())
}

#[test]
fn a_device_that_a_socket_is_bound_to_is_where_it_leaves() -> Result<()> {
    let rig = loaded("device", &["-c", "net1"])?;
    let bound = by_device(SECOND, "net1");
    rig.delivered(OUT4, &rig.app, bound, &rig.service);
    let bound = by_device(SECOND6, "net1");
    rig.delivered(OUT6, &rig.app, bound, &rig.service);
    // Not by net1, so to the proxy, which a socket bound to a device cannot reach.
    for (hook, addr) in [
        ("connect4", SERVICE),
        ("connect4", SECOND),
        ("connect6", SECOND6),
    ] {
        let refusal = [(hook, "9", 1), (hook, "refusal:bound-to-device", 1)];
        let refused = rig.expect(&refusal, || rig.app.connect_with(by_device(addr, "eth0")));
        assert_eq!(refused.unwrap_err().errno(), Errno::EPERM);
    }
    // Nobody behind net1 has this address.
    let mut lost = by_device("127.0.0.1:8080", "net1");
    lost.timeout = Duration::from_millis(100);
    rig.expect(&[OUT4], || rig.app.connect_with(lost))
        .unwrap_err();
    // To one's own address on the same device is over lo.
    let own = by_device("192.168.77.2:8080", "net1");
    rig.delivered(connect4("3"), &rig.app, own, &rig.application);
    Ok(())
}

#[test]
fn more_interfaces_than_can_be_excluded_are_refused() -> Result<()> {
    let pod = Pod::new("many")?;
    // Each pair is two interfaces.
    let pairs: String = (0..9)
        .map(|n| format!("link add a{n} type veth peer name b{n}\n"))
        .collect();
    pod.ip(&pairs)?;
    let netns = pod.netns_path().display().to_string();
    let cgroup = pod.cgroup().display().to_string();
    let args = ["--cgroup", &cgroup, "--netns", &netns, "-c", "a+,b+"];
    let ended = loader::run(&args)?;
    assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
    for part in ["-c (--istio-exclude-interfaces)", "18", "at most 16"] {
        assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
    }
    Ok(())
}
