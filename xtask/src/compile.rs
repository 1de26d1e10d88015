//! The two halves: the eBPF object, then the loader that embeds it.

use std::{env, path::PathBuf, process::Command};

use anyhow::{Result, bail};

use crate::{
    command::{host_cargo, run as run_command},
    machine::Workspace,
    setup::{self, BpfTools, Needs},
    steps::step,
};

const BPF_PACKAGE: &str = "sidecar-ebpf";
/// The package's other binary.
const NEEDED_CALLS: &str = "needed-calls";

/// eBPF code of this machine's byte order.
const BPF_TARGET: &str = if cfg!(target_endian = "big") {
    "bpfeb-unknown-none"
} else {
    "bpfel-unknown-none"
};

/// The variable in which sidecar-loader's build script finds the object.
pub(crate) const OBJECT_VARIABLE: &str = "SIDECAR_EBPF_OBJECT";

pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let ready = setup::run(
        workspace,
        Needs {
            build: true,
            ..Needs::default()
        },
    )?;
    let built = everything(workspace, ready.bpf()?)?;
    step(format_args!("built {}", built.loader.display()));
    Ok(())
}

/// The two halves, built, and what is built with them.
pub(crate) struct Built {
    pub(crate) object: PathBuf,
    /// Programs that the benchmark runs beside those of the loader.
    pub(crate) needed_calls: PathBuf,
    pub(crate) loader: PathBuf,
}

/// Builds the object and the loader.
pub(crate) fn everything(workspace: &Workspace, tools: &BpfTools) -> Result<Built> {
    let object = object(workspace, tools)?;
    step("loader");
    let mut cargo = host_cargo();
    cargo.args([
        "build",
        "--release",
        "--package",
        "sidecar-loader",
        "--features",
        "ebpf",
    ]);
    lock(workspace, &mut cargo);
    run_command(cargo.env(OBJECT_VARIABLE, &object))?;
    let loader = existing(workspace.target.join("release/loader"))?;
    Ok(Built {
        needed_calls: existing(object.with_file_name(NEEDED_CALLS))?,
        object,
        loader,
    })
}

/// Builds the eBPF programs; the path of the loader's object.
pub(crate) fn object(workspace: &Workspace, tools: &BpfTools) -> Result<PathBuf> {
    step(format_args!("eBPF programs, by {}", tools.toolchain));
    let mut cargo = tools.toolchain.cargo();
    cargo.arg("build");
    add_target(workspace, tools, &mut cargo);
    run_command(&mut cargo)?;
    existing(
        bpf_target_dir(workspace)
            .join(BPF_TARGET)
            .join("release")
            .join(BPF_PACKAGE),
    )
}

/// What `cargo build` and `cargo clippy` must be told about the eBPF target.
pub(crate) fn add_target(workspace: &Workspace, tools: &BpfTools, cargo: &mut Command) {
    cargo.args([
        "--package",
        BPF_PACKAGE,
        "--release",
        "--target",
        BPF_TARGET,
    ]);
    cargo
        .args(["-Z", "build-std=core", "--target-dir"])
        .arg(bpf_target_dir(workspace));
    lock(workspace, cargo);
    // aya-ebpf asks for the architecture whose registers it shall know; BTF needs full debug info. The
    // third version of the instruction set (Linux 5.1) has 32-bit arithmetic: a tenth less code.
    let architecture = env::consts::ARCH;
    cargo.env(
        "RUSTFLAGS",
        format!(
            r#"--cfg bpf_target_arch="{architecture}" -C debuginfo=2 -C link-arg=--btf -C target-cpu=v3"#
        ),
    );
    let linker = format!(
        "CARGO_TARGET_{}_LINKER",
        BPF_TARGET.to_uppercase().replace('-', "_")
    );
    cargo.env(linker, &tools.linker);
}

/// Apart from the host's, so that neither waits for the other's lock nor cleans the other away.
fn bpf_target_dir(workspace: &Workspace) -> PathBuf {
    workspace.target.join("bpf")
}

/// Keeps every build to the versions in Cargo.lock.
pub(crate) fn lock(workspace: &Workspace, cargo: &mut Command) {
    if workspace.root.join("Cargo.lock").exists() {
        cargo.arg("--locked");
    }
}

fn existing(file: PathBuf) -> Result<PathBuf> {
    if !file.exists() {
        bail!("cargo succeeded, but made no {}", file.display());
    }
    Ok(file)
}
