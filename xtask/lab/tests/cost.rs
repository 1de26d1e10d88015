//! What the redirect costs, in one run: rounds with and without it in turn, on one processor, and
//! the ratio of each pair.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test, and its measurement"
)]

use std::time::Duration;

use sidecar_lab::{
    Agent, Loader, Pod, TimingPlan,
    iptables::{self, Backend},
};

/// The redirect may make a connect this much dearer.
const LIMIT: f64 = 1.2;
const ROUNDS: usize = 15;
const CONNECTIONS: u32 = 3_000;

/// Listens where the proxy does and connects to a service: redirected, or straight to itself.
fn plan(to: &str) -> TimingPlan {
    TimingPlan {
        listen: "0.0.0.0:15001".parse().unwrap(),
        to: to.parse().unwrap(),
        connections: CONNECTIONS,
        cpu: 0,
    }
}

fn time(agent: &Agent, to: &str) -> Duration {
    agent.time_connects(plan(to)).unwrap().elapsed
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn show(name: &str, ratios: &[f64]) -> f64 {
    let min = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let max = ratios.iter().copied().fold(0.0, f64::max);
    let median = median(ratios.to_vec());
    println!("{name}: {median:.3} times a connect without it ({min:.3} to {max:.3})");
    median
}

#[test]
fn a_redirected_connect_costs_little_more_than_a_plain_one() {
    let plain_pod = Pod::new("plain").unwrap();
    let plain = Agent::spawn(&plain_pod.app()).unwrap();

    let redirected_pod = Pod::new("redirected").unwrap();
    let loader = Loader::start(&redirected_pod, &[]).unwrap();
    let redirected = Agent::spawn(&redirected_pod.app()).unwrap();

    let iptables_pod = Pod::new("iptables").unwrap();
    let _rules = iptables::install_istio_rules(&iptables_pod, Backend::Nft, false).unwrap();
    let with_iptables = Agent::spawn(&iptables_pod.app()).unwrap();

    let before = loader.counters().unwrap();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    // One round more than counts: the first warms up.
    for _ in 0..=ROUNDS {
        let base = time(&plain, "127.0.0.1:15001").as_secs_f64();
        ours.push(time(&redirected, "10.96.0.1:80").as_secs_f64() / base);
        theirs.push(time(&with_iptables, "10.96.0.1:80").as_secs_f64() / base);
    }
    // The ratio counts only if every connection was redirected.
    let expected = u64::from(CONNECTIONS) * (ROUNDS as u64 + 1);
    let after = loader.counters().unwrap();
    after
        .expect_delta(&before, &[("connect4", "9", expected)])
        .unwrap();

    let ours = show("redirected", &ours[1..]);
    show("iptables-nft", &theirs[1..]);
    assert!(
        ours <= LIMIT,
        "a redirected connect costs {ours:.3} times a plain one"
    );
}
