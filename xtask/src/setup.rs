//! Makes sure of what a command needs. A second run finds everything and installs nothing.

use std::{env, fmt::Write as _, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{
    command::{ask, host_cargo, succeeds},
    machine::{self, Workspace},
    packages, pins,
    steps::step,
    toolchain::{self, Facts, Plan, Toolchain, Way},
    tools,
};

/// Which parts a command needs beside a Rust toolchain.
#[derive(Clone, Copy, Default)]
pub(crate) struct Needs {
    /// The eBPF toolchain and bpf-linker.
    pub(crate) build: bool,
    /// clippy for the eBPF target; rustfmt and clippy for the host.
    pub(crate) lint: bool,
    /// What makes pods, and the right to make them.
    pub(crate) pods: bool,
    /// The programs that the kernel tests run.
    pub(crate) tests: bool,
    /// The programs that decisions are compared with; tests include them.
    pub(crate) conformance: bool,
    /// The programs that the benchmark compares and that make its load; tests include them.
    pub(crate) bench: bool,
    pub(crate) envoy: bool,
}

pub(crate) const EVERYTHING: Needs = Needs {
    build: true,
    lint: false,
    pods: true,
    tests: true,
    conformance: true,
    bench: true,
    envoy: true,
};

/// What is there now. A part that was not asked for may be absent.
#[derive(Default)]
pub(crate) struct Ready {
    pub(crate) bpf: Option<BpfTools>,
    pub(crate) envoy: Option<PathBuf>,
}

pub(crate) struct BpfTools {
    pub(crate) toolchain: Toolchain,
    pub(crate) linker: PathBuf,
}

/// Something that could not be installed here, and what to do about it.
pub(crate) struct Missing {
    pub(crate) what: String,
    pub(crate) how: String,
}

pub(crate) fn run(workspace: &Workspace, needs: Needs) -> Result<Ready> {
    let mut missing = Vec::new();
    let mut ready = Ready::default();
    if needs.pods && !machine::can_be_root() {
        missing.push(Missing {
            what: "root".to_owned(),
            how: "pods take namespaces, cgroups and eBPF: run this as root, or install sudo"
                .to_owned(),
        });
    }
    ensure_packages(workspace, needs, &mut missing)?;
    if needs.pods && !machine::can_be_root() {
        // Nothing is fetched for what cannot be done.
        bail!("{}", list(&missing));
    }
    if needs.lint {
        ensure_host_lints(&mut missing)?;
    }
    if needs.build {
        let toolchain = ensure_toolchain(needs, &mut missing)?;
        let linker = ensure_linker(workspace, &mut missing)?;
        ready.bpf = toolchain
            .zip(linker)
            .map(|(toolchain, linker)| BpfTools { toolchain, linker });
    }
    if needs.envoy {
        ready.envoy = ensure_envoy(workspace, &missing)?;
    }
    if missing.is_empty() {
        return Ok(ready);
    }
    bail!("{}", list(&missing))
}

fn list(missing: &[Missing]) -> String {
    let mut text = "this is missing, and could not be installed here:".to_owned();
    for Missing { what, how } in missing {
        write!(text, "\n  {what}\n      {how}").expect("a String takes everything");
    }
    text
}

/// Everything that apt-get brings, in one go: the packages themselves, and what the later steps
/// are built with.
fn ensure_packages(workspace: &Workspace, needs: Needs, missing: &mut Vec<Missing>) -> Result<()> {
    let mut wanted = Vec::new();
    if needs.pods {
        wanted.extend(pins::DEMO_PACKAGES);
    }
    if needs.tests || needs.conformance || needs.bench {
        wanted.extend(pins::CONFORMANCE_PACKAGES);
    }
    if needs.tests || needs.bench {
        wanted.extend(pins::BENCH_PACKAGES);
    }
    if needs.tests {
        wanted.extend(pins::TEST_PACKAGES);
    }
    if needs.build && machine::has_apt() && tools::find_bpf_linker(workspace).is_none() {
        wanted.extend(pins::LINKER_PACKAGES);
    }
    if needs.envoy && tools::find_envoy(workspace).is_none() {
        wanted.extend(pins::ENVOY_PACKAGES);
    }
    let absent = packages::missing(&wanted);
    missing.extend(packages::install(&absent)?);
    let names: Vec<&str> = wanted.iter().map(|package| package.name).collect();
    if missing.is_empty() && !names.is_empty() {
        step(format_args!("packages: {}", names.join(" ")));
    }
    Ok(())
}

fn ensure_toolchain(needs: Needs, missing: &mut Vec<Missing>) -> Result<Option<Toolchain>> {
    let mut facts = Facts::gather(needs.lint)?;
    if let Plan::Get(ways) = toolchain::plan(&facts) {
        for way in &ways {
            match way {
                Way::Rustup => {
                    if !toolchain::install_by_rustup()? {
                        step(if ways.contains(&Way::Debian) {
                            "rustup cannot bring the toolchain; Debian's packages will do"
                        } else {
                            "rustup cannot bring the toolchain"
                        });
                    }
                }
                Way::Debian => missing.extend(packages::install(&packages::missing(
                    &pins::TOOLCHAIN_PACKAGES,
                ))?),
            }
            facts = Facts::gather(needs.lint)?;
            if matches!(toolchain::plan(&facts), Plan::Use(_)) {
                break;
            }
        }
    }
    match toolchain::plan(&facts) {
        Plan::Use(toolchain) => {
            step(format_args!("eBPF toolchain: {toolchain}"));
            Ok(Some(toolchain))
        }
        Plan::Get(_) => {
            missing.push(no_toolchain());
            Ok(None)
        }
    }
}

fn no_toolchain() -> Missing {
    let (major, minor) = pins::OLDEST_RUSTC;
    let debian: Vec<&str> = pins::TOOLCHAIN_PACKAGES
        .iter()
        .map(|package| package.name)
        .collect();
    Missing {
        what: format!(
            "a Rust compiler for the eBPF target: {major}.{minor} or newer, LLVM {} or older, \
             with its library sources",
            pins::LLVM
        ),
        how: format!(
            "rustup (https://rustup.rs): rustup toolchain install {} --profile minimal --component {}\n      \
             or Debian 12: apt-get install {}",
            pins::NIGHTLY,
            pins::NIGHTLY_COMPONENTS.join(","),
            debian.join(" "),
        ),
    }
}

fn ensure_linker(workspace: &Workspace, missing: &mut Vec<Missing>) -> Result<Option<PathBuf>> {
    let linker = match tools::find_bpf_linker(workspace) {
        Some(found) => Some(found),
        // Without its packages it cannot be built; that they are missing has been noted.
        None if machine::has_apt() && !missing.is_empty() => None,
        None if machine::has_apt() => Some(tools::install_bpf_linker(workspace)?),
        None => {
            missing.push(Missing {
                what: format!("program bpf-linker {}", pins::BPF_LINKER),
                how: format!(
                    "with LLVM {}'s development files: cargo install bpf-linker --version {} \
                     --locked --no-default-features --features {}",
                    pins::LLVM,
                    pins::BPF_LINKER,
                    pins::BPF_LINKER_FEATURE
                ),
            });
            None
        }
    };
    if linker.is_some() {
        step(format_args!("bpf-linker {}", pins::BPF_LINKER));
    }
    Ok(linker)
}

fn ensure_envoy(workspace: &Workspace, missing: &[Missing]) -> Result<Option<PathBuf>> {
    let envoy = match tools::find_envoy(workspace) {
        Some(found) => found,
        None if missing.is_empty() => tools::install_envoy(workspace)?,
        None => return Ok(None),
    };
    step(format_args!("Envoy {}", pins::ENVOY));
    Ok(Some(envoy))
}

/// rustfmt and clippy of the toolchain that runs this program.
fn ensure_host_lints(missing: &mut Vec<Missing>) -> Result<()> {
    let components = ["rustfmt", "clippy"];
    if has_host_lints() {
        return Ok(());
    }
    step("rustfmt and clippy for the host");
    if env::var_os("RUSTUP_TOOLCHAIN").is_some() {
        let mut rustup = Command::new("rustup");
        if !succeeds(rustup.args(["component", "add"]).args(components))? {
            step("rustup cannot bring them");
        }
    } else {
        missing.extend(packages::install(&packages::missing(
            &pins::HOST_LINT_PACKAGES,
        ))?);
    }
    if missing.is_empty() && !has_host_lints() {
        missing.push(Missing {
            what: "cargo fmt and cargo clippy, for the toolchain that runs this".to_owned(),
            how: format!("with rustup: rustup component add {}", components.join(" ")),
        });
    }
    Ok(())
}

fn has_host_lints() -> bool {
    ["fmt", "clippy"]
        .iter()
        .all(|name| ask(host_cargo().args([name, "--version"])).is_some())
}

impl Ready {
    /// The eBPF tools, for a caller that asked for them.
    pub(crate) fn bpf(&self) -> Result<&BpfTools> {
        self.bpf
            .as_ref()
            .context("set-up was not asked for the eBPF tools")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_says_what_and_how() {
        let missing = ["a", "b"].map(|it| Missing {
            what: it.into(),
            how: format!("get {it}"),
        });
        assert_eq!(
            list(&missing),
            "this is missing, and could not be installed here:\n  a\n      get a\n  b\n      get b"
        );
    }
}
