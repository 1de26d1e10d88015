//! The subcommands, against real iptables and real redirection.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result};
use sidecar_lab::{
    Loader, Placement, Pod, PodOptions,
    iptables::{Backend, install_istio_rules},
    loader::{binary, run},
    process::run_command,
};

use crate::{Refusal, end_of};

/// A program in the pod's network, as root.
fn in_pod(pod: &Pod, program: &str, args: &[&str], stdin: &str) -> Result<String> {
    let place = Placement {
        netns: Some(pod.netns_path()),
        ..Placement::default()
    };
    run_command(place.command(program, args)?, stdin).with_context(|| program.to_owned())
}

/// What `loader rules` says to these settings.
fn rules(args: &[&str]) -> Result<String> {
    let ended = run(&[&["rules", "--iptables"], args].concat())?;
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    Ok(ended.stdout)
}

fn rules_in(text: &str) -> Vec<&str> {
    text.lines()
        .filter(|line| line.starts_with("-A "))
        .collect()
}

const BACKENDS: [(Backend, &str); 2] = [(Backend::Nft, "nft"), (Backend::Legacy, "legacy")];

#[test]
fn the_default_rules_are_those_of_istio_once_they_are_loaded() -> Result<()> {
    for (backend, name) in BACKENDS {
        let [theirs, ours] = [Pod::new("theirs")?, Pod::new("ours")?];
        let _rules = install_istio_rules(&theirs, backend, true)?;
        for (program, args) in [("iptables", vec![]), ("ip6tables", vec!["--ipv6"])] {
            let restore = format!("{program}-{name}-restore");
            in_pod(&ours, &restore, &["--noflush"], &rules(&args)?)?;
            let save = format!("{program}-{name}-save");
            let [theirs, ours] = [&theirs, &ours].map(|pod| in_pod(pod, &save, &["-t", "nat"], ""));
            let (theirs, ours) = (theirs?, ours?);
            assert_eq!(rules_in(&ours), rules_in(&theirs), "{save}");
            assert_eq!(rules_in(&ours).len(), 18, "{save}: {ours}");
        }
    }
    Ok(())
}

#[test]
fn every_rule_of_unusual_settings_is_loaded() -> Result<()> {
    let settings = "-p 1 -z 2 -e 3 -u 0,4294967294,7 -g 1,2 -b 80,8000:8010 -o 5432,:10 -q 443,65000: \
                    -i 10.1.2.3/8,fd00::1/8,127.0.0.0/8 -x 10.9.0.0/16,2001:db8::/32";
    let settings: Vec<_> = settings.split_whitespace().collect();
    for (_, name) in BACKENDS {
        let pod = Pod::new("unusual")?;
        for (program, family) in [("iptables", None), ("ip6tables", Some("--ipv6"))] {
            let text = rules(&[settings.as_slice(), family.as_slice()].concat())?;
            in_pod(
                &pod,
                &format!("{program}-{name}-restore"),
                &["--noflush"],
                &text,
            )?;
            let saved = in_pod(&pod, &format!("{program}-{name}-save"), &["-t", "nat"], "")?;
            assert_eq!(
                rules_in(&saved).len(),
                rules_in(&text).len(),
                "{text}\n{saved}"
            );
        }
    }
    Ok(())
}

fn validate(place: &Placement, args: &[&str]) -> Result<Refusal> {
    end_of(&place.spawn(binary()?, [&["validate"], args].concat())?)
}

/// Patience of a self-test that is to fail.
const SOON: [&str; 2] = ["--probe-timeout", "500ms"];

