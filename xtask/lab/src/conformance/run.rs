//! The run: kept cases, accepted differences, fixed and random configurations, the report.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::ExitCode,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};

use super::{
    accepted::ACCEPTED,
    compare::{Difference, PURE},
    config::{Config, Resolved},
    coverage::Coverage,
    generate::{self, Space},
    legs::{Evaluation, Legs},
    options::{Format, Options},
    probe::Probe,
    progress::Progress,
    regressions,
    report::{self, ConfigReport, Found, LegReport, Report, SCHEMA},
    rng::Rng,
    rule_files,
    shrink::{Case, shrink},
};

const QUICK_SEED: u64 = 1;
/// Shrinking takes its time; the first few differences tell enough.
const SHRUNK: usize = 4;

/// Does everything and writes the report to stdout.
pub fn run(options: &Options) -> Result<ExitCode> {
    let report = Run::new(options)?.all()?;
    match options.output {
        Format::Table => print!("{}", report.text()),
        Format::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    Ok(if report.passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What went wrong, in one line and without the settings that led there.
fn reason(error: &anyhow::Error) -> String {
    let text = error.root_cause().to_string();
    let lines: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).collect();
    lines.join("; ")
}

struct Run<'a> {
    options: &'a Options,
    legs: Legs,
    seed: u64,
    started: Instant,
    coverage: Coverage,
    by_leg: BTreeMap<String, LegReport>,
    configs: Vec<ConfigReport>,
    found: Vec<Found>,
    accepted: BTreeMap<&'static str, u64>,
    refused: BTreeMap<String, String>,
}

impl<'a> Run<'a> {
    fn new(options: &'a Options) -> Result<Self> {
        let alter = options.alter.as_ref().and_then(|text| text.split_once('='));
        let alter = alter.map(|(from, to)| (from.to_owned(), to.to_owned()));
        let time = SystemTime::now().duration_since(UNIX_EPOCH);
        let seed = match options.seed {
            _ if options.quick => QUICK_SEED,
            Some(seed) => seed,
            None => time.map_or(0, |time| time.as_secs()),
        };
        let started = Instant::now();
        let legs = Legs::new(&options.backends(), alter).context("making the pods")?;
        let names = [PURE].into_iter().chain(legs.names());
        let by_leg = names.map(|leg| (leg.to_owned(), LegReport::default()));
        Ok(Self {
            options,
            seed,
            started,
            coverage: Coverage::new(),
            by_leg: by_leg.collect(),
            legs,
            configs: Vec::new(),
            found: Vec::new(),
            accepted: BTreeMap::new(),
            refused: BTreeMap::new(),
        })
    }

    fn all(mut self) -> Result<Report> {
        let given = self.options.case.clone().zip(self.options.probe.clone());
        let mut shown = None;
        let mut uncovered = Vec::new();
        if let Some((config, probe)) = given {
            self.evaluate(&config.parse()?, vec![probe.parse()?])?;
        } else if let Some(folder) = &self.options.rules {
            self.rule_files(folder)?;
        } else {
            for case in regressions::read(&self.options.regressions)? {
                self.evaluate(&case.config, vec![case.probe])?;
            }
            shown = Some(self.show_accepted()?);
            self.random()?;
            uncovered = self.coverage.missing();
        }
        Ok(self.report(shown.as_deref(), uncovered))
    }

    /// The entries of the accepted list that show in a probe made for them.
    fn show_accepted(&mut self) -> Result<Vec<&'static str>> {
        let mut shown = Vec::new();
        for entry in ACCEPTED {
            for (config, probe) in entry.deliberate {
                let resolved = Resolved::new(&config.parse()?)?;
                if self.legs.shows(&resolved, &probe.parse()?)? {
                    shown.push(entry.name);
                    break;
                }
            }
        }
        Ok(shown)
    }

    /// Rules as Istio writes them, with the settings behind them.
    fn rule_files(&mut self, folder: &Path) -> Result<()> {
        let files = rule_files::find(folder)?;
        let (count, probes) = self.options.size();
        let each = probes.div_ceil(count.max(1));
        let mut rng = Rng::new(self.seed);
        let mut progress = Progress::new(files.len());
        for file in files {
            progress.step(&file, self.found.len());
            match rule_files::read(&folder.join(&file)) {
                Ok(resolved) => {
                    let space = Space::new(&resolved);
                    let probes = (0..each).map(|_| space.probe(&mut rng)).collect();
                    self.evaluate_resolved(&resolved, probes, &file)?;
                }
                Err(why) => {
                    self.refused.insert(file, reason(&why));
                }
            }
        }
        Ok(())
    }

    fn random(&mut self) -> Result<()> {
        let mut rng = Rng::new(self.seed);
        let (count, probes) = self.options.size();
        let mut configs = generate::classics();
        if self.options.quick {
            // Half of a slice is random; the other half is taken from all over the fixed ones.
            let step = configs.len().div_ceil(count / 2).max(1);
            configs = configs.into_iter().step_by(step).collect();
        }
        configs.truncate(count);
        while configs.len() < count {
            configs.push(generate::config(&mut rng));
        }
        let each = probes.div_ceil(count.max(1));
        let mut progress = Progress::new(count);
        for config in configs {
            progress.step(&config.to_string(), self.found.len());
            let space = Space::new(&Resolved::new(&config)?);
            let probes = (0..each).map(|_| space.probe(&mut rng)).collect();
            self.evaluate(&config, probes)?;
        }
        Ok(())
    }

    fn evaluate(&mut self, config: &Config, probes: Vec<Probe>) -> Result<()> {
        self.evaluate_resolved(&Resolved::new(config)?, probes, &config.to_string())
    }

    fn evaluate_resolved(
        &mut self,
        resolved: &Resolved,
        probes: Vec<Probe>,
        name: &str,
    ) -> Result<()> {
        let evaluated = self.legs.evaluate(resolved, &probes);
        let evaluation = evaluated.with_context(|| format!("the configuration {name}"))?;
        self.note(&resolved.config, name, &probes, &evaluation);
        self.name_differences(&resolved.config, &evaluation.differences)
    }

    fn note(&mut self, config: &Config, name: &str, probes: &[Probe], evaluation: &Evaluation) {
        self.coverage.add_config(config);
        for (probe, prediction) in probes.iter().zip(&evaluation.predictions) {
            self.coverage.add_probe(probe, prediction);
        }
        let made = probes.len() as u64;
        for (leg, report) in &mut self.by_leg {
            report.configs += 1;
            report.probes += made;
            report.counted += evaluation.counted.get(leg.as_str()).copied().unwrap_or(0);
            let differences = evaluation.differences.iter();
            report.differences += differences.filter(|it| it.leg == *leg).count() as u64;
        }
        for (entry, count) in &evaluation.accepted {
            *self.accepted.entry(entry).or_default() += count;
        }
        let rules: BTreeSet<_> = evaluation.predictions.iter().map(|it| it.rule).collect();
        self.configs.push(ConfigReport {
            config: name.to_owned(),
            probes: made,
            rules: rules.len() as u64,
            differences: evaluation.differences.len() as u64,
        });
    }

    /// The first difference of each leg, shrunk, kept and named.
    fn name_differences(&mut self, config: &Config, all: &[Difference]) -> Result<()> {
        let mut legs = BTreeSet::new();
        for difference in all {
            if !legs.insert(&difference.leg) {
                continue;
            }
            let others = all.iter().filter(|it| it.leg == difference.leg).count() as u64 - 1;
            let mut case = Case {
                config: config.clone(),
                probe: difference.probe.clone(),
            };
            let mut shown = difference.clone();
            let is_generated = self.options.case.is_none() && self.options.rules.is_none();
            if is_generated && self.found.len() < SHRUNK {
                (case, shown) = shrink(&mut self.legs, config, difference)?;
                regressions::add(&self.options.regressions, &case, &difference.leg)?;
            }
            let Case { config, probe } = case;
            self.found.push(Found {
                leg: difference.leg.clone(),
                what: shown.what,
                others,
                command: format!("cargo xtask conformance --case '{config}' --probe '{probe}'"),
                config: config.to_string(),
                probe: probe.to_string(),
            });
        }
        Ok(())
    }

    fn report(self, shown: Option<&[&'static str]>, uncovered: Vec<String>) -> Report {
        let accepted = report::accepted(&self.accepted, shown);
        let is_case = self.options.case.is_some() || self.options.rules.is_some();
        // A slice is too small to touch everything.
        let is_full = !self.options.quick && !is_case && self.options.configs >= 100;
        let passed = self.found.is_empty()
            && accepted.iter().all(|entry| entry.is_true != Some(false))
            && (!is_full || uncovered.is_empty());
        let order: Vec<&str> = [PURE].into_iter().chain(self.legs.names()).collect();
        let mut legs: Vec<LegReport> = self
            .by_leg
            .into_iter()
            .map(|(leg, report)| LegReport { leg, ..report })
            .collect();
        legs.sort_by_key(|leg| order.iter().position(|name| *name == leg.leg));
        Report {
            schema: SCHEMA,
            seed: self.seed,
            seconds: self.started.elapsed().as_secs_f64(),
            legs,
            configs: self.configs,
            differences: self.found,
            accepted,
            rules: report::rules(&self.coverage),
            knobs: self
                .coverage
                .knobs
                .iter()
                .map(|(flag, n)| ((*flag).to_owned(), *n))
                .collect(),
            uncovered: if is_full { uncovered } else { Vec::new() },
            refused: self.refused,
            passed,
        }
    }
}
