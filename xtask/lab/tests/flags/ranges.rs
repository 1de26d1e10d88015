//! Outbound ranges, captured or not.

use std::time::{Duration, Instant};

use anyhow::Result;
use sidecar_lab::{
    Agent, ConnectOptions,
    pod::{APP_ID, PROXY_ID},
};

use crate::{
    OUTSIDE, SERVICE, SERVICE6, own, own6,
    support::{Front, Rig, connect4, connect6, to},
};

#[test]
fn service_cidr() -> Result<()> {
    let mut rig = Rig::new("i")?;
    for flag in ["-i", "--istio-service-cidr"] {
        rig.load(&[
            flag,
            "10.96.0.0/16,10.97.4.0/22,fd00:96::/112",
            "--dual-stack",
        ])?;
        let Rig {
            app,
            proxy,
            outbound,
            service,
            ..
        } = &rig;
        for inside in [
            "10.96.0.0:80",
            "10.96.255.255:80",
            "10.97.4.1:80",
            "10.97.7.255:80",
        ] {
            rig.delivered(connect4("included-range"), app, to(inside), outbound);
            rig.delivered(connect4("4"), proxy, to(inside), service);
        }
        for outside in ["10.97.0.1:80", "10.97.3.255:80", "10.97.8.0:80", OUTSIDE] {
            rig.delivered(connect4("end-of-chain"), app, to(outside), service);
        }
        let (inside6, outside6) = ("[fd00:96::ffff]:80", "[fd00:96::1:0]:80");
        rig.delivered(connect6("included-range"), app, to(inside6), outbound);
        rig.delivered(connect6("end-of-chain"), app, to(outside6), service);
        let mapped = |options: ConnectOptions| ConnectOptions {
            mapped: true,
            ..options
        };
        let included = connect6("included-range");
        rig.delivered(included, app, mapped(to(SERVICE)), outbound);
        rig.delivered(connect6("end-of-chain"), app, mapped(to(OUTSIDE)), service);

        rig.load(&[flag, "", "--dual-stack"])?;
        let Rig {
            app,
            proxy,
            service,
            inbound,
            ..
        } = &rig;
        rig.delivered(connect4("end-of-chain"), app, to(SERVICE), service);
        rig.delivered(connect6("end-of-chain"), app, to(SERVICE6), service);
        rig.delivered(connect4("2"), proxy, own(8080), inbound);

        // Everything, but as a range.
        rig.load(&[flag, "0.0.0.0/0", "--dual-stack"])?;
        let Rig {
            app,
            outbound,
            service,
            ..
        } = &rig;
        rig.delivered(connect4("included-range"), app, to(OUTSIDE), outbound);
        rig.delivered(connect6("end-of-chain"), app, to(SERVICE6), service);
        rig.load(&[flag, "::/0,10.96.0.10/32", "--dual-stack"])?;
        let Rig {
            app,
            outbound,
            service,
            ..
        } = &rig;
        rig.delivered(connect6("included-range"), app, to(SERVICE6), outbound);
        rig.delivered(connect4("included-range"), app, to(SERVICE), outbound);
        rig.delivered(connect4("end-of-chain"), app, to(OUTSIDE), service);

        rig.load(&[flag, "*"])?;
        rig.delivered(connect4("9"), &rig.app, to(OUTSIDE), &rig.outbound);
    }
    Ok(())
}

/// An included loopback range makes Istio leave out rules 3 and 6, which lets others come forward.
#[test]
fn service_cidr_with_a_loopback_range() -> Result<()> {
    let mut rig = Rig::new("loopback")?;
    let by_gid = Agent::spawn(&rig.pod.proxy().user(APP_ID, PROXY_ID))?;
    rig.load(&["-i", "127.0.0.0/8,10.96.0.0/16", "--dual-stack"])?;
    let Rig {
        app,
        proxy,
        outbound,
        inbound,
        application,
        service,
        ..
    } = &rig;
    rig.delivered(connect4("8"), app, to("127.0.0.1:8080"), application);
    rig.delivered(connect6("8"), app, to("[::1]:8080"), application);
    rig.delivered(
        connect4("included-range"),
        app,
        to("127.0.0.9:8080"),
        outbound,
    );
    rig.delivered(connect4("included-range"), app, to(SERVICE), outbound);
    rig.delivered(connect4("end-of-chain"), app, own(8080), application);
    rig.delivered(connect6("end-of-chain"), app, own6(8080), application);

    rig.delivered(connect4("5"), &by_gid, own(8080), inbound);
    rig.delivered(connect6("5"), &by_gid, own6(8080), inbound);
    rig.delivered(connect4("5"), &by_gid, to("127.0.0.9:8080"), inbound);
    rig.delivered(connect4("7"), &by_gid, to("127.0.0.1:8080"), application);
    rig.delivered(connect4("7"), &by_gid, to(SERVICE), service);

    rig.delivered(connect4("2"), proxy, own(8080), inbound);
    rig.delivered(connect4("4"), proxy, to("127.0.0.1:8080"), application);

    // With several proxies every one comes back in, because no third rule is in between.
    let second = Agent::spawn(&rig.pod.proxy().user(2001, APP_ID))?;
    rig.load(&["-i", "::1/128,10.96.0.0/16", "-u", "1337,2001"])?;
    rig.delivered(connect4("2"), &second, own(8080), &rig.inbound);
    rig.delivered(
        connect4("8"),
        &rig.app,
        to("127.0.0.1:8080"),
        &rig.application,
    );
    Ok(())
}