#[test]
fn the_self_test_passes_with_the_loader_and_not_without() -> Result<()> {
    let pod = Pod::new("self-test")?;
    let without = validate(&pod.proxy(), &SOON)?;
    assert_eq!((without.code, without.stdout.as_str()), (Some(126), ""));
    for word in ["127.0.0.6:15002", "127.0.0.1:15006", "loader"] {
        assert!(without.stderr.contains(word), "{}", without.stderr);
    }

    let loader = Loader::start(&pod, &["--dual-stack"])?;
    for (args, lines) in [(vec![], 1), (vec!["--dual-stack"], 2)] {
        let with = validate(&pod.proxy(), &args)?;
        assert_eq!(with.code, Some(0), "{}", with.stderr);
        assert_eq!(with.stdout.matches("arrived at 127.0.0.1:15006").count(), 1);
        assert_eq!(with.stdout.lines().count(), lines, "{}", with.stdout);
    }
    // Istio calls its own with the settings of the pod and two flags more.
    let istio = [
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
        "--run-validation",
        "--skip-rule-apply",
    ];
    assert_eq!(validate(&pod.proxy(), &istio)?.code, Some(0));

    let app = validate(&pod.app(), &SOON)?;
    assert_eq!(app.code, Some(126));
    assert!(
        app.stderr.contains("as user 1337 (this is user 1000)"),
        "{}",
        app.stderr
    );

    drop(loader);
    let _loader = Loader::start(&pod, &["-p", "25001", "-z", "25006", "-u", "1000"])?;
    let ports = [
        "-p",
        "25001",
        "-z",
        "25006",
        "-u",
        "1000",
        "--iptables-probe-port",
        "7",
    ];
    let other = validate(&pod.app(), &ports)?;
    assert_eq!(other.code, Some(0), "{}", other.stderr);
    assert!(
        other.stdout.contains("original destination 127.0.0.6:7"),
        "{}",
        other.stdout
    );
    Ok(())
}

#[test]
fn the_self_test_leaves_ipv6_out_where_the_pod_has_none() -> Result<()> {
    let pod = Pod::with("self-test-v4", PodOptions::ipv4_only())?;
    let _loader = Loader::start(&pod, &["--dual-stack"])?;
    let with = validate(&pod.proxy(), &["--dual-stack"])?;
    assert_eq!(with.code, Some(0), "{}", with.stderr);
    assert_eq!(with.stdout.lines().count(), 1, "{}", with.stdout);
    Ok(())
}

#[test]
fn the_self_test_passes_with_iptables_too() -> Result<()> {
    for (backend, _) in BACKENDS {
        let pod = Pod::new("self-test-iptables")?;
        let _rules = install_istio_rules(&pod, backend, true)?;
        let with = validate(&pod.proxy(), &["--ipv6"])?;
        assert_eq!(with.code, Some(0), "{}", with.stderr);
        assert_eq!(with.stdout.lines().count(), 2, "{}", with.stdout);
    }
    Ok(())
}

#[test]
fn the_self_test_waits_for_rules_that_are_on_their_way() -> Result<()> {
    let pod = Pod::new("self-test-early")?;
    let early = pod
        .proxy()
        .spawn(binary()?, ["validate", "--probe-timeout", "60s"])?;
    std::thread::sleep(Duration::from_millis(300));
    assert!(early.is_alive()?, "{}", early.transcript());
    let _loader = Loader::start(&pod, &[])?;
    assert_eq!(
        early.wait(Duration::from_secs(30))?.code(),
        Some(0),
        "{}",
        early.transcript()
    );
    Ok(())
}

#[test]
fn a_reader_that_leaves_is_no_error() -> Result<()> {
    let loader = binary()?;
    let many = (1..20_000)
        .map(|port| port.to_string())
        .collect::<Vec<_>>()
        .join(",");
    let pipe = "\"$0\" rules -o \"$1\" | head -n 1; exit ${PIPESTATUS[0]}";
    let mut command = std::process::Command::new("bash");
    command
        .args([Path::new("-c"), Path::new(pipe), &loader])
        .arg(many);
    let out = run_command(command, "")?;
    assert_eq!(out.lines().count(), 1, "{out}");
    Ok(())
}
