//! A pod with an application in it and the loader attached, and how connections are counted.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use sidecar_lab::{Agent, Loader, Pod};

/// Everything is removed in this order.
pub(crate) struct Stage {
    pub(crate) app: Agent,
    pub(crate) loader: Loader,
    pub(crate) pod: Pod,
}

impl Stage {
    /// The application's container runs and nobody else, then comes the loader.
    pub(crate) fn start(pod: Pod, arguments: &[&str]) -> Result<Self> {
        let app = Agent::spawn(&pod.app())?;
        let loader = Loader::start(&pod, arguments)?;
        Ok(Self { app, loader, pod })
    }

    /// Does something and checks every counter: these moved, by so much, and no other.
    pub(crate) fn counted<T>(
        &self,
        expected: &[(&str, &str, u64)],
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let before = self.loader.counters()?;
        let result = work()?;
        self.loader
            .counters()?
            .expect_delta(&before, expected)
            .with_context(|| format!("the loader said:\n{}", self.talk()))?;
        Ok(result)
    }

    /// What the loader says to people.
    fn talk(&self) -> String {
        let text = self.loader.transcript();
        text.lines()
            .filter(|line| !line.contains("{\"schema\""))
            .collect::<Vec<_>>()
            .join("\n")
    }
}

pub(crate) fn addr(text: &str) -> SocketAddr {
    text.parse()
        .unwrap_or_else(|_| panic!("{text:?} is not an address and a port"))
}
