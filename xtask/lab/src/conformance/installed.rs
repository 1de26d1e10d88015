//! Istio's rules in a pod, for those who compare something else than decisions.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    backends::Backend,
    config::{Config, Resolved, Rules},
    predict::counter,
    rules::{Family, RuleId, Target},
};
use crate::{netns::inside, pod::Pod};

/// How many connections were redirected, each way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Redirected {
    pub outbound: u64,
    pub inbound: u64,
}

/// Rules in the pod's network namespace; they go with the namespace.
#[derive(Debug)]
pub struct Installed {
    backend: Backend,
    rules: Rules,
    outbound: Vec<RuleId>,
    inbound: Vec<RuleId>,
    netns: PathBuf,
    /// How long the command took that made the rules.
    pub took: Duration,
}

impl Installed {
    /// The rules that these flags of the loader stand for.
    pub fn new(pod: &Pod, backend: Backend, flags: &[String]) -> Result<Self> {
        let config: Config = flags.join(" ").parse()?;
        let Resolved { policy, rules, .. } = Resolved::new(&config)?;
        let to = |port: u16| {
            let rules = rules.v4.rules();
            let redirects = rules.filter(|(_, rule)| rule.target == Target::Redirect(port));
            redirects.map(|(id, _)| id).collect::<Vec<_>>()
        };
        let mut installed = Self {
            backend,
            outbound: to(policy.config.outbound_port.0),
            inbound: to(policy.config.inbound_port.0),
            netns: pod.netns_path(),
            rules,
            took: Duration::ZERO,
        };
        installed.took = inside(&installed.netns, || {
            let start = Instant::now();
            backend.install(&installed.rules).map(|()| start.elapsed())
        })??;
        Ok(installed)
    }

    /// Takes all rules away again, and tells how long that took.
    pub fn remove(&self) -> Result<Duration> {
        inside(&self.netns, || {
            let start = Instant::now();
            self.backend.remove().map(|()| start.elapsed())
        })?
    }

    /// What the counters of the redirecting rules say, since the rules are there.
    pub fn redirected(&self) -> Result<Redirected> {
        let counts = inside(&self.netns, || self.backend.counts(&self.rules))??;
        let sum = |rules: &[RuleId]| {
            rules.iter().try_fold(0, |sum, id| {
                let count = counts.get(&counter(Family::V4, id));
                anyhow::Ok(sum + count.with_context(|| format!("{id} is not there any more"))?)
            })
        };
        Ok(Redirected {
            outbound: sum(&self.outbound)?,
            inbound: sum(&self.inbound)?,
        })
    }
}
