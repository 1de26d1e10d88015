//! Running other programs: each shown in one line on stderr before it starts.

use std::{
    env,
    ffi::OsStr,
    io,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context as _, Result, bail};

use crate::machine;

static SHOW_QUESTIONS: AtomicBool = AtomicBool::new(false);

/// From now on shows the commands of [`ask`], too.
pub(crate) fn show_questions() {
    SHOW_QUESTIONS.store(true, Ordering::Relaxed);
}

/// Runs it to its end; its failure is an error. What it says on stdout is talk.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    if succeeds(talk(command))? {
        return Ok(());
    }
    bail!("failed: {}", line(command))
}

/// Sends what it says on stdout to stderr.
pub(crate) fn talk(command: &mut Command) -> &mut Command {
    command.stdout(Stdio::from(io::stderr()))
}

/// Runs it to its end; true if it exited with 0.
pub(crate) fn succeeds(command: &mut Command) -> Result<bool> {
    eprintln!("$ {}", line(command));
    let status = command
        .status()
        .with_context(|| format!("cannot start: {}", line(command)))?;
    Ok(status.success())
}

/// Asks something that changes nothing: its stdout, or none if it is missing or fails.
pub(crate) fn ask(command: &mut Command) -> Option<String> {
    if SHOW_QUESTIONS.load(Ordering::Relaxed) {
        eprintln!("? {}", line(command));
    }
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A command that will run as root: directly, or through sudo.
pub(crate) fn as_root(program: impl AsRef<OsStr>) -> Command {
    if machine::is_root() {
        return Command::new(program);
    }
    let mut sudo = Command::new("sudo");
    sudo.arg(program);
    sudo
}

/// The cargo that runs this program, for everything that runs on the host.
pub(crate) fn host_cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    forget_this_package(&mut cargo);
    cargo
}

/// Takes back what `cargo run` tells a program about its own package: build scripts read the same
/// names, and would find everything changed.
pub(crate) fn forget_this_package(command: &mut Command) {
    for (name, _) in env::vars_os() {
        let known = name.to_str().is_some_and(|name| {
            [
                "CARGO_PKG_",
                "CARGO_MANIFEST_",
                "CARGO_BIN_",
                "CARGO_CRATE_",
            ]
            .iter()
            .any(|prefix| name.starts_with(prefix))
        });
        if known {
            command.env_remove(name);
        }
    }
    // `cargo run` puts its own toolchain's libraries first.
    command.env_remove("LD_LIBRARY_PATH");
}

/// Takes back, beside that, what chooses a toolchain: the command brings its own.
pub(crate) fn forget_toolchain(command: &mut Command) {
    forget_this_package(command);
    for name in [
        "CARGO",
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTC",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTDOC",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
    ] {
        command.env_remove(name);
    }
}

/// The command as one would type it.
pub(crate) fn line(command: &Command) -> String {
    let environment = command
        .get_envs()
        .filter_map(|(name, value)| Some(format!("{}={}", name.to_string_lossy(), quote(value?))));
    let words = [command.get_program()]
        .into_iter()
        .chain(command.get_args())
        .map(quote);
    environment.chain(words).collect::<Vec<_>>().join(" ")
}

fn quote(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_can_be_typed_again() {
        let mut command = Command::new("cargo");
        command
            .args(["build", "two words", ""])
            .env("RUSTFLAGS", "-C it's")
            .env_remove("RUSTC");
        assert_eq!(
            line(&command),
            r"RUSTFLAGS='-C it'\''s' cargo build 'two words' ''"
        );
    }

    #[test]
    fn a_failing_command_is_an_error_that_names_it() {
        let error = run(&mut Command::new("false")).unwrap_err().to_string();
        assert_eq!(error, "failed: false");
        let error = run(&mut Command::new("/no/such/program"))
            .unwrap_err()
            .to_string();
        assert_eq!(error, "cannot start: /no/such/program");
    }

    #[test]
    fn a_question_without_an_answer_is_none() {
        assert_eq!(ask(&mut Command::new("/no/such/program")), None);
        assert_eq!(ask(&mut Command::new("false")), None);
        assert_eq!(
            ask(Command::new("echo").arg("yes")).as_deref(),
            Some("yes\n")
        );
    }
}
