//! Whose word counts, and what is refused.

mod annotations;
mod dns;
mod lists;
mod owners;
mod unsupported;

use std::{
    collections::HashMap,
    env, fs,
    net::IpAddr,
    path::PathBuf,
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::Instant,
};

use clap::Parser;
use sidecar_ebpf_common::maps::MAX_RANGES;

use super::{
    accounts::Accounts,
    flag::{Flag, SUPPORTED},
    unsupported::UNSUPPORTED,
    *,
};
use crate::cli::Cli;

type Variables<'a> = &'a [(&'a str, &'a str)];

/// There are the users `envoy` (77) and `java` (5), and the groups `java` (101) and `ftp` (21).
const ACCOUNTS: Accounts<'_> = Accounts {
    user: &|name| match name {
        "envoy" => Ok(Some(77)),
        "java" => Ok(Some(5)),
        "broken" => Err(nix::Error::EIO),
        _ => Ok(None),
    },
    group: &|name| match name {
        "java" => Ok(Some(101)),
        "ftp" => Ok(Some(21)),
        "broken" => Err(nix::Error::EIO),
        _ => Ok(None),
    },
};

fn resolve_with(
    args: &[&str],
    variables: Variables<'_>,
    accounts: Accounts<'_>,
) -> Result<Config, Problems> {
    let cli = Cli::try_parse_from([&["loader", "--cgroup", "pod"], args].concat())
        .unwrap_or_else(|error| panic!("{error}"));
    let variables: HashMap<_, _> = variables.iter().copied().collect();
    let environment = |name: &str| variables.get(name).map(|&value| value.to_owned());
    Config::resolve_with(
        &cli.istio,
        &cli.unsupported,
        &cli.ring,
        &environment,
        accounts,
    )
}

fn resolve(args: &[&str], variables: Variables<'_>) -> Result<Config, Problems> {
    resolve_with(args, variables, ACCOUNTS)
}

/// The same without what is said about it.
fn quiet(config: Config) -> Config {
    Config {
        notes: Vec::new(),
        ..config
    }
}

/// A file that goes with this.
struct Scratch(PathBuf);

