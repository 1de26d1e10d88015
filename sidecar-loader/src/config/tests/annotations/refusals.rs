//! What is wrong with a pod, and what may be.

use super::*;

#[test]
fn errors_name_the_annotation_and_the_file() {
    for (key, value, flag) in [
        (
            "includeOutboundIPRanges",
            "ten",
            "--istio-service-cidr (-i)",
        ),
        (
            "excludeOutboundIPRanges",
            "*",
            "--istio-service-exclude-cidr (-x)",
        ),
        ("includeInboundPorts", "http", "--istio-inbound-ports (-b)"),
        (
            "excludeInboundPorts",
            "*",
            "--istio-local-exclude-ports (-d)",
        ),
        ("includeOutboundPorts", "0", "--istio-outbound-ports (-q)"),
        (
            "excludeOutboundPorts",
            "x",
            "--istio-local-outbound-ports-exclude (-o)",
        ),
        (
            "excludeInterfaces",
            "a/b",
            "--istio-exclude-interfaces (-c)",
        ),
    ] {
        for defaults in ["init", "cni"] {
            let error = problem(&[(key, value)], &["--annotation-defaults", defaults]);
            let from = format!("{flag} from annotation traffic.sidecar.istio.io/{key} in FILE: ");
            assert!(
                error.starts_with(&from) && error.contains(&format!("{value:?}")),
                "{error}"
            );
        }
    }
    for port in ["http", "", "65536", "1,2"] {
        for defaults in ["init", "cni"] {
            let annotation = [("status.sidecar.istio.io/port", port)];
            let error = problem(&annotation, &["--annotation-defaults", defaults]);
            let from = "annotation status.sidecar.istio.io/port in FILE: ";
            assert!(error.starts_with(from), "{error}");
        }
    }
}

#[test]
fn what_is_not_supported_is_refused_here_too() {
    let mode = "sidecar.istio.io/interceptionMode";
    for (annotation, words) in [
        (
            (mode, "TPROXY"),
            "which is --istio-inbound-interception-mode (-m): \"TPROXY\" is not supported",
        ),
        ((mode, "NONE"), "left alone"),
        ((mode, "redirect"), "\"redirect\" is not a mode"),
        ((mode, ""), "\"\" is not a mode"),
        (
            ("kubevirtInterfaces", "tap0"),
            "which is --kube-virt-interfaces (-k): \"tap0\"",
        ),
        (
            ("istio.io/reroute-virtual-interfaces", "tap0"),
            "which is --kube-virt-interfaces (-k): \"tap0\"",
        ),
        (
            ("proxy.istio.io/config", "interceptionMode: TPROXY"),
            "\"TPROXY\" is not supported",
        ),
        (
            (
                "proxy.istio.io/config",
                "proxyMetadata: {NATIVE_NFTABLES: 'true'}",
            ),
            "which is --native-nftables: \"true\"",
        ),
        (
            ("sidecar.istio.io/inject", "false"),
            "\"false\" means that the pod has no sidecar",
        ),
    ] {
        let error = problem(&[annotation], &[]);
        let (key, _) = annotation;
        assert!(
            error.contains(key) && error.contains("in FILE") && error.contains(words),
            "{error}"
        );
    }
    // The annotation outranks the configuration, and the one name of the interfaces the other.
    let both = [
        (mode, "REDIRECT"),
        ("proxy.istio.io/config", "interceptionMode: TPROXY"),
    ];
    assert_eq!(init(&both), good(&[]));
    let both = [
        ("kubevirtInterfaces", "tap0"),
        ("istio.io/reroute-virtual-interfaces", ""),
    ];
    assert_eq!(init(&both), good(&[]));
    // A flag outranks both.
    let tproxy = file(&[(mode, "TPROXY"), ("kubevirtInterfaces", "tap0")]);
    assert_eq!(
        with(&tproxy, &["-m", "REDIRECT", "-k", ""], &[]).unwrap(),
        good(&[])
    );
}

#[test]
fn the_label_outranks_the_annotation_for_injection() {
    let pod = |label: &str| {
        Scratch::new(&format!(
            "kind: Pod\nmetadata:\n  labels: {{{label}}}\n  annotations: \
             {{sidecar.istio.io/inject: 'false'}}\n"
        ))
    };
    assert_eq!(
        with(&pod("sidecar.istio.io/inject: 'true'"), &[], &[]).unwrap(),
        good(&[])
    );
    let error = with(&pod("a: b"), &[], &[]).unwrap_err().to_string();
    assert!(
        error.starts_with("annotation sidecar.istio.io/inject"),
        "{error}"
    );
    let error = with(&pod("sidecar.istio.io/inject: 'false'"), &[], &[]).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("label sidecar.istio.io/inject")
    );
}

#[test]
fn what_may_be_a_mistake_is_noted() {
    let config = init(&[("includeOutboundIpRanges", "10.0.0.0/8")]);
    assert!(
        config.notes[0].contains("includeOutboundIpRanges")
            && config.notes[0].contains("no such annotation"),
        "{:?}",
        config.notes
    );
    assert_eq!(quiet(config), good(&[]));
    let empty = Scratch::new("");
    let config = with(&empty, &[], &[]).unwrap();
    assert!(config.notes[0].contains("has none"), "{:?}", config.notes);
}

#[test]
fn a_file_that_cannot_be_read_is_named_beside_other_problems() {
    let file = Scratch::new("kind: Pod\n---\nkind: Pod");
    let error = with(&file, &["-p", "x"], &[]).unwrap_err().to_string();
    assert!(error.starts_with("2 settings are refused:"), "{error}");
    assert!(
        error.contains(file.path()) && error.contains("several documents"),
        "{error}"
    );
    let missing = format!("{}.missing", file.path());
    let error = refused(&["--annotations", &missing]);
    assert!(
        error.starts_with("--annotations: cannot read") && error.contains(&missing),
        "{error}"
    );
    let large = Scratch::new(&"#".repeat((4 << 20) + 1));
    assert!(refused(&["--annotations", large.path()]).contains("larger than 4 MiB"));
}
