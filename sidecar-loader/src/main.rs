//! `loader`: redirects a pod's TCP to its sidecar proxy.

use std::{
    env,
    io::{self, ErrorKind},
    process::ExitCode,
};

use anyhow::Result;
use sidecar_loader::{
    cmd::{self, Job, Outcome},
    run,
};

/// Exit code for "something went wrong"; 1 is kept for "no".
const ERROR: u8 = 2;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let job = cmd::parse(env::args_os()).unwrap_or_else(|error| error.exit());
    // netlink-proto warns of each dump that was read to its end.
    let filter = env_logger::Env::default().default_filter_or("info,netlink_proto=error");
    env_logger::Builder::from_env(filter)
        .format_target(false)
        .init();
    let result = match job {
        Job::Redirect(cli) => run::run(*cli).await.map(|()| Outcome::Fine),
        Job::Command(command) => whole(cmd::run(&command, &mut io::stdout().lock())),
    };
    match result {
        Ok(outcome) => outcome.exit_code().into(),
        Err(error) => {
            log::error!("{error:#}");
            ERROR.into()
        }
    }
}

/// A reader that has seen enough is no error.
fn whole(result: Result<Outcome>) -> Result<Outcome> {
    match result {
        Err(error) if is_broken_pipe(&error) => Ok(Outcome::Fine),
        result => result,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<io::Error>();
    cause.is_some_and(|cause| cause.kind() == ErrorKind::BrokenPipe)
}
