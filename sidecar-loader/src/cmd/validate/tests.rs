//! What is understood, and what is said where nothing redirects.

use super::*;
use crate::cmd::{self, Job, tests::parsed};

fn validated(args: &[&str], variables: &[(&str, &str)]) -> Result<(Outcome, String)> {
    let Job::Command(command) = parsed(&[&["validate"], args].concat())? else {
        panic!("no subcommand")
    };
    let cmd::Command::Validate(args) = *command else {
        panic!("another subcommand")
    };
    let environment = |name: &str| {
        let found = variables.iter().find(|(variable, _)| *variable == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    let mut out = Vec::new();
    let outcome = run(&args, &environment, &mut out)?;
    Ok((outcome, String::from_utf8(out)?))
}

/// Two ports that nobody has just now.
fn free_ports() -> [String; 2] {
    let sockets = [0; 2].map(|port| std::net::TcpListener::bind(("127.0.0.1", port)).unwrap());
    sockets.map(|socket| socket.local_addr().unwrap().port().to_string())
}

#[test]
fn without_a_redirect_it_says_so() {
    let [outbound, inbound] = free_ports();
    let args = ["-p", &outbound, "-z", &inbound, "--probe-timeout", "100ms"];
    let (outcome, said) = validated(&args, &[]).unwrap();
    assert_eq!((outcome.exit_code(), said.as_str()), (126, ""));
}

#[test]
fn json_says_why_it_is_not_redirected() {
    let [outbound, inbound] = free_ports();
    let args = [
        "-p",
        &outbound,
        "-z",
        &inbound,
        "--probe-timeout=100ms",
        "--json",
    ];
    let (outcome, said) = validated(&args, &[]).unwrap();
    let json: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(outcome, Outcome::NotRedirected);
    assert_eq!(json["redirected"], false);
    assert_eq!(json["connections"], serde_json::json!([]));
    let error = json["error"].as_str().unwrap();
    assert!(error.contains("127.0.0.6:15002"), "{error}");
}

#[test]
fn istio_s_way_of_calling_it_is_understood() {
    let [outbound, inbound] = free_ports();
    let args = [
        "-p",
        &outbound,
        "-z",
        &inbound,
        "--run-validation",
        "--skip-rule-apply",
    ];
    let variables = [
        ("PROBE_TIMEOUT", "0.1s"),
        ("IPTABLES_PROBE_PORT", "15003"),
        ("RUN_VALIDATION", "true"),
    ];
    let (outcome, _) = validated(&args, &variables).unwrap();
    assert_eq!(outcome, Outcome::NotRedirected);
    let error = validated(&["--native-nftables"], &[])
        .unwrap_err()
        .to_string();
    assert!(error.contains("--native-nftables"), "{error}");
}

#[test]
fn malformed_values_are_refused_by_name() {
    for (flag, value) in [
        ("--iptables-probe-port", "0"),
        ("--iptables-probe-port", "x"),
        ("--probe-timeout", "5"),
        ("--probe-timeout", "-1s"),
        ("--probe-timeout", "soon"),
    ] {
        let error = validated(&[&format!("{flag}={value}")], &[]).unwrap_err();
        assert!(error.to_string().starts_with(flag), "{error}");
    }
}

#[test]
fn durations_have_a_unit() {
    let millis = |text| parse_timeout(text).unwrap().as_millis();
    assert_eq!(
        (millis("5s"), millis("250ms"), millis("1.5m")),
        (5000, 250, 90_000)
    );
}
