//! Plots of a record, as SVG.
//!
//! They stay readable on a dark page because they bring a white one. Colours are Okabe and Ito's,
//! which colour-blind people can tell apart; markers differ too.

mod axis;
mod bars;
mod lines;
mod style;

use std::collections::BTreeSet;

use anyhow::Result;

use self::{
    bars::{Bar, Bars, Group},
    lines::{Line, Lines, Spot},
};
use super::{
    names::{BASE, Unit},
    query::Along,
    record::{Case, Cpus, Direction, Quantity, Record, Round, Sweep, Work},
};

/// A file to be written.
#[derive(Clone, Debug)]
pub struct Plot {
    pub file: String,
    pub title: String,
    pub svg: String,
}

/// The plot for a README: what the four commonest cases cost in each arm.
const SUMMARY: &str = "summary.svg";

/// The summary first, if there is something to sum up; then the sweeps.
pub fn all(record: &Record) -> Result<Vec<Plot>> {
    let mut plots: Vec<Plot> = summary(record)?.into_iter().collect();
    for along in record.sweeps() {
        plots.extend(swept(record, &along)?);
    }
    for quantity in record.quantities() {
        let points = record.findings(&quantity).filter_map(|found| found.at);
        let sweeps: BTreeSet<Sweep> = points.map(|point| point.sweep).collect();
        for sweep in sweeps {
            plots.extend(looked_at(record, &quantity, sweep)?);
        }
    }
    Ok(plots)
}

/// Date, kernel and commit, for below the title.
fn origin(record: &Record) -> String {
    let environment = &record.environment;
    let day = environment.date.split('T').next().unwrap_or_default();
    let quick = if record.plan.quick { "quick run, " } else { "" };
    format!(
        "{quick}{day}, commit {}, Linux {}, {} × {}",
        environment.commit, environment.kernel, environment.cpus, environment.cpu
    )
}

fn summary(record: &Record) -> Result<Option<Plot>> {
    let mut groups = Vec::new();
    for work in [Work::Connect, Work::RoundTrip { bytes: 1 }] {
        for direction in [Direction::Outbound, Direction::Inbound] {
            let case = Case {
                work,
                direction,
                cpus: Cpus::One,
                at: None,
            };
            groups.extend(group(record, &case)?);
        }
    }
    if groups.is_empty() {
        return Ok(None);
    }
    let title = "What a redirect costs".to_owned();
    let plot = Bars {
        title: &title,
        origin: origin(record),
        axis: "time per operation by that of no redirection; median, 95 % confidence interval",
        groups,
    };
    Ok(Some(Plot {
        file: SUMMARY.into(),
        svg: plot.svg()?,
        title,
    }))
}

fn group(record: &Record, case: &Case) -> Result<Option<Group>> {
    let mut bars = Vec::new();
    for (index, arm) in record.arm_names().enumerate() {
        if arm == BASE {
            continue;
        }
        if let Some(estimate) = record.ratio(case, arm, Round::per_operation)? {
            bars.push(Bar {
                name: arm.to_owned(),
                colour: index,
                estimate,
            });
        }
    }
    Ok((!bars.is_empty()).then(|| Group {
        name: case.title(),
        bars,
    }))
}

/// How the time of a case changes along a sweep.
fn swept(record: &Record, along: &Along) -> Result<Option<Plot>> {
    let mut lines = Vec::new();
    for (colour, arm) in record.arm_names().enumerate() {
        let mut spots = Vec::new();
        for &value in &along.values {
            if let Some(measured) = record.find(&along.at(value), arm) {
                let estimate = measured.estimate(Round::per_operation)?;
                spots.push(Spot { value, estimate });
            }
        }
        lines.push(Line {
            name: arm.to_owned(),
            colour,
            spots,
        });
    }
    let title = format!("Time of a {} by {}", along.case.title(), along.sweep);
    let file = format!("{}-{}.svg", along.case.slug(), along.sweep.slug());
    let axis = format!("time per {}, median", along.case.work);
    draw(
        record,
        along.sweep,
        (title, file, axis),
        Unit::Nanoseconds,
        lines,
    )
}

/// How a quantity changes along a sweep, if it was looked at there.
fn looked_at(record: &Record, quantity: &Quantity, sweep: Sweep) -> Result<Option<Plot>> {
    let mut lines = Vec::new();
    for (colour, arm) in record.arm_names().enumerate() {
        let mut spots = Vec::new();
        for finding in record.findings(quantity).filter(|found| found.arm == arm) {
            if let Some(point) = finding.at.filter(|point| point.sweep == sweep) {
                let (value, estimate) = (point.value, finding.estimate()?);
                spots.push(Spot { value, estimate });
            }
        }
        spots.sort_by_key(|spot| spot.value);
        lines.push(Line {
            name: arm.to_owned(),
            colour,
            spots,
        });
    }
    let name = quantity.to_string().replace('`', "");
    let title = format!("{}{} by {sweep}", name[..1].to_uppercase(), &name[1..]);
    let file = format!("{}-{}.svg", quantity.slug(), sweep.slug());
    let axis = format!("{name}, median");
    draw(record, sweep, (title, file, axis), quantity.unit(), lines)
}

/// Nothing unless there are two points to draw a line between.
fn draw(
    record: &Record,
    sweep: Sweep,
    (title, file, axis): (String, String, String),
    unit: Unit,
    mut lines: Vec<Line>,
) -> Result<Option<Plot>> {
    lines.retain(|line| !line.spots.is_empty());
    if lines.iter().all(|line| line.spots.len() < 2) {
        return Ok(None);
    }
    let plot = Lines {
        title: &title,
        origin: origin(record),
        x: sweep.to_string(),
        y: axis,
        unit,
        lines,
    };
    let svg = plot.svg()?;
    Ok(Some(Plot { file, title, svg }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::sample;

    #[test]
    fn one_for_each_sweep_and_the_summary() {
        let plots = all(&sample::record()).unwrap();
        let files: Vec<&str> = plots.iter().map(|plot| plot.file.as_str()).collect();
        assert_eq!(
            files,
            [
                "summary.svg",
                "connect-outbound-one-cpu-excluded-ranges.svg",
                "connect-outbound-one-cpu-open-connections.svg",
                "attach-excluded-ranges.svg",
            ]
        );
    }

    #[test]
    fn a_plot_says_what_where_and_in_which_unit() {
        for plot in all(&sample::record()).unwrap() {
            let svg = &plot.svg;
            assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
            assert!(!svg.contains("NaN") && !svg.contains("inf"));
            for expected in [
                "0123abc",
                "6.18.0",
                "2026-01-02",
                "iptables-nft",
                "sidecar-ebpf",
            ] {
                assert!(svg.contains(expected), "{expected} in {}", plot.file);
            }
            assert!(svg.len() < 60_000, "{}: {} bytes", plot.file, svg.len());
        }
    }

    #[test]
    fn the_ratio_of_a_bar_is_written_beside_it() {
        let record = sample::record();
        let case = record.cases()[0];
        let ratio = record.ratio(&case, "iptables-nft", Round::per_operation);
        let text = format!("{:.2}", ratio.unwrap().unwrap().median);
        assert!(all(&record).unwrap()[0].svg.contains(&text));
    }

    #[test]
    fn a_single_point_makes_no_line() {
        let mut record = sample::record();
        record.findings.clear();
        record
            .measurements
            .retain(|measured| measured.case.at.is_none_or(|point| point.value == 1));
        assert_eq!(all(&record).unwrap().len(), 1);
        record.measurements.clear();
        assert!(all(&record).unwrap().is_empty());
    }
}
