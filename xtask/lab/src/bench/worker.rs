//! A worker's process from the outside; what it does is in [`super::work`].

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    process::ChildStdout,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::EventFd,
};
use serde::de::DeserializeOwned;

use super::work::{order::Order, passing};
use crate::process::{Child, Placement, program};

/// How long a worker may say nothing, beside the time that its work takes anyway.
const PATIENCE: Duration = Duration::from_secs(15);

#[derive(Debug)]
pub(super) struct Worker {
    name: &'static str,
    process: Child,
    orders: UnixStream,
    answers: BufReader<ChildStdout>,
}

impl Worker {
    pub(super) fn start(name: &'static str, place: &Placement) -> Result<Self> {
        let (orders, theirs) = UnixStream::pair().context("making a pair of sockets")?;
        let (process, answers) = place.spawn_on(program("lab-bench")?, theirs.into())?;
        Ok(Self {
            name,
            process,
            orders,
            answers: BufReader::new(answers),
        })
    }

    /// Lets it listen, and returns copies of the sockets.
    pub(super) fn listen(&mut self, ports: &[u16]) -> Result<Vec<OwnedFd>> {
        self.ask::<()>(&Order::Listen(ports.to_vec()))?;
        let sockets = ports.iter().map(|_| passing::receive(self.orders.as_fd()));
        sockets.collect()
    }

    /// Gives it such copies, and the eventfd of all workers.
    pub(super) fn take(
        &mut self,
        ports: &[u16],
        listeners: &[OwnedFd],
        signal: &EventFd,
    ) -> Result<()> {
        self.ask::<()>(&Order::Take(ports.to_vec()))?;
        let listeners = listeners.iter().map(OwnedFd::as_fd);
        for passed in listeners.chain([signal.as_fd()]) {
            passing::send(self.orders.as_fd(), passed)?;
        }
        self.hear(Duration::ZERO)
    }

    pub(super) fn ask<T: DeserializeOwned>(&mut self, order: &Order) -> Result<T> {
        self.tell(order)?;
        self.hear(order.time())
    }

    pub(super) fn tell(&mut self, order: &Order) -> Result<()> {
        let mut line = serde_json::to_string(order)?;
        line.push('\n');
        let told = self.orders.write_all(line.as_bytes());
        told.with_context(|| self.about())
    }

    /// The next answer, to an order that takes so long.
    pub(super) fn hear<T: DeserializeOwned>(&mut self, time: Duration) -> Result<T> {
        self.read(time + PATIENCE).with_context(|| self.about())
    }

    fn read<T: DeserializeOwned>(&mut self, timeout: Duration) -> Result<T> {
        // What is buffered already, poll does not know of.
        if self.answers.buffer().is_empty() {
            let stdout = self.answers.get_ref().as_fd();
            let limit = PollTimeout::try_from(timeout).context("a timeout of weeks")?;
            let count = poll(&mut [PollFd::new(stdout, PollFlags::POLLIN)], limit)?;
            ensure!(count > 0, "it says nothing for {timeout:?}");
        }
        let mut line = String::new();
        ensure!(self.answers.read_line(&mut line)? > 0, "it has ended");
        let answer: Result<T, String> =
            serde_json::from_str(&line).with_context(|| format!("its answer {line:?}"))?;
        answer.map_err(|error| anyhow!(error))
    }

    fn about(&self) -> String {
        let said = self.process.transcript();
        let said = said.trim();
        if said.is_empty() {
            self.name.to_owned()
        } else {
            format!("{}, which said: {said}", self.name)
        }
    }
}
