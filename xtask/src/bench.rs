//! What a redirect costs: builds what it needs, then becomes the lab's `bench`.

use std::process::ExitCode;

use anyhow::Result;

use crate::{
    lab::{self, HandedOn},
    machine::Workspace,
    setup::Needs,
};

pub(crate) fn run(workspace: &Workspace, given: &HandedOn) -> Result<ExitCode> {
    let needs = Needs {
        bench: true,
        envoy: true,
        ..Needs::default()
    };
    lab::exec(workspace, needs, "bench", &given.args)
}
