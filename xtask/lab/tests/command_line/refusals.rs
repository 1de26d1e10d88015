//! Errors: what is named, and what to try next.

use std::{ffi::OsString, net::TcpListener, path::Path, process::Command};

use anyhow::Result;
use sidecar_lab::{
    Agent, Child, Placement, cgroup2_mount,
    loader::{binary, spawn},
};

use crate::{Untouched, attach::Foreign, end_of};

/// Flags of an attachment: none, and `BPF_F_ALLOW_OVERRIDE` (include/uapi/linux/bpf.h).
const EXCLUSIVE: u32 = 0;
const ALLOW_OVERRIDE: u32 = 1;

#[test]
fn a_cgroup_that_is_none_is_named_with_the_mount() -> Result<()> {
    let pod = Untouched::new("no-cgroup")?;
    let mount = cgroup2_mount()?;
    let mounted = format!("cgroup v2 is mounted at {}", mount.display());
    let missing = pod.pod.cgroup().join("missing");
    pod.refuses_at(
        &missing,
        &[],
        &["--cgroup", missing.to_str().unwrap(), &mounted],
    )?;
    for elsewhere in ["/proc", "/tmp"] {
        let words = ["--cgroup", elsewhere, "not a cgroup v2 directory", &mounted];
        pod.refuses_at(Path::new(elsewhere), &[], &words)?;
    }
    let file = pod.pod.cgroup().join("cgroup.procs");
    pod.refuses_at(
        &file,
        &[],
        &["--cgroup", file.to_str().unwrap(), "directory"],
    )?;
    let proxy = ["--proxy-cgroup", missing.to_str().unwrap()];
    pod.refuses(
        &proxy,
        &["--proxy-cgroup", missing.to_str().unwrap(), &mounted],
    )
}

#[test]
fn without_privilege_it_says_what_it_takes() -> Result<()> {
    let pod = Untouched::new("nobody")?;
    let nobody = Placement::default().user(65534, 65534);
    let cgroup = pod.pod.cgroup();
    let netns = pod.pod.netns_path();
    for more in [vec![], vec!["--netns", netns.to_str().unwrap()]] {
        let arguments = [vec!["--cgroup", cgroup.to_str().unwrap()], more].concat();
        let child = nobody.spawn(binary()?, arguments)?;
        end_of(&child)?.says(&["root"]);
        pod.check(0)?;
    }
    Ok(())
}

#[test]
fn an_exclusive_program_above_is_found() -> Result<()> {
    let pod = Untouched::new("exclusive")?;
    let (above, below) = (pod.pod.cgroup(), pod.pod.app_cgroup());
    for (at, flags, cgroup) in [
        (&above, EXCLUSIVE, &below),
        (&above, EXCLUSIVE, &above),
        (&above, ALLOW_OVERRIDE, &above),
    ] {
        let other = Foreign::attach(at, flags, true)?;
        let arguments: Vec<OsString> = vec!["--cgroup".into(), cgroup.into()];
        let culprit = format!("exclusively to {}", at.display());
        end_of(&spawn(&arguments)?)?.says(&["connect4", &culprit, "bpftool cgroup show", "multi"]);
        pod.check(1)?;
        drop(other);
        pod.check(0)?;
    }
    Ok(())
}

#[test]
fn malformed_ports_ranges_and_ids_are_named_by_their_flag() -> Result<()> {
    let pod = Untouched::new("malformed")?;
    for (flag, value, long) in [
        ("-p", "0", "--envoy-port"),
        ("-p", "65536", "--envoy-port"),
        ("-z", "15006x", "--inbound-capture-port"),
        ("-e", "-1", "--inbound-tunnel-port"),
        ("-u", "no-such-user", "--proxy-uid"),
        ("-g", "4294967296", "--proxy-gid"),
        ("-b", "80,http", "--istio-inbound-ports"),
        ("-d", "15090,,15021,70000", "--istio-local-exclude-ports"),
        ("-i", "10.0.0.0/33", "--istio-service-cidr"),
        ("-i", "10.0.0.0/8,ten", "--istio-service-cidr"),
        ("-x", "fd00::/129", "--istio-service-exclude-cidr"),
        ("-q", "90:80", "--istio-outbound-ports"),
        ("-o", "1e3", "--istio-local-outbound-ports-exclude"),
        ("-c", "eth/1", "--istio-exclude-interfaces"),
    ] {
        pod.refuses(&[&format!("{flag}{value}")], &[long, flag])?;
    }
    for (flag, value) in [
        ("--dual-stack", "perhaps"),
        ("--redirect-dns", "perhaps"),
        ("--capture-all-dns", "perhaps"),
        ("--drop-invalid", "perhaps"),
        ("--outbound-owner-groups", "no-such-group"),
        ("--outbound-owner-groups-exclude", "1-2"),
        ("--outbound-ipv4-loopback-cidr", "10.0.0.0/8"),
        ("--annotations", "/no/such/file"),
        ("--destinations", "1000"),
        ("--destinations", "0"),
        ("--destinations", "8388608"),
        ("--destination-hold", "0"),
        ("--interval", "0"),
        ("--metrics-addr", "9464"),
        ("--output", "yaml"),
        ("--netns", ""),
    ] {
        pod.refuses(&[&format!("{flag}={value}")], &[flag])?;
    }
    // Several at once are all told.
    let words = ["--envoy-port", "\"x\"", "--istio-inbound-ports", "\"y\""];
    pod.refuses(&["-p", "x", "-b", "y"], &words)
}

