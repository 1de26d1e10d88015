//! The resolver of the C library, unchanged.

use std::time::Duration;

use anyhow::{Context, Result};
use sidecar_lab::{Placement, UdpOptions};

use crate::{ALL, ResolvConf, support::Rig};

/// Answers any query for an IPv4 address with this one.
const ANSWER: [u8; 4] = [192, 0, 2, 7];

#[test]
fn a_name_is_resolved_by_the_agent() -> Result<()> {
    let mut rig = Rig::new("dns-getent")?;
    rig.load(&ALL)?;
    let agent = rig.proxy.udp(UdpOptions {
        bind: Some("127.0.0.1:15053".parse()?),
        ..UdpOptions::default()
    })?;
    let conf = ResolvConf::new("getent", &["10.96.0.10"])?;
    let place = Placement::new(rig.pod.netns_path(), rig.pod.app_cgroup());
    let script = format!(
        "mount --bind {} /etc/resolv.conf && getent ahostsv4 reviews.example",
        conf.path()
    );
    let child = place.spawn("unshare", ["-m", "sh", "-c", &script])?;
    let query = agent.receive()?;
    agent.send_to(&answer(&query.payload).context("a query")?, query.source)?;
    let line = child.wait_for_line("STREAM", Duration::from_secs(10));
    assert!(line?.starts_with("192.0.2.7 "));
    Ok(())
}

/// The query with its flags turned to those of an answer, and one record behind it (RFC 1035).
fn answer(query: &[u8]) -> Option<Vec<u8>> {
    // Up to the end of the question: the name's end, type and class.
    let name = query.get(12..)?.iter().position(|&byte| byte == 0)?;
    let mut answer = query.get(..12 + name + 5)?.to_vec();
    answer.splice(2..12, [0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    // The name of the question, an address of the internet, for a minute, four bytes.
    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
    answer.extend(ANSWER);
    Some(answer)
}
