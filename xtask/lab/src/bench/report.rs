//! A record for people: all of it as Markdown, the gist of it for the terminal.

mod cells;
mod verdicts;

use anyhow::Result;

use self::{
    cells::{NOTHING, known, rate, ratio_cell, time, value_cell},
    verdicts::goals_table,
};
use super::{
    names::{BASE, Unit, thousands},
    plot,
    query::Along,
    record::{Case, Measurement, Record, Round},
    table::{Table, plain},
};

/// A piece of the report.
enum Block {
    Heading(String),
    Text(String),
    Table(Table),
    Plot { file: String, title: String },
}

/// The whole report, for a README.md beside the plots.
pub fn markdown(record: &Record) -> Result<String> {
    let mut blocks = vec![Block::Text(format!("# {}", title(record)))];
    blocks.extend(warnings(record));
    blocks.extend(summary(record)?);
    blocks.extend(goals_table(record)?);
    blocks.extend(plots(record)?);
    blocks.extend(details(record)?);
    blocks.extend(sweeps(record)?);
    blocks.extend(findings(record)?);
    blocks.extend(proofs(record));
    blocks.extend(environment(record));
    let parts = blocks.iter().map(|block| match block {
        Block::Heading(heading) => format!("## {heading}\n"),
        Block::Text(text) => format!("{text}\n"),
        Block::Table(table) => table.markdown(),
        Block::Plot { file, title } => format!("![{title}]({file})\n"),
    });
    Ok(parts.collect::<Vec<_>>().join("\n"))
}

/// The short one, for the terminal: cases, sweeps, goals.
pub fn text(record: &Record) -> Result<String> {
    let mut blocks = vec![Block::Heading(title(record))];
    blocks.extend(warnings(record));
    blocks.extend(summary(record)?);
    blocks.extend(sweeps(record)?);
    blocks.extend(findings(record)?);
    blocks.extend(goals_table(record)?);
    let parts = blocks.iter().filter_map(|block| match block {
        Block::Heading(heading) => Some(format!("{}\n", plain(heading))),
        Block::Text(text) => Some(format!("{}\n", plain(text))),
        Block::Table(table) => Some(table.text()),
        Block::Plot { .. } => None,
    });
    Ok(parts.collect::<Vec<_>>().join("\n"))
}

fn title(record: &Record) -> String {
    let environment = &record.environment;
    let day = environment.date.split('T').next().unwrap_or_default();
    format!(
        "What a redirect costs: {day}, commit {}, Linux {}",
        environment.commit, environment.kernel
    )
}

fn warnings(record: &Record) -> Vec<Block> {
    let mut all = Vec::new();
    if record.plan.quick {
        let text = "**A quick run: it shows that everything works, not what it costs.**";
        all.push(Block::Text(text.into()));
    }
    for line in record.disproved() {
        all.push(Block::Text(format!("**NOT PROVED: {line}.**")));
    }
    all
}

fn summary(record: &Record) -> Result<Vec<Block>> {
    let cases = record.cases();
    let others: Vec<&str> = record.arm_names().filter(|arm| *arm != BASE).collect();
    if cases.is_empty() {
        return Ok(Vec::new());
    }
    let mut table = Table::new(
        ["time per operation", BASE]
            .into_iter()
            .chain(others.iter().copied()),
    );
    for case in cases {
        let base = match record.find(&case, BASE) {
            Some(base) => time(base.estimate(Round::per_operation)?.median),
            None => NOTHING.into(),
        };
        let mut row = vec![case.title(), base];
        for arm in &others {
            row.push(ratio_cell(record.ratio(
                &case,
                arm,
                Round::per_operation,
            )?));
        }
        table.row(row);
    }
    let plan = &record.plan;
    let how = format!(
        "Median time of no redirection, and for each other arm the median of {} ratios to it, round by round, \
         with the interval that holds that median with a confidence of 95 %.",
        plan.rounds
    );
    Ok(vec![
        Block::Heading("In short".into()),
        Block::Text(how),
        Block::Table(table),
    ])
}

