//! What a run found: everything that the report, the plots and later readers need.
//!
//! Times are nanoseconds, sizes bytes.

use serde::{Deserialize, Serialize};

/// Changes whenever an old record cannot be read any more.
pub const FORMAT: u32 = 3;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    pub format: u32,
    pub environment: Environment,
    pub plan: Plan,
    pub arms: Vec<ArmInfo>,
    pub measurements: Vec<Measurement>,
    pub findings: Vec<Finding>,
}

/// Where and with what the run was made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Environment {
    /// UTC, RFC 3339.
    pub date: String,
    /// As `git describe --always --dirty` says.
    pub commit: String,
    pub kernel: String,
    pub cpu: String,
    pub cpus: u32,
    pub memory: u64,
    /// The share of the processors' time during the run that a hypervisor gave to others.
    pub stolen: f64,
    /// Names and versions of the tools that were compared or that made load.
    pub tools: Vec<(String, String)>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    pub seed: u64,
    pub quick: bool,
    /// How many rounds count; warm-up rounds are not among them.
    pub rounds: u32,
    pub warm_up_rounds: u32,
    /// How many pods of each arm take turns on the kernel's own path.
    pub pods: u32,
    /// How long one arm works in one round.
    pub slice: u64,
}

/// What a name in the record stands for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ArmInfo {
    pub name: String,
    pub description: String,
}

/// One case in one arm.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measurement {
    pub case: Case,
    pub arm: String,
    /// In the order in which they were made. Round `i` of one arm was made beside round `i` of
    /// every other.
    pub rounds: Vec<Round>,
    pub proof: Proof,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Case {
    pub work: Work,
    pub direction: Direction,
    pub cpus: Cpus,
    /// Where in a sweep; `None` outside of all.
    pub at: Option<Point>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// `connect()`, `accept()`, `SO_ORIGINAL_DST`, `close()`.
    Connect,
    /// That many bytes there and back on an open connection.
    RoundTrip { bytes: u32 },
    /// As many bytes as will go, one way. An operation is a megabyte (2^20 bytes).
    Bulk,
    /// Requests through a real proxy, on connections that stay open.
    Http,
    /// The same with a new connection for each.
    HttpClose,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// The application to its proxy.
    Outbound,
    /// Over veth to the pod's proxy.
    Inbound,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cpus {
    /// Both ends on one processor.
    One,
    /// Each end on its own.
    Two,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Point {
    pub sweep: Sweep,
    pub value: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sweep {
    ExcludedRanges,
    ExcludedPorts,
    OpenConnections,
    /// How many connections more conntrack had room for when the work began.
    TrackingRoom,
}

/// What one arm did in one round. As JSON the numbers alone, in this order: there are thousands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(from = "[u64; 6]", into = "[u64; 6]")]
pub struct Round {
    pub operations: u64,
    pub elapsed: u64,
    /// Of all processes that took part, user and system together.
    pub cpu: u64,
    pub p50: u64,
    pub p99: u64,
    pub p999: u64,
}

impl From<[u64; 6]> for Round {
    fn from([operations, elapsed, cpu, p50, p99, p999]: [u64; 6]) -> Self {
        Self {
            operations,
            elapsed,
            cpu,
            p50,
            p99,
            p999,
        }
    }
}

impl From<Round> for [u64; 6] {
    fn from(round: Round) -> Self {
        let Round {
            operations,
            elapsed,
            cpu,
            p50,
            p99,
            p999,
        } = round;
        [operations, elapsed, cpu, p50, p99, p999]
    }
}

impl Round {
    /// Mean time of one operation.
    pub fn per_operation(&self) -> f64 {
        self.elapsed as f64 / self.operations as f64
    }

    pub fn cpu_per_operation(&self) -> f64 {
        self.cpu as f64 / self.operations as f64
    }
}

/// That every connection went the way the arm claims: the rule counters' own word.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Proof {
    /// Connections that the load made, warm-up included.
    pub connections: u64,
    /// How many of them the arm's rules say they redirected; 0 in the arm without redirection.
    pub redirected: u64,
    /// How many more are counted: SYNs that were dropped and sent again, connections that had begun when
    /// the time was over.
    pub counted_beyond: u64,
    /// Who says so.
    pub by: String,
}

/// A quantity that is not timed operation by operation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Finding {
    pub what: Quantity,
    pub arm: String,
    pub at: Option<Point>,
    /// One for each time it was looked at.
    pub values: Vec<f64>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Quantity {
    /// Until the redirect works, programs loaded before; for rules, the command that makes them.
    Attach,
    /// The same for the first pod: with loading.
    FirstAttach,
    Detach,
    /// Of an idle pod: maps and programs with their machine code, as the kernel accounts for them.
    PodMemory,
    /// By how much the machine's kernel memory grew when the redirect of a pod was made: rough, for
    /// everything else that runs is in it, but the same for all arms.
    PodMemoryGrowth,
    /// What the redirect itself keeps for an open connection: map memory, or tracked connections at
    /// the size of one. Their extensions (addresses before translation, and such) are not in it.
    ConnectionMemory,
    /// By how much kernel memory grew for an open connection, with the sockets of both ends.
    ConnectionMemoryGrowth,
    /// How many connections one pod address has had open at once.
    OpenConnections,
    /// One run of a program, by the kernel's statistics (`kernel.bpf_stats_enabled`).
    ProgramRun {
        program: String,
    },
    /// How often it runs per redirected connection.
    ProgramRuns {
        program: String,
    },
    /// All programs together, per redirected connection.
    ProgramsPerConnection,
    /// The same for a connection from outside.
    ProgramsPerInboundConnection,
    /// Connections opened and closed in a second, by several threads.
    ChurnRate,
    /// The share of them that did not come about.
    ChurnFailures,
}
