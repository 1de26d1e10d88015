//! What a redirect costs: builds what it needs, then becomes the lab's `bench`.

use std::process::ExitCode;

use anyhow::Result;

use crate::{lab, machine::Workspace, setup::Needs};

#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// What the run is told: `--quick`, `--record DIR`, `--arms FILE`, …; `--help` lists everything
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    let needs = Needs {
        bench: true,
        envoy: true,
        ..Needs::default()
    };
    lab::exec(workspace, needs, "bench", &args.args)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn everything_is_handed_on() {
        let given = ["--quick", "--only", "connect", "--help"];
        let line = Line::try_parse_from(["bench"].iter().chain(&given));
        assert_eq!(line.unwrap().args.args, given);
    }
}
