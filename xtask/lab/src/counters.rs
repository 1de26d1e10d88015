//! The loader's counters as its `/metrics` shows them, and what changed between two looks.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

/// The families of counters that connections move: how the family's rows are called here, the
/// label that tells its rows apart, and the metric.
const FAMILIES: [(&str, &str, &str); 3] = [
    ("", "rule", "sidecar_ebpf_decisions_total"),
    ("bypass:", "reason", "sidecar_ebpf_bypasses_total"),
    ("refusal:", "reason", "sidecar_ebpf_refusals_total"),
];

const HTTP_PATIENCE: Duration = Duration::from_secs(10);

/// One row: `hook` such as `connect4`, `name` as in [`Counters::expect_delta`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    pub hook: String,
    pub name: String,
    /// What the rule does; empty for bypasses and refusals.
    pub action: String,
}

/// All counters at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub rows: BTreeMap<Row, u64>,
}

impl Counters {
    /// Reads `/metrics` once.
    pub fn scrape(addr: SocketAddr) -> Result<Self> {
        let text = http_get(addr, "/metrics").with_context(|| format!("scraping {addr}"))?;
        let counters = Self::parse(&text).with_context(|| format!("reading {addr}/metrics"))?;
        ensure!(
            !counters.rows.is_empty(),
            "{addr}/metrics has no decision counter:\n{text}"
        );
        Ok(counters)
    }

    /// Reads the text exposition format.
    pub fn parse(text: &str) -> Result<Self> {
        let samples = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        let mut counters = Self::default();
        for line in samples {
            let (metric, mut labels, value) =
                parse_sample(line).with_context(|| format!("the sample {line:?}"))?;
            let Some((prefix, label, _)) = FAMILIES.iter().find(|family| family.2 == metric) else {
                continue;
            };
            let mut take = |name: &str| labels.remove(name);
            let name = take(label).with_context(|| format!("no label {label} in {line:?}"))?;
            let row = Row {
                hook: take("hook").with_context(|| format!("no label hook in {line:?}"))?,
                name: format!("{prefix}{name}"),
                action: take("action").unwrap_or_default(),
            };
            *counters.rows.entry(row).or_default() += value;
        }
        Ok(counters)
    }

    /// The count of a rule (or `bypass:REASON`, `refusal:REASON`) at a hook, whatever its action.
    pub fn get(&self, hook: &str, name: &str) -> u64 {
        let rows = self.rows.iter();
        rows.filter(|(row, _)| row.hook == hook && row.name == name)
            .map(|(_, count)| count)
            .sum()
    }

    /// What changed since then, by hook and name.
    pub fn since(&self, before: &Self) -> BTreeMap<(String, String), i128> {
        let keys: BTreeSet<(&str, &str)> = self
            .rows
            .keys()
            .chain(before.rows.keys())
            .map(|row| (row.hook.as_str(), row.name.as_str()))
            .collect();
        keys.into_iter()
            .map(|(hook, name)| {
                let delta = i128::from(self.get(hook, name)) - i128::from(before.get(hook, name));
                ((hook.to_owned(), name.to_owned()), delta)
            })
            .filter(|(_, delta)| *delta != 0)
            .collect()
    }

    /// Fails unless exactly these counters moved since `before`, by exactly so much.
    ///
    /// Names are rules (`"9"`, `"excluded port"`), `"bypass:REASON"` or `"refusal:REASON"`; the
    /// same one may be listed several times.
    pub fn expect_delta(&self, before: &Self, expected: &[(&str, &str, u64)]) -> Result<()> {
        let mut wanted: BTreeMap<(String, String), i128> = BTreeMap::new();
        for &(hook, name, count) in expected.iter().filter(|(_, _, count)| *count > 0) {
            *wanted
                .entry((hook.to_owned(), name.to_owned()))
                .or_default() += i128::from(count);
        }
        let seen = self.since(before);
        if seen == wanted {
            return Ok(());
        }
        bail!(
            "the counters moved otherwise than expected:\n{}",
            Differences { seen, wanted }
        )
    }
}

