//! Hands the compiled eBPF object to `object.rs`.

use std::{env, path::PathBuf, process::exit};

fn main() {
    const OBJECT: &str = "SIDECAR_EBPF_OBJECT";
    println!("cargo:rerun-if-env-changed={OBJECT}");
    if env::var_os("CARGO_FEATURE_EBPF").is_none() {
        return;
    }
    let Some(object) = env::var_os(OBJECT)
        .map(PathBuf::from)
        .filter(|path| path.is_file())
    else {
        eprintln!(
            "{OBJECT} must name the compiled eBPF object; `cargo xtask build` makes it and builds the loader with it"
        );
        exit(1);
    };
    println!("cargo:rerun-if-changed={}", object.display());
    println!("cargo:rustc-env={OBJECT}={}", object.display());
}
