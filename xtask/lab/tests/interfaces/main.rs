//! A pod with two interfaces: one of them excluded, and the source address that each connection
//! has. Needs root; leaves nothing behind.
#![expect(clippy::unwrap_used, reason = "in a test it is a failure of the test")]

mod excluded;
mod follow;
mod oracle;
mod sources;
#[path = "../support/mod.rs"]
mod support;

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use sidecar_lab::{ConnectOptions, Pod, PodOptions};
use support::{Front, Rig, to};

/// Behind eth0.
const SERVICE: &str = "10.96.0.10:80";
const SERVICE6: &str = "[fd00:96::10]:80";
/// Behind net1.
const SECOND: &str = "192.0.2.10:80";
const SECOND6: &str = "[2001:db8:77::10]:80";

fn two_interfaces(hint: &str) -> Result<Rig> {
    Rig::on(Pod::with(hint, PodOptions::two_interfaces())?)
}

fn loaded(hint: &str, args: &[&str]) -> Result<Rig> {
    let mut rig = two_interfaces(hint)?;
    rig.load(&[&["--dual-stack"], args].concat())?;
    Ok(rig)
}

fn mapped(addr: &str) -> ConnectOptions {
    with(addr, |options| options.mapped = true)
}

fn by_device(addr: &str, device: &str) -> ConnectOptions {
    with(addr, |options| {
        options.bind_to_device = Some(device.to_owned());
    })
}

fn with(addr: &str, change: impl FnOnce(&mut ConnectOptions)) -> ConnectOptions {
    let mut options = to(addr);
    change(&mut options);
    options
}

/// Waits until the application's connections to this address are counted under that rule.
fn until_rule(rig: &Rig, hook: &str, addr: &str, rule: &str) -> Result<()> {
    let addr: SocketAddr = addr.parse()?;
    let start = Instant::now();
    loop {
        let before = rig.counters()?;
        let mut options = to(addr);
        // Between two looks the address may be nobody's.
        options.timeout = Duration::from_millis(100);
        drop(rig.app.connect_with(options));
        for front in [&rig.outbound, &rig.application, &rig.service] {
            drain(front);
        }
        if rig.counters()?.get(hook, rule) > before.get(hook, rule) {
            return Ok(());
        }
        ensure!(
            start.elapsed() < Duration::from_secs(3),
            "{addr} has not come under rule {rule} of {hook} in time"
        );
        thread::sleep(Duration::from_millis(5));
    }
}

/// Accepts and closes what nobody waits for any more.
fn drain(front: &Front) {
    for listener in &front.listeners {
        while listener.accept_within(Duration::ZERO).is_ok() {}
    }
}
