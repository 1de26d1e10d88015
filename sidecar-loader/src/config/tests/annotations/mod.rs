//! What a pod's annotations come to.

mod refusals;

use proptest::prelude::*;

use super::*;

const INIT_EXCLUDED: &str = "15090,15021,15020";
const CNI_EXCLUDED: &str = "15020,15021,15090";

/// A downward API file out of keys below `traffic.sidecar.istio.io/`, or whole keys.
fn file(annotations: &[(&str, &str)]) -> Scratch {
    let lines = annotations.iter().map(|(key, value)| {
        let domain = if key.contains('/') {
            ""
        } else {
            "traffic.sidecar.istio.io/"
        };
        format!("{domain}{key}={value:?}\n")
    });
    // A pod is not without any.
    Scratch::new(&format!(
        "kubernetes.io/psp=\"none\"\n{}",
        lines.collect::<String>()
    ))
}

fn with(file: &Scratch, args: &[&str], variables: Variables<'_>) -> Result<Config, Problems> {
    resolve(&[&["--annotations", file.path()], args].concat(), variables)
}

fn init(annotations: &[(&str, &str)]) -> Config {
    with(&file(annotations), &[], &[]).unwrap()
}

fn cni(annotations: &[(&str, &str)]) -> Config {
    with(&file(annotations), &["--annotation-defaults", "cni"], &[]).unwrap()
}

fn problem(annotations: &[(&str, &str)], args: &[&str]) -> String {
    let file = file(annotations);
    let problems = with(&file, args, &[]).unwrap_err().to_string();
    problems.replace(file.path(), "FILE")
}

#[test]
fn the_defaults_are_those_of_the_init_container_or_of_the_plugin() {
    assert_eq!(init(&[]), good(&[]));
    let expected = good(&["-d", CNI_EXCLUDED, "-o", "15020"]);
    assert_eq!(cni(&[]), expected);
    assert_eq!(ids(expected.gids), [1337]);
}

#[test]
fn each_annotation_is_a_flag() {
    for (key, value, flag) in [
        ("includeOutboundIPRanges", "10.0.0.0/8,fd00::/8", "-i"),
        ("includeOutboundIPRanges", "", "-i"),
        ("excludeOutboundIPRanges", "10.1.0.0/16", "-x"),
        ("includeInboundPorts", "80,8080", "-b"),
        ("includeInboundPorts", "", "-b"),
        ("includeOutboundPorts", "31000,32000", "-q"),
        ("includeOutboundPorts", "", "-q"),
        ("excludeOutboundPorts", "5432", "-o"),
        ("excludeOutboundPorts", "", "-o"),
        ("excludeInterfaces", "eth1,net+", "-c"),
        ("sidecar.istio.io/interceptionMode", "REDIRECT", "-m"),
        ("kubevirtInterfaces", "", "-k"),
        ("istio.io/reroute-virtual-interfaces", "", "-k"),
    ] {
        let annotation = [(key, value)];
        assert_eq!(init(&annotation), good(&[flag, value]), "{key}={value:?}");
        let plugin = ["-d", CNI_EXCLUDED, "-o", "15020", flag, value];
        assert_eq!(cni(&annotation), good(&plugin), "{key}={value:?}");
    }
}

#[test]
fn excluded_inbound_ports_come_beside_istio_s_own() {
    let status = "status.sidecar.istio.io/port";
    for (annotations, expected) in [
        (vec![], INIT_EXCLUDED),
        (vec![("excludeInboundPorts", "")], INIT_EXCLUDED),
        (
            vec![("excludeInboundPorts", "22, 81")],
            "15090,15021,22,81,15020",
        ),
        (
            vec![("excludeInboundPorts", "15020,22")],
            "15090,15021,15020,22",
        ),
        (vec![(status, "15030")], "15090,15021,15030"),
        (vec![(status, "0")], "15090,15021"),
        (
            vec![("excludeInboundPorts", "22"), (status, "0")],
            "15090,15021,22",
        ),
    ] {
        assert_eq!(
            init(&annotations),
            good(&["-d", expected]),
            "{annotations:?}"
        );
    }
    for (annotations, expected) in [
        (vec![("excludeInboundPorts", "")], CNI_EXCLUDED),
        (
            vec![("excludeInboundPorts", "22,15021,22")],
            "22,15021,15020,15090",
        ),
        (vec![(status, "15030")], CNI_EXCLUDED),
    ] {
        let expected = good(&["-d", expected, "-o", "15020"]);
        assert_eq!(cni(&annotations), expected, "{annotations:?}");
    }
}

