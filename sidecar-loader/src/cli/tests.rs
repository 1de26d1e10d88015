use clap::CommandFactory;

use super::*;
use crate::config::flag;

fn parse(args: &[&str]) -> Result<Cli, clap::Error> {
    Cli::try_parse_from([&["loader"], args].concat())
}

#[test]
fn clap_finds_no_fault() {
    Cli::command().debug_assert();
}

#[test]
fn every_flag_of_istio_has_its_names_default_and_variables_in_the_help() {
    let command = Cli::command();
    for flag in flag::SUPPORTED {
        let arg = command
            .get_arguments()
            .find(|arg| arg.get_long() == Some(flag.long))
            .unwrap_or_else(|| panic!("{flag} is missing"));
        assert_eq!(arg.get_short(), flag.short, "{flag}");
        assert!(!arg.is_hide_set(), "{flag}");
        let help = arg.get_help().expect("help").to_string();
        for variable in flag.env {
            assert!(help.contains(variable), "{flag}: {help}");
        }
        assert_eq!(
            help.contains("[env:"),
            !flag.env.is_empty(),
            "{flag}: {help}"
        );
        let default = match flag.default {
            "" if flag.long == "proxy-gid" => "the same as --proxy-uid",
            "" => "none",
            default => default,
        };
        assert!(
            help.contains(&format!("[default: {default}]")),
            "{flag}: {help}"
        );
    }
}

#[test]
fn the_cgroup_is_all_it_takes() {
    let cli = parse(&["--cgroup", "/sys/fs/cgroup/pod"]).unwrap();
    assert_eq!(cli.pod.cgroup, PathBuf::from("/sys/fs/cgroup/pod"));
    assert_eq!(cli.pod.netns, None);
    assert_eq!(cli.pod.proxy_cgroup, None);
    assert!(!cli.pod.allow_host_netns);
    assert_eq!(cli.ring.destinations, DEFAULT_DESTINATIONS);
    assert_eq!(cli.ring.destination_hold, 128);
    assert!(cli.unsupported.given.is_empty());
    assert_eq!(cli.output.metrics_addr, None);
    assert!(parse(&[]).unwrap_err().to_string().contains("--cgroup"));
}

#[test]
fn a_number_is_a_process_and_anything_else_a_path() {
    let netns = |text| parse(&["--cgroup", "c", "--netns", text]).map(|cli| cli.pod.netns);
    assert_eq!(netns("42").unwrap(), Some(Netns::Pid(42)));
    assert_eq!(netns("./42").unwrap(), Some(Netns::Path("./42".into())));
    assert_eq!(
        netns("/run/netns/pod").unwrap(),
        Some(Netns::Path("/run/netns/pod".into()))
    );
    for bad in ["", "0", "99999999999"] {
        assert!(
            netns(bad).unwrap_err().to_string().contains("--netns"),
            "{bad}"
        );
    }
}

#[test]
fn the_format_follows_the_terminal_and_the_interval_the_format() {
    let output = |args: &[&str]| parse(&[&["--cgroup", "c"], args].concat()).unwrap().output;
    assert_eq!(output(&[]).format(true), Format::Table);
    assert_eq!(output(&[]).format(false), Format::Log);
    assert_eq!(output(&["--output", "json"]).format(true), Format::Json);
    assert_eq!(output(&[]).interval(Format::Table), Duration::from_secs(1));
    assert_eq!(output(&[]).interval(Format::Json), Duration::from_secs(10));
    assert_eq!(output(&[]).interval(Format::Log), Duration::from_secs(10));
    let half = output(&["--interval", "0.5"]);
    assert_eq!(half.interval(Format::Log), Duration::from_millis(500));
}

