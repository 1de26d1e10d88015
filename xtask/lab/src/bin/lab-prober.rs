//! The process behind the conformance run's probes and servers: see `sidecar_lab::conformance`.

use std::process;

fn main() {
    if let Err(error) = sidecar_lab::conformance::prober() {
        eprintln!("lab-prober: {error:#}");
        process::exit(2);
    }
}
