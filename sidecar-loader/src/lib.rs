//! The user side of sidecar-ebpf: configures, attaches, follows the pod, counts.
//!
//! [`run`] is the main job; it walks through the others in this order:
//!
//! - [`cli`]: flags as they were typed; [`config`]: what they mean;
//! - [`privilege`], [`cgroup`], [`netns`]: may we, where, and in which network namespace;
//! - [`redirect`]: one pod's redirect, put in place and taken away as a whole, out of [`program`]
//!   (load, attach), [`tables`] (the maps), [`network`] (addresses and routes), [`listeners`] (the
//!   proxy's sockets), [`answers`] (their way), [`watch`] (when new ones may come), [`owner`] (the
//!   proxy's ids) and [`dns`] (the servers that are captured);
//! - [`snapshot`]: the counters at one moment; [`output`] and [`metrics`] show them.
//!
//! [`cmd`] has the other jobs: they show and explain the rules, or test the redirection.

pub mod answers;
mod btf;
pub mod cgroup;
pub mod cli;
pub mod cmd;
pub mod config;
pub mod dns;
pub mod events;
pub mod listeners;
pub mod live;
pub mod metrics;
pub mod netns;
pub mod network;
mod object;
pub mod output;
pub mod owner;
pub mod pod;
pub mod privilege;
pub mod program;
pub mod redirect;
pub mod run;
pub mod snapshot;
mod sys;
pub mod tables;
pub mod watch;
