//! The whole run: from options to a record.

use std::{
    io::{Write as _, stdout},
    path::Path,
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use nix::unistd::Uid;

use super::{
    archive,
    environment::ProcessorTime,
    further,
    kind::Kind,
    options::{Format, Options},
    proof::Unproven,
    record::{Environment, FORMAT, Plan, Record},
    report,
    session::Bench,
    suites,
};

/// Exit code for "an arm lost its redirect".
const NO: u8 = 1;

/// Measures, or takes what was measured once, and writes what was found.
pub fn run(options: &Options) -> Result<ExitCode> {
    let record = match &options.report {
        Some(path) => archive::read(path)?,
        None => match measure(options) {
            Ok(record) => record,
            Err(error) if error.downcast_ref::<Unproven>().is_some() => {
                eprintln!("bench: {error:#}");
                return Ok(NO.into());
            }
            Err(error) => return Err(error),
        },
    };
    show(&record, options.output)?;
    if let Some(folder) = &options.record {
        keep(&record, folder)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(options: &Options) -> Result<Record> {
    ensure!(
        Uid::effective().is_root(),
        "pods can only be made as root; `cargo xtask bench` asks sudo for that"
    );
    // Before all the work: a machine that cannot be described is not worth them.
    let mut environment = Environment::collect()?;
    let begin = ProcessorTime::now()?;
    let plan = plan(options);
    let mut kinds = Kind::BUILT_IN.to_vec();
    if let Some(file) = &options.arms {
        kinds.extend(further::read(file)?);
    }
    let mut bench = Bench::new(options, kinds, plan.seed)?;
    let done = suites::ALL
        .iter()
        .try_for_each(|suite| suite(&plan, &mut bench));
    bench.finish();
    done?;
    environment.stolen = ProcessorTime::now()?.stolen_since(begin);
    let Bench {
        arms,
        measurements,
        findings,
        ..
    } = bench;
    Ok(Record {
        format: FORMAT,
        environment,
        plan,
        arms,
        measurements,
        findings,
    })
}

fn plan(options: &Options) -> Plan {
    // Each pod has a round to warm up.
    let (pods, rounds, millis) = match (options.rounds, options.quick) {
        (Some(rounds), _) => (1, rounds, 20),
        (None, true) => (1, 8, 25),
        (None, false) => (4, 80, 75),
    };
    let time = SystemTime::now().duration_since(UNIX_EPOCH);
    Plan {
        seed: options
            .seed
            .unwrap_or_else(|| time.map_or(0, |time| time.as_secs())),
        quick: options.quick,
        rounds,
        warm_up_rounds: pods,
        pods,
        slice: Duration::from_millis(millis).as_nanos() as u64,
    }
}

fn show(record: &Record, format: Format) -> Result<()> {
    let text = match format {
        Format::Text => report::text(record)?,
        Format::Json => serde_json::to_string_pretty(record)? + "\n",
    };
    let written = stdout().write_all(text.as_bytes());
    written.context("writing the result to stdout")
}

fn keep(record: &Record, folder: &Path) -> Result<()> {
    let files = archive::write(&folder.join(archive::directory_name(record)), record)?;
    for file in files {
        eprintln!("bench: wrote {}", file.display());
    }
    Ok(())
}