struct Differences {
    seen: BTreeMap<(String, String), i128>,
    wanted: BTreeMap<(String, String), i128>,
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "  {:<14} {:<28} {:>8} {:>8}",
            "hook", "rule", "expected", "seen"
        )?;
        let keys: BTreeSet<_> = self.seen.keys().chain(self.wanted.keys()).collect();
        for key in keys {
            let of = |table: &BTreeMap<_, _>| table.get(key).copied().unwrap_or(0);
            let (wanted, seen) = (of(&self.wanted), of(&self.seen));
            let mark = if wanted == seen { "" } else { "  <--" };
            writeln!(
                f,
                "  {:<14} {:<28} {wanted:>8} {seen:>8}{mark}",
                key.0, key.1
            )?;
        }
        Ok(())
    }
}

/// `name{label="value",…} number`
fn parse_sample(line: &str) -> Result<(&str, BTreeMap<String, String>, u64)> {
    let end = line.find(['{', ' ']).context("no value")?;
    let (metric, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while let Some((name, after)) = rest.split_once("=\"") {
            if name.contains('}') {
                break;
            }
            let (value, after) = quoted(after)?;
            labels.insert(name.trim_start_matches([',', ' ']).to_owned(), value);
            rest = after;
            if rest.starts_with('}') {
                break;
            }
        }
        rest = rest.strip_prefix([',']).unwrap_or(rest);
        rest = rest.strip_prefix('}').context("no closing brace")?;
    }
    let number = rest.split_whitespace().next().context("no value")?;
    // Gauges of other metrics may be fractions; counts fit an f64 exactly up to 2^53.
    let value: f64 = number
        .parse()
        .with_context(|| format!("the value {number}"))?;
    Ok((metric, labels, value as u64))
}

/// Reads up to the closing quote, and returns what follows it.
fn quoted(text: &str) -> Result<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Ok((value, text.get(at + 1..).unwrap_or_default())),
            '\\' => match chars.next().context("nothing after a backslash")?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    bail!("no closing quote in {text:?}")
}

/// The body of a successful answer to a GET.
pub fn http_get(addr: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&addr, HTTP_PATIENCE)?;
    stream.set_read_timeout(Some(HTTP_PATIENCE))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("an answer without a body")?;
    let status = head.lines().next().unwrap_or_default();
    ensure!(
        status.split(' ').nth(1) == Some("200"),
        "GET {path} answered {status:?}"
    );
    Ok(body.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "\
# HELP sidecar_ebpf_decisions_total Connections by rule.
# TYPE sidecar_ebpf_decisions_total counter
sidecar_ebpf_decisions_total{hook=\"connect4\",rule=\"9\",action=\"redirect_outbound\"} 4
sidecar_ebpf_decisions_total{hook=\"connect4\",rule=\"4\",action=\"pass\"} 0
sidecar_ebpf_bypasses_total{hook=\"connect4\",reason=\"a \\\"quoted\\\" one, {x}\"} 1
sidecar_ebpf_refusals_total{hook=\"connect4\",reason=\"table_full\",} 2
sidecar_ebpf_build_info{version=\"0.1\"} 1
process_cpu_seconds_total 0.25
";

    #[test]
    fn the_three_families_are_read_and_others_left_out() {
        let counters = Counters::parse(BEFORE).unwrap();
        assert_eq!(counters.rows.len(), 4);
        assert_eq!(counters.get("connect4", "9"), 4);
        assert_eq!(counters.get("connect4", "bypass:a \"quoted\" one, {x}"), 1);
        assert_eq!(counters.get("connect4", "refusal:table_full"), 2);
    }

    #[test]
    fn any_other_change_is_an_error() {
        let before = Counters::parse(BEFORE).unwrap();
        let after = Counters::parse(&BEFORE.replace("} 4", "} 5").replace("} 0", "} 2")).unwrap();
        after
            .expect_delta(&before, &[("connect4", "9", 1), ("connect4", "4", 2)])
            .unwrap();
        before.expect_delta(&before, &[]).unwrap();
        let error = after
            .expect_delta(&before, &[("connect4", "9", 1)])
            .unwrap_err()
            .to_string();
        assert!(error.contains("connect4       4"), "{error}");
        assert!(error.contains("<--"), "{error}");
        after
            .expect_delta(&before, &[("connect4", "9", 1), ("connect4", "4", 1)])
            .unwrap_err();
        after.expect_delta(&before, &[]).unwrap_err();
    }

    #[test]
    fn what_is_no_sample_is_an_error() {
        for bad in ["x", "x{a=\"b\" 1", "x{a=\"b\"}", "x{a=\"b\"} y"] {
            assert!(Counters::parse(bad).is_err(), "{bad:?} was read");
        }
    }
}
