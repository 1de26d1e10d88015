//! Every test: the host's as whoever calls, the kernel's as root.

use std::{env, process::ExitCode};

use anyhow::{Context as _, Result};

use crate::{
    command::{host_cargo, succeeds},
    compile,
    machine::{self, Workspace},
    setup::{self, Needs},
    steps::step,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run this file of kernel tests alone, and no tests of the host (can be repeated)
    #[arg(long = "test", value_name = "NAME")]
    tests: Vec<String>,
    /// What the kernel tests are told, for example a filter, or `--nocapture`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    let needs = Needs {
        build: true,
        pods: true,
        tests: true,
        envoy: true,
        ..Needs::default()
    };
    let ready = setup::run(workspace, needs)?;
    let envoy = ready
        .envoy
        .as_ref()
        .context("set-up was not asked for Envoy")?;

    let mut passed = true;
    if args.tests.is_empty() {
        passed &= host_tests(workspace)?;
    } else {
        step("only the kernel tests that were named; the host's are left out");
    }
    let built = compile::everything(workspace, ready.bpf()?)?;

    step("kernel tests, as root");
    let mut cargo = host_cargo();
    cargo.args([
        "test",
        "--package",
        "sidecar-lab",
        "--release",
        "--features",
        "kernel",
    ]);
    cargo.arg("--no-fail-fast");
    compile::lock(workspace, &mut cargo);
    for name in &args.tests {
        cargo.args(["--test", name]);
    }
    cargo.arg("--").args(kernel_arguments(&args.args));
    cargo
        .env(compile::OBJECT_VARIABLE, built.object)
        .env("SIDECAR_LOADER", built.loader)
        .env("SIDECAR_NEEDED_CALLS", built.needed_calls)
        .env("SIDECAR_ENVOY", envoy);
    if !machine::is_root() {
        cargo.env(runner_variable(), "sudo -E");
    }
    passed &= succeeds(&mut cargo)?;

    step(if passed {
        "all tests passed"
    } else {
        "tests FAILED, see above"
    });
    Ok(if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn host_tests(workspace: &Workspace) -> Result<bool> {
    step("tests of the host");
    let mut cargo = host_cargo();
    cargo.args([
        "test",
        "--workspace",
        "--exclude",
        "sidecar-ebpf",
        "--no-fail-fast",
    ]);
    compile::lock(workspace, &mut cargo);
    succeeds(&mut cargo)
}

/// Pods share the machine's cgroups, processors and kernel memory, so one test at a time,
/// unless the caller knows better.
fn kernel_arguments(given: &[String]) -> Vec<String> {
    let mut arguments = given.to_vec();
    if !given
        .iter()
        .any(|argument| argument.starts_with("--test-threads"))
    {
        arguments.insert(0, "--test-threads=1".to_owned());
    }
    arguments
}

/// cargo starts test programs through what this variable says.
fn runner_variable() -> String {
    // xtask is built for the host, and so are the tests.
    let environment = if cfg!(target_env = "musl") {
        "MUSL"
    } else {
        "GNU"
    };
    format!(
        "CARGO_TARGET_{}_UNKNOWN_LINUX_{environment}_RUNNER",
        env::consts::ARCH.to_uppercase()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_test_at_a_time_unless_told_otherwise() {
        let of = |words: &[&str]| {
            kernel_arguments(&words.iter().map(|w| (*w).into()).collect::<Vec<_>>())
        };
        assert_eq!(of(&[]), ["--test-threads=1"]);
        assert_eq!(
            of(&["ipv6", "--nocapture"]),
            ["--test-threads=1", "ipv6", "--nocapture"]
        );
        assert_eq!(of(&["--test-threads=4"]), ["--test-threads=4"]);
        assert_eq!(of(&["--test-threads", "4"]), ["--test-threads", "4"]);
    }

    #[test]
    fn the_runner_is_set_for_this_host() {
        assert!(runner_variable().contains("_UNKNOWN_LINUX_"));
        assert!(!runner_variable().contains('-'));
    }
}
