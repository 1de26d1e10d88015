//! What a cell of a table says.

use crate::bench::{
    names::{Unit, thousands},
    record::Work,
    stats::Estimate,
};

/// Where nothing was measured.
pub(super) const NOTHING: &str = "–";

pub(super) fn ratio_cell(ratio: Option<Estimate>) -> String {
    let Some(Estimate {
        median,
        interval,
        spread,
        count,
    }) = ratio
    else {
        return NOTHING.into();
    };
    match interval {
        Some(interval) => format!("{median:.3} [{:.3}, {:.3}]", interval.low, interval.high),
        None => format!(
            "{median:.3} ({count} rounds, {:.3} to {:.3})",
            spread.low, spread.high
        ),
    }
}

pub(super) fn value_cell(estimate: &Estimate, unit: Unit) -> String {
    let median = unit.show(estimate.median);
    match estimate.count {
        1 => median,
        _ => {
            let (low, high) = (estimate.spread.low, estimate.spread.high);
            format!("{median} ({} to {})", unit.show(low), unit.show(high))
        }
    }
}

pub(super) fn time(nanoseconds: f64) -> String {
    Unit::Nanoseconds.show(nanoseconds)
}

/// 0 stands for what a case does not have.
pub(super) fn known(nanoseconds: f64) -> String {
    if nanoseconds == 0.0 {
        NOTHING.into()
    } else {
        time(nanoseconds)
    }
}

pub(super) fn rate(work: Work, nanoseconds: f64) -> String {
    let rate = thousands((1e9 / nanoseconds).round() as u64);
    match work {
        Work::Bulk => format!("{rate} MiB"),
        Work::Connect | Work::RoundTrip { .. } | Work::Http | Work::HttpClose => rate,
    }
}
