//! Packets through rules.

use std::net::IpAddr;

use super::{
    super::{Hook, Packet, Protocol, RuleId, Verdict, parse, walk},
    GIVEN, id, in_nat,
};

const APP: Option<(u32, u32)> = Some((1000, 1000));
const PROXY: Option<(u32, u32)> = Some((1337, 1337));

fn packet(protocol: Protocol, to: &str, dport: u16, owner: Option<(u32, u32)>) -> Packet {
    let dst: IpAddr = to.parse().unwrap();
    let lo = dst.is_loopback();
    Packet {
        protocol,
        src: if lo {
            dst
        } else {
            "10.244.0.5".parse().unwrap()
        },
        dst,
        sport: 40000,
        dport,
        in_interface: None,
        out_interface: Some(if lo { "lo" } else { "eth0" }.to_owned()),
        owner,
    }
}

fn tcp(to: &str, dport: u16, owner: Option<(u32, u32)>) -> Packet {
    packet(Protocol::TCP, to, dport, owner)
}

/// What `GIVEN` does in the nat table: verdict, last rule, places of all that match.
#[track_caller]
fn check(packet: &Packet, verdict: Verdict, last: Option<&str>, matched: &[&str]) {
    let trace = walk(&parse(GIVEN).unwrap(), "nat", Hook::Output, packet).unwrap();
    let expected: Vec<RuleId> = matched.iter().map(|text| id(text)).collect();
    assert_eq!(trace.matched, expected);
    assert_eq!(trace.verdict, verdict);
    assert_eq!(trace.last, last.map(id));
}

#[test]
fn a_connection_of_the_application_goes_to_the_proxy() {
    check(
        &tcp("192.0.2.1", 80, APP),
        Verdict::Redirect(15001),
        Some("nat/ISTIO_REDIRECT/1"),
        &[
            "nat/OUTPUT/1",
            "nat/ISTIO_OUTPUT/6",
            "nat/ISTIO_OUTPUT/9",
            "nat/ISTIO_REDIRECT/1",
        ],
    );
}

#[test]
fn the_proxys_own_service_goes_inbound_and_the_rest_of_its_traffic_passes() {
    check(
        &tcp("127.0.0.9", 80, PROXY),
        Verdict::Redirect(15006),
        Some("nat/ISTIO_IN_REDIRECT/1"),
        &[
            "nat/OUTPUT/1",
            "nat/ISTIO_OUTPUT/3",
            "nat/ISTIO_IN_REDIRECT/1",
        ],
    );
    for to in ["127.0.0.1", "192.0.2.1"] {
        check(
            &tcp(to, 80, PROXY),
            Verdict::Accept,
            Some("nat/ISTIO_OUTPUT/5"),
            &["nat/OUTPUT/1", "nat/ISTIO_OUTPUT/5"],
        );
    }
}

#[test]
fn a_packet_without_a_socket_is_not_the_proxys() {
    check(
        &tcp("127.0.0.9", 80, None),
        Verdict::Accept,
        Some("nat/ISTIO_OUTPUT/4"),
        &["nat/OUTPUT/1", "nat/ISTIO_OUTPUT/4"],
    );
}

#[test]
fn udp_passes_the_redirection_of_tcp_and_counts_on_the_way() {
    check(
        &packet(Protocol::UDP, "192.0.2.1", 123, APP),
        Verdict::Accept,
        None,
        &["nat/OUTPUT/1", "nat/ISTIO_OUTPUT/6", "nat/ISTIO_OUTPUT/9"],
    );
    check(
        &packet(Protocol::UDP, "192.0.2.1", 53, APP),
        Verdict::Redirect(15053),
        Some("nat/ISTIO_OUTPUT_DNS/1"),
        &[
            "nat/OUTPUT/1",
            "nat/ISTIO_OUTPUT/6",
            "nat/ISTIO_OUTPUT_DNS/1",
        ],
    );
}

#[test]
fn a_return_goes_on_behind_the_jump() {
    let rules = in_nat(
        "-A OUTPUT -j USER\n-A USER -p tcp -j RETURN\n-A USER -j DROP\n-A OUTPUT -p tcp -j ACCEPT",
    );
    let trace = walk(&rules, "nat", Hook::Output, &tcp("192.0.2.1", 80, APP)).unwrap();
    assert_eq!(
        trace.matched,
        [id("nat/OUTPUT/1"), id("nat/USER/1"), id("nat/OUTPUT/2")]
    );
    assert_eq!(trace.verdict, Verdict::Accept);
    assert_eq!(trace.last, Some(id("nat/OUTPUT/2")));
}

