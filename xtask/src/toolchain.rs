//! The compiler of the eBPF programs: which one to take, and how to call it.
//!
//! The target has no ready-made `core`, so it takes a compiler with its library sources and the
//! right to use `-Z build-std`. rustup's nightly has both. Debian's packages have both once
//! `RUSTC_BOOTSTRAP=1` is set, and need no server but Debian's.

use std::{
    env, fmt,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    command::{ask, forget_toolchain, line},
    machine, pins,
    steps::step,
};

const WISH: &str = "SIDECAR_BPF_TOOLCHAIN";

/// rustup alone would wait for minutes for a server that accepts and says nothing.
const RUSTUP_ANSWERS_WITHIN: Duration = Duration::from_secs(20);

/// A compiler that was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Toolchain {
    Rustup(String),
    Debian,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Rustup,
    Debian,
}

/// What one installed compiler is and brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Compiler {
    pub(crate) name: String,
    pub(crate) rustc: (u32, u32),
    pub(crate) llvm: u32,
    pub(crate) sources: bool,
    pub(crate) clippy: bool,
}

/// All that the choice depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) wish: Option<Way>,
    /// What rustup has installed of the candidates, best first; none if there is no rustup.
    pub(crate) rustup: Option<Vec<Compiler>>,
    pub(crate) debian: Option<Compiler>,
    pub(crate) apt: bool,
    pub(crate) clippy_wanted: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    Use(Toolchain),
    /// Nothing here suits: these ways can bring it, to be tried in this order.
    Get(Vec<Way>),
}

/// The choice. Whatever suits and is here comes before anything that has to be fetched, so that a
/// second run never waits for a server.
pub(crate) fn plan(facts: &Facts) -> Plan {
    let suits = |compiler: &&Compiler| {
        compiler.sources
            && compiler.rustc >= pins::OLDEST_RUSTC
            && compiler.llvm <= pins::LLVM
            && (compiler.clippy || !facts.clippy_wanted)
    };
    let allowed = |way| facts.wish.is_none_or(|wish| wish == way);

    if allowed(Way::Rustup)
        && let Some(found) = facts.rustup.iter().flatten().find(suits)
    {
        return Plan::Use(Toolchain::Rustup(found.name.clone()));
    }
    if allowed(Way::Debian) && facts.debian.as_ref().is_some_and(|found| suits(&found)) {
        return Plan::Use(Toolchain::Debian);
    }
    let mut ways = Vec::new();
    if allowed(Way::Rustup) && facts.rustup.is_some() {
        ways.push(Way::Rustup);
    }
    if allowed(Way::Debian) && facts.apt {
        ways.push(Way::Debian);
    }
    Plan::Get(ways)
}

impl Facts {
    pub(crate) fn gather(clippy_wanted: bool) -> Result<Self> {
        let wish = match env::var(WISH).as_deref() {
            Err(_) | Ok("") => None,
            Ok("rustup") => Some(Way::Rustup),
            Ok("debian") => Some(Way::Debian),
            Ok(other) => bail!("{WISH}={other}: say rustup or debian"),
        };
        Ok(Self {
            wish,
            rustup: installed_by_rustup(),
            debian: Compiler::inspect("Debian's", Path::new("/usr")),
            apt: machine::has_apt(),
            clippy_wanted,
        })
    }
}

fn installed_by_rustup() -> Option<Vec<Compiler>> {
    let home = PathBuf::from(ask(Command::new("rustup").args(["show", "home"]))?.trim());
    let list = ask(Command::new("rustup").args(["toolchain", "list"]))?;
    // A toolchain's name is the wanted one, with this host's triple behind it.
    let installed: Vec<&str> = list
        .lines()
        .filter_map(|l| l.split_whitespace().next())
        .collect();
    let host = format!("-{}-", env::consts::ARCH);
    let compilers = pins::RUSTUP_CANDIDATES.iter().filter_map(|wanted| {
        let name = installed.iter().find(|name| {
            name.strip_prefix(wanted)
                .is_some_and(|rest| rest.starts_with(&host))
        })?;
        let mut compiler = Compiler::inspect(wanted, &home.join("toolchains").join(name))?;
        compiler.name = (*wanted).to_owned();
        Some(compiler)
    });
    Some(compilers.collect())
}

