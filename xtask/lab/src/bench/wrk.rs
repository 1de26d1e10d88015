//! wrk, which makes HTTP load: runs it for a while, and reads what it says at its end.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::{
    process::{Placement, run_command},
    real::scratch::Scratch,
};

/// How many connections it has open at once.
pub(super) const CONNECTIONS: u64 = 16;
/// It looks whether it can connect at all before it begins.
pub(super) const TRIALS: u64 = 1;

/// Times are microseconds.
const SCRIPT: &str = r#"
done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests":%d,"duration":%d,"failed":%d,"p50":%d,"p99":%d,"p999":%d}\n',
    summary.requests, summary.duration,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
"#;

#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Said {
    pub(super) requests: u64,
    /// Microseconds, as all times here.
    pub(super) duration: u64,
    /// Of connections, reads, writes, and answers that are no success.
    pub(super) failed: u64,
    pub(super) p50: u64,
    pub(super) p99: u64,
    pub(super) p999: u64,
}

/// wrk in one place.
#[derive(Debug)]
pub(super) struct Wrk {
    place: Placement,
    script: PathBuf,
    _scratch: Scratch,
}

impl Wrk {
    pub(super) fn new(place: Placement) -> Result<Self> {
        let scratch = Scratch::new("wrk", &place)?;
        let script = scratch.write("done.lua", SCRIPT)?;
        Ok(Self {
            place,
            script,
            _scratch: scratch,
        })
    }

    /// Asks again and again, for so long in whole seconds.
    pub(super) fn run(&self, to: SocketAddr, time: Duration, is_close: bool) -> Result<Said> {
        let mut args: Vec<String> = ["-t", "1", "-c"].map(str::to_owned).into();
        args.push(CONNECTIONS.to_string());
        args.extend(["-d".to_owned(), format!("{}s", time.as_secs().max(1))]);
        args.extend(["--latency", "-s"].map(str::to_owned));
        args.push(self.script.display().to_string());
        if is_close {
            args.extend(["-H", "Connection: close"].map(str::to_owned));
        }
        args.push(format!("http://{to}/"));
        let command = self.place.command("wrk", &args)?;
        let text = run_command(command, "").context("wrk (package wrk)")?;
        let line = text.lines().find(|line| line.starts_with('{'));
        let said = line.and_then(|line| serde_json::from_str(line).ok());
        let said: Said = said.with_context(|| format!("wrk said {text}"))?;
        ensure!(
            said.failed == 0 && said.requests > 0,
            "wrk says that {} requests failed, {} did not: {text}",
            said.failed,
            said.requests
        );
        Ok(said)
    }
}
