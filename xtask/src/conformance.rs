//! Decisions against real iptables: builds what it needs, then becomes the lab's `conformance`.

use std::{os::unix::process::CommandExt as _, process::ExitCode};

use anyhow::{Context as _, Result};

use crate::{
    command::{as_root, host_cargo, line, run as run_command},
    compile,
    machine::Workspace,
    setup::{self, Needs},
    steps::step,
};

#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// What the run is told: `--quick`, `--rules DIR`, `--seed N`, …; `--help` lists everything
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    let needs = Needs {
        build: true,
        pods: true,
        conformance: true,
        ..Needs::default()
    };
    let ready = setup::run(workspace, needs)?;
    let built = compile::everything(workspace, ready.bpf()?)?;

    step("conformance");
    let mut cargo = host_cargo();
    cargo.args(["build", "--package", "sidecar-lab", "--release", "--bins"]);
    compile::lock(workspace, &mut cargo);
    run_command(&mut cargo)?;

    // sudo drops the environment, so env comes after it.
    let mut conformance = as_root("env");
    conformance
        .arg(format!("SIDECAR_LOADER={}", built.loader.display()))
        .arg(workspace.target.join("release/conformance"))
        .args(&args.args);
    eprintln!("$ {}", line(&conformance));
    // In place of this process, so that Ctrl-C reaches the run alone and it can clean up.
    let error = conformance.exec();
    Err(error).with_context(|| format!("cannot start: {}", line(&conformance)))
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
        let given = ["--quick", "--case", "(defaults)", "--help"];
        let line = Line::try_parse_from(["conformance"].iter().chain(&given));
        assert_eq!(line.unwrap().args.args, given);
    }
}
