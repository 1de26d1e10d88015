//! Ids, ports and ranges.

use super::*;

#[test]
fn ids_are_lists_and_gids_follow_uids() {
    let config = good(&["-u", "3, 4 ,,3,4294967294,0"]);
    assert_eq!(
        ids(config.uids),
        [3, 4, 4_294_967_294, 0],
        "in order, without repetition"
    );
    assert_eq!(config.gids, config.uids);
    assert_eq!(ids(good(&["-u", "3", "-g", "4"]).gids), [4]);
    assert_eq!(good(&["-u", "", "-g", ""]), good(&[]));
    assert_eq!(resolve(&[], &[("PROXY_UID", "")]).unwrap(), good(&[]));
    let none = good(&["-u", ","]);
    assert_eq!((ids(none.uids), ids(none.gids)), (vec![], vec![]));
    assert!(
        none.notes[0].contains("--proxy-uid (-u)"),
        "{:?}",
        none.notes
    );
}

#[test]
fn bad_ids_are_refused_by_name() {
    for (flag, name, other) in [
        ("-u", "--proxy-uid (-u)", "-g=1"),
        ("-g", "--proxy-gid (-g)", "-u=1"),
    ] {
        for bad in [
            "istio-proxy",
            "-1",
            "+1",
            "01",
            "4294967295",
            "1-2",
            "0x10",
            "1 2",
            "1000-",
            "*",
        ] {
            let error = refused(&[&format!("{flag}={bad}"), other]);
            assert!(error.starts_with(&format!("{name}: {bad:?}")), "{error}");
        }
    }
    let many: Vec<_> = (0..=16).map(|id| id.to_string()).collect();
    let error = refused(&["-u", &many.join(",")]);
    assert!(
        error.contains("--proxy-uid (-u): 17 different ids") && error.contains("16"),
        "{error}"
    );
    assert_eq!(ids(good(&["-u", &many[..16].join(",")]).uids).len(), 16);
}

#[test]
fn written_lists_keep_their_order_and_repetition() {
    let config = good(&[
        "-o",
        "9,8,9",
        "-q",
        "5:6,4",
        "-x",
        "10.0.0.1/8,::1/64,10.0.0.0/8",
    ]);
    let Written {
        outbound_excluded,
        outbound_included,
        inbound_excluded,
        inbound_included,
        excluded,
        included,
    } = config.written;
    assert_eq!(outbound_excluded, [9..=9, 8..=8, 9..=9]);
    assert_eq!(outbound_included, [5..=6, 4..=4]);
    assert_eq!(
        inbound_excluded,
        [15090..=15090, 15021..=15021, 15020..=15020]
    );
    assert_eq!(inbound_included, []);
    let excluded = excluded.iter().map(|(addr, len)| format!("{addr}/{len}"));
    assert_eq!(
        excluded.collect::<Vec<_>>(),
        ["10.0.0.1/8", "::1/64", "10.0.0.0/8"]
    );
    assert_eq!(included, []);
}

#[test]
fn interfaces_are_names_or_their_beginnings() {
    let interfaces = |list| good(&["-c", list]).excluded_interfaces;
    assert_eq!(
        interfaces("eth1, net+ ,,eth1,+,eth0:1"),
        ["eth1", "net+", "+", "eth0:1"]
    );
    assert_eq!(interfaces("123456789012345"), ["123456789012345"]);
    assert_eq!(good(&["-c", ""]), good(&[]));
    for bad in [
        "1234567890123456",
        "eth/0",
        "eth 0",
        "eth\t0",
        "\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}",
    ] {
        let error = refused(&["-c", &format!("eth0,{bad}")]);
        let expected = format!("--istio-exclude-interfaces (-c): {bad:?} is not an interface");
        assert!(error.starts_with(&expected), "{error}");
    }
}

#[test]
fn localhost_is_an_ipv4_loopback_range() {
    let loopback = |range| {
        let (addr, len) = good(&["--outbound-ipv4-loopback-cidr", range]).loopback;
        format!("{addr}/{len}")
    };
    assert_eq!(loopback("127.0.0.1/32"), "127.0.0.1/32");
    assert_eq!(
        loopback("127.0.0.5/8"),
        "127.0.0.0/8",
        "as iptables masks it"
    );
    assert_eq!(loopback(" 127.1.2.3/24 "), "127.1.2.0/24");
    for bad in [
        "",
        "*",
        "127.0.0.1",
        "127.0.0.1/7",
        "127.0.0.1/33",
        "126.0.0.0/8",
        "::1/128",
        "::ffff:127.0.0.1/104",
        "127.0.0.0/8,127.0.0.1/32",
        "localhost/8",
    ] {
        let error = resolve(&[], &[("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", bad)]).unwrap_err();
        let from = "--outbound-ipv4-loopback-cidr from $ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR";
        assert!(
            error.to_string().starts_with(&format!("{from}: {bad:?}")),
            "{error}"
        );
    }
}

