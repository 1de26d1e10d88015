//! The process that works: it lives in a container of a pod, or elsewhere in the cluster, and does
//! what its stdin says. [`order`] is the language, [`connect`] and [`stream`] are the work,
//! [`meter`] measures it, [`passing`] hands listening sockets from one process to another.

mod connect;
mod meter;
pub(crate) mod order;
pub(crate) mod passing;
mod socket;
mod stream;

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufRead as _, Write as _},
    os::fd::AsFd as _,
};

use anyhow::{Context as _, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;
use socket2::Socket;

use order::{Job, Order, Serve};

/// Serves orders until stdin ends.
pub fn run() -> Result<()> {
    let mut worker = Worker::default();
    let mut line = String::new();
    while read_line(&mut line)? {
        let order = serde_json::from_str(&line).with_context(|| format!("reading {line}"))?;
        if let Err(error) = worker.obey(&order) {
            answer(&Err::<(), _>(format!("{error:#}")))?;
        }
    }
    Ok(())
}

#[derive(Default)]
struct Worker {
    listeners: HashMap<u16, Socket>,
    /// By it the server's end tells the client's that it is done with a connection.
    signal: Option<File>,
}

impl Worker {
    fn obey(&mut self, order: &Order) -> Result<()> {
        match order {
            Order::Listen(ports) => {
                for &port in ports {
                    self.listeners.insert(port, socket::listen(port)?);
                }
                done(())?;
                for port in ports {
                    passing::send(io::stdin().as_fd(), self.listener(*port)?.as_fd())?;
                }
            }
            Order::Take(ports) => {
                // Nothing of what follows may be read as a line.
                done(())?;
                for &port in ports {
                    let listener = passing::receive(io::stdin().as_fd())?;
                    self.listeners.insert(port, listener.into());
                }
                self.signal = Some(passing::receive(io::stdin().as_fd())?.into());
                done(())?;
            }
            Order::BothEnds { listener, drive } => {
                done(connect::both_ends(self.listener(*listener)?, drive)?)?;
            }
            Order::Drive(drive) => done(match drive.job {
                Job::Connect => connect::drive(drive, self.signal()?)?,
                Job::RoundTrip { bytes } => stream::round_trips(drive, bytes as usize)?,
                Job::Bulk => stream::send(drive)?,
            })?,
            Order::Serve(serve) => {
                // Errors of these are answers, too.
                meter::pin(serve.cpu)?;
                done(())?;
                done(self.serve(serve)?)?;
            }
            // It came too late to stop anything.
            Order::Stop => {}
        }
        Ok(())
    }

    fn serve(&self, serve: &Serve) -> Result<order::Served> {
        let listener = self.listener(serve.listener)?;
        match serve.job {
            Job::Connect => connect::serve(listener, self.signal()?, is_told_something),
            Job::RoundTrip { bytes } => stream::echo(listener, bytes as usize),
            Job::Bulk => stream::receive(listener),
        }
    }

    fn signal(&self) -> Result<&File> {
        self.signal.as_ref().context("no eventfd here")
    }

    fn listener(&self, port: u16) -> Result<&Socket> {
        let listener = self.listeners.get(&port);
        listener.with_context(|| format!("no listener for port {port} here"))
    }
}

/// Whether an order waits.
fn is_told_something() -> Result<bool> {
    let stdin = io::stdin();
    let mut waiting = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    Ok(poll(&mut waiting, PollTimeout::ZERO)? > 0)
}

fn read_line(line: &mut String) -> Result<bool> {
    line.clear();
    let length = io::stdin().lock().read_line(line);
    Ok(length.context("reading orders from stdin")? > 0)
}

fn done<T: Serialize>(value: T) -> Result<()> {
    answer(&Ok(value))
}

fn answer<T: Serialize>(answer: &Result<T, String>) -> Result<()> {
    let mut line = serde_json::to_string(answer)?;
    line.push('\n');
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(line.as_bytes())
        .and_then(|()| stdout.flush());
    written.context("writing an answer")
}