#[test]
fn service_exclude_cidr() -> Result<()> {
    let mut rig = Rig::new("x")?;
    for flag in ["-x", "--istio-service-exclude-cidr"] {
        rig.load(&[
            flag,
            "10.96.5.0/24,fd00:96::5:0/112",
            "-q",
            "8443",
            "--dual-stack",
        ])?;
        let Rig {
            app,
            proxy,
            outbound,
            service,
            ..
        } = &rig;
        for inside in ["10.96.5.0:80", "10.96.5.255:80"] {
            rig.delivered(connect4("excluded-range"), app, to(inside), service);
        }
        for outside in ["10.96.4.255:80", "10.96.6.0:80", OUTSIDE] {
            rig.delivered(connect4("9"), app, to(outside), outbound);
        }
        let (inside6, outside6) = ("[fd00:96::5:ffff]:80", "[fd00:96::6:0]:80");
        rig.delivered(connect6("excluded-range"), app, to(inside6), service);
        rig.delivered(connect6("9"), app, to(outside6), outbound);
        rig.delivered(connect4("4"), proxy, to("10.96.5.1:80"), service);
        // Before the included ports.
        let secure = Front::outside(&rig.remote, 8443)?;
        rig.delivered(
            connect4("excluded-range"),
            app,
            to("10.96.5.1:8443"),
            &secure,
        );
        rig.delivered(
            connect4("included-port"),
            app,
            to("10.96.6.1:8443"),
            outbound,
        );

        // And before included ranges.
        rig.load(&[flag, "10.96.5.0/24", "-i", "10.96.0.0/16"])?;
        let Rig {
            app,
            outbound,
            service,
            ..
        } = &rig;
        rig.delivered(connect4("excluded-range"), app, to("10.96.5.1:80"), service);
        rig.delivered(
            connect4("included-range"),
            app,
            to("10.96.6.1:80"),
            outbound,
        );
        rig.delivered(connect4("end-of-chain"), app, to(OUTSIDE), service);
    }
    Ok(())
}

/// 10,000 ranges of both families, of which no two can be joined, as short as one argument of a
/// program must be (128 KiB): the lower half of each 256 addresses of 10.96.0.0/12, and others.
fn ten_thousand_ranges() -> String {
    let services = (0x0a60..0x0a70).flat_map(|net: u32| {
        (0..256).map(move |third| format!("{}.{}.{third}.0/25", net >> 8, net & 0xff))
    });
    let elsewhere =
        (1..10).flat_map(|first| (0..256).map(move |second| format!("{first}.{second}.0.0/17")));
    let elsewhere6 = (0x1000..0x1000 + 3599).map(|first| format!("{first:x}::/17"));
    let services6 = ["fd00:96::8000:0/97".to_owned()];
    let ranges: Vec<String> = services
        .chain(elsewhere)
        .chain(elsewhere6)
        .chain(services6)
        .collect();
    assert_eq!(ranges.len(), 10_000);
    ranges.join(",")
}

const IN_RANGES: [&str; 6] = [
    "10.96.0.0:80",
    "10.96.0.127:80",
    "10.103.77.0:80",
    "10.103.77.127:80",
    "10.111.255.0:80",
    "10.111.255.127:80",
];

const OUT_OF_RANGES: [&str; 6] = [
    "10.96.0.128:80",
    "10.96.0.255:80",
    "10.103.77.128:80",
    "10.103.77.255:80",
    "10.111.255.255:80",
    OUTSIDE,
];

const IN_RANGES6: [&str; 2] = ["[fd00:96::8000:0]:80", "[fd00:96::ffff:ffff]:80"];

const OUT_OF_RANGES6: [&str; 2] = ["[fd00:96::7fff:ffff]:80", "[fd00:96::1:0:0]:80"];

#[test]
fn ten_thousand_ranges_are_looked_up_not_scanned() -> Result<()> {
    let mut rig = Rig::new("ranges")?;
    let ranges = ten_thousand_ranges();
    for (flag, inside, outside) in [
        ("-x", "excluded-range", "9"),
        ("-i", "included-range", "end-of-chain"),
    ] {
        let start = Instant::now();
        rig.load(&[flag, &ranges, "--dual-stack"])?;
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "{:?} to start",
            start.elapsed()
        );
        // What is excluded goes to the service, and so does what is not included.
        let (in_at, out_at) = match flag {
            "-x" => (&rig.service, &rig.outbound),
            _ => (&rig.outbound, &rig.service),
        };
        for addr in IN_RANGES {
            rig.delivered(connect4(inside), &rig.app, to(addr), in_at);
        }
        for addr in OUT_OF_RANGES {
            rig.delivered(connect4(outside), &rig.app, to(addr), out_at);
        }
        for addr in IN_RANGES6 {
            rig.delivered(connect6(inside), &rig.app, to(addr), in_at);
        }
        for addr in OUT_OF_RANGES6 {
            rig.delivered(connect6(outside), &rig.app, to(addr), out_at);
        }
    }
    Ok(())
}