#[test]
fn the_proxy_s_own_ports_are_single_numbers() {
    for (flag, name) in [
        ("-p", "--envoy-port (-p)"),
        ("-z", "--inbound-capture-port (-z)"),
        ("-e", "--inbound-tunnel-port (-e)"),
    ] {
        for bad in ["", "0", "65536", "http", "80,81", "80:81", "*", "-1", "080"] {
            let error = refused(&[&format!("{flag}={bad}")]);
            assert!(
                error.starts_with(&format!("{name}: {bad:?} is not a port")),
                "{error}"
            );
        }
    }
    let error = refused(&["-p", "15006"]);
    assert!(
        error.contains("-p") && error.contains("-z") && error.contains("15006"),
        "{error}"
    );
}

#[test]
fn port_lists_take_blanks_empty_items_repetition_and_ranges() {
    let config = good(&[
        "-q",
        " 443 ,80,,80,8000:8002,",
        "-o",
        ":2,65534:",
        "-b",
        "80",
    ]);
    assert_eq!(
        ports(&config, PortLists::OUTBOUND_INCLUDED),
        [80, 443, 8000, 8001, 8002]
    );
    assert_eq!(
        ports(&config, PortLists::OUTBOUND_EXCLUDED),
        [0, 1, 2, 65534, 65535]
    );
    assert_eq!(ports(&config, PortLists::INBOUND_INCLUDED), [80]);
    assert!(config.ports.is_sorted_by_key(|entry| entry.0));
    assert_eq!(good(&["-q", "1:65535"]).ports.len(), 65_535 + 3);
}

#[test]
fn bad_ports_are_refused_by_name() {
    for (flag, name) in [
        ("-b", "--istio-inbound-ports (-b)"),
        ("-d", "--istio-local-exclude-ports (-d)"),
        ("-q", "--istio-outbound-ports (-q)"),
        ("-o", "--istio-local-outbound-ports-exclude (-o)"),
    ] {
        for bad in [
            "0", "65536", "http", "*", "9:8", ":", "0:5", "1:2:3", "080", "+80", "8 0",
        ] {
            // The wildcard is for -b alone, and there it stands alone.
            let error = refused(&[flag, &format!("81,{bad}")]);
            assert!(error.starts_with(&format!("{name}: {bad:?}")), "{error}");
        }
    }
    assert_eq!(
        refused(&["-b", "80", "-d", "x"]),
        refused(&["-d", "x"]),
        "checked though unused"
    );
    assert!(refused(&["-q", "a,80,b,c"]).contains("\"a\" is not a port"));
    assert!(refused(&["-q", "a,80,b,c"]).contains("(and 2 more in this list)"));
}

#[test]
fn inbound_is_off_all_or_a_list() {
    let switches = |args: &[&str]| good(args).switches(false);
    assert!(switches(&["-b", " * "]).has(Switches::INBOUND_ALL));
    let off = switches(&["-b", ""]);
    assert!(!off.has(Switches::INBOUND_ALL) && !off.has(Switches::INBOUND_PORTS));
    let list = good(&["-b", "80", "-d", "80"]);
    assert_eq!(list.inbound, Inbound::Ports);
    assert_eq!(
        list.ports,
        [(Port(80), PortLists::INBOUND_INCLUDED)],
        "-d is for -b '*' only"
    );
    assert!(list.switches(false).has(Switches::INBOUND_PORTS));
    // Istio jumps to the chain as soon as the string is not empty.
    assert_eq!(good(&["-b", ","]).inbound, Inbound::Ports);
}

