//! The goals, and whether the record meets them.

use anyhow::Result;

use super::{
    Block,
    cells::{NOTHING, ratio_cell, value_cell},
};
use crate::bench::{
    goals::{self, Judged, Measured, Verdict},
    names::Unit,
    record::Record,
    table::Table,
};

pub(super) fn goals_table(record: &Record) -> Result<Vec<Block>> {
    let judged = goals::judge(record)?;
    // Who stands for iptables: the arms of that name.
    let compared: Vec<&str> = record
        .arm_names()
        .filter(|arm| arm.contains("iptables") || arm.contains("nftables"))
        .collect();
    let head = [
        "goal",
        "limit",
        "measured",
        "verdict",
        "empty programs",
        "needed calls",
    ];
    let mut table = Table::new(head.into_iter().chain(compared.iter().copied()));
    for judged in &judged {
        let cell = |measured: &Option<Measured>| {
            let cell = measured.as_ref().map(measured_cell);
            cell.unwrap_or_else(|| NOTHING.into())
        };
        let mut row = vec![
            judged.goal.name.to_owned(),
            judged.limit(),
            cell(&judged.measured),
            verdict(judged),
            cell(&judged.empty),
            cell(&judged.calls),
        ];
        for arm in &compared {
            let other = judged.others.iter().find(|(name, _)| name == arm);
            row.push(other.map_or(NOTHING.into(), |(_, measured)| {
                measured.unit.show(measured.estimate.median)
            }));
        }
        table.row(row);
    }
    Ok(vec![
        Block::Heading("Goals".into()),
        Block::Text(
            "Ratios are times per operation by those of no redirection. What of it no program of ours \
             can change stands beside it: that of connections that go the same way, with programs \
             in the same places that do nothing, and with programs there that make the calls which \
             no redirect can do without, and nothing else."
                .into(),
        ),
        Block::Table(table),
    ])
}

fn verdict(judged: &Judged) -> String {
    let text = match judged.verdict() {
        Verdict::Met => "met",
        Verdict::Missed => "**missed**",
        Verdict::NotMeasured => "not measured",
    };
    if judged.is_close() {
        format!("{text}, but the interval holds the limit")
    } else {
        text.into()
    }
}

fn measured_cell(measured: &Measured) -> String {
    let Measured { estimate, unit, .. } = measured;
    if *unit == Unit::Ratio {
        return ratio_cell(Some(*estimate));
    }
    value_cell(estimate, *unit)
}