fn plots(record: &Record) -> Result<Vec<Block>> {
    let drawn = plot::all(record)?;
    let blocks = drawn.into_iter().map(|plot| Block::Plot {
        file: plot.file,
        title: plot.title,
    });
    Ok(blocks.collect())
}

fn details(record: &Record) -> Result<Vec<Block>> {
    let mut blocks = vec![
        Block::Heading("Case by case".into()),
        Block::Text(
            "The range is that of all ratios, outliers included. Percentiles are medians of the \
             rounds' percentiles. CPU is the time of all processes that took part, user and system."
                .into(),
        ),
    ];
    for case in record.cases() {
        blocks.push(Block::Text(format!("### {}", case.title())));
        let mut table = Table::new([
            "arm",
            "time",
            "per second",
            "ratio",
            "range",
            "p50",
            "p99",
            "p99.9",
            "CPU",
            "CPU ratio",
        ]);
        for arm in record.arms_in(&case) {
            if let Some(measured) = record.find(&case, arm) {
                table.row(detail(record, &case, measured)?);
            }
        }
        blocks.push(Block::Table(table));
    }
    Ok(blocks)
}

fn detail(record: &Record, case: &Case, measured: &Measurement) -> Result<Vec<String>> {
    let arm = measured.arm.as_str();
    let took = measured.estimate(Round::per_operation)?.median;
    let ratio = match arm {
        BASE => None,
        _ => record.ratio(case, arm, Round::per_operation)?,
    };
    let range = ratio.map(|ratio| format!("{:.2}–{:.2}", ratio.spread.low, ratio.spread.high));
    let mut row = vec![
        arm.to_owned(),
        time(took),
        rate(case.work, took),
        ratio_cell(ratio),
        range.unwrap_or_else(|| NOTHING.into()),
    ];
    for percentile in [
        (|round| round.p50 as f64) as fn(&Round) -> f64,
        |round| round.p99 as f64,
        |round| round.p999 as f64,
    ] {
        row.push(known(measured.estimate(percentile)?.median));
    }
    row.push(known(measured.estimate(Round::cpu_per_operation)?.median));
    // Without a processor time there is nothing to divide by.
    let counted = |arm| {
        let rounds = record.find(case, arm).map(|found| found.rounds.iter());
        rounds.is_some_and(|mut rounds| rounds.all(|round| round.cpu > 0))
    };
    row.push(match arm {
        BASE => NOTHING.into(),
        _ if counted(BASE) => ratio_cell(record.ratio(case, arm, Round::cpu_per_operation)?),
        _ => NOTHING.into(),
    });
    Ok(row)
}

fn sweeps(record: &Record) -> Result<Vec<Block>> {
    let mut blocks = Vec::new();
    for along in record.sweeps() {
        let heading = format!("{} against {}", along.case.title(), along.sweep);
        blocks.push(Block::Heading(heading));
        blocks.push(Block::Table(sweep_table(record, &along)?));
    }
    Ok(blocks)
}

/// Each arm with its time, and the ratio where no redirection was measured too.
fn sweep_table(record: &Record, along: &Along) -> Result<Table> {
    let took_part = |arm: &&str| {
        let mut values = along.values.iter();
        values.any(|value| record.find(&along.at(*value), arm).is_some())
    };
    let arms: Vec<&str> = record.arm_names().filter(took_part).collect();
    let sweep = along.sweep.to_string();
    let mut table = Table::new([sweep.as_str()].into_iter().chain(arms.iter().copied()));
    for &value in &along.values {
        let case = along.at(value);
        let mut row = vec![thousands(value)];
        for &arm in &arms {
            row.push(match record.find(&case, arm) {
                None => NOTHING.into(),
                Some(measured) => {
                    let took = time(measured.estimate(Round::per_operation)?.median);
                    match record.ratio(&case, arm, Round::per_operation)? {
                        Some(ratio) if arm != BASE => {
                            format!("{took}, {}", ratio_cell(Some(ratio)))
                        }
                        _ => took,
                    }
                }
            });
        }
        table.row(row);
    }
    Ok(table)
}

