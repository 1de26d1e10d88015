//! The subcommands. None of them needs the eBPF programs, and none changes anything.
//!
//! - [`rules`]: the rules that settings make; [`explain`]: which of them decides a connection, and
//!   why those before it do not; both out of [`chain`], whose rules ask what [`matches`] has, for
//!   a [`subject`]: settings in a pod ([`pod_view`]), or what is [`running`];
//! - [`validate`]: whether connections are redirected where it runs.

pub mod chain;
pub mod explain;
pub mod matches;
pub mod pod_view;
pub mod rules;
pub mod running;
pub mod subject;
pub mod validate;

use std::{env, ffi::OsString, fs, io::Write, net::IpAddr};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, CommandFactory as _, FromArgMatches as _, Subcommand, ValueEnum};
use sidecar_ebpf_common::maps::DEFAULT_DESTINATIONS;

use crate::{
    cli::{Cli, IstioArgs, RingArgs, UnsupportedArgs},
    config::{Config, Problems, flag::Environment, resolv_conf},
};

/// What the command line asks for.
#[derive(Debug)]
pub enum Job {
    /// The main job.
    Redirect(Box<Cli>),
    Command(Box<Command>),
}

#[derive(Subcommand, Debug)]
pub enum Command {
    Rules(rules::RulesArgs),
    Explain(explain::ExplainArgs),
    Validate(validate::ValidateArgs),
}

/// How a subcommand ended that did its work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    Fine,
    /// The self-test found no redirection.
    NotRedirected,
}

impl Outcome {
    /// 126 is what Istio's tools look for when they repair a pod.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Fine => 0,
            Self::NotRedirected => 126,
        }
    }
}

/// How a subcommand writes what it found.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Format {
    /// For people
    #[default]
    Table,
    /// One JSON object
    Json,
}

#[derive(Args, Clone, Copy, Debug)]
pub struct FormatArgs {
    /// How it is written
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub output: Format,

    /// The same as --output json
    #[arg(long, conflicts_with = "output")]
    pub json: bool,
}

impl FormatArgs {
    pub fn format(&self) -> Format {
        if self.json { Format::Json } else { self.output }
    }
}

/// Settings as the main job takes them.
#[derive(Args, Clone, Default, PartialEq, Eq, Debug)]
pub struct PolicyArgs {
    #[command(flatten)]
    pub istio: IstioArgs,
    #[command(flatten)]
    pub unsupported: UnsupportedArgs,
}

impl PolicyArgs {
    /// Where a running policy is asked, settings would be ignored.
    fn refuse_beside_cgroup(&self) -> Result<()> {
        ensure!(
            *self == Self::default(),
            "--cgroup asks for what is in effect: leave the settings out, or --cgroup"
        );
        Ok(())
    }

    pub fn resolve(&self, environment: Environment<'_>) -> Result<Config, Problems> {
        // A subcommand keeps no destinations.
        let ring = RingArgs {
            destinations: DEFAULT_DESTINATIONS,
            destination_hold: 128,
        };
        Config::resolve(&self.istio, &self.unsupported, &ring, environment)
    }
}

/// The main job's command line with the subcommands beside it.
pub fn command() -> clap::Command {
    let command = Command::augment_subcommands(Cli::command())
        .subcommand_negates_reqs(true)
        .args_conflicts_with_subcommands(true)
        .disable_help_subcommand(true);
    command.mut_subcommand("validate", validate::show_flags)
}

pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Job, clap::Error> {
    let mut command = command();
    let matches = command.try_get_matches_from_mut(args)?;
    let job = if matches.subcommand_name().is_some() {
        Command::from_arg_matches(&matches).map(|command| Job::Command(Box::new(command)))
    } else {
        Cli::from_arg_matches(&matches).map(|cli| Job::Redirect(Box::new(cli)))
    };
    job.map_err(|error| error.format(&mut command))
}

/// Does what a subcommand is for; what it finds goes to `out`.
pub fn run(command: &Command, out: &mut impl Write) -> Result<Outcome> {
    let environment = |name: &str| env::var(name).ok();
    match command {
        Command::Rules(args) => rules::run(args, &environment, out),
        Command::Explain(args) => explain::run(args, &environment, out),
        Command::Validate(args) => validate::run(args, &environment, out),
    }
}

fn warn(config: &Config) {
    for note in &config.notes {
        log::warn!("{note}");
    }
}

/// The DNS servers of the pod that this runs in.
fn servers_here() -> Result<Vec<IpAddr>> {
    let path = "/etc/resolv.conf";
    let text = fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    Ok(resolv_conf::parse(&text))
}

/// Lines whose cells stand below each other.
fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(widths);
        let cells: Vec<_> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn parsed(args: &[&str]) -> Result<Job, clap::Error> {
        parse(["loader"].iter().chain(args).map(OsString::from))
    }

    #[test]
    fn clap_finds_no_fault() {
        command().debug_assert();
    }

    #[test]
    fn without_a_subcommand_it_is_the_main_job() {
        let job = parsed(&["--cgroup", "pod", "-u", "7"]).unwrap();
        assert!(matches!(job, Job::Redirect(cli) if cli.istio.proxy_uid.as_deref() == Some("7")));
        assert!(parsed(&[]).unwrap_err().to_string().contains("--cgroup"));
        let error = parsed(&["--cgroup", "pod", "rules"])
            .unwrap_err()
            .to_string();
        assert!(error.contains("rules"), "{error}");
        let error = parsed(&["superfluous"]).unwrap_err().to_string();
        assert!(error.contains("superfluous"), "{error}");
    }

    #[test]
    fn subcommands_take_istio_s_flags() {
        for name in ["rules", "validate"] {
            let args = [name, "-u", "7", "-b", "", "-p15001", "--proxy-uid=8"];
            assert!(matches!(parsed(&args).unwrap(), Job::Command(_)), "{name}");
        }
        assert!(parsed(&["validate", "--cgroup", "pod"]).is_err());
    }

    #[test]
    fn a_running_policy_takes_no_settings() {
        let explain = ["explain", "--cgroup=pod", "--uid=0", "--to=10.0.0.1:80"];
        let rules = ["rules", "--cgroup=pod"];
        let asked = |given: &[&str]| match parsed(given).map(|job| match job {
            Job::Command(command) => run(&command, &mut Vec::new()).unwrap_err().to_string(),
            Job::Redirect(_) => panic!("no subcommand"),
        }) {
            Ok(text) => text,
            Err(error) => error.to_string(),
        };
        for given in [&explain[..], &rules] {
            assert!(
                asked(given).contains("--cgroup pod: cannot open it"),
                "{given:?}"
            );
            let settings = ["-u7", "--kube-virt-interfaces=eth1", "--annotations=x"];
            for setting in settings {
                let error = asked(&[given, &[setting]].concat());
                assert!(
                    error.contains("leave the settings out"),
                    "{setting}: {error}"
                );
            }
            let error = asked(&[given, &["--ipv6"]].concat());
            assert!(error.contains("cannot be used with"), "{error}");
        }
    }

    #[test]
    fn cells_stand_below_each_other() {
        let rows = [["a", "bb", "c"], ["aaa", "b", ""]].map(|row| row.map(str::to_owned));
        assert_eq!(aligned(&rows), "a    bb  c\naaa  b\n");
    }
}
