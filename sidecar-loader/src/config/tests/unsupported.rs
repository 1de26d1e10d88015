//! What is not understood.

use super::*;

#[test]
fn unsupported_flags_are_refused_by_name_with_a_reason() {
    for setting in UNSUPPORTED {
        let long = setting.long;
        let arg = if setting.is_switch() {
            format!("--{long}")
        } else {
            format!("--{long}=eth9")
        };
        let error = refused(&[&arg]);
        assert!(error.starts_with(&format!("--{long}")), "{error}");
        assert!(
            error.contains("is not supported") && error.ends_with(setting.why),
            "{error}"
        );
        if let Some(short) = setting.short {
            let short = if setting.is_switch() {
                format!("-{short}")
            } else {
                format!("-{short}eth9")
            };
            assert_eq!(refused(&[&short]), error);
        }
    }
}

#[test]
fn unsupported_variables_are_refused_by_name() {
    for (variable, value) in [
        ("ISTIO_INBOUND_INTERCEPTION_MODE", "TPROXY"),
        ("KUBE_VIRT_INTERFACES", "net1,net2"),
        ("DRY_RUN", "true"),
        ("SKIP_RULE_APPLY", "true"),
        ("RUN_VALIDATION", "true"),
        ("CLEANUP_ONLY", "true"),
        ("NETWORK_NAMESPACE", "/run/netns/pod"),
        ("NATIVE_NFTABLES", "true"),
        ("NATIVE_NFTABLES", "perhaps"),
    ] {
        let error = resolve(&[], &[(variable, value)])
            .expect_err(variable)
            .to_string();
        assert!(
            error.starts_with(&format!("environment variable {variable}")),
            "{error}"
        );
        assert!(
            error.contains(&format!("{value:?} is not supported")),
            "{error}"
        );
    }
}

#[test]
fn values_that_change_nothing_pass() {
    let variables = [
        ("ISTIO_INBOUND_INTERCEPTION_MODE", "REDIRECT"),
        ("ISTIO_INBOUND_TPROXY_MARK", "1338"),
        ("ISTIO_INBOUND_TPROXY_ROUTE_TABLE", "7"),
        ("ISTIO_EXCLUDE_INTERFACES", ""),
        ("KUBE_VIRT_INTERFACES", ","),
        ("ISTIO_META_DNS_CAPTURE", "false"),
        ("CAPTURE_ALL_DNS", "0"),
        ("INVALID_DROP", "F"),
        ("DRY_RUN", ""),
        ("NETWORK_NAMESPACE", ""),
        ("ISTIO_OUTBOUND_OWNER_GROUPS", "*"),
        ("ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", ""),
        ("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", "127.0.0.1/32"),
        ("FORCE_IPTABLES_BINARY", "nft"),
        ("RECONCILE", "true"),
    ];
    assert_eq!(resolve(&[], &variables).unwrap(), good(&[]));
    // What the injector's template passes to istio-iptables.
    let istio_init = [
        "-p",
        "15001",
        "-z",
        "15006",
        "-u",
        "1337",
        "-m",
        "REDIRECT",
        "-i",
        "*",
        "-x",
        "",
        "-b",
        "*",
        "-d",
        "15090,15021,15020",
    ];
    assert_eq!(good(&istio_init), good(&[]));
    assert_eq!(
        good(&["--redirect-dns=false", "--drop-invalid=false", "-c", ""]),
        good(&[])
    );
}

#[test]
fn an_unsupported_flag_overrides_its_variables() {
    let nftables = ("NATIVE_NFTABLES", "true");
    assert!(resolve(&["--native-nftables=false"], &[nftables]).is_ok());
    assert!(resolve(&[], &[nftables]).is_err());
}
