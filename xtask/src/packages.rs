//! Debian packages: which are missing, and how they come.

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{
    command::{as_root, ask, line, run, succeeds, talk},
    machine,
    pins::Package,
    setup::Missing,
    steps::step,
};

const APT_OPTIONS: [&str; 8] = [
    "-q",
    "--yes",
    "--no-install-recommends",
    // Taking away what someone else installed is not for us to decide.
    "--no-remove",
    "-o",
    // Another apt may be at work, as it often is on a machine that just started.
    "DPkg::Lock::Timeout=120",
    "-o",
    // A line per package, and no progress bars.
    "Dpkg::Use-Pty=0",
];

/// Those that are not here.
pub(crate) fn missing(wanted: &[Package]) -> Vec<Package> {
    let mut unproven: Vec<Package> = wanted
        .iter()
        .copied()
        .filter(|package| {
            package
                .program
                .is_none_or(|it| machine::find_program(it).is_none())
        })
        .collect();
    if !unproven.is_empty() && machine::has_apt() {
        let mut dpkg = Command::new("dpkg-query");
        // All of them: it fails when asked for a name that it does not know.
        dpkg.args([
            "--show",
            "--showformat",
            "${Package} ${db:Status-Abbrev}\n",
            "*",
        ]);
        let list = ask(&mut dpkg).unwrap_or_default();
        unproven.retain(|package| !is_installed(&list, package.name));
    }
    unproven
}

fn is_installed(dpkg_list: &str, name: &str) -> bool {
    dpkg_list.lines().any(|line| {
        line.split_once(' ')
            .is_some_and(|(package, status)| package == name && status.get(1..2) == Some("i"))
    })
}

/// Installs them; what cannot be installed here is returned, with how to get it.
pub(crate) fn install(packages: &[Package]) -> Result<Vec<Missing>> {
    if packages.is_empty() {
        return Ok(Vec::new());
    }
    if !machine::has_apt() {
        return Ok(packages.iter().map(without_apt).collect());
    }
    let install = install_command(packages);
    if !machine::can_be_root() {
        let names: Vec<&str> = packages.iter().map(|package| package.name).collect();
        return Ok(vec![Missing {
            what: format!("packages {}", names.join(" ")),
            how: format!("as root: apt-get update && {}", line(&install)),
        }]);
    }

    step(format_args!(
        "packages that are missing: {}",
        packages.len()
    ));
    for Package { name, why, .. } in packages {
        eprintln!("             {name}: {why}");
    }
    let mut update = as_root("apt-get");
    if !succeeds(talk(update.args(["update", "-q"])))? {
        // One unreachable list need not be the one with our packages.
        step("apt-get update failed; going on with the lists that are here");
    }
    let unknown: Vec<Missing> = packages
        .iter()
        .filter(|package| !is_known(package.name))
        .map(not_in_archive)
        .collect();
    if unknown.is_empty() {
        let mut install = as_root("env");
        run(install.args(install_words(packages)))
            .context("the packages above are needed; see what apt-get says")?;
    }
    Ok(unknown)
}

fn install_words(packages: &[Package]) -> Vec<&'static str> {
    let mut words = vec!["DEBIAN_FRONTEND=noninteractive", "apt-get", "install"];
    words.extend(APT_OPTIONS);
    words.extend(packages.iter().map(|package| package.name));
    words
}

/// What someone would type who is root.
fn install_command(packages: &[Package]) -> Command {
    let mut apt = Command::new("apt-get");
    apt.args(["install", "--no-install-recommends"]);
    apt.args(packages.iter().map(|package| package.name));
    apt
}

fn is_known(name: &str) -> bool {
    ask(Command::new("apt-cache").args(["show", "--no-all-versions", name])).is_some()
}

fn not_in_archive(package: &Package) -> Missing {
    Missing {
        what: format!("package {} ({})", package.name, package.why),
        how: format!(
            "{} has no such package; Debian 12 with its security archive has it",
            machine::system_name()
        ),
    }
}

fn without_apt(package: &Package) -> Missing {
    let what = match package.program {
        Some(program) => format!("program {program} ({})", package.why),
        None => format!("{} ({})", package.name, package.why),
    };
    let how = format!(
        "{} has no apt-get: install what Debian calls {}, so that it is in PATH",
        machine::system_name(),
        package.name
    );
    Missing { what, how }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_installed_packages_count() {
        let list = "iptables ii \nhaproxy rc \nnftables un \nllvm-22-dev ii \nfoo hi \n";
        assert!(is_installed(list, "iptables"));
        assert!(is_installed(list, "llvm-22-dev"));
        assert!(is_installed(list, "foo"));
        assert!(!is_installed(list, "haproxy"));
        assert!(!is_installed(list, "nftables"));
        assert!(!is_installed(list, "llvm-22"));
    }

    #[test]
    fn the_command_to_type_names_every_package() {
        let command = line(&install_command(&crate::pins::DEMO_PACKAGES));
        assert_eq!(
            command,
            "apt-get install --no-install-recommends iproute2 procps"
        );
    }
}
