//! Records on disk: a directory with the numbers, the report and the plots.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::{
    plot,
    record::{FORMAT, Record},
    report,
};

const NUMBERS: &str = "record.json";
const REPORT: &str = "README.md";

/// The name of a record's directory: its day and commit.
pub fn directory_name(record: &Record) -> String {
    let environment = &record.environment;
    let day = environment.date.split('T').next().unwrap_or_default();
    format!("{day}-{}", environment.commit)
}

/// Writes `record.json`, `README.md` and the plots, and says what it wrote. Plots of an older
/// record in the same directory are removed.
pub fn write(directory: &Path, record: &Record) -> Result<Vec<PathBuf>> {
    let mut files = vec![
        (NUMBERS.to_owned(), json(record)?),
        (REPORT.to_owned(), report::markdown(record)?),
    ];
    let plots = plot::all(record)?;
    files.extend(plots.into_iter().map(|plot| (plot.file, plot.svg)));
    fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    remove_plots(directory)?;
    let written = files.into_iter().map(|(name, content)| {
        let path = directory.join(name);
        fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    });
    written.collect()
}

/// The record of a directory, or of the file itself.
pub fn read(path: &Path) -> Result<Record> {
    let path = if path.is_dir() {
        path.join(NUMBERS)
    } else {
        path.to_owned()
    };
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    parse(&text).with_context(|| path.display().to_string())
}

fn remove_plots(directory: &Path) -> Result<()> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))?;
    for entry in entries {
        let path = entry
            .with_context(|| format!("reading {}", directory.display()))?
            .path();
        if path.extension().is_some_and(|kind| kind == "svg") {
            fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        }
    }
    Ok(())
}

/// One measurement, arm and finding a line, so that two records can be compared line by line.
fn json(record: &Record) -> Result<String> {
    let Record {
        format,
        environment,
        plan,
        arms,
        measurements,
        findings,
    } = record;
    let odd = findings
        .iter()
        .find(|finding| finding.values.iter().any(|value| !value.is_finite()));
    if let Some(odd) = odd {
        bail!("{} of {}: {:?} is no number", odd.what, odd.arm, odd.values);
    }
    let mut text = String::new();
    writeln!(text, "{{\"format\":{format},")?;
    writeln!(text, "\"environment\":{},", line(environment)?)?;
    writeln!(text, "\"plan\":{},", line(plan)?)?;
    writeln!(text, "\"arms\":{},", lines(arms)?)?;
    writeln!(text, "\"measurements\":{},", lines(measurements)?)?;
    writeln!(text, "\"findings\":{}}}", lines(findings)?)?;
    Ok(text)
}

fn line(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).context("writing a record as JSON")
}

fn lines(values: &[impl Serialize]) -> Result<String> {
    let lines: Vec<String> = values.iter().map(line).collect::<Result<_>>()?;
    Ok(format!("[\n{}\n]", lines.join(",\n")))
}

fn parse(text: &str) -> Result<Record> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let Format { format } = serde_json::from_str(text).context("this is not a record")?;
    ensure!(
        format == FORMAT,
        "the record has format {format}, this program reads {FORMAT}: \
         use the commit that the record names"
    );
    serde_json::from_str(text).context("a record that cannot be read")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::sample;

    /// Removed again, whatever happens.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let name = format!("sidecar-lab-{name}-{}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let scratch = Scratch::new("record");
        let record = sample::record();
        fs::create_dir_all(&scratch.0).unwrap();
        fs::write(scratch.0.join("old.svg"), "of another record").unwrap();
        let written = write(&scratch.0, &record).unwrap();
        assert!(written.iter().all(|path| path.is_file()), "{written:?}");
        assert!(!scratch.0.join("old.svg").exists());
        let again = read(&scratch.0).unwrap();
        assert_eq!(json(&again).unwrap(), json(&record).unwrap());
        assert_eq!(again.measurements[3].rounds, record.measurements[3].rounds);
        let readme = fs::read_to_string(scratch.0.join(REPORT)).unwrap();
        for plot in readme.lines().filter_map(|line| line.strip_prefix("![")) {
            let file = plot.rsplit_once('(').unwrap().1.trim_end_matches(')');
            assert!(scratch.0.join(file).is_file(), "{file}");
        }
    }

    #[test]
    fn a_line_for_each_measurement() {
        let record = sample::record();
        let text = json(&record).unwrap();
        let lines = text.lines().filter(|line| line.contains("\"rounds\":["));
        assert_eq!(lines.count(), record.measurements.len());
    }

    /// A full run has some 200 measurements of some 30 rounds.
    #[test]
    fn the_file_stays_small() {
        let record = sample::record();
        let rounds: usize = record.measurements.iter().map(|m| m.rounds.len()).sum();
        let size = json(&record).unwrap().len();
        assert!(size / rounds < 70, "{size} bytes for {rounds} rounds");
    }

    #[test]
    fn another_format_is_refused_by_name() {
        let text = json(&sample::record()).unwrap();
        let other = text.replace(&format!("{{\"format\":{FORMAT},"), "{\"format\":99,");
        let error = parse(&other).unwrap_err().to_string();
        assert!(
            error.contains("format 99") && error.contains(&format!("reads {FORMAT}")),
            "{error}"
        );
        assert!(parse("[]").is_err());
        assert!(parse(&text[..text.len() / 2]).is_err());
    }

    #[test]
    fn a_finding_that_is_no_number_is_not_written() {
        let mut record = sample::record();
        record.findings[0].values.push(f64::NAN);
        let error = json(&record).unwrap_err().to_string();
        assert!(error.contains("attach of sidecar-ebpf"), "{error}");
    }

    #[test]
    fn day_and_commit() {
        assert_eq!(directory_name(&sample::record()), "2026-01-02-0123abc");
    }
}