impl Compiler {
    /// Looks at the compiler under `prefix`, without help from anything in PATH.
    fn inspect(name: &str, prefix: &Path) -> Option<Self> {
        let mut rustc = Command::new(prefix.join("bin/rustc"));
        forget_toolchain(&mut rustc);
        let (rustc, llvm) = parse_version(&ask(rustc.arg("-vV"))?)?;
        Some(Self {
            name: name.to_owned(),
            rustc,
            llvm,
            sources: prefix
                .join("lib/rustlib/src/rust/library/core/src/lib.rs")
                .exists(),
            clippy: prefix.join("bin/clippy-driver").exists(),
        })
    }
}

/// Release and LLVM's major number out of `rustc -vV`.
fn parse_version(text: &str) -> Option<((u32, u32), u32)> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    let mut release = field("release: ")?.split(['.', '-']);
    let llvm = field("LLVM version: ")?.split('.').next()?;
    let number = |text: &str| text.trim().parse::<u32>().ok();
    Some((
        (number(release.next()?)?, number(release.next()?)?),
        number(llvm)?,
    ))
}

/// Lets rustup install the pinned nightly, or what is missing of it. False if it cannot.
pub(crate) fn install_by_rustup() -> Result<bool> {
    step(format_args!(
        "rustup: {} with {}",
        pins::NIGHTLY,
        pins::NIGHTLY_COMPONENTS.join(", ")
    ));
    let mut rustup = Command::new("rustup");
    rustup.args([
        "toolchain",
        "install",
        pins::NIGHTLY,
        "--profile",
        "minimal",
    ]);
    rustup
        .args(["--no-self-update", "--component"])
        .arg(pins::NIGHTLY_COMPONENTS.join(","));
    // Asking again does not make a missing server appear.
    rustup
        .env("RUSTUP_MAX_RETRIES", "1")
        .env("RUST_BACKTRACE", "0");
    rustup
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    eprintln!("$ {}", line(&rustup));
    let mut child = rustup.spawn().context("cannot start rustup")?;
    let stderr = child.stderr.take().context("rustup has no stderr")?;

    let (sender, answer) = mpsc::channel();
    let talk = thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            eprintln!("  {line}");
            if line.contains("latest update on") || line.contains("downloading") {
                // Nobody waits any more if it was said before.
                let _ = sender.send(());
            }
        }
    });
    if answer.recv_timeout(RUSTUP_ANSWERS_WITHIN) == Err(RecvTimeoutError::Timeout) {
        step(format_args!(
            "rustup's server is silent for {RUSTUP_ANSWERS_WITHIN:?}: given up"
        ));
        child.kill().context("cannot stop rustup")?;
    }
    let status = child.wait().context("cannot wait for rustup")?;
    if talk.join().is_err() {
        bail!("the thread that reads rustup's messages panicked");
    }
    Ok(status.success())
}

impl Toolchain {
    /// Its cargo, for the eBPF target.
    pub(crate) fn cargo(&self) -> Command {
        self.program("cargo")
    }

    /// Its clippy, to be followed by the arguments of `cargo clippy`.
    pub(crate) fn clippy(&self) -> Command {
        match self {
            Self::Rustup(_) => {
                let mut cargo = self.cargo();
                cargo.arg("clippy");
                cargo
            }
            // `cargo clippy` might find another toolchain's cargo-clippy in PATH.
            Self::Debian => {
                let mut clippy = self.program("cargo-clippy");
                clippy.arg("clippy");
                clippy
            }
        }
    }

