//! What is taken, what it becomes, and what is refused.

use super::{
    super::{Names, parse, parse_with, split_families},
    GIVEN, READ_BACK, canonical, id, in_nat, nat, refused,
};

#[test]
fn what_iptables_prints_back_is_what_was_given() {
    let given = parse(GIVEN).unwrap();
    let counts = given.counts(&parse(READ_BACK).unwrap()).unwrap();
    assert_eq!(counts.len(), given.rules().count());
    assert_eq!(counts[&id("nat/ISTIO_OUTPUT/3")], 8);
    assert_eq!(counts[&id("nat/ISTIO_OUTPUT_DNS/1")], 15);
    assert_eq!(counts[&id("raw/ISTIO_OUTPUT_DNS/2")], 23);
}

#[test]
fn other_rules_than_given_are_named() {
    let given = parse(GIVEN).unwrap();
    let error_for = |from: &str, to: &str| {
        assert!(READ_BACK.contains(from));
        let read_back = parse(&READ_BACK.replace(from, to)).unwrap();
        given.counts(&read_back).unwrap_err().to_string()
    };
    let moved = error_for("--dport 5432", "--dport 5433");
    assert!(
        moved.starts_with("nat/ISTIO_OUTPUT/1 was given as"),
        "{moved}"
    );
    let gone = error_for(
        "[10:60] -A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN\n",
        "",
    );
    assert!(
        gone.starts_with("nat/ISTIO_OUTPUT/5 was given as"),
        "{gone}"
    );
    let last = error_for("[14:60] -A ISTIO_OUTPUT -j ISTIO_REDIRECT\n", "");
    assert!(
        last.starts_with("nat/ISTIO_OUTPUT/9 was given, but"),
        "{last}"
    );
    let stray = error_for(
        "COMMIT\n# Completed",
        "[0:0] -A OUTPUT -j DROP\nCOMMIT\n# Completed",
    );
    assert!(
        stray.starts_with("raw/OUTPUT/2 is installed, but"),
        "{stray}"
    );
    let uncounted = error_for("[14:60] ", "");
    assert!(uncounted.contains("has no counter"), "{uncounted}");
}

#[test]
fn printing_and_parsing_again_changes_nothing() {
    for text in [GIVEN, READ_BACK] {
        let once = parse(text).unwrap();
        assert_eq!(parse(&once.to_string()).unwrap(), once);
    }
}

