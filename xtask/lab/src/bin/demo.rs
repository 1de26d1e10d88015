//! The six kinds of traffic of a pod with a sidecar, on real sockets, and the rule that each hop
//! was counted under. `cargo xtask demo` builds what this needs and starts it as root.

use std::process::ExitCode;

use clap::Parser;
use sidecar_lab::demo::{self, Options};

fn main() -> ExitCode {
    match demo::run(&Options::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("demo: {error:#}");
            demo::ERROR.into()
        }
    }
}
