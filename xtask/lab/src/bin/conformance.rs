//! The conformance run. `cargo xtask conformance` builds what this needs and starts it as root.

use std::process::ExitCode;

use clap::Parser;
use sidecar_lab::conformance::{self, Options};

fn main() -> ExitCode {
    match conformance::run(&Options::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("conformance: {error:#}");
            ExitCode::from(2)
        }
    }
}