#[test]
fn the_same_from_the_environment_is_named_by_its_variable() -> Result<()> {
    let pod = Untouched::new("environment")?;
    for (variable, value, flag) in [
        ("INBOUND_CAPTURE_PORT", "99999", "--inbound-capture-port"),
        ("ISTIO_SERVICE_CIDR", "10.0.0.0/99", "--istio-service-cidr"),
        (
            "ISTIO_INBOUND_INTERCEPTION_MODE",
            "TPROXY",
            "--istio-inbound-interception-mode",
        ),
        (
            "ISTIO_OUTBOUND_OWNER_GROUPS",
            "no-such-group",
            "--outbound-owner-groups",
        ),
    ] {
        let mut command = Command::new(binary()?);
        command
            .arg("--cgroup")
            .arg(pod.pod.cgroup())
            .env(variable, value);
        end_of(&Child::spawn_gentle(command)?)?.says(&[variable, value, flag]);
        pod.check(0)?;
    }
    Ok(())
}

#[test]
fn what_cannot_be_expressed_is_refused_by_name() -> Result<()> {
    let pod = Untouched::new("unsupported")?;
    for (arguments, words) in [
        (
            vec!["-m", "TPROXY"],
            vec!["--istio-inbound-interception-mode (-m)", "TPROXY"],
        ),
        (vec!["--native-nftables"], vec!["--native-nftables", "IPv6"]),
        (vec!["-k", "tap0"], vec!["--kube-virt-interfaces (-k)"]),
        (vec!["--run-validation"], vec!["--run-validation"]),
        (vec!["--no-such-flag"], vec!["--no-such-flag", "--help"]),
        (vec!["superfluous"], vec!["superfluous"]),
    ] {
        pod.refuses(&arguments, &words)?;
    }
    Ok(())
}

#[test]
fn a_namespace_that_cannot_be_is_named() -> Result<()> {
    let pod = Untouched::new("netns")?;
    let words = ["--netns", "/run/netns/no-such-pod", "/run/netns/NAME"];
    pod.refuses(&["--netns", "/run/netns/no-such-pod"], &words)?;
    pod.refuses(&["--netns", "/etc/hostname"], &["--netns", "/etc/hostname"])?;
    // Above the largest pid that Linux allows.
    pod.refuses(&["--netns", "4194305"], &["--netns", "4194305"])?;
    // The tests run where the loader does: in the host's.
    for host in [&std::process::id().to_string(), "/proc/self/ns/net"] {
        pod.refuses(&["--netns", host], &["--allow-host-netns"])?;
    }
    // A second process of the pod's somewhere else: which is the pod's?
    let elsewhere = Placement {
        netns: Some(pod.pod.remote_netns_path()),
        ..pod.pod.proxy()
    };
    let other = Agent::spawn(&elsewhere)?;
    other.echo_log()?;
    pod.refuses(&[], &["several network namespaces", "--netns"])?;
    drop(other);
    assert!(pod.app.is_alive()?);
    Ok(())
}

#[test]
fn a_metrics_address_in_use_is_named() -> Result<()> {
    let pod = Untouched::new("in-use")?;
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let at = taken.local_addr()?.to_string();
    pod.refuses(&["--metrics-addr", &at], &["--metrics-addr", &at, "in use"])
}
