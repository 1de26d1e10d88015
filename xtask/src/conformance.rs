//! Decisions against real iptables: builds what it needs, then becomes the lab's `conformance`.

use std::process::ExitCode;

use anyhow::Result;

use crate::{
    lab::{self, HandedOn},
    machine::Workspace,
    setup::Needs,
};

pub(crate) fn run(workspace: &Workspace, given: &HandedOn) -> Result<ExitCode> {
    let needs = Needs {
        conformance: true,
        ..Needs::default()
    };
    lab::exec(workspace, needs, "conformance", &given.args)
}
