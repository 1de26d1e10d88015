use super::{super::parse, *};

/// What a default installation sets.
fn defaults() -> Settings {
    Settings {
        outbound_port: 15001,
        inbound_port: 15006,
        tunnel_port: port("15008"),
        uids: vec![Ids::one(1337)],
        gids: vec![Ids::one(1337)],
        inbound: Inbound::AllBut(ports("15090,15021,15020")),
        included: Included::All,
        excluded: vec![],
        outbound_ports: vec![],
        outbound_ports_excluded: vec![],
        interfaces_excluded: vec![],
        groups: Groups::AllBut(vec![]),
        loopback: DEFAULT_LOOPBACK.parse().unwrap(),
        dns: None,
        drop_invalid: false,
        ipv6: false,
    }
}

/// Its rules, typed from Istio's documentation of them.
const DEFAULT_RULES: &str = "\
*nat
-N ISTIO_INBOUND
-N ISTIO_REDIRECT
-N ISTIO_IN_REDIRECT
-N ISTIO_OUTPUT
-A ISTIO_INBOUND -p tcp --dport 15008 -j RETURN
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A ISTIO_INBOUND -p tcp --dport 15090 -j RETURN
-A ISTIO_INBOUND -p tcp --dport 15021 -j RETURN
-A ISTIO_INBOUND -p tcp --dport 15020 -j RETURN
-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -o lo -s 127.0.0.6/32 -j RETURN
-A ISTIO_OUTPUT -o lo ! -d 127.0.0.1/32 -p tcp ! --dport 15008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -o lo -m owner ! --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -o lo ! -d 127.0.0.1/32 -p tcp ! --dport 15008 -m owner --gid-owner 1337 -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -o lo -m owner ! --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN
-A ISTIO_OUTPUT -j ISTIO_REDIRECT
COMMIT
";

fn port(text: &str) -> Ports {
    text.parse().unwrap()
}

fn ports(list: &str) -> Vec<Ports> {
    list.split(',').map(port).collect()
}

fn nets(list: &str) -> Vec<Net> {
    list.split(',').map(|net| net.parse().unwrap()).collect()
}

fn ids(list: &[u32]) -> Vec<Ids> {
    list.iter().copied().map(Ids::one).collect()
}

fn servers(list: &str) -> Vec<IpAddr> {
    list.split(',')
        .map(|server| server.parse().unwrap())
        .collect()
}

/// From settings to rules and back.
fn there_and_back(settings: &Settings) -> Result<Settings> {
    let v4 = settings.rules(Family::V4)?;
    let v6 = settings
        .ipv6
        .then(|| settings.rules(Family::V6))
        .transpose()?;
    for rules in [Some(&v4), v6.as_ref()].into_iter().flatten() {
        assert_eq!(&parse(&rules.to_string())?, rules);
    }
    Settings::of_rules(&v4, v6.as_ref())
}

#[test]
fn the_default_rules_come_from_the_default_settings() {
    let rules = parse(DEFAULT_RULES).unwrap();
    let settings = Settings::of_rules(&rules, None).unwrap();
    assert_eq!(settings, defaults());
    assert_eq!(
        settings.flags(),
        [
            "--envoy-port=15001",
            "--inbound-capture-port=15006",
            "--inbound-tunnel-port=15008",
            "--proxy-uid=1337",
            "--proxy-gid=1337",
            "--istio-inbound-ports=*",
            "--istio-local-exclude-ports=15090,15021,15020",
            "--istio-service-cidr=*",
            "--istio-service-exclude-cidr=",
            "--istio-outbound-ports=",
            "--istio-local-outbound-ports-exclude=",
        ]
    );
}