#[test]
fn a_flag_beats_an_annotation_and_an_annotation_a_variable() {
    let annotated = file(&[
        ("includeOutboundIPRanges", "10.0.0.0/8"),
        ("excludeInterfaces", ""),
    ]);
    let variables = [
        ("ISTIO_SERVICE_CIDR", "10.9.0.0/16"),
        ("ISTIO_EXCLUDE_INTERFACES", "eth9"),
        // Both ways always give these.
        ("ISTIO_INBOUND_PORTS", "9"),
        ("ISTIO_LOCAL_EXCLUDE_PORTS", "9"),
        ("ISTIO_SERVICE_EXCLUDE_CIDR", "10.9.0.0/16"),
        ("INBOUND_CAPTURE_PORT", "9"),
        ("PROXY_UID", "9"),
        ("ISTIO_INBOUND_INTERCEPTION_MODE", "TPROXY"),
    ];
    let config = with(&annotated, &[], &variables).unwrap();
    assert_eq!(config, good(&["-i", "10.0.0.0/8"]));
    let config = with(&annotated, &["-i", "10.2.0.0/16", "-c", "eth1"], &variables).unwrap();
    assert_eq!(config, good(&["-i", "10.2.0.0/16", "-c", "eth1"]));
    // Nothing is said of these.
    let variables = [
        ("ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", "7"),
        ("INBOUND_TUNNEL_PORT", "9"),
        ("ISTIO_META_DNS_CAPTURE", "true"),
    ];
    let said = [
        "-i=10.0.0.0/8",
        "--outbound-owner-groups-exclude=7",
        "-e=9",
        "--redirect-dns",
    ];
    assert_eq!(with(&annotated, &[], &variables).unwrap(), good(&said));
    // The plugin takes all but the groups from the pod alone.
    let plugin = ["--annotation-defaults", "cni"];
    let variables = [
        variables,
        [
            ("ISTIO_OUTBOUND_PORTS", "9"),
            ("KUBE_VIRT_INTERFACES", "tap0"),
            ("ISTIO_DUAL_STACK", "true"),
        ],
    ]
    .concat();
    let expected = [
        "-i=10.0.0.0/8",
        "--outbound-owner-groups-exclude=7",
        "-d",
        CNI_EXCLUDED,
        "-o=15020",
    ];
    assert_eq!(
        with(&annotated, &plugin, &variables).unwrap(),
        good(&expected)
    );
    let plugin = ["--annotation-defaults", "cni", "--redirect-dns"];
    assert_eq!(
        with(&annotated, &plugin, &[]).unwrap().dns,
        Dns::ServersOfPod
    );
}

#[test]
fn the_proxy_s_configuration_has_an_environment() {
    let config = "interceptionMode: REDIRECT\nconcurrency: 2\nproxyMetadata:\n  \
                  ISTIO_META_DNS_CAPTURE: \"true\"\n  ISTIO_DUAL_STACK: 'true'\n  \
                  INBOUND_TUNNEL_PORT: \"9\"\n";
    let annotation = [("proxy.istio.io/config", config)];
    let expected = good(&["--redirect-dns", "--dual-stack", "-e", "9"]);
    assert_eq!(init(&annotation), expected);
    let expected = [
        "-d",
        CNI_EXCLUDED,
        "-o15020",
        "--redirect-dns",
        "--capture-all-dns",
        "--dual-stack",
    ];
    assert_eq!(
        cni(&annotation),
        good(&expected),
        "no tunnel port: not that the plugin looks"
    );
    let all = "{\"proxyMetadata\": {\"ISTIO_META_DNS_CAPTURE\": \"true\", \
               \"CAPTURE_ALL_DNS\": \"true\", \"INVALID_DROP\": \"true\"}}";
    let config = init(&[("proxy.istio.io/config", all)]);
    assert_eq!(config.dns, Dns::All);
    assert!(
        config.notes[0].starts_with("--drop-invalid from INVALID_DROP in annotation proxy.istio"),
        "{:?}",
        config.notes
    );
    for empty in ["", "concurrency: 2", "proxyMetadata: null"] {
        assert_eq!(
            init(&[("proxy.istio.io/config", empty)]),
            good(&[]),
            "{empty:?}"
        );
    }
    let error = problem(&[("proxy.istio.io/config", "proxyMetadata: [")], &[]);
    assert!(
        error.starts_with("annotation proxy.istio.io/config in FILE: "),
        "{error}"
    );
    let bad = "proxyMetadata: {ISTIO_META_DNS_CAPTURE: perhaps}";
    let error = problem(&[("proxy.istio.io/config", bad)], &[]);
    assert_eq!(
        error,
        "--redirect-dns from ISTIO_META_DNS_CAPTURE in annotation proxy.istio.io/config in FILE: \
         \"perhaps\" is neither true nor false"
    );
}

