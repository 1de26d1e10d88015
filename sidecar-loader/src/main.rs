//! `loader`: redirects a pod's TCP to its sidecar proxy.

use std::process::ExitCode;

use clap::Parser as _;
use sidecar_loader::{cli::Cli, run};

/// Exit code for "something went wrong"; 1 is kept for "no".
const ERROR: u8 = 2;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    // netlink-proto warns of each dump that was read to its end.
    let filter = env_logger::Env::default().default_filter_or("info,netlink_proto=error");
    env_logger::Builder::from_env(filter)
        .format_target(false)
        .init();
    match run::run(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error:#}");
            ERROR.into()
        }
    }
}
