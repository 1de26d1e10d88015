//! Rule files as Istio writes them: `--rules DIR`.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};

use super::{
    config::{Config, Resolved, Rules},
    knobs::DNS_SERVERS,
    rules::{self, Names, settings::Settings},
};

/// A file may name users and groups that this machine does not have. Any number does, as long as
/// it is always the same one and nobody else's here.
const NAMES: Names<'static> = Names {
    user: &|name| (Names::SYSTEM.user)(name).or_else(|| Some(made_up(name))),
    group: &|name| (Names::SYSTEM.group)(name).or_else(|| Some(made_up(name))),
};

fn made_up(name: &str) -> u32 {
    const FIRST: u32 = 70_000;
    name.bytes().fold(FIRST, |id, byte| id + u32::from(byte))
}

/// The names of all files below the folder, in order.
pub(crate) fn find(folder: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(current) = folders.pop() {
        let entries = fs::read_dir(&current)
            .with_context(|| format!("listing the rule files in {}", current.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(name) = path.strip_prefix(folder) {
                found.push(name.display().to_string());
            }
        }
    }
    // What explains the files is none of them.
    found.retain(|name| !name.ends_with(".md"));
    found.sort();
    ensure!(!found.is_empty(), "no rule file in {}", folder.display());
    Ok(found)
}

/// The rules of a file and the settings that make them; an error if nothing here makes them.
pub(crate) fn read(file: &Path) -> Result<Resolved> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let (v4, v6) = rules::split_families(&text)?;
    let rules = Rules {
        v4: rules::parse_with(&v4, NAMES)?,
        v6: v6.map(|v6| rules::parse_with(&v6, NAMES)).transpose()?,
    };
    let settings = Settings::of_rules(&rules.v4, rules.v6.as_ref())?;
    let mut flags = settings.flags();
    let servers = settings.dns_servers();
    if !servers.is_empty() {
        let servers: Vec<_> = servers.iter().map(ToString::to_string).collect();
        flags.push(format!("--{DNS_SERVERS}={}", servers.join(",")));
    }
    let config: Config = flags.join(" ").parse()?;
    Ok(Resolved::new(&config)?.with_rules(rules))
}
