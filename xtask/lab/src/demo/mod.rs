//! The six kinds of traffic of an article on Istio's iptables rules, driven through a pod and
//! compared with what the kernel counts.
//!
//! Source of the article's numbers: <https://jimmysong.io/en/blog/sidecar-injection-iptables-and-traffic-routing/>.
//!
//! - [`topology`]: who there is, and where;
//! - [`sidecar`]: the proxy, ours or a real Envoy;
//! - [`traffic`]: the kinds, and what each is expected to be counted under;
//! - [`report`]: what was seen, as data; [`text`]: the same for people;
//! - [`keep`]: how to look around afterwards.

mod keep;
mod report;
mod sidecar;
mod text;
mod topology;
mod traffic;

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use nix::unistd::Uid;

use report::Report;
use topology::Lab;

/// Exit code for "the kernel counted otherwise than expected".
const NO: u8 = 1;
/// Exit code for "something went wrong".
pub const ERROR: u8 = 2;

/// Drive the six kinds of traffic of a pod with a sidecar, and show which rule each hop was
/// counted under.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "demo",
    after_help = "Exit codes: 0 everything was counted as expected, 1 something was not, \
                  2 something went wrong."
)]
pub struct Options {
    /// The proxy in the pod: a small transparent one of this project, or a real Envoy
    #[arg(long, value_enum, default_value_t = ProxyKind::Ours)]
    proxy: ProxyKind,
    /// Leave everything running until Ctrl-C, and say how to look around
    #[arg(long)]
    keep: bool,
    /// What is written to stdout
    #[arg(long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ProxyKind {
    Ours,
    Envoy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// One JSON object
    Json,
}

/// Shows everything; the exit code tells whether it was as expected.
pub fn run(options: &Options) -> Result<ExitCode> {
    ensure!(
        Uid::effective().is_root(),
        "a pod can only be made as root; `cargo xtask demo` asks sudo for that"
    );
    let ending = keep::Ending::prepare()?;
    let outcome = drive(options, &ending);
    ending.settle();
    outcome.map(ExitCode::from)
}

fn drive(options: &Options, ending: &keep::Ending) -> Result<u8> {
    let mut lab = Lab::start(options.proxy)?;
    let report = traffic::all(&mut lab)?;
    show(&report, options.output)?;
    let differences = report.differences();
    let code = if differences.is_empty() { 0 } else { NO };
    if code == NO {
        eprintln!("demo: not as expected:\n  {}", differences.join("\n  "));
    }
    if options.keep {
        let live_table = options.output == Format::Text && io::stdout().is_terminal();
        keep::wait(lab, ending, code, live_table)?;
    }
    Ok(code)
}

fn show(report: &Report, format: Format) -> Result<()> {
    let text = match format {
        Format::Text => text::render(report),
        Format::Json => {
            serde_json::to_string_pretty(report).context("writing the report as JSON")? + "\n"
        }
    };
    io::stdout()
        .write_all(text.as_bytes())
        .context("writing the report to stdout")
}

/// Progress, for whoever waits.
fn step(what: &str) {
    eprintln!("demo: {what}");
}