#[test]
fn every_knob_has_its_flag() {
    let settings = Settings {
        outbound_port: 1,
        inbound_port: 2,
        tunnel_port: port("3"),
        uids: ids(&[4, 5]),
        gids: ids(&[6, 7]),
        inbound: Inbound::Only(ports("8,9")),
        included: Included::Only(nets("10.0.0.0/8,fd00::/8")),
        excluded: nets("10.1.0.0/16,fd01::/16"),
        outbound_ports: ports("10,11:12"),
        outbound_ports_excluded: ports("13,14"),
        interfaces_excluded: vec![Interface("eth1".to_owned()), Interface("net+".to_owned())],
        groups: Groups::Only(ids(&[15, 16])),
        loopback: "127.0.0.0/8".parse().unwrap(),
        dns: Some(Dns::Servers(servers("10.96.0.10,fd00::10"))),
        drop_invalid: true,
        ipv6: true,
    };
    let back = there_and_back(&settings).unwrap();
    assert_eq!(back, settings);
    assert_eq!(back.dns_servers(), servers("10.96.0.10,fd00::10"));
    assert_eq!(
        back.flags().join(" "),
        "--envoy-port=1 --inbound-capture-port=2 --inbound-tunnel-port=3 --proxy-uid=4,5 \
         --proxy-gid=6,7 --istio-inbound-ports=8,9 --istio-local-exclude-ports= \
         --istio-service-cidr=10.0.0.0/8,fd00::/8 \
         --istio-service-exclude-cidr=10.1.0.0/16,fd01::/16 --istio-outbound-ports=10,11:12 \
         --istio-local-outbound-ports-exclude=13,14 --istio-exclude-interfaces=eth1,net+ \
         --outbound-owner-groups=15,16 --outbound-ipv4-loopback-cidr=127.0.0.0/8 --redirect-dns \
         --drop-invalid --dual-stack"
    );
}

#[test]
fn every_combination_comes_back() {
    let base = defaults();
    let mut all = vec![base.clone(), Settings { ipv6: true, ..base }];
    // Each step multiplies what is there by the values of one more knob.
    let multiply = |all: &mut Vec<Settings>, change: &dyn Fn(&Settings) -> Vec<Settings>| {
        *all = all.iter().flat_map(change).collect();
    };
    let both = |settings: &Settings, v4: &str, v6: &str| match settings.ipv6 {
        true => format!("{v4},{v6}"),
        false => v4.to_owned(),
    };
    multiply(&mut all, &|s| {
        let list = |v4, v6| Included::Only(nets(&both(s, v4, v6)));
        [
            Included::All,
            Included::Only(vec![]),
            list("10.0.0.0/8,0.0.0.0/0", "fd00::/8"),
            list("127.0.0.0/8,10.0.0.0/8", "::1/128"),
        ]
        .map(|included| Settings {
            included,
            ..s.clone()
        })
        .into()
    });
    multiply(&mut all, &|s| {
        [
            vec![],
            nets(&both(s, "127.0.0.1/32,0.0.0.0/0", "::/0,2001:db8::/32")),
        ]
        .map(|excluded| Settings {
            excluded,
            ..s.clone()
        })
        .into()
    });
    multiply(&mut all, &|s| {
        let these = Dns::Servers(servers(&both(s, "10.96.0.10,127.0.0.53", "fd00::10")));
        let one = Dns::Servers(servers("10.96.0.10"));
        [None, Some(Dns::All), Some(these), Some(one)]
            .map(|dns| Settings { dns, ..s.clone() })
            .into()
    });
    multiply(&mut all, &|s| {
        [
            Groups::AllBut(vec![]),
            Groups::AllBut(ids(&[888, 1337])),
            Groups::Only(vec![]),
            Groups::Only(ids(&[888])),
        ]
        .map(|groups| Settings {
            groups,
            ..s.clone()
        })
        .into()
    });
    multiply(&mut all, &|s| {
        let inbound = |inbound| Settings {
            inbound,
            ..s.clone()
        };
        let more = Settings {
            uids: ids(&[3, 4, 3]),
            gids: ids(&[1, 2]),
            outbound_ports: ports("443,8000:8100"),
            outbound_ports_excluded: ports("15020,15001"),
            ..inbound(Inbound::Only(ports("80,15008")))
        };
        vec![
            inbound(Inbound::None),
            inbound(Inbound::AllBut(vec![])),
            more,
        ]
    });
    assert_eq!(all.len(), 2 * 4 * 2 * 4 * 4 * 3);
    for settings in all {
        let back = there_and_back(&settings);
        let back = back.unwrap_or_else(|error| panic!("{settings:?}: {error:#}"));
        assert_eq!(back, settings);
    }
}