    fn program(&self, name: &str) -> Command {
        let mut command = match self {
            Self::Rustup(toolchain) => {
                let mut rustup = Command::new("rustup");
                rustup.args(["run", toolchain, name]);
                rustup
            }
            Self::Debian => Command::new(format!("/usr/bin/{name}")),
        };
        forget_toolchain(&mut command);
        if *self == Self::Debian {
            // A stable compiler, asked for what only a nightly grants.
            command.env("RUSTC_BOOTSTRAP", "1");
            command
                .env("CARGO", "/usr/bin/cargo")
                .env("RUSTC", "/usr/bin/rustc");
        }
        command
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rustup(name) => write!(f, "rustup's {name}"),
            Self::Debian => f.write_str("Debian's packages (/usr/bin/rustc)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiler(name: &str) -> Compiler {
        let (rustc, llvm) = ((1, 97), 22);
        Compiler {
            name: name.to_owned(),
            rustc,
            llvm,
            sources: true,
            clippy: true,
        }
    }

    fn rustup(name: &str) -> Plan {
        Plan::Use(Toolchain::Rustup(name.to_owned()))
    }

    #[test]
    fn what_is_here_is_used_as_it_is() {
        let both = vec![compiler(pins::NIGHTLY), compiler("nightly")];
        let mut facts = Facts {
            rustup: Some(both),
            apt: true,
            ..Facts::default()
        };
        assert_eq!(plan(&facts), rustup(pins::NIGHTLY));
        facts.rustup.as_mut().unwrap()[0].sources = false;
        assert_eq!(plan(&facts), rustup("nightly"));
    }

    #[test]
    fn debians_is_used_before_anything_is_fetched() {
        let debian = Some(compiler("Debian's"));
        let facts = Facts {
            rustup: Some(vec![]),
            debian,
            apt: true,
            ..Facts::default()
        };
        assert_eq!(plan(&facts), Plan::Use(Toolchain::Debian));
    }

    #[test]
    fn rustup_is_asked_first_and_debian_then() {
        let facts = Facts {
            rustup: Some(vec![]),
            apt: true,
            ..Facts::default()
        };
        assert_eq!(plan(&facts), Plan::Get(vec![Way::Rustup, Way::Debian]));
        let facts = Facts {
            apt: true,
            ..Facts::default()
        };
        assert_eq!(plan(&facts), Plan::Get(vec![Way::Debian]));
        assert_eq!(plan(&Facts::default()), Plan::Get(vec![]));
    }

    #[test]
    fn a_wish_excludes_the_other_way() {
        let mut facts = Facts {
            wish: Some(Way::Debian),
            rustup: Some(vec![compiler("nightly")]),
            apt: true,
            ..Facts::default()
        };
        assert_eq!(plan(&facts), Plan::Get(vec![Way::Debian]));
        facts.wish = Some(Way::Rustup);
        facts.rustup = Some(vec![]);
        facts.debian = Some(compiler("Debian's"));
        assert_eq!(plan(&facts), Plan::Get(vec![Way::Rustup]));
    }

    #[test]
    fn what_does_not_suit_is_not_used() {
        let spoilers: [fn(&mut Compiler); 4] = [
            |it| it.llvm = pins::LLVM + 1,
            |it| it.rustc = (1, 94),
            |it| it.sources = false,
            |it| it.clippy = false,
        ];
        for (number, spoil) in spoilers.into_iter().enumerate() {
            let mut one = compiler("nightly");
            spoil(&mut one);
            let rustup = Some(vec![one]);
            let facts = Facts {
                rustup,
                clippy_wanted: true,
                ..Facts::default()
            };
            assert_eq!(
                plan(&facts),
                Plan::Get(vec![Way::Rustup]),
                "spoiler {number}"
            );
        }
    }

    #[test]
    fn clippy_matters_to_lint_only() {
        let mut one = compiler("nightly");
        one.clippy = false;
        let facts = Facts {
            rustup: Some(vec![one]),
            ..Facts::default()
        };
        assert_eq!(plan(&facts), rustup("nightly"));
    }

    #[test]
    fn versions_are_read() {
        let nightly = "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\nbinary: rustc\n\
                       release: 1.97.0-nightly\nLLVM version: 22.1.4\n";
        assert_eq!(parse_version(nightly), Some(((1, 97), 22)));
        assert_eq!(
            parse_version("release: 1.63.0\nLLVM version: 14.0\n"),
            Some(((1, 63), 14))
        );
        assert_eq!(parse_version("release: 1.63.0\n"), None);
        assert_eq!(parse_version(""), None);
    }
}
