use super::*;
use crate::bench::sample;

#[test]
fn the_whole_report() {
    let text = markdown(&sample::record()).unwrap();
    for expected in [
        "# What a redirect costs: 2026-01-02, commit 0123abc, Linux 6.18.0\n",
        "| time per operation | none | iptables-legacy | iptables-nft | nftables |",
        "\n| connect, outbound, one CPU | 22.",
        "### round trip of 1 KiB, inbound, two CPUs",
        "## connect, outbound, one CPU against excluded ranges",
        "| attach, 10,000 excluded ranges |",
        " µs | – |",
        "![",
        "In each measurement the rules counted as many connections as the load made",
        "| iptables-nft | 1.8.9 |",
        "| **missed** |",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
    assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
}

#[test]
fn every_row_of_markdown_has_its_cells() {
    let text = markdown(&sample::record()).unwrap();
    let mut columns = 0;
    for line in text.lines() {
        let bars = line.matches('|').count();
        if bars > 0 && columns > 0 {
            assert_eq!(bars, columns, "{line}");
        }
        columns = bars;
    }
}

#[test]
fn the_terminal_gets_the_gist_without_marks() {
    let text = text(&sample::record()).unwrap();
    assert!(text.contains("connect, outbound, one CPU"), "{text}");
    assert!(text.contains("missed"), "{text}");
    assert!(!text.contains("**") && !text.contains('`') && !text.contains("!["));
}

#[test]
fn a_record_that_is_not_proved_says_so_on_top() {
    let mut record = sample::record();
    record.measurements[0].proof.redirected = 17;
    for text in [markdown(&record).unwrap(), text(&record).unwrap()] {
        let warning = text.find("NOT PROVED").unwrap();
        assert!(warning < text.find("In short").unwrap());
    }
    assert!(markdown(&record).unwrap().contains("1 measurements are"));
}

#[test]
fn few_rounds_have_a_range_instead_of_an_interval() {
    let mut record = sample::record();
    for measured in &mut record.measurements {
        measured.rounds.truncate(3);
    }
    let text = markdown(&record).unwrap();
    assert!(text.contains("(3 rounds, "), "{text}");
}

#[test]
fn a_record_of_nothing_is_still_a_report() {
    let mut record = sample::record();
    record.measurements.clear();
    record.findings.clear();
    record.plan.quick = true;
    let text = markdown(&record).unwrap();
    assert!(text.contains("not measured") && text.contains("quick"));
}

#[test]
fn what_has_no_processor_time_has_no_ratio_of_it() {
    let mut record = sample::record();
    for measured in &mut record.measurements {
        for round in &mut measured.rounds {
            round.cpu = 0;
            round.p50 = 0;
        }
    }
    assert!(markdown(&record).is_ok());
}
