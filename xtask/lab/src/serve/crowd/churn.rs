//! Connections that come and go.

use std::{
    io::{ErrorKind, Read as _},
    net::SocketAddr,
    os::fd::AsFd as _,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::libc;
use socket2::Socket;

use super::connect;
use crate::{
    crowd::{ChurnPlan, Churned},
    raw,
    wire::{During as _, OpError, OpResult},
};

/// How often a server that gets nothing looks whether all is over.
const LOOK: Duration = Duration::from_millis(5);

/// A server that waits for its turn on a busy machine has not failed.
const SERVER_PATIENCE: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Counts {
    connections: AtomicU64,
    redirected: AtomicU64,
    failed: AtomicU64,
    is_over: AtomicBool,
}

pub(super) fn churn(listener: &Socket, plan: &ChurnPlan) -> OpResult<Churned> {
    if plan.targets.is_empty() || plan.threads == 0 {
        return Err(OpError::new(
            "churn",
            "a plan without destinations or threads",
        ));
    }
    listener
        .set_read_timeout(Some(LOOK))
        .during(|| "SO_RCVTIMEO".to_owned())?;
    let counts = Counts::default();
    let start = Instant::now();
    thread::scope(|scope| {
        let servers = (0..plan.threads).map(|_| scope.spawn(|| serve(listener, &counts)));
        let servers: Vec<_> = servers.collect();
        let clients = (0..plan.threads).map(|thread| {
            let counts = &counts;
            scope.spawn(move || drive(plan, thread, start, counts))
        });
        let clients: Vec<_> = clients.collect();
        let drove: Vec<OpResult<()>> = clients
            .into_iter()
            .filter_map(|it| it.join().ok())
            .collect();
        counts.is_over.store(true, Ordering::Relaxed);
        let served = servers.into_iter().filter_map(|it| it.join().ok());
        drove.into_iter().chain(served).collect::<OpResult<()>>()
    })?;
    Ok(Churned {
        connections: counts.connections.into_inner(),
        redirected: counts.redirected.into_inner(),
        failed: counts.failed.into_inner(),
        elapsed: start.elapsed(),
    })
}

fn drive(plan: &ChurnPlan, thread: u32, start: Instant, counts: &Counts) -> OpResult<()> {
    let targets = plan.targets.iter().cycle().skip(thread as usize);
    for &to in targets {
        if start.elapsed() >= plan.time {
            break;
        }
        let done = match connect(to, plan.patience)? {
            Some(client) => is_closed_by_server(client, to)?,
            None => false,
        };
        let count = if done {
            &counts.connections
        } else {
            &counts.failed
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Waits for the server to be done with it, so that no more are open than there are threads.
fn is_closed_by_server(mut client: Socket, to: SocketAddr) -> OpResult<bool> {
    client
        .set_read_timeout(Some(SERVER_PATIENCE))
        .during(|| "SO_RCVTIMEO".to_owned())?;
    match client.read(&mut [0]) {
        Ok(0) => Ok(true),
        Ok(_) => Err(OpError::new(format!("read from {to}"), "nobody writes")),
        Err(error) => Ok(error.kind() == ErrorKind::ConnectionReset),
    }
}

fn serve(listener: &Socket, counts: &Counts) -> OpResult<()> {
    while !counts.is_over.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((server, _)) => {
                // As a proxy does; without redirection there is no answer.
                let mut answer = [0; 16];
                let asked =
                    raw::get_option(server.as_fd(), libc::SOL_IP, raw::ORIGINAL_DST, &mut answer);
                if asked.is_ok() {
                    counts.redirected.fetch_add(1, Ordering::Relaxed);
                }
                server
                    .set_linger(Some(Duration::ZERO))
                    .during(|| "SO_LINGER".to_owned())?;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).during(|| "accept".to_owned()),
        }
    }
    Ok(())
}