/// What only IPv6 would show, and IPv6 has no rules: something with the same effect is found.
#[test]
fn what_the_rules_do_not_show_is_made_up() {
    let hidden = [
        Settings {
            included: Included::Only(nets("10.0.0.0/8,::1/128")),
            ..defaults()
        },
        Settings {
            dns: Some(Dns::Servers(servers("fd00::10"))),
            ..defaults()
        },
    ];
    for settings in hidden {
        let back = there_and_back(&settings).unwrap();
        assert_eq!(
            back.rules(Family::V4).unwrap(),
            settings.rules(Family::V4).unwrap()
        );
    }
}

#[test]
fn what_no_settings_make_is_refused_with_the_rule() {
    let end = "-A ISTIO_OUTPUT -j ISTIO_REDIRECT\n";
    for (from, to, reason) in [
        (
            end,
            "-I PREROUTING 1 -i eth0 -j RETURN\n",
            "nat/PREROUTING/1 is for a virtual interface",
        ),
        (
            end,
            "-I PREROUTING 1 -i eth0 -j ISTIO_REDIRECT\n",
            "nat/PREROUTING/1 is for a virtual",
        ),
        (
            end,
            "-I PREROUTING 1 -i eth0 -d 10.0.0.0/8 -j ISTIO_REDIRECT\n",
            "nat/PREROUTING/1 is for a virtual",
        ),
        (
            "COMMIT\n",
            "COMMIT\n*mangle\n-A PREROUTING -p tcp -j TPROXY --on-port 15006\nCOMMIT\n",
            "mangle/PREROUTING/1 needs TPROXY",
        ),
        (
            "COMMIT\n",
            "COMMIT\n*filter\n:INPUT DROP [0:0]\nCOMMIT\n",
            "filter/INPUT has the policy",
        ),
        (
            "COMMIT\n",
            "COMMIT\n*filter\n-A INPUT -j DROP\nCOMMIT\n",
            "filter/INPUT/1 is \"-j DROP\", where no rule",
        ),
        (
            end,
            "-A ISTIO_OUTPUT -j ISTIO_REDIRECT\n-A ISTIO_OUTPUT -j DROP\n",
            "nat/ISTIO_OUTPUT/10",
        ),
        (
            "-m owner --uid-owner 1337 -j RETURN",
            "-m owner --uid-owner 3 -j RETURN",
            "nat/ISTIO_OUTPUT/4",
        ),
        (
            "-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN\n",
            "",
            "nat/ISTIO_OUTPUT/4",
        ),
        ("-A OUTPUT -j ISTIO_OUTPUT\n", "", "nat/OUTPUT/1 is missing"),
        (
            "--dport 15008 -j RETURN",
            "--dport 15008 -j ACCEPT",
            "nat/ISTIO_INBOUND/1",
        ),
        (
            "-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001\n",
            "",
            "nat/ISTIO_REDIRECT",
        ),
        ("-s 127.0.0.6/32", "-s 127.0.0.7/32", "nat/ISTIO_OUTPUT/1"),
    ] {
        assert!(DEFAULT_RULES.contains(from));
        let rules = parse(&DEFAULT_RULES.replacen(from, to, 1)).unwrap();
        let error = format!("{:#}", Settings::of_rules(&rules, None).unwrap_err());
        assert!(error.contains(reason), "{to}: {error}");
    }
}

#[test]
fn a_difference_in_ipv6s_rules_is_found_as_well() {
    let settings = Settings {
        ipv6: true,
        ..defaults()
    };
    let v4 = settings.rules(Family::V4).unwrap();
    let v6 = settings.rules(Family::V6).unwrap().to_string();
    let v6 = parse(&v6.replace("! -d ::1/128", "! -d ::2/128")).unwrap();
    let error = format!("{:#}", Settings::of_rules(&v4, Some(&v6)).unwrap_err());
    assert!(
        error.contains("for v6") && error.contains("nat/ISTIO_OUTPUT/2"),
        "{error}"
    );
}