/// Each pair as given to iptables 1.8.9 and printed by it.
#[test]
fn words_have_one_form() {
    for (given, printed) in [
        ("-o lo -s 127.0.0.6", "-s 127.0.0.6/32 -o lo"),
        (
            "-s 10.1.2.3/8 -d 10.0.0.0/255.255.0.0",
            "-s 10.0.0.0/8 -d 10.0.0.0/16",
        ),
        ("-d fd00:0:0:1::1/64", "-d fd00:0:0:1::/64"),
        ("-d ! 10.0.0.0/8", "! -d 10.0.0.0/8"),
        ("-d 0.0.0.0/0 -j RETURN", "-j RETURN"),
        ("-p all -i + -j RETURN", "-j RETURN"),
        ("-p 6 -m tcp --dport 1000:2000", "-p tcp --dport 1000:2000"),
        ("-p tcp --dport ! 53:53", "-p tcp ! --dport 53"),
        ("-p udp --dport :53", "-p udp --dport 0:53"),
        ("-p icmpv6", "-p ipv6-icmp"),
        ("! -p tcp -o eth+", "-o eth+ ! -p tcp"),
        (
            "-p tcp --dport 53 --sport 80",
            "-p tcp --sport 80 --dport 53",
        ),
        (
            "-p udp -j REDIRECT --to-port 1",
            "-p udp -j REDIRECT --to-ports 1",
        ),
        ("-m owner --uid-owner 3-5", "-m owner --uid-owner 3-5"),
        ("-m owner --uid-owner root", "-m owner --uid-owner 0"),
        ("-m owner --gid-owner root", "-m owner --gid-owner 0"),
        ("-m mark ! --mark 1338", "-m mark ! --mark 0x53a"),
        ("-m connmark --mark 1337", "-m connmark --mark 0x539"),
        (
            "-m conntrack --ctstate RELATED,ESTABLISHED",
            "-m conntrack --ctstate ESTABLISHED,RELATED",
        ),
        (
            r#"-m comment --comment "a \"b\"""#,
            r#"-m comment --comment "a \"b\"""#,
        ),
        ("-m comment --comment one", r#"-m comment --comment "one""#),
        (
            "-j MARK --set-mark 1338",
            "-j MARK --set-xmark 0x53a/0xffffffff",
        ),
        (
            "-j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff",
            "-j CONNMARK --save-mark",
        ),
        (
            "-p tcp -j TPROXY --tproxy-mark 1337/0xffffffff --on-port 15006",
            "-p tcp -j TPROXY --on-port 15006 --tproxy-mark 0x539/0xffffffff",
        ),
        (
            "-p tcp -j TPROXY --on-port 15006 --on-ip 0.0.0.0 --tproxy-mark 0x539/0xffffffff",
            "-p tcp -j TPROXY --on-port 15006 --tproxy-mark 0x539/0xffffffff",
        ),
    ] {
        assert_eq!(canonical(given), printed, "{given}");
        assert_eq!(canonical(printed), printed);
    }
}

#[test]
fn an_inserted_rule_comes_where_it_was_asked_for() {
    let rules = in_nat("-A OUTPUT -o a\n-I OUTPUT -o b\n-I OUTPUT 2 -o c\n-I OUTPUT 4 -o d");
    let order: Vec<String> = rules.rules().map(|(_, rule)| rule.to_string()).collect();
    assert_eq!(order, ["-o b", "-o c", "-o a", "-o d"]);
    assert!(refused(&nat("-I OUTPUT 2 -o a")).contains("no place 2"));
}

#[test]
fn names_can_come_from_elsewhere() {
    let names = Names {
        user: &|_| None,
        group: &|name| (name == "ftp").then_some(21),
    };
    let rules = parse_with(&nat("-A OUTPUT -m owner --gid-owner ftp"), names).unwrap();
    let rule = rules.rule(&id("nat/OUTPUT/1")).unwrap();
    assert_eq!(rule.to_string(), "-m owner --gid-owner 21");
    let unknown = parse_with(&nat("-A OUTPUT -m owner --uid-owner ftp"), names);
    let error = format!("{:#}", unknown.unwrap_err());
    assert!(
        error.contains(r#"nobody here has the name "ftp""#),
        "{error}"
    );
}

#[test]
fn what_is_not_known_is_refused_with_its_line() {
    for (rule, reason) in [
        (
            "-A OUTPUT -m statistic --mode random -j RETURN",
            "\"statistic\"",
        ),
        ("-A OUTPUT -f -j RETURN", "\"-f\""),
        ("-A OUTPUT -p tcp --syn -j RETURN", "\"--syn\""),
        ("-A OUTPUT --uid-owner 3 -j RETURN", "needs -m owner"),
        ("-A OUTPUT --dport 80 -j RETURN", "need -p tcp"),
        ("-A OUTPUT ! -p tcp --dport 80 -j RETURN", "need -p tcp"),
        ("-A OUTPUT -j REDIRECT --to-ports 1", "need -p tcp"),
        ("-A OUTPUT -p tcp --dport http -j RETURN", "\"http\""),
        ("-A OUTPUT -p tcp --dport 9:8 -j RETURN", "ends before"),
        ("-A OUTPUT -p tcp -j REDIRECT --to-ports 1-2", "\"1-2\""),
        ("-A OUTPUT -p tcp -j REDIRECT", "--to-ports or --to-port"),
        ("-A OUTPUT -d example.org -j RETURN", "\"example.org\""),
        ("-A OUTPUT -d 10.0.0.0/33 -j RETURN", "32 bits"),
        ("-A OUTPUT -d 10.0.0.0/255.0.255.0 -j RETURN", "hole"),
        ("-A OUTPUT ! -d ! 10.0.0.0/8 -j RETURN", "twice"),
        ("-A OUTPUT ! -j RETURN", "cannot be negated"),
        ("-A OUTPUT -j RETURN !", "nothing to negate"),
        ("-A OUTPUT -j RETURN -j ACCEPT", "one target"),
        ("-A OUTPUT -p", "missing"),
        ("-A OUTPUT -j NOWHERE", "no user chain NOWHERE"),
        ("-A OUTPUT -j PREROUTING", "no user chain PREROUTING"),
        ("-A NOWHERE -j RETURN", "no chain NOWHERE"),
        ("-A USER -j USER", "circles"),
        ("-N OTHER\n-A USER -j OTHER\n-A OTHER -j USER", "circles"),
        ("-N USER", "there already"),
        ("-D OUTPUT -j RETURN", "-N, -A and -I"),
        ("-A OUTPUT -m comment --comment \"open", "quote"),
        ("-A OUTPUT -i a-name-of-16-byte -j RETURN", "no name"),
        (":OUTPUT - [0:0]", "policy"),
        ("[1] -A OUTPUT -j RETURN", "counters"),
    ] {
        let error = refused(&nat(rule));
        assert!(error.contains(reason), "{rule}: {error}");
        assert!(error.starts_with("line "), "{rule}: {error}");
    }
}

#[test]
fn a_text_is_tables_of_one_family() {
    for (text, reason) in [
        ("-A OUTPUT -j RETURN\n", "outside of a table"),
        ("*nat\n", "no COMMIT"),
        ("*nat\n*raw\nCOMMIT\n", "no COMMIT"),
        ("*nat\nCOMMIT\n*nat\nCOMMIT\n", "second time"),
        ("*security\nCOMMIT\n", "no table"),
        (
            "*nat\n-A OUTPUT -s ::1\n-A OUTPUT -s 10.0.0.1\nCOMMIT\n",
            "another family",
        ),
    ] {
        let error = refused(text);
        assert!(error.contains(reason), "{text}: {error}");
    }
}

#[test]
fn families_are_split_where_the_tables_begin_again() {
    let one = "* nat\nCOMMIT\n* raw\nCOMMIT\n";
    let six = "* nat\n-A OUTPUT -d ::1/128\nCOMMIT\n* raw\nCOMMIT\n";
    let text = format!("iptables-save\nip6tables-save\n{one}{six}iptables-save\n");
    let (v4, v6) = split_families(&text).unwrap();
    assert_eq!((v4.as_str(), v6.as_deref()), (one, Some(six)));
    assert_eq!(split_families(one).unwrap(), (one.to_owned(), None));
    assert!(split_families(&one.repeat(3)).is_err());
}
