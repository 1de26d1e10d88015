//! The main job in a pod made for it: builds what it needs, then becomes the lab's `demo`.

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
pub(crate) struct Args {
    /// What the demo is told: `--proxy envoy` takes a real Envoy, `--keep` leaves the pod running
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    let envoy_wanted = wants_envoy(&args.args);
    let needs = Needs {
        build: true,
        pods: true,
        envoy: envoy_wanted,
        ..Needs::default()
    };
    let ready = setup::run(workspace, needs)?;
    let built = compile::everything(workspace, ready.bpf()?)?;

    step("demo");
    let mut cargo = host_cargo();
    cargo.args(["build", "--package", "sidecar-lab", "--release", "--bins"]);
    compile::lock(workspace, &mut cargo);
    run_command(&mut cargo)?;

    // sudo drops the environment, so env comes after it.
    let mut demo = as_root("env");
    demo.arg(format!("SIDECAR_LOADER={}", built.loader.display()));
    if let Some(envoy) = ready.envoy {
        demo.arg(format!("SIDECAR_ENVOY={}", envoy.display()));
    }
    demo.arg(workspace.target.join("release/demo"))
        .args(&args.args);
    eprintln!("$ {}", line(&demo));
    // In place of this process, so that Ctrl-C reaches the demo alone and it can clean up.
    let error = demo.exec();
    Err(error).with_context(|| format!("cannot start: {}", line(&demo)))
}

fn wants_envoy(args: &[String]) -> bool {
    args.iter().any(|it| it == "--proxy=envoy")
        || args.windows(2).any(|pair| pair == ["--proxy", "envoy"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envoy_is_fetched_only_when_the_demo_runs_it() {
        let of = |text: &str| wants_envoy(&text.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert!(of("--proxy envoy"));
        assert!(of("--keep --proxy=envoy"));
        assert!(!of("--keep"));
        assert!(!of("--proxy own"));
        assert!(!of("envoy --proxy"));
    }
}
