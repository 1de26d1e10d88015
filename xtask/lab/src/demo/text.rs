//! The report for people, at most 100 columns wide.

use std::fmt::Write as _;

use super::{
    report::{Decision, Hop, Kind, Moved, Report, Section},
    topology::{ISTIOD, OWN_SERVICE, SERVICE},
};
use crate::pod::{APP_ID, POD_IP, PROXY_ID, REMOTE_IP};

const WIDTH: usize = 100;

pub(super) fn render(report: &Report) -> String {
    let mut text = introduction(report);
    for section in &report.sections {
        text += &heading(section);
        for kind in &section.kinds {
            text += &render_kind(kind);
        }
    }
    text + &summary(report)
}

fn introduction(report: &Report) -> String {
    format!(
        "\
A pod's TCP without iptables
{double}

Istio steers the TCP of a pod to the proxy beside the application with iptables rules: the chain
ISTIO_OUTPUT with its rules 1 to 9, and the chain ISTIO_INBOUND. This pod has no such rule. `loader`
has attached eBPF programs that decide the same, and count every decision under the rule it stands
for. Below, each kind of traffic is driven for real, and shown with every counter that moved.

  pod {POD_IP}      app           user {APP_ID}   :8080, and its metrics on :9090
                      proxy         user {PROXY_ID}   :15001 outbound, :15006 inbound, :15000, :15090
                      agent         user {PROXY_ID}   :15020, runs beside the proxy (pilot-agent)
  cluster {REMOTE_IP}  remote pod    behind the service {SERVICE}
                      Istiod        at {ISTIOD}
                      Prometheus
  {OWN_SERVICE} is a service whose only endpoint is the pod itself.

  The proxy is {proxy}.
  Hook connect4 decides when a program of the pod connects, sk_lookup when a connection comes in.
  The article: jimmysong.io/en/blog/sidecar-injection-iptables-and-traffic-routing
",
        double = "=".repeat(28),
        proxy = report.proxy,
    )
}

fn heading(section: &Section) -> String {
    let title = section.title;
    let mut text = format!(
        "\n\n{title}\n{}\n{}\n",
        "=".repeat(title.len()),
        section.about
    );
    let arguments = section.loader_arguments.join(" ");
    if !arguments.is_empty() {
        text += &format!("Here the loader got the arguments {arguments}\n");
    }
    text
}

fn render_kind(kind: &Kind) -> String {
    let title = format!("{}  {}", kind.number, kind.title);
    let mut text = format!(
        "\n{title}\n{}\n   {}\n\n",
        "-".repeat(title.len()),
        kind.about
    );
    text += &row("hop", "hook", "rule", "action", "by the article");
    for hop in &kind.hops {
        text += &render_hop(hop);
    }
    let moved: Vec<String> = kind.moved.iter().map(Moved::to_string).collect();
    text += "\n";
    text += &wrapped("   counters   ", ", ", &or_none(moved));
    let mut label = "   seen by    ";
    for sight in &kind.seen {
        let start = format!("{label}{:<11} ", sight.who);
        let facts: Vec<String> = sight.facts.iter().map(ToString::to_string).collect();
        text += &wrapped(&start, ", ", &facts);
        label = "              ";
    }
    if let Some(why) = kind.why {
        let words: Vec<String> = why.split(' ').map(str::to_owned).collect();
        text += &wrapped("   why        ", " ", &words);
    }
    if let Some(failure) = &kind.failure {
        let words: Vec<String> = failure.split_whitespace().map(str::to_owned).collect();
        text += &wrapped("   FAILED     ", " ", &words);
    }
    if !kind.as_expected {
        text += "   NOT AS EXPECTED\n";
    }
    text
}

fn or_none(items: Vec<String>) -> Vec<String> {
    if items.is_empty() {
        vec!["none moved".to_owned()]
    } else {
        items
    }
}

fn render_hop(hop: &Hop) -> String {
    let way = format!("{} -> {}", hop.from, hop.to);
    match &hop.counted {
        Some(counted) => row(
            &way,
            &counted.hook,
            &counted.rule,
            goes(counted),
            hop.article,
        ),
        None => row(&way, "?", "NOT COUNTED", "", hop.article),
    }
}

