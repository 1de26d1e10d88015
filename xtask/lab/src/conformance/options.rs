//! The command line of the conformance run.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use super::backends::Backend;

/// Compares this software's decisions with those of real iptables, probe by probe
///
/// The same random probes are put to four legs: the decision with the list behind `loader explain`;
/// an interpreter of the rules' text; real iptables-legacy, iptables-nft and nftables, each in a
/// pod of its own; the eBPF programs in a pod of theirs. Who answers, what the proxy and the client
/// are told, errors and rule counters must agree.
#[derive(Parser, Clone, Debug)]
#[command(
    bin_name = "cargo xtask conformance",
    after_help = "Exit codes: 0 no difference, 1 a difference, an accepted difference that is none \
                  any more, or a rule or knob that was not covered; 2 something went wrong."
)]
pub struct Options {
    /// How many configurations: the fixed ones first, then random ones
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub configs: usize,

    /// How many probes in all, in each leg
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub probes: usize,

    /// Makes the same run again [default: the time]
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,

    /// A slice of a minute: some fixed and some random configurations, always the same
    #[arg(long, conflicts_with_all = ["configs", "probes", "seed"])]
    pub quick: bool,

    /// Run the rule files in this folder, as iptables-save or istio-iptables writes them, in place
    /// of generated rules; settings are found from the rules
    #[arg(long, value_name = "DIR", conflicts_with_all = ["quick", "case"])]
    pub rules: Option<PathBuf>,

    /// Real rules to compare with: iptables-legacy, iptables-nft, nftables [default: all]
    #[arg(long = "backend", value_name = "NAME")]
    pub backends: Vec<Backend>,

    /// One configuration alone, as flags of the loader
    #[arg(
        long,
        value_name = "FLAGS",
        requires = "probe",
        allow_hyphen_values = true
    )]
    pub case: Option<String>,

    /// The probe to put to it
    #[arg(long, value_name = "PROBE", requires = "case")]
    pub probe: Option<String>,

    /// How the result is written
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub output: Format,

    /// Where cases that differ are kept; every run begins with them
    #[arg(long, value_name = "FILE", default_value = REGRESSIONS)]
    pub regressions: PathBuf,

    /// Replace this in the text of the real rules, to see that it is found
    #[arg(
        long,
        value_name = "TEXT=TEXT",
        hide = true,
        allow_hyphen_values = true
    )]
    pub alter: Option<String>,
}

const REGRESSIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/conformance/regressions.txt");

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Format {
    /// For people
    #[default]
    Table,
    /// One JSON object
    Json,
}

impl Options {
    pub(crate) fn backends(&self) -> Vec<Backend> {
        if self.backends.is_empty() {
            Backend::ALL.to_vec()
        } else {
            self.backends.clone()
        }
    }

    /// How many configurations and probes.
    pub(crate) const fn size(&self) -> (usize, usize) {
        if self.quick {
            (12, 12 * 150)
        } else {
            (self.configs, self.probes)
        }
    }
}