#[test]
fn malformed_values_are_refused_by_the_flag_s_name() {
    for (flag, value) in [
        ("--interval", "0"),
        ("--interval", "nan"),
        ("--interval", "soon"),
        ("--metrics-addr", "9464"),
        ("--metrics-addr", "localhost:9464"),
        ("--output", "yaml"),
        ("--destinations", "many"),
        ("--destination-hold", "1.5"),
    ] {
        let error = parse(&["--cgroup", "c", flag, value])
            .unwrap_err()
            .to_string();
        assert!(error.contains(flag), "{flag} {value}: {error}");
    }
}

#[test]
fn istio_s_own_way_of_writing_flags_works() {
    let args = [
        "--cgroup",
        "c",
        "-p15001",
        "-z=15006",
        "--proxy-uid=7",
        "-u",
        "1337",
        "-b",
        "",
    ];
    let istio = parse(&args).unwrap().istio;
    assert_eq!(istio.envoy_port.as_deref(), Some("15001"));
    assert_eq!(istio.inbound_capture_port.as_deref(), Some("15006"));
    assert_eq!(
        istio.proxy_uid.as_deref(),
        Some("1337"),
        "the last one counts"
    );
    assert_eq!(istio.istio_inbound_ports.as_deref(), Some(""));
    assert_eq!(istio.istio_outbound_ports, None);
}

#[test]
fn switches_take_a_value_only_behind_an_equals_sign() {
    for flag in [
        "dual-stack",
        "redirect-dns",
        "capture-all-dns",
        "drop-invalid",
    ] {
        let given = |args: &[&str]| {
            parse(&[&["--cgroup", "c"], args].concat()).map(|cli| match flag {
                "dual-stack" => cli.istio.dual_stack,
                "redirect-dns" => cli.istio.redirect_dns,
                "capture-all-dns" => cli.istio.capture_all_dns,
                _ => cli.istio.drop_invalid,
            })
        };
        let flag = format!("--{flag}");
        assert_eq!(given(&[]).unwrap(), None);
        assert_eq!(given(&[&flag]).unwrap().as_deref(), Some("true"));
        let no = format!("{flag}=false");
        assert_eq!(given(&[&no]).unwrap().as_deref(), Some("false"));
        assert!(given(&[&flag, "false"]).is_err());
    }
}

#[test]
fn annotations_have_defaults_only_with_a_file() {
    let annotations = |args: &[&str]| {
        parse(&[&["--cgroup", "c"], args].concat()).map(|cli| cli.istio.annotations)
    };
    let none = annotations(&[]).unwrap();
    assert_eq!((none.file, none.defaults), (None, AnnotationDefaults::Init));
    let cni = annotations(&["--annotations", "f", "--annotation-defaults", "cni"]).unwrap();
    assert_eq!(cni.file, Some(PathBuf::from("f")));
    assert_eq!(cni.defaults, AnnotationDefaults::Cni);
    let error = annotations(&["--annotation-defaults", "cni"]).unwrap_err();
    assert!(error.to_string().contains("--annotations"), "{error}");
    let error = annotations(&["--annotations", "f", "--annotation-defaults", "ambient"]);
    assert!(error.unwrap_err().to_string().contains("init, cni"));
}

#[test]
fn unsupported_flags_are_kept_for_the_refusal_and_hidden_from_the_help() {
    let args = [
        "--cgroup",
        "c",
        "-m",
        "TPROXY",
        "--native-nftables",
        "--skip-rule-apply=false",
        "-n",
    ];
    let given = parse(&args).unwrap().unsupported.given;
    let given: Vec<_> = given
        .iter()
        .map(|(long, value)| (*long, value.as_str()))
        .collect();
    assert_eq!(
        given,
        [
            ("istio-inbound-interception-mode", "TPROXY"),
            ("dry-run", "true"),
            ("skip-rule-apply", "false"),
            ("native-nftables", "true"),
        ]
    );
    let help = Cli::command().render_long_help().to_string();
    assert!(!help.contains("--native-nftables"));
    let error = parse(&["--cgroup", "c", "--no-such-flag"])
        .unwrap_err()
        .to_string();
    assert!(error.contains("--no-such-flag"), "{error}");
}