#[test]
fn a_manifest_has_the_proxy_s_ids_and_environments() {
    let manifest = |proxy: &str, init: &str| {
        let init = match init {
            "" => String::new(),
            env => format!("- {{name: istio-init, env: [{env}]}}"),
        };
        Scratch::new(&format!(
            "kind: Pod\nmetadata: {{annotations: {{traffic.sidecar.istio.io/includeInboundPorts: \
             '80', proxy.istio.io/config: '{{proxyMetadata: {{ISTIO_DUAL_STACK: \"true\"}}}}'}}}}\n\
             spec:\n  containers:\n  - {{name: istio-proxy, {proxy}}}\n  \
             initContainers:\n  {init}\n"
        ))
    };
    let ids_42 = "securityContext: {runAsUser: 42, runAsGroup: 43}";
    let dns = "{name: ISTIO_META_DNS_CAPTURE, value: 'true'}";

    // The init container has no gid of its own, and its environment only if it is there.
    let pod = manifest(ids_42, "");
    let expected = good(&["-b", "80", "-u", "42", "--dual-stack"]);
    assert_eq!(with(&pod, &[], &[]).unwrap(), expected);
    let pod = manifest(ids_42, dns);
    let expected = good(&["-b", "80", "-u", "42", "--redirect-dns"]);
    assert_eq!(
        with(&pod, &[], &[("ISTIO_META_DNS_CAPTURE", "false")]).unwrap(),
        expected
    );

    let plugin = ["--annotation-defaults", "cni"];
    let base = ["-b", "80", "-d", CNI_EXCLUDED, "-o", "15020"];
    let pod = manifest(
        &format!("{ids_42}, env: [{dns}]"),
        "{name: INVALID_DROP, value: 'true'}",
    );
    let more = ["-u=42", "-g=43", "--redirect-dns", "--capture-all-dns"];
    assert_eq!(
        with(&pod, &plugin, &[]).unwrap(),
        good(&[&base[..], &more[..]].concat())
    );

    for none in [
        "securityContext: {runAsUser: 0, runAsGroup: 0}",
        "securityContext: {}",
    ] {
        let pod = manifest(none, "{name: A}");
        assert_eq!(with(&pod, &plugin, &[]).unwrap(), good(&base));
        assert_eq!(with(&pod, &[], &[]).unwrap(), good(&["-b", "80"]));
    }
    let pod = manifest(
        "env: [{name: ISTIO_DUAL_STACK, valueFrom: {}}, {name: X, valueFrom: {}}]",
        "",
    );
    let config = with(&pod, &plugin, &[]).unwrap();
    assert_eq!(config.notes.len(), 1);
    assert!(
        config.notes[0].starts_with("variable ISTIO_DUAL_STACK of container istio-proxy in")
            && config.notes[0].contains("--dual-stack"),
        "{:?}",
        config.notes
    );
}

const PORTS: &str = "([0-9]{1,5}|[a-z0-9+/]{1,4}|\\*|)(,[0-9]{1,5}){0,3}";
const RANGES: &str = "([0-9]{1,3}\\.0\\.0\\.0/[0-9]{1,2}|fd00::/8|\\*|)(,1\\.2\\.3\\.4/8)?";

proptest! {
    /// Whatever the lists are, right or wrong, annotations and flags come to the same.
    #[test]
    fn annotations_and_flags_come_to_the_same(
        [included, excluded, interfaces] in prop::array::uniform3(PORTS),
        [include, exclude] in prop::array::uniform2(RANGES),
        plugin: bool,
    ) {
        let (defaults, local) = match plugin {
            true => ("cni", CNI_EXCLUDED),
            false => ("init", INIT_EXCLUDED),
        };
        let lists = [
            ("includeInboundPorts", "-b", &included),
            ("excludeOutboundPorts", "-o", &excluded),
            ("excludeInterfaces", "-c", &interfaces),
            ("includeOutboundIPRanges", "-i", &include),
            ("excludeOutboundIPRanges", "-x", &exclude),
        ];
        let annotations = lists.map(|(key, _, list)| (key, list.as_str()));
        let flags = lists.map(|(_, flag, list)| [flag, list.as_str()]).concat();
        let defaults = ["--annotation-defaults", defaults];
        let annotated = with(&file(&annotations), &defaults, &[]);
        let flagged = resolve(&[&flags[..], &["-d", local]].concat(), &[]);
        prop_assert_eq!(annotated.is_ok(), flagged.is_ok());
        if let (Ok(annotated), Ok(flagged)) = (annotated, flagged) {
            prop_assert_eq!(quiet(annotated), quiet(flagged));
        }
    }
}
