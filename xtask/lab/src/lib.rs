//! The laboratory: everything a test or the demo needs to see real traffic.
//!
//! - [`Pod`]: two network namespaces joined by a veth (the pod, and the rest of the cluster) and
//!   the cgroups of a pod;
//! - [`Placement`]: where a process runs (namespace, cgroup, user), and [`Child`], the process;
//! - [`Agent`]: a process in a placement that does socket operations on command;
//! - [`proxy`]: a small transparent proxy, stand-in for Envoy;
//! - [`real`]: Envoy and haproxy, the real ones;
//! - [`Loader`]: the program under test and its counters;
//! - [`iptables`]: Istio's own rules, to compare with;
//! - [`demo`]: the six kinds of traffic, driven and explained.
//!
//! Whatever is made here is removed when its guard is dropped, also on a panic and on SIGINT or
//! SIGTERM. What a SIGKILL leaves behind, the next [`Pod::new`] sweeps away.
//!
//! ```no_run
//! # use sidecar_lab::{Agent, Level, Pod};
//! # fn main() -> anyhow::Result<()> {
//! let pod = Pod::new("example")?;
//! let app = Agent::spawn(&pod.app())?;
//! let proxy = Agent::spawn(&pod.proxy())?;
//! let listener = proxy.listen("0.0.0.0:15001")?;
//! let conn = app.connect("10.96.0.10:80")?;
//! let got = listener.accept()?;
//! assert_eq!(got.original_dst(Level::Ip, 16)?.addr, conn.peer);
//! # Ok(())
//! # }
//! ```

mod addr;
pub mod agent;
pub mod bench;
mod cgroup;
mod cleanup;
pub mod conformance;
pub mod counters;
mod crowd;
mod datagram;
pub mod demo;
pub mod iptables;
pub mod loader;
mod netns;
pub mod pod;
pub mod process;
pub mod proxy;
mod raw;
pub mod real;
pub mod serve;
mod transcript;
pub mod wire;

pub use addr::IntoAddr;
pub use agent::{Agent, Conn, Listener, UdpEcho};
pub use cgroup::cgroup2_mount;
pub use cleanup::Cleanup;
pub use counters::Counters;
pub use crowd::{ChurnPlan, Churned, Held, HoldPlan};
pub use datagram::{Datagrams, UdpOptions};
pub use loader::Loader;
pub use netns::{inside as inside_netns, ip_inside};
pub use nix::errno::Errno;
pub use pod::{Pod, PodOptions};
pub use process::{Child, Placement};
pub use wire::{
    ConnectOptions, FastOpen, Level, ListenOptions, LoadOutcome, LoadPlan, LoadReport, OpError,
    OpResult, OriginalDst, Seen, UdpExchange, UdpReply,
};
