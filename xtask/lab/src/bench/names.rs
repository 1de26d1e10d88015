//! What things are called, for people and in the names of files.

use super::record::{Case, Cpus, Direction, Point, Quantity, Sweep, Work};

/// The arm that every other is compared with.
pub const BASE: &str = "none";
/// Behind the name of a program, for its runs by inbound connections.
pub(super) const INBOUND: &str = " (inbound)";
/// The arm without any program whose connections take the way of [`OURS`].
pub(super) const PATH: &str = "same-path";
/// The same with programs that do nothing.
pub(super) const EMPTY: &str = "empty-programs";
/// Programs that redirect with as few calls as can be.
pub(super) const CALLS: &str = "needed-calls";
/// Arms that redirect nothing.
pub(super) const UNREDIRECTED: [&str; 3] = [BASE, PATH, EMPTY];
/// What the goals are about.
pub const OURS: &str = "sidecar-ebpf";

impl Case {
    /// Without its place in a sweep.
    pub fn title(&self) -> String {
        format!("{}, {}, {}", self.work, self.direction, self.cpus)
    }

    /// With it.
    pub(super) fn place(&self) -> String {
        let at = self.at.map(|point| format!(" with {point}"));
        self.title() + &at.unwrap_or_default()
    }

    /// For the name of a file.
    pub fn slug(&self) -> String {
        let work = match self.work {
            Work::Connect => "connect".into(),
            Work::RoundTrip { bytes } => format!("round-trip-{bytes}"),
            Work::Bulk => "bulk".into(),
            Work::Http => "http".into(),
            Work::HttpClose => "http-close".into(),
        };
        let cpus = match self.cpus {
            Cpus::One => "one-cpu",
            Cpus::Two => "two-cpus",
        };
        format!("{work}-{}-{cpus}", self.direction)
    }
}

impl std::fmt::Display for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connect => f.write_str("connect"),
            Self::RoundTrip { bytes: 1 } => f.write_str("round trip of 1 byte"),
            Self::RoundTrip { bytes } if *bytes > 0 && bytes.is_multiple_of(1024) => {
                write!(f, "round trip of {} KiB", bytes / 1024)
            }
            Self::RoundTrip { bytes } => write!(f, "round trip of {bytes} bytes"),
            Self::Bulk => f.write_str("bulk, a MiB"),
            Self::Http => f.write_str("HTTP request"),
            Self::HttpClose => f.write_str("HTTP request on a new connection"),
        }
    }
}

impl std::fmt::Display for Direction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        })
    }
}

impl std::fmt::Display for Cpus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::One => "one CPU",
            Self::Two => "two CPUs",
        })
    }
}

impl std::fmt::Display for Sweep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::ExcludedRanges => "excluded ranges",
            Self::ExcludedPorts => "excluded ports",
            Self::OpenConnections => "open connections",
            Self::TrackingRoom => "free places in conntrack",
        })
    }
}

impl Sweep {
    pub fn slug(&self) -> String {
        self.to_string().replace(' ', "-")
    }
}

impl std::fmt::Display for Point {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", thousands(self.value), self.sweep)
    }
}

/// What a number counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    Nanoseconds,
    Bytes,
    Count,
    /// To something else.
    Ratio,
}

impl Unit {
    pub fn show(self, value: f64) -> String {
        match self {
            Self::Nanoseconds => scaled(value, 1000.0, &["ns", "µs", "ms", "s"]),
            Self::Bytes => scaled(value, 1024.0, &["bytes", "KiB", "MiB", "GiB"]),
            Self::Count if value >= 1000.0 => thousands(value.round() as u64),
            Self::Count if value.fract() == 0.0 && value >= 0.0 => thousands(value as u64),
            Self::Count => significant(value),
            Self::Ratio => format!("{value:.3}"),
        }
    }
}

impl Quantity {
    pub fn unit(&self) -> Unit {
        match self {
            Self::Attach
            | Self::FirstAttach
            | Self::Detach
            | Self::ProgramRun { .. }
            | Self::ProgramsPerConnection
            | Self::ProgramsPerInboundConnection => Unit::Nanoseconds,
            Self::PodMemory
            | Self::PodMemoryGrowth
            | Self::ConnectionMemory
            | Self::ConnectionMemoryGrowth => Unit::Bytes,
            Self::OpenConnections | Self::ProgramRuns { .. } | Self::ChurnRate => Unit::Count,
            Self::ChurnFailures => Unit::Ratio,
        }
    }