impl Scratch {
    fn new(text: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("sidecar-loader-config-{}-{number}", process::id());
        let path = env::temp_dir().join(name);
        fs::write(&path, text).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn good(args: &[&str]) -> Config {
    resolve(args, &[]).unwrap_or_else(|problems| panic!("{args:?}: {problems}"))
}

fn refused(args: &[&str]) -> String {
    resolve(args, &[])
        .expect_err(&format!("{args:?} must be refused"))
        .to_string()
}

fn ids(list: Ids) -> Vec<u32> {
    list.iter().collect()
}

fn ports(config: &Config, list: PortLists) -> Vec<u16> {
    config
        .ports
        .iter()
        .filter(|entry| entry.1 == list)
        .map(|entry| entry.0.0)
        .collect()
}

fn ranges(prefixes: &[Prefix]) -> Vec<String> {
    prefixes
        .iter()
        .map(|prefix| format!("{}/{}", IpAddr::from(prefix.ip), prefix.len))
        .collect()
}

#[test]
fn the_defaults_are_those_of_a_default_installation() {
    let config = good(&[]);
    assert_eq!(ids(config.uids), [1337]);
    assert_eq!(ids(config.gids), [1337]);
    assert_eq!(config.outbound_port, Port(15001));
    assert_eq!(config.inbound_port, Port(15006));
    assert_eq!(config.tunnel_port, Port(15008));
    assert_eq!(
        ports(&config, PortLists::INBOUND_EXCLUDED),
        [15020, 15021, 15090]
    );
    assert_eq!(config.ports.len(), 3);
    assert_eq!(config.inbound, Inbound::All);
    assert!(config.outbound_all);
    assert!(config.included.is_empty() && config.excluded.is_empty());
    assert!(!config.loopback_included && !config.dual_stack);
    assert_eq!(config.loopback, (Ipv4Addr::LOCALHOST, 32));
    assert_eq!(config.owner_groups, OwnerGroups::All);
    assert_eq!(config.dns, Dns::Off);
    assert_eq!(config.excluded_interfaces, [""; 0]);
    assert_eq!(config.destinations, 16_384);
    assert_eq!(config.hold, 120, "128 s in ticks of 1.07 s");
    assert_eq!(config.notes, [""; 0]);
    assert_eq!(
        config.switches(false),
        Switches::OUTBOUND_ALL.with(Switches::INBOUND_ALL)
    );
    assert!(config.switches(true).has(Switches::IPV6));
    assert_eq!(config.settings(false).ring_mask, 16_383);
}

/// A value for each flag that changes the configuration, and another for the environment.
fn two_values(flag: &Flag) -> [&'static str; 2] {
    match flag.long {
        "envoy-port" | "inbound-capture-port" | "inbound-tunnel-port" => ["2001", "2002"],
        "proxy-uid" | "proxy-gid" => ["7", "8"],
        "istio-service-cidr" | "istio-service-exclude-cidr" => ["10.1.0.0/16", "10.2.0.0/16"],
        "dual-stack" | "redirect-dns" | "capture-all-dns" | "drop-invalid" => ["true", "false"],
        "outbound-ipv4-loopback-cidr" => ["127.0.0.0/8", "127.0.0.0/16"],
        _ => ["81", "82"],
    }
}

#[test]
fn each_flag_works_by_its_long_and_its_short_name() {
    for flag in SUPPORTED {
        let [value, _] = two_values(flag);
        let long = good(&[&format!("--{}={value}", flag.long)]);
        assert_ne!(long, good(&[]), "{flag} changes nothing");
        if let Some(short) = flag.short {
            assert_eq!(good(&[&format!("-{short}"), value]), long, "{flag}");
        }
    }
}

#[test]
fn the_environment_beats_the_default_and_the_command_line_beats_the_environment() {
    for flag in SUPPORTED {
        let [value, other] = two_values(flag);
        let by_flag = good(&[&format!("--{}={value}", flag.long)]);
        for variable in flag.env {
            let by_variable = resolve(&[], &[(variable, value)]).unwrap();
            assert_eq!(by_variable.notes.len(), by_flag.notes.len(), "{variable}");
            assert_eq!(quiet(by_variable), quiet(by_flag.clone()), "{variable}");
            let args = format!("--{}={value}", flag.long);
            assert_eq!(
                resolve(&[&args], &[(variable, other)]).unwrap(),
                by_flag,
                "{variable}"
            );
        }
    }
}

#[test]
fn envoy_port_is_no_variable() {
    assert_eq!(resolve(&[], &[("ENVOY_PORT", "2001")]).unwrap(), good(&[]));
}

#[test]
fn a_variable_that_is_set_but_empty_is_an_empty_value() {
    let config = resolve(
        &[],
        &[("ISTIO_INBOUND_PORTS", ""), ("ISTIO_SERVICE_CIDR", "")],
    )
    .unwrap();
    assert_eq!(config, good(&["-b", "", "-i", ""]));
    assert_eq!(config.inbound, Inbound::Off);
    assert!(!config.outbound_all && config.included.is_empty());
    let config = resolve(&[], &[("ISTIO_LOCAL_EXCLUDE_PORTS", "")]).unwrap();
    assert!(config.ports.is_empty());
    let error = resolve(&[], &[("INBOUND_CAPTURE_PORT", "")])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("--inbound-capture-port (-z) from $INBOUND_CAPTURE_PORT"),
        "{error}"
    );
}

#[test]
fn dual_stack_reads_booleans_as_istio_does() {
    let dual_stack = |args: &[&str], variables: Variables<'_>| {
        resolve(args, variables).map(|config| config.dual_stack)
    };
    for yes in ["1", "t", "T", "true", "TRUE", "True"] {
        assert!(dual_stack(&[], &[("DUAL_STACK", yes)]).unwrap(), "{yes}");
    }
    for no in ["0", "f", "F", "false", "FALSE", "False", ""] {
        assert!(!dual_stack(&[], &[("DUAL_STACK", no)]).unwrap(), "{no}");
    }
    assert!(dual_stack(&["--dual-stack"], &[]).unwrap());
    assert!(!dual_stack(&["--dual-stack=false"], &[("ISTIO_DUAL_STACK", "true")]).unwrap());
    let both = |one, two| dual_stack(&[], &[("DUAL_STACK", one), ("ISTIO_DUAL_STACK", two)]);
    assert!(both("false", "true").unwrap());
    assert!(!both("true", "false").unwrap());
    assert!(!both("true", "").unwrap());
    assert!(refused(&["--dual-stack=yes"]).contains("--dual-stack: \"yes\""));
    assert!(refused(&["--dual-stack="]).contains("--dual-stack: \"\""));
    let error = dual_stack(&[], &[("DUAL_STACK", "yes")])
        .unwrap_err()
        .to_string();
    assert!(error.contains("--dual-stack from $DUAL_STACK"), "{error}");
}

