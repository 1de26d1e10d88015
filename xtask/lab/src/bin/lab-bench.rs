//! The process that works for `cargo xtask bench`: told over stdin, answers on stdout.

use std::process;

fn main() {
    if let Err(error) = sidecar_lab::bench::work() {
        eprintln!("lab-bench: {error:#}");
        process::exit(2);
    }
}
