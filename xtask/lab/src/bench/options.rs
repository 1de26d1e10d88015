//! The command line of the benchmark.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use super::{further::VARIABLES, record::Work};

/// Measures what a redirect costs, beside iptables, nftables and no redirection at all
///
/// Each arm has a pod of its own; all work in turn, in one run, round by round. A run counts only if
/// the counters of what redirects prove that each connection went the way its arm claims.
#[derive(Parser, Clone, Debug)]
#[command(
    bin_name = "cargo xtask bench",
    after_help = "Exit codes: 0 measured, 1 an arm lost its redirect, 2 something went wrong.",
    after_long_help = after()
)]
pub struct Options {
    /// Few and short rounds: two minutes in all
    #[arg(long)]
    pub quick: bool,

    /// Decides about the order of arms in each round [default: the time]
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,

    /// Further arms, as a JSON array
    #[arg(long, value_name = "FILE")]
    pub arms: Option<PathBuf>,

    /// Only this work (can be repeated)
    #[arg(long, value_name = "WORK", value_enum)]
    pub only: Vec<Only>,

    /// How the result is written to stdout
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub output: Format,

    /// Write numbers, report and plots into a folder of their own in this one
    #[arg(long, value_name = "DIR")]
    pub record: Option<PathBuf>,

    /// Measure nothing; show what the record of an earlier run says
    #[arg(long, value_name = "RECORD.json", conflicts_with_all = ["quick", "seed", "arms", "only"])]
    pub report: Option<PathBuf>,

    /// Break this arm after the first round, to see that it is found
    #[arg(long = "break", value_name = "ARM", hide = true)]
    pub broken: Option<String>,

    /// So many rounds, and short ones
    #[arg(long, value_name = "NUMBER", hide = true)]
    pub rounds: Option<u32>,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Only {
    /// connect(), accept(), SO_ORIGINAL_DST, close()
    Connect,
    /// 1 and 1024 bytes there and back
    RoundTrip,
    /// As many bytes as will go
    Bulk,
    /// Requests through a real proxy
    Http,
    /// How long it takes to attach and to detach
    Attach,
    /// Kernel memory of a pod and of a connection
    Memory,
    /// Run time of each program, by the kernel's statistics
    Programs,
    /// Connects with many excluded ranges, and with many excluded ports
    Lists,
    /// Connects beside many open connections, and how many there can be
    Open,
    /// Connections that come and go; also while connection tracking is full
    Churn,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Format {
    /// For people
    #[default]
    Text,
    /// One JSON object: the record
    Json,
}

impl Options {
    /// Whether the run is to have this.
    pub fn wants(&self, what: Only) -> bool {
        self.only.is_empty() || self.only.contains(&what)
    }
}

impl Only {
    /// The part that the work belongs to.
    pub const fn of(work: Work) -> Option<Self> {
        match work {
            Work::Connect => Some(Self::Connect),
            Work::RoundTrip { .. } => Some(Self::RoundTrip),
            Work::Bulk => Some(Self::Bulk),
            Work::Http | Work::HttpClose => Some(Self::Http),
        }
    }
}

fn after() -> String {
    format!(
        "Further arms (--arms FILE): a JSON array of objects\n  \
         name         letters, digits, - and _\n  \
         description  what it is, for the report\n  \
         setup        commands that make the redirect\n  \
         run          a command that makes it and stays; SIGTERM ends it\n  \
         ready        a text that `run` writes once the redirect works\n  \
         teardown     commands that undo `setup`\n  \
         counter      {{\"outbound\": COMMAND, \"inbound\": COMMAND}}: each prints how many \
         connections were redirected so far\n  \
         directions   [\"outbound\", \"inbound\"], or one of them\n\
         Commands are run by sh, as root, and find in their environment: {VARIABLES}.\n\
         Without a counter the proof is that connections to where nobody listens reached the proxy.\n\n\
         Exit codes: 0 measured, 1 an arm lost its redirect, 2 something went wrong."
    )
}
