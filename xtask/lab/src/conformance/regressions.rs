//! The file of cases that once differed: `flags | probe | comment`, one a line.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    path::Path,
};

use anyhow::{Context as _, Result, bail};

use super::shrink::Case;

/// None if there is no such file.
pub(crate) fn read(file: &Path) -> Result<Vec<Case>> {
    if !file.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let lines = text.lines().zip(1..);
    let cases = lines.filter(|(line, _)| !line.is_empty() && !line.starts_with('#'));
    cases
        .map(|(line, number)| {
            parse(line).with_context(|| format!("{}, line {number}", file.display()))
        })
        .collect()
}

fn parse(line: &str) -> Result<Case> {
    let parts: Vec<&str> = line.split('|').map(str::trim).collect();
    let [flags, probe, _comment] = parts[..] else {
        bail!("expected `flags | probe | comment`, found {line:?}");
    };
    Ok(Case {
        config: flags.parse()?,
        probe: probe.parse()?,
    })
}

/// Adds a case, unless it is there.
pub(crate) fn add(file: &Path, case: &Case, comment: &str) -> Result<()> {
    if read(file)?.contains(case) {
        return Ok(());
    }
    let open = OpenOptions::new().create(true).append(true).open(file);
    let comment = comment.replace(['|', '\n'], "/");
    open.and_then(|mut it| writeln!(it, "{} | {} | {comment}", case.config, case.probe))
        .with_context(|| format!("adding a case to {}", file.display()))
}
