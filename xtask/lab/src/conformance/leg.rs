//! The legs with a kernel: three with real rules, one with our programs.

use anyhow::{Context as _, Result};

use super::{
    backends::Backend,
    config::{Resolved, Rules},
    predict::Moves,
    probe::Probe,
    wire::Observation,
    world::World,
};
use crate::{loader::Loader, netns::inside};

/// The name of the leg with our programs.
pub(super) const OURS: &str = "sidecar-ebpf";

/// A pod and what decides in it.
pub(crate) struct Leg {
    redirect: Redirect,
    // Last: the loader detaches before the pod goes.
    world: World,
}

enum Redirect {
    Real {
        backend: Backend,
        rules: Option<Rules>,
    },
    Ours(Option<Loader>),
}

/// What became of the probes of a group, and by how much counters moved meanwhile.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) observations: Vec<Observation>,
    pub(crate) moved: Moves,
}

impl Leg {
    pub(crate) fn real(backend: Backend) -> Result<Self> {
        Ok(Self {
            redirect: Redirect::Real {
                backend,
                rules: None,
            },
            world: World::new(backend.name())?,
        })
    }

    pub(crate) fn ours() -> Result<Self> {
        Ok(Self {
            redirect: Redirect::Ours(None),
            world: World::new("ours")?,
        })
    }

    pub(crate) const fn name(&self) -> &'static str {
        match &self.redirect {
            Redirect::Real { backend, .. } => backend.name(),
            Redirect::Ours(_) => OURS,
        }
    }

    pub(crate) const fn is_ours(&self) -> bool {
        matches!(self.redirect, Redirect::Ours(_))
    }

    /// Puts a configuration in place of the one before; real rules are given as they are.
    pub(crate) fn load(&mut self, resolved: &Resolved, real: &Rules) -> Result<()> {
        self.world.set_agent(resolved.agent()?)?;
        match &mut self.redirect {
            Redirect::Real { backend, rules } => {
                self.world.set_passthrough(real.v6.is_some())?;
                let namespace = self.world.pod.netns_path();
                inside(&namespace, || backend.load(real))??;
                *rules = Some(real.clone());
            }
            Redirect::Ours(loader) => {
                *loader = None;
                let args: Vec<&str> = resolved.args.iter().map(String::as_str).collect();
                *loader = Some(Loader::start(&self.world.pod, &args)?);
            }
        }
        Ok(())
    }

    /// Makes the probes, group by group, with a look at the counters after each.
    pub(crate) fn run(&mut self, groups: &[Vec<(&Probe, u16)>]) -> Result<Vec<Outcome>> {
        let mut before = self.counts()?;
        let mut outcomes = Vec::new();
        for group in groups {
            let observations = self.world.probe(group)?;
            let after = self.counts()?;
            let moved = after.iter().filter_map(|(name, count)| {
                let delta = count.saturating_sub(before.get(name).copied().unwrap_or(0));
                (delta > 0).then(|| (name.clone(), delta))
            });
            outcomes.push(Outcome {
                observations,
                moved: moved.collect(),
            });
            before = after;
        }
        Ok(outcomes)
    }

    fn counts(&self) -> Result<Moves> {
        match &self.redirect {
            Redirect::Real { backend, rules } => {
                let rules = rules.as_ref().context("no rules are loaded")?;
                inside(&self.world.pod.netns_path(), || backend.counts(rules))?
            }
            Redirect::Ours(loader) => {
                let counters = loader.as_ref().context("no loader runs")?.counters()?;
                let mut moves = Moves::new();
                for (row, count) in counters.rows {
                    *moves
                        .entry(format!("{} {}", row.hook, row.name))
                        .or_default() += count;
                }
                Ok(moves)
            }
        }
    }
}