/// The action in the words of somebody who follows the connection.
fn goes(decision: &Decision) -> &str {
    match decision.action.as_str() {
        "redirect-outbound" => "-> 15001",
        "redirect-inbound" => "-> 15006",
        other => other,
    }
}

fn row(hop: &str, hook: &str, rule: &str, action: &str, article: &str) -> String {
    let line = format!("   {hop:<31} {hook:<10} {rule:<22} {action:<10} {article}");
    format!("{}\n", line.trim_end())
}

/// Joins items and breaks lines between them; further lines start below the first item.
fn wrapped(start: &str, separator: &str, items: &[String]) -> String {
    let indent = " ".repeat(start.len());
    let mut text = String::new();
    let mut line = start.to_owned();
    for (at, item) in items.iter().enumerate() {
        let separator = if at + 1 < items.len() { separator } else { "" };
        let piece = format!("{item}{separator}");
        if line.len() + piece.trim_end().len() > WIDTH && line.trim() != start.trim() {
            text += line.trim_end();
            text += "\n";
            line = indent.clone();
        }
        line += &piece;
    }
    text + line.trim_end() + "\n"
}

fn summary(report: &Report) -> String {
    let mut text = "\n\nSummary\n=======\n".to_owned();
    text += &summary_row(["", "kind", "counted by the kernel", "by the article", ""]);
    for (at, section) in report.sections.iter().enumerate() {
        if at > 0 {
            text += &format!("   {}\n", section.title);
        }
        for kind in &section.kinds {
            let counted = kind.hops.iter().map(|hop| match &hop.counted {
                Some(counted) => counted.rule.as_str(),
                None => "NOT COUNTED",
            });
            let article = kind
                .hops
                .iter()
                .map(|hop| hop.article.strip_prefix("rule ").unwrap_or(hop.article));
            let verdict = if kind.agrees() { "same" } else { "differs" };
            let number = kind.number.to_string();
            let columns = [
                &number,
                kind.title,
                &listed(counted),
                &listed(article),
                verdict,
            ];
            text += &summary_row(columns);
        }
    }
    text += "\n";
    // Writing to a String cannot fail.
    let _ = if report.as_expected {
        writeln!(
            text,
            "Every counter moved as expected, and no other one did."
        )
    } else {
        writeln!(
            text,
            "NOT AS EXPECTED:\n  {}",
            report.differences().join("\n  ")
        )
    };
    text
}

/// With commas; the same thing several times in a row is counted.
fn listed<'a>(items: impl Iterator<Item = &'a str>) -> String {
    let mut runs: Vec<(&str, usize)> = Vec::new();
    for item in items {
        match runs.last_mut() {
            Some((last, count)) if *last == item => *count += 1,
            _ => runs.push((item, 1)),
        }
    }
    let words = runs.into_iter().map(|(item, count)| match count {
        1 => item.to_owned(),
        _ => format!("{item} x{count}"),
    });
    words.collect::<Vec<_>>().join(", ")
}

fn summary_row([number, title, counted, article, verdict]: [&str; 5]) -> String {
    let line = format!("   {number:<2} {title:<31} {counted:<28} {article:<25} {verdict}");
    format!("{}\n", line.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetitions_are_counted() {
        assert_eq!(listed(["a", "a", "4", "a"].into_iter()), "a x2, 4, a");
    }

    #[test]
    fn long_lists_are_broken_between_items() {
        let items: Vec<String> = (0..30).map(|number| format!("item {number}")).collect();
        let text = wrapped("   start  ", ", ", &items);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.len() > 1);
        assert!(lines.iter().all(|line| line.len() <= WIDTH), "{text}");
        assert!(lines[0].starts_with("   start  item 0, item 1"), "{text}");
        assert!(lines[1].starts_with("          item "), "{text}");
        let joined = lines
            .iter()
            .map(|line| line.trim())
            .collect::<Vec<_>>()
            .join(" ");
        assert_eq!(joined, format!("start  {}", items.join(", ")));
    }
}
