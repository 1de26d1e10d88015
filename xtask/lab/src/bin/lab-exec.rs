//! Goes to a cgroup, a network namespace and a user, then becomes another program.
//!
//! `ip netns exec` would hide the cgroup file system behind a fresh `/sys`; this does not touch
//! mounts.

use std::{
    ffi::{CString, OsString},
    fs::{self, File, OpenOptions},
    os::unix::{ffi::OsStrExt, fs::OpenOptionsExt, process::CommandExt},
    path::PathBuf,
    process::{self, Command},
};

use anyhow::{Context, Result, bail};
use clap::Parser;
use nix::{
    libc,
    sched::{CloneFlags, setns},
    unistd::{Gid, Uid, fexecve, setgid, setgroups, setuid},
};

/// Run a program in a cgroup and a network namespace, as a user.
#[derive(Parser)]
struct Args {
    /// The network namespace to enter, such as /run/netns/NAME.
    #[arg(long)]
    netns: Option<PathBuf>,
    /// The cgroup directory to join.
    #[arg(long)]
    cgroup: Option<PathBuf>,
    /// The user id to take, after everything else is done.
    #[arg(long)]
    uid: Option<u32>,
    /// The group id to take; supplementary groups are given up.
    #[arg(long)]
    gid: Option<u32>,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

fn main() {
    let args = Args::parse();
    if let Err(error) = go(&args) {
        eprintln!("lab-exec: {error:#}");
        process::exit(2);
    }
}

fn go(args: &Args) -> Result<()> {
    if let Some(cgroup) = &args.cgroup {
        let procs = cgroup.join("cgroup.procs");
        fs::write(&procs, process::id().to_string())
            .with_context(|| format!("joining the cgroup through {}", procs.display()))?;
    }
    if let Some(netns) = &args.netns {
        let file = File::open(netns)
            .with_context(|| format!("opening the network namespace {}", netns.display()))?;
        setns(file, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("entering the network namespace {}", netns.display()))?;
    }
    let (program, rest) = args.command.split_first().context("no program named")?;
    // Opened while we may still reach it: the build may lie below a home closed to others.
    let image = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_CLOEXEC)
        .open(program)
        .ok();
    if let Some(gid) = args.gid {
        setgroups(&[]).context("giving up supplementary groups")?;
        setgid(Gid::from_raw(gid)).with_context(|| format!("becoming group {gid}"))?;
    }
    if let Some(uid) = args.uid {
        setuid(Uid::from_raw(uid)).with_context(|| format!("becoming user {uid}"))?;
    }
    // The directory of whoever called may be closed to this user.
    let failure = Command::new(program).args(rest).current_dir("/").exec();
    match image {
        Some(image) if failure.kind() == std::io::ErrorKind::PermissionDenied => {
            become_image(&image, &args.command)
        }
        _ => bail!("running {}: {failure}", program.display()),
    }
}

fn become_image(image: &File, command: &[OsString]) -> Result<()> {
    let text = |bytes: &[u8]| CString::new(bytes).context("a zero byte in an argument");
    let arguments: Vec<CString> = command
        .iter()
        .map(|arg| text(arg.as_bytes()))
        .collect::<Result<_>>()?;
    let environment: Vec<CString> = std::env::vars_os()
        .map(|(key, value)| text(&[key.as_bytes(), b"=", value.as_bytes()].concat()))
        .collect::<Result<_>>()?;
    let never = fexecve(image, &arguments, &environment);
    never.map(drop).context("running the opened program")
}