    /// For the name of a file.
    pub fn slug(&self) -> String {
        let title = self.to_string();
        let words = title.split(|c: char| !c.is_ascii_alphanumeric());
        let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
        words.join("-")
    }
}

impl std::fmt::Display for Quantity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ProgramRun { program } => write!(f, "one run of `{program}`"),
            Self::ProgramRuns { program } => write!(f, "runs of `{program}` per connection"),
            Self::Attach => f.write_str("attach"),
            Self::FirstAttach => f.write_str("first attach, with loading"),
            Self::Detach => f.write_str("detach"),
            Self::PodMemory => f.write_str("kernel memory of an idle pod"),
            Self::PodMemoryGrowth => f.write_str("growth of kernel memory by a pod's redirect"),
            Self::ConnectionMemory => f.write_str("kernel memory per open connection"),
            Self::ConnectionMemoryGrowth => {
                f.write_str("growth of kernel memory by an open connection, sockets included")
            }
            Self::OpenConnections => f.write_str("open connections from one pod address"),
            Self::ProgramsPerConnection => f.write_str("all programs, per redirected connection"),
            Self::ProgramsPerInboundConnection => {
                f.write_str("all programs, per redirected connection from outside")
            }
            Self::ChurnRate => f.write_str("connections opened and closed in a second"),
            Self::ChurnFailures => f.write_str("share of them that failed"),
        }
    }
}

/// In the largest unit that leaves something before the point.
fn scaled(value: f64, step: f64, units: &[&str]) -> String {
    let (mut value, mut unit) = (value, 0);
    // What would be rounded up to a whole step belongs to the next unit.
    while value.abs() >= step - 0.5 && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    format!("{} {}", significant(value), units[unit])
}

/// Three digits that say something; more only where they are before the point.
fn significant(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let places = match value.abs() {
        big if big >= 99.95 => 0,
        middle if middle >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.places$}")
}

/// 200,000 rather than 200000.
pub(super) fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Kind;

    #[test]
    fn numbers_for_people() {
        for (unit, value, expected) in [
            (Unit::Nanoseconds, 0.0, "0 ns"),
            (Unit::Nanoseconds, 187.4, "187 ns"),
            (Unit::Nanoseconds, 999.7, "1.00 µs"),
            (Unit::Nanoseconds, 12_345.0, "12.3 µs"),
            (Unit::Nanoseconds, 20e6, "20.0 ms"),
            (Unit::Bytes, 0.0, "0 bytes"),
            (Unit::Bytes, 1_048_576.0, "1.00 MiB"),
            (Unit::Bytes, 320.0, "320 bytes"),
            (Unit::Count, 200_000.0, "200,000"),
            (Unit::Count, 2.5, "2.50"),
            (Unit::Ratio, 1.1, "1.100"),
        ] {
            assert_eq!(unit.show(value), expected);
        }
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_000), "1,000");
        assert_eq!(thousands(1_234_567), "1,234,567");
    }

    #[test]
    fn arms_are_called_what_the_runner_calls_them() {
        assert_eq!(Kind::None.name(), BASE);
        assert_eq!(Kind::Path.name(), PATH);
        assert_eq!(Kind::EmptyPrograms.name(), EMPTY);
        assert_eq!(Kind::NeededCalls.name(), CALLS);
        assert_eq!(Kind::Ours.name(), OURS);
    }

    #[test]
    fn cases_and_files() {
        let case = Case {
            work: Work::RoundTrip { bytes: 1024 },
            direction: Direction::Inbound,
            cpus: Cpus::Two,
            at: None,
        };
        assert_eq!(case.title(), "round trip of 1 KiB, inbound, two CPUs");
        assert_eq!(case.slug(), "round-trip-1024-inbound-two-cpus");
        let run = Quantity::ProgramRun {
            program: "connect4".into(),
        };
        assert_eq!(run.slug(), "one-run-of-connect4");
    }
}
