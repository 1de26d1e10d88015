//! Programs of the lab: built with the loader they run, started in place of this process.

use std::{os::unix::process::CommandExt as _, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};

use crate::{
    command::{as_root, host_cargo, line, run},
    compile,
    machine::Workspace,
    setup::{self, Needs},
    steps::step,
};

/// What the program reads itself.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct HandedOn {
    /// What the run is told: `--quick`, `--seed N`, …; `--help` lists everything
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) args: Vec<String>,
}

/// Makes sure of what the program needs, builds it, and becomes it.
pub(crate) fn exec(
    workspace: &Workspace,
    needs: Needs,
    program: &str,
    args: &[String],
) -> Result<ExitCode> {
    let needs = Needs {
        build: true,
        pods: true,
        ..needs
    };
    let ready = setup::run(workspace, needs)?;
    let built = compile::everything(workspace, ready.bpf()?)?;

    step(program);
    let mut cargo = host_cargo();
    cargo.args(["build", "--package", "sidecar-lab", "--release", "--bins"]);
    compile::lock(workspace, &mut cargo);
    run(&mut cargo)?;

    // sudo drops the environment, so env comes after it.
    let mut command = as_root("env");
    let mut set = |name: &str, path: PathBuf| {
        command.arg(format!("{name}={}", path.display()));
    };
    set("SIDECAR_LOADER", built.loader);
    set("SIDECAR_NEEDED_CALLS", built.needed_calls);
    if let Some(envoy) = ready.envoy {
        set("SIDECAR_ENVOY", envoy);
    }
    command
        .arg(workspace.target.join("release").join(program))
        .args(args);
    eprintln!("$ {}", line(&command));
    // In place of this process, so that Ctrl-C reaches the program alone and it can clean up.
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start: {}", line(&command)))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        handed_on: HandedOn,
    }

    #[test]
    fn everything_is_handed_on() {
        let given = ["--quick", "--case", "(defaults)", "--help"];
        let line = Line::try_parse_from(["program"].iter().chain(&given));
        assert_eq!(line.unwrap().handed_on.args, given);
    }
}
