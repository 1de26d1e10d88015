//! What a `connect()` costs: client and server in one thread on one processor, so that nothing but
//! the kernel's path is measured.

use std::{net::SocketAddr, time::Instant};

use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::wire::{During as _, OpResult, Timing, TimingPlan};

/// Connects, accepts and closes, again and again.
pub(crate) fn connects(plan: &TimingPlan) -> OpResult<Timing> {
    pin(plan.cpu)?;
    let listener = tcp(plan.listen)?;
    listener
        .set_reuse_address(true)
        .during(|| "SO_REUSEADDR".to_owned())?;
    listener
        .bind(&plan.listen.into())
        .during(|| format!("bind {}", plan.listen))?;
    listener.listen(16).during(|| "listen".to_owned())?;
    let to = SockAddr::from(plan.to);
    let start = Instant::now();
    for _ in 0..plan.connections {
        let client = tcp(plan.to)?;
        client
            .connect(&to)
            .during(|| format!("connect to {}", plan.to))?;
        let (server, _) = listener.accept().during(|| "accept".to_owned())?;
        // A reset leaves no TIME_WAIT behind, so ports never run out.
        client
            .set_linger(Some(std::time::Duration::ZERO))
            .during(|| "SO_LINGER".to_owned())?;
        drop(client);
        drop(server);
    }
    Ok(Timing {
        elapsed: start.elapsed(),
    })
}

fn tcp(addr: SocketAddr) -> OpResult<Socket> {
    Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))
        .during(|| "socket".to_owned())
}

fn pin(cpu: usize) -> OpResult<()> {
    let mut set = CpuSet::new();
    set.set(cpu).during(|| format!("processor {cpu}"))?;
    sched_setaffinity(Pid::from_raw(0), &set).during(|| format!("pinning to processor {cpu}"))
}