#[test]
fn a_chains_end_is_its_policy() {
    let text = "*filter\n:OUTPUT DROP [0:0]\n-A OUTPUT -p udp -j RETURN\nCOMMIT\n";
    let trace = |packet| walk(&parse(text).unwrap(), "filter", Hook::Output, &packet).unwrap();
    let through = trace(tcp("192.0.2.1", 80, APP));
    assert_eq!((through.verdict, through.last), (Verdict::Drop, None));
    let returned = trace(packet(Protocol::UDP, "192.0.2.1", 80, APP));
    assert_eq!(returned.verdict, Verdict::Drop);
    assert_eq!(returned.last, Some(id("filter/OUTPUT/1")));
}

#[test]
fn no_table_and_no_chain_is_no_rule() {
    for table in ["mangle", "raw"] {
        let rules = in_nat("-A OUTPUT -j DROP");
        let trace = walk(&rules, table, Hook::Output, &tcp("192.0.2.1", 80, APP)).unwrap();
        assert_eq!((trace.verdict, trace.matched.len()), (Verdict::Accept, 0));
    }
}

#[test]
fn inbound_the_tunnel_is_left_alone() {
    let rules = parse(GIVEN).unwrap();
    let verdict = |dport| {
        let mut packet = tcp("10.244.0.5", dport, None);
        packet.in_interface = packet.out_interface.take();
        walk(&rules, "nat", Hook::Prerouting, &packet).unwrap()
    };
    assert_eq!(verdict(8080).verdict, Verdict::Redirect(15006));
    assert_eq!(verdict(15008).verdict, Verdict::Accept);
    assert_eq!(verdict(15008).last, Some(id("nat/ISTIO_INBOUND/1")));
}

#[test]
fn a_flow_stays_in_the_first_zone() {
    let rules = parse(GIVEN).unwrap();
    let zone = |packet| walk(&rules, "raw", Hook::Output, &packet).unwrap();
    let proxy = zone(packet(Protocol::UDP, "192.0.2.1", 53, PROXY));
    assert_eq!((proxy.zone, proxy.matched.len()), (Some(1), 3));
    let app = zone(packet(Protocol::UDP, "192.0.2.1", 53, APP));
    assert_eq!((app.zone, app.matched.len()), (Some(2), 2));
    assert_eq!(zone(tcp("192.0.2.1", 53, APP)).zone, None);
}

#[test]
fn conditions_hold_as_iptables_documents_them() {
    let base = tcp("192.0.2.1", 80, Some((7, 8)));
    for (words, holds) in [
        ("-o eth+", true),
        ("-o eth", false),
        ("! -o eth0", false),
        ("-i eth0", false),
        ("! -i eth0", true),
        ("-s 10.244.0.0/16 -d 192.0.2.0/31", true),
        ("! -s 10.244.0.5", false),
        ("-p tcp --sport 39999:40000", true),
        ("-p tcp --dport 81:", false),
        ("-p tcp -m multiport --dports 1,79:81", true),
        ("-p tcp -m multiport ! --sports 1,40000", false),
        ("-m owner --uid-owner 6-8 --gid-owner 8", true),
        ("-m owner --uid-owner 7 ! --gid-owner 8", false),
        ("-m owner ! --gid-owner 7 -m owner ! --gid-owner 9", true),
        ("-m conntrack --ctstate NEW", true),
        ("-m conntrack --ctstate INVALID", false),
        ("-m comment --comment x", true),
    ] {
        let trace = walk(
            &in_nat(&format!("-A OUTPUT {words}")),
            "nat",
            Hook::Output,
            &base,
        );
        assert_eq!(trace.unwrap().matched.len() == 1, holds, "{words}");
    }
}

#[test]
fn marks_are_refused_where_they_would_decide() {
    let trace = |table: &str, words: &str| {
        let text = format!("*{table}\n-A OUTPUT {words}\nCOMMIT\n");
        walk(
            &parse(&text).unwrap(),
            table,
            Hook::Output,
            &tcp("192.0.2.1", 80, APP),
        )
    };
    for words in [
        "-m mark --mark 1 -j RETURN",
        "-p tcp -m connmark --mark 1 -j RETURN",
        "-j MARK --set-mark 1",
        "-p tcp -j CONNMARK --save-mark",
        "-p tcp -j TPROXY --on-port 1",
    ] {
        let error = format!("{:#}", trace("mangle", words).unwrap_err());
        assert!(error.starts_with("mangle/OUTPUT/1: "), "{error}");
    }
    assert!(trace("mangle", "-p udp -m mark --mark 1 -j DROP").is_ok());
    assert!(trace("raw", "-m conntrack --ctstate NEW").is_err());
}
