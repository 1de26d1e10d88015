//! Facts about this machine and this checkout.

use std::{
    env, fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// The checkout, and where everything goes that is made from it.
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    pub(crate) target: PathBuf,
}

impl Workspace {
    pub(crate) fn find() -> Result<Self> {
        let own = env::var_os("CARGO_MANIFEST_DIR").context(
            "the workspace is unknown; start this with `cargo xtask`, not as a program of its own",
        )?;
        let root = Path::new(&own)
            .parent()
            .context("xtask is not inside a workspace")?
            .to_owned();
        let here = env::current_dir().context("the current folder is gone")?;
        let target = match env::var_os("CARGO_TARGET_DIR") {
            Some(target) if !target.is_empty() => here.join(target),
            _ => root.join("target"),
        };
        // Commands then need no path to the workspace, and print as one would type them.
        env::set_current_dir(&root).with_context(|| format!("cannot enter {}", root.display()))?;
        Ok(Self { root, target })
    }

    /// The folder of programs that the project fetched for itself.
    pub(crate) fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }
}

pub(crate) fn is_root() -> bool {
    // The owner of this process's folder is its effective user.
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// How a command can be run as root here.
pub(crate) fn can_be_root() -> bool {
    is_root() || find_program("sudo").is_some()
}

/// Whether packages come from Debian's archive, or one that looks like it.
pub(crate) fn has_apt() -> bool {
    find_program("apt-get").is_some()
        && fs::read_to_string("/etc/os-release").is_ok_and(|text| is_debian_like(&text))
}

fn is_debian_like(os_release: &str) -> bool {
    os_release
        .lines()
        .filter_map(|line| line.split_once('='))
        .filter(|(name, _)| matches!(*name, "ID" | "ID_LIKE"))
        .flat_map(|(_, value)| value.trim_matches('"').split_whitespace())
        .any(|id| id == "debian")
}

/// What `/etc/os-release` calls this system.
pub(crate) fn system_name() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map_or_else(
            || "this system".to_owned(),
            |name| name.trim_matches('"').to_owned(),
        )
}

/// Looks in PATH, and where system programs are even when a user's PATH leaves that out.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path)
        .chain(system)
        .map(|folder| folder.join(name))
        .find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_and_its_children_are_recognised() {
        assert!(is_debian_like("NAME=\"Debian GNU/Linux\"\nID=debian\n"));
        assert!(is_debian_like("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"));
        assert!(!is_debian_like("ID=fedora\nHOME_URL=\"https://debian\"\n"));
        assert!(!is_debian_like(""));
    }

    #[test]
    fn programs_are_found_by_name() {
        assert!(find_program("sh").is_some());
        assert_eq!(find_program("no-such-program-at-all"), None);
    }
}
