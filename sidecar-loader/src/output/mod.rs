//! What the loader shows on stdout while it runs, in three formats.

pub mod json;
pub mod live;
pub mod log;
pub mod plain;
pub mod table;

use std::{
    io::{self, IsTerminal, Write},
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use sidecar_ebpf_common::counter::Hook;

use crate::{cli::Format, snapshot::Snapshot};

/// What there is to say once everything is attached.
#[derive(Clone, Debug, Serialize)]
pub struct Ready {
    pub version: &'static str,
    pub cgroup: PathBuf,
    /// What the network namespace was found by; `None` while the cgroup is empty.
    pub netns: Option<String>,
    pub netns_cookie: Option<u64>,
    /// The address that is really listened at.
    pub metrics_addr: Option<SocketAddr>,
    #[serde(serialize_with = "hook_names")]
    pub hooks: Vec<Hook>,
    #[serde(flatten)]
    pub took: Took,
}

/// How long it took to become ready.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Took {
    /// Until the programs were loaded and the tables filled; once for each loader.
    #[serde(rename = "load_seconds", serialize_with = "seconds")]
    pub load: Duration,
    /// From then until connections are redirected.
    #[serde(rename = "attach_seconds", serialize_with = "seconds")]
    pub attach: Duration,
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

fn hook_names<S: Serializer>(hooks: &[Hook], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(hooks.iter().map(|hook| hook.name()))
}

/// The pod's network namespace, once it is known.
#[derive(Clone, Debug, Serialize)]
pub struct PodFound {
    /// What it was found by.
    pub netns: String,
    pub netns_cookie: u64,
}

/// Whether anybody still reads what is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a reader that is gone is a reason to end, and no error"]
pub enum Reader {
    Present,
    /// The other end of the pipe is closed.
    Gone,
}

/// One format on one stream.
pub trait Output {
    /// Everything is attached.
    fn ready(&mut self, ready: &Ready) -> io::Result<()>;
    /// The pod's network namespace became known after [`ready`](Output::ready).
    fn pod_found(&mut self, pod: &PodFound) -> io::Result<()>;
    /// The counters as they are now, `elapsed` after they were last shown.
    fn counters(&mut self, snapshot: &Snapshot, elapsed: Duration) -> io::Result<()>;
    /// Everything is detached, which took so long. Said in a format for machines only.
    fn detached(&mut self, _took: Duration) -> io::Result<()> {
        Ok(())
    }
    /// Everything is detached; these are the last values.
    fn finish(&mut self, snapshot: &Snapshot) -> io::Result<()>;
}

/// An [`Output`] on stdout.
pub fn stdout(format: Format) -> Box<dyn Output> {
    let stdout = io::stdout();
    match format {
        Format::Json => Box::new(json::Json::new(stdout, SystemTime::now)),
        Format::Log => Box::new(log::Log::new(stdout, SystemTime::now)),
        Format::Table if stdout.is_terminal() => {
            Box::new(live::Live::new(stdout, crossterm::terminal::size))
        }
        Format::Table => Box::new(plain::Plain::new(stdout)),
    }
}

/// Turns a broken pipe into [`Reader::Gone`]; every other error stays one.
pub fn reader(written: io::Result<()>) -> io::Result<Reader> {
    match written {
        Ok(()) => Ok(Reader::Present),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(error),
    }
}

/// The time of an event, to the millisecond, as RFC 3339 writes it.
fn rfc3339(time: SystemTime) -> String {
    Timestamp::try_from(time)
        .map(|time| format!("{time:.3}"))
        .unwrap_or_default()
}

/// Writes a whole event at once, so that a reader never sees half of it.
fn write_all(out: &mut impl Write, text: &str) -> io::Result<()> {
    out.write_all(text.as_bytes())?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn example() -> Ready {
        Ready {
            version: "0.1.0",
            cgroup: "/sys/fs/cgroup/pod".into(),
            netns: Some("/run/netns/pod".to_owned()),
            netns_cookie: Some(4097),
            metrics_addr: Some(([127, 0, 0, 1], 9464).into()),
            hooks: vec![Hook::Connect4, Hook::SkLookup],
            took: Took {
                load: Duration::from_millis(250),
                attach: Duration::from_millis(5),
            },
        }
    }

    #[test]
    fn a_closed_pipe_is_no_error() {
        let error = |kind: io::ErrorKind| reader(Err(kind.into()));
        assert_eq!(reader(Ok(())).unwrap(), Reader::Present);
        assert_eq!(error(io::ErrorKind::BrokenPipe).unwrap(), Reader::Gone);
        assert!(error(io::ErrorKind::StorageFull).is_err());
    }

    #[test]
    fn a_pipe_whose_reader_left_says_so() {
        let (read, write) = io::pipe().unwrap();
        let mut output = json::Json::new(write, SystemTime::now);
        assert_eq!(reader(output.ready(&example())).unwrap(), Reader::Present);
        drop(read);
        let written = output.counters(&Snapshot::zero(), Duration::from_secs(1));
        assert_eq!(reader(written).unwrap(), Reader::Gone);
    }
}
