//! Conformance: the same random probes against the rules as they are decided here and as real
//! iptables decide. `cargo xtask conformance` builds what this needs and starts it as root.
//!
//! A [`probe`] is one connection or datagram, a [`config`] the loader's flags; [`generate`] makes
//! both from a seed, [`knobs`] and [`owners`] have what there is to choose from. [`predict`] asks
//! the legs without a kernel: the decision, the list behind `loader explain` ([`explain`]), and the
//! interpreter of the rules' text ([`rules`]). A [`leg`] is a pod ([`world`], laid out by [`map`])
//! with real rules ([`backends`]) or with the loader; its probes are made by [`prober`] processes
//! and answered by [`servers`]. [`legs`] runs all of them on one configuration; [`compare`] says
//! what differs, [`accepted`] what may, [`shrink`] the least that still does. [`run`] is the whole.

mod accepted;
mod backends;
mod compare;
mod config;
mod coverage;
mod dialog;
mod explain;
mod generate;
mod installed;
mod knobs;
mod leg;
mod legs;
mod maker;
mod map;
mod options;
mod owners;
mod predict;
mod probe;
mod prober;
mod progress;
mod regressions;
mod report;
pub(crate) mod rng;
mod rule_files;
pub mod rules;
mod run;
mod servers;
mod shrink;
mod sys;
mod wire;
mod world;

pub use backends::Backend;
pub use installed::{Installed, Redirected};
pub use options::Options;
pub use prober::run as prober;
pub use run::run;