fn findings(record: &Record) -> Result<Vec<Block>> {
    if record.findings.is_empty() {
        return Ok(Vec::new());
    }
    let has_some = |arm: &&str| record.findings.iter().any(|found| found.arm == *arm);
    let arms: Vec<&str> = record.arm_names().filter(has_some).collect();
    let mut table = Table::new(["quantity"].into_iter().chain(arms.iter().copied()));
    for quantity in record.quantities() {
        let mut places: Vec<_> = record.findings(&quantity).map(|found| found.at).collect();
        places.sort_unstable();
        places.dedup();
        for place in places {
            let at = place.map(|point| format!(", {point}")).unwrap_or_default();
            let mut row = vec![format!("{quantity}{at}")];
            for arm in &arms {
                let mut here = record.findings(&quantity);
                row.push(match here.find(|f| f.arm == *arm && f.at == place) {
                    Some(found) => value_cell(&found.estimate()?, quantity.unit()),
                    None => NOTHING.into(),
                });
            }
            table.row(row);
        }
    }
    Ok(vec![
        Block::Heading("Findings".into()),
        Block::Text(
            "Medians, and the range of what was seen if it was looked at more than once.".into(),
        ),
        Block::Table(table),
    ])
}

fn proofs(record: &Record) -> Vec<Block> {
    let mut table = Table::new([
        "arm",
        "measurements",
        "connections",
        "redirected",
        "counted beyond",
        "says",
    ]);
    for arm in record.arm_names() {
        let of_arm = || record.measurements.iter().filter(|m| m.arm == arm);
        let sum = |part: fn(&Measurement) -> u64| thousands(of_arm().map(part).sum());
        let mut by: Vec<&str> = of_arm().map(|m| m.proof.by.as_str()).collect();
        by.sort_unstable();
        by.dedup();
        table.row([
            arm.to_owned(),
            of_arm().count().to_string(),
            sum(|measured| measured.proof.connections),
            sum(|measured| measured.proof.redirected),
            sum(|measured| measured.proof.counted_beyond),
            by.join(", "),
        ]);
    }
    let contradicted = record.disproved().len();
    let verdict = match contradicted {
        0 => "In each measurement the rules counted as many connections as the load made, and none without redirection. Counted beyond: SYNs that were dropped and sent again, and connections that HTTP clients had begun when their time was over.".into(),
        some => format!("**{some} measurements are contradicted by the rules' counters.**"),
    };
    vec![
        Block::Heading("Proof".into()),
        Block::Text(verdict),
        Block::Table(table),
    ]
}

fn environment(record: &Record) -> Vec<Block> {
    let (environment, plan) = (&record.environment, &record.plan);
    let mut table = Table::words(["what", "value"]);
    let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
    row("date", environment.date.clone());
    row("commit", environment.commit.clone());
    row("kernel", environment.kernel.clone());
    row("CPU", environment.cpu.clone());
    row("CPUs", environment.cpus.to_string());
    row("memory", Unit::Bytes.show(environment.memory as f64));
    row(
        "processors' time given to others by a hypervisor",
        format!("{:.1} %", 100.0 * environment.stolen),
    );
    for (tool, version) in &environment.tools {
        row(tool, version.clone());
    }
    row("seed", plan.seed.to_string());
    row("rounds", plan.rounds.to_string());
    row("rounds to warm up", plan.warm_up_rounds.to_string());
    row("pods of an arm, in turn", plan.pods.to_string());
    row("time of an arm in a round", time(plan.slice as f64));
    let mut arms = Table::words(["arm", "what it is"]);
    for arm in &record.arms {
        arms.row([arm.name.clone(), arm.description.clone()]);
    }
    vec![
        Block::Heading("Environment".into()),
        Block::Table(table),
        Block::Table(arms),
    ]
}

#[cfg(test)]
mod tests;
