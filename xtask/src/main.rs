//! `cargo xtask COMMAND`: the list of commands, and nothing else.
//!
//! What a command needs is made sure of by [`setup`]; every version it asks for is in [`pins`].

mod bench;
mod command;
mod compile;
mod conformance;
mod demo;
mod lab;
mod lint;
mod machine;
mod packages;
mod pins;
mod setup;
mod steps;
mod test;
mod toolchain;
mod tools;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::machine::Workspace;

#[derive(Parser)]
#[command(bin_name = "cargo xtask", about, after_help = EXPLAIN)]
struct Cli {
    /// Print the commands that only ask something, too
    #[arg(short, long, global = true)]
    verbose: bool,
    #[command(subcommand)]
    command: Task,
}

const EXPLAIN: &str = "\
Every command prints what it runs, on stderr. Exit code: 0 fine, 1 a test or a lint failed, 2 an error.

Environment:
  SIDECAR_BPF_TOOLCHAIN=rustup|debian  take the eBPF toolchain from there, and from nowhere else
  CARGO_TARGET_DIR                     where everything that is built or fetched goes";

#[derive(Subcommand)]
enum Task {
    /// Make sure of everything that build, test and demo need
    Setup,
    /// Build the eBPF programs and the loader
    Build,
    /// Run every test: those of the host, then those that need the kernel and root
    Test(test::Args),
    /// Run the main job in a pod made for it
    Demo(demo::Args),
    /// Compare decisions with those of real iptables, probe by probe
    Conformance(lab::HandedOn),
    /// Measure what a redirect costs, beside iptables, nftables and none at all
    Bench(lab::HandedOn),
    /// Check formatting, and run clippy for the host and for the eBPF target
    Lint,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.verbose {
        command::show_questions();
    }
    let done = Workspace::find().and_then(|workspace| match cli.command {
        Task::Setup => setup::run(&workspace, setup::EVERYTHING).map(|_| ExitCode::SUCCESS),
        Task::Build => compile::run(&workspace).map(|_| ExitCode::SUCCESS),
        Task::Test(args) => test::run(&workspace, &args),
        Task::Demo(args) => demo::run(&workspace, &args),
        Task::Conformance(args) => conformance::run(&workspace, &args),
        Task::Bench(args) => bench::run(&workspace, &args),
        Task::Lint => lint::run(&workspace),
    });
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(2)
    })
}
