//! The process behind [`sidecar_lab::Agent`]: socket operations on command, over stdin and stdout.

use std::process;

fn main() {
    if let Err(error) = sidecar_lab::serve::run() {
        eprintln!("lab-agent: {error:#}");
        process::exit(2);
    }
}