#[test]
fn switches_follow_the_lists() {
    let base = Switches::INBOUND_ALL.with(Switches::OUTBOUND_ALL);
    assert_eq!(
        good(&["-q", "80"]).switches(false),
        base.with(Switches::OUTBOUND_PORTS)
    );
    assert_eq!(
        good(&["-o", "80"]).switches(false),
        base.with(Switches::OUTBOUND_PORTS)
    );
    assert_eq!(
        good(&["-x", "10.0.0.0/8"]).switches(false),
        base.with(Switches::OUTBOUND_EXCLUDED_RANGES)
    );
    assert_eq!(good(&["-i", ""]).switches(false), Switches::INBOUND_ALL);
    assert_eq!(
        good(&["-i", "127.0.0.0/8"]).switches(false),
        Switches::INBOUND_ALL
            .with(Switches::OUTBOUND_RANGES)
            .with(Switches::LOOPBACK_INCLUDED)
    );
}

#[test]
fn ranges_are_masked_sorted_and_distinct() {
    let config = good(&[
        "-i",
        " 10.1.2.3/8 ,fd00::1/8,,10.0.0.0/8,0.0.0.0/0,::/0,10.9.8.7/32,",
    ]);
    assert_eq!(
        ranges(&config.included),
        ["0.0.0.0/0", "10.0.0.0/8", "10.9.8.7/32", "::/0", "fd00::/8"]
    );
    assert!(!config.outbound_all && !config.loopback_included);
    assert_eq!(
        ranges(&good(&["-x", "2001:db8::ffff/127"]).excluded),
        ["2001:db8::fffe/127"]
    );
}

#[test]
fn loopback_goes_by_the_address_as_written() {
    for yes in [
        "127.0.0.1/32",
        "127.9.0.0/16",
        "127.0.0.1/0",
        "::1/128",
        "::1/64",
    ] {
        assert!(good(&["-i", yes]).loopback_included, "{yes}");
    }
    for no in ["*", "", "126.0.0.0/7", "0.0.0.0/0", "::/0"] {
        assert!(!good(&["-i", no]).loopback_included, "{no}");
    }
    assert!(!good(&["-x", "127.0.0.1/32"]).loopback_included);
}

#[test]
fn mapped_ranges_match_nothing_and_say_so() {
    let config = good(&["-i", "::ffff:10.0.0.0/104,10.2.0.0/16"]);
    assert_eq!(ranges(&config.included), ["10.2.0.0/16"]);
    assert!(
        config.notes[0].contains("--istio-service-cidr (-i)"),
        "{:?}",
        config.notes
    );
    assert!(good(&["-i", "::ffff:127.0.0.1/128"]).loopback_included);
    let wide = good(&["-i", "::ffff:0:0/90"]);
    assert_eq!(
        (ranges(&wide.included), wide.notes.len()),
        (vec!["::ffc0:0:0/90".to_owned()], 0)
    );
}

#[test]
fn bad_ranges_are_refused_by_name() {
    for (flag, name) in [
        ("-i", "--istio-service-cidr (-i)"),
        ("-x", "--istio-service-exclude-cidr (-x)"),
    ] {
        for bad in [
            "*",
            "10.0.0.1",
            "::1",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/",
            "10.0.0.0/08",
            "10.0.0/8",
            "10.0.0.0/+8",
            "10.00.0.0/8",
            "fe80::1%lo/64",
            "cluster.local",
            "10.0.0.0/255.0.0.0",
        ] {
            let error = refused(&[flag, &format!("10.0.0.0/8,{bad}")]);
            assert!(error.starts_with(&format!("{name}: {bad:?}")), "{error}");
        }
    }
    assert!(refused(&["-x", "*"]).starts_with("--istio-service-exclude-cidr (-x): \"*\""));
    assert!(refused(&["-i", "10.0.0.1"]).ends_with("one address is 10.0.0.1/32"));
}

#[test]
fn long_lists_are_fast_up_to_the_bound() {
    let list = |count: u32| {
        let ranges = (0..count).map(|i| format!("{}/32", Ipv4Addr::from_bits(i << 3)));
        ranges.collect::<Vec<_>>().join(",")
    };
    let ten_thousand = list(10_000);
    let start = Instant::now();
    assert_eq!(good(&["-x", &ten_thousand]).excluded.len(), 10_000);
    assert!(start.elapsed().as_millis() < 1_000, "{:?}", start.elapsed());
    assert_eq!(
        good(&["-i", &list(MAX_RANGES)]).included.len(),
        MAX_RANGES as usize
    );
    let error = refused(&["-i", &list(MAX_RANGES + 1)]);
    assert!(
        error.starts_with("--istio-service-cidr (-i): 65537 different ranges"),
        "{error}"
    );
}
