//! The main job in a pod made for it: builds what it needs, then becomes the lab's `demo`.

use std::process::ExitCode;

use anyhow::Result;

use crate::{lab, machine::Workspace, setup::Needs};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What the demo is told: `--proxy envoy` takes a real Envoy, `--keep` leaves the pod running
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    let needs = Needs {
        envoy: wants_envoy(&args.args),
        ..Needs::default()
    };
    lab::exec(workspace, needs, "demo", &args.args)
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
