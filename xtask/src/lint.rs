//! Formatting, and clippy twice: the host's crates and the eBPF programs are for different
//! targets, and no one call covers both.

use std::process::ExitCode;

use anyhow::Result;

use crate::{
    command::{host_cargo, succeeds},
    compile,
    machine::Workspace,
    setup::{self, Needs},
    steps::step,
};

pub(crate) fn run(workspace: &Workspace) -> Result<ExitCode> {
    let ready = setup::run(
        workspace,
        Needs {
            build: true,
            lint: true,
            ..Needs::default()
        },
    )?;
    let tools = ready.bpf()?;

    step("formatting");
    let mut clean = succeeds(host_cargo().args(["fmt", "--all", "--check"]))?;

    // The loader's feature `ebpf` embeds the object, so it has to be there.
    let object = compile::object(workspace, tools)?;

    step("clippy for the host");
    let mut host = host_cargo();
    host.args(["clippy", "--workspace", "--exclude", "sidecar-ebpf"]);
    host.args(["--all-targets", "--all-features"]);
    compile::lock(workspace, &mut host);
    host.args(["--", "-D", "warnings"])
        .env(compile::OBJECT_VARIABLE, object);
    clean &= succeeds(&mut host)?;

    step("clippy for the eBPF target");
    let mut bpf = tools.toolchain.clippy();
    compile::add_target(workspace, tools, &mut bpf);
    clean &= succeeds(bpf.args(["--", "-D", "warnings"]))?;

    step(if clean {
        "nothing to complain about"
    } else {
        "lint FAILED, see above"
    });
    Ok(if clean {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
