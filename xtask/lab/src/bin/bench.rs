//! The benchmark. `cargo xtask bench` builds what this needs and starts it as root.

use std::process::ExitCode;

use clap::Parser;
use sidecar_lab::bench::{self, Options};

fn main() -> ExitCode {
    match bench::run(&Options::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::from(2)
        }
    }
}
