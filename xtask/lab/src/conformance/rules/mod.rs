//! Rule files: what `iptables-save` prints and `iptables-restore` reads, and what it means.
//!
//! - [`ruleset`]: tables, chains and rules as values ([`matches`], [`target`]); printing them gives
//!   the canonical text, so that a rule compares equal to itself when iptables prints it back in
//!   other words;
//! - [`parse`](mod@parse): text to [`Ruleset`], rule by rule ([`rule`]);
//! - [`walk`](mod@walk): what a ruleset does with the first packet of a flow, and which rules count;
//! - [`nftables`]: the same rules for nft, and the counters from there;
//! - [`settings`]: from Istio's rules back to the settings that make them.
//!
//! Only those words are known that Istio uses, and everything else is an error: with a word skipped,
//! the interpreter would agree with something else than what the kernel runs.

mod guess;
mod istio;
pub mod matches;
pub mod nftables;
pub mod parse;
pub mod rule;
pub mod ruleset;
pub mod settings;
pub mod target;
pub mod walk;

#[cfg(test)]
mod tests;

pub use matches::{Criterion, Interface, Match, Net, Ports, Protocol};
pub use nftables::{counters_from_json, to_nft};
pub use parse::{parse, parse_with, split_families};
pub use rule::Names;
pub use ruleset::{Chain, Family, Policy, Rule, RuleId, Ruleset, Table};
pub use settings::Settings;
pub use target::Target;
pub use walk::{Hook, Packet, Trace, Verdict, walk};
