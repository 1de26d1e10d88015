//! The benchmark: what a redirect costs, against iptables, nftables and none at all. `cargo xtask
//! bench` builds what this needs and starts it as root.
//!
//! An [`arm`] is a pod with one way of redirecting, [`further`] ones come from a file. Its [`crew`]
//! are three [`worker`] processes, whose [`work`] is measured in slices. A [`session`] lets all
//! arms do the same work in turn, round by round, and has it proved by counters that every connection
//! went the way its arm claims ([`proof`]). What is measured are the [`suites`]; a [`record`] keeps what was found.
//!
//! Of a record, [`goals`] are judged, a [`report`] is written and a [`plot`] drawn, from medians
//! and their intervals ([`stats`]); an [`archive`] keeps it in the tree.

pub mod archive;
pub mod arm;
mod crew;
mod empty;
mod environment;
mod floor;
mod further;
pub mod goals;
mod holders;
mod kernel;
pub mod kind;
mod names;
mod options;
pub mod plot;
mod proof;
mod query;
pub mod record;
pub mod report;
mod run;
#[cfg(test)]
mod sample;
pub mod session;
pub mod stats;
mod suites;
mod table;
mod work;
mod worker;
mod wrk;

pub use arm::{Arm, Settings};
pub use crew::{Arrived, Slice, processors};
pub use kind::Kind;
pub use names::{BASE, OURS, Unit};
pub use options::Options;
pub use run::run;
pub use session::{Bench, Suite};
pub use work::run as work;