#[test]
fn every_switch_reads_booleans_as_istio_does() {
    for flag in [
        "redirect-dns",
        "capture-all-dns",
        "drop-invalid",
        "dual-stack",
    ] {
        let on = good(&[&format!("--{flag}")]);
        assert_eq!(good(&[&format!("--{flag}=1")]), on);
        assert_ne!(on, good(&[]));
        assert_eq!(good(&[&format!("--{flag}=F")]), good(&[]));
        for bad in ["yes", ""] {
            let error = refused(&[&format!("--{flag}={bad}")]);
            let expected = format!("--{flag}: {bad:?} is neither true nor false");
            assert_eq!(error, expected);
        }
    }
    let given = [("REDIRECT_DNS", "true"), ("ISTIO_META_DNS_CAPTURE", "")];
    assert_eq!(resolve(&[], &given).unwrap(), good(&[]));
    let error = resolve(&[], &[("INVALID_DROP", "maybe")]).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("--drop-invalid from $INVALID_DROP: \"maybe\"")
    );
}

#[test]
fn dropping_what_is_invalid_is_accepted_and_changes_nothing() {
    let config = good(&["--drop-invalid"]);
    assert!(
        config.notes[0].starts_with("--drop-invalid: changes nothing"),
        "{:?}",
        config.notes
    );
    assert_eq!(quiet(config), good(&[]));
}

#[test]
fn the_ring_has_bounds() {
    assert_eq!(good(&["--destinations", "2"]).settings(false).ring_mask, 1);
    assert_eq!(good(&["--destinations", "2097152"]).destinations, 1 << 21);
    for bad in ["0", "1", "3", "4194304"] {
        assert!(
            refused(&["--destinations", bad]).starts_with("--destinations: "),
            "{bad}"
        );
    }
    assert_eq!(good(&["--destination-hold", "1"]).hold, 1);
    for bad in ["0", "86401", "18446744073709551615"] {
        assert!(
            refused(&["--destination-hold", bad]).starts_with("--destination-hold: "),
            "{bad}"
        );
    }
}

#[test]
fn everything_wrong_is_reported_together() {
    let args = [
        "-p",
        "x",
        "-u",
        "y",
        "-g",
        "1",
        "-q",
        "z",
        "-x",
        "*",
        "--destinations",
        "5",
        "--native-nftables",
    ];
    let problems = resolve(&args, &[("DUAL_STACK", "w")]).unwrap_err();
    let text = problems.to_string();
    assert_eq!(problems.iter().count(), 7, "{text}");
    assert_eq!(text.lines().count(), 8, "{text}");
    assert!(text.starts_with("7 settings are refused:"), "{text}");
}
