//! Connections, one after the other: `connect()`, `accept()`, `SO_ORIGINAL_DST`, `close()`.
//!
//! Each ends with a reset by the client, and with nothing else: so the kernel remembers none of
//! them; conntrack does not take a later connection from the same port for an earlier one, which
//! iptables would not count; and no packet comes late, which our programs would count twice. Hence
//! two processes tell each other by an eventfd that a connection is done.

use std::{
    fs::File,
    io::{ErrorKind, Read as _, Write as _},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use socket2::{SockAddr, Socket};

use super::{
    meter::{Meter, processor_time},
    order::{Accepted, Drive, Drove, Served},
    socket::{PATIENCE, accept, ask_original_dst, connect, reset},
};

/// How often a server that gets nothing looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(5);

/// Both ends in one thread, so that nothing but the kernel's path is measured.
pub(super) fn both_ends(listener: &Socket, drive: &Drive) -> Result<Drove> {
    listener.set_read_timeout(Some(PATIENCE))?;
    let targets = targets(drive);
    let mut accepted = Accepted::default();
    let mut meter = Meter::start(drive)?;
    for to in targets.iter().cycle() {
        let client = connect(to)?;
        let server = accept(listener)?;
        ask_original_dst(&server, &mut accepted)?;
        reset(client)?;
        drop(server);
        if !meter.next() {
            break;
        }
    }
    meter.end(accepted.connections, accepted)
}

/// The client's end: it resets the connection when the server's end has done its part.
pub(super) fn drive(drive: &Drive, mut signal: &File) -> Result<Drove> {
    let targets = targets(drive);
    let mut connections = 0;
    let mut meter = Meter::start(drive)?;
    for to in targets.iter().cycle() {
        let client = connect(to)?;
        connections += 1;
        let waited = signal.read(&mut [0; 8]);
        waited.context("waiting for the other end")?;
        reset(client)?;
        if !meter.next() {
            break;
        }
    }
    meter.end(connections, Accepted::default())
}

/// The server's end.
pub(super) fn serve(
    listener: &Socket,
    mut signal: &File,
    is_told_to_stop: impl Fn() -> Result<bool>,
) -> Result<Served> {
    listener.set_read_timeout(Some(LOOK))?;
    let cpu = processor_time()?;
    let mut accepted = Accepted::default();
    let mut last = Instant::now();
    let mut previous = None;
    loop {
        match listener.accept() {
            Ok((server, _)) => {
                ask_original_dst(&server, &mut accepted)?;
                let told = signal.write(&1_u64.to_ne_bytes());
                told.context("telling the other end")?;
                // Closed when the next one comes: by then the client has reset it, and closing says
                // nothing on the wire.
                previous.replace(server);
                last = Instant::now();
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if is_told_to_stop()? {
                    break;
                }
                ensure!(last.elapsed() < 2 * PATIENCE, "nobody connects any more");
            }
            Err(error) => return Err(error).context("accept"),
        }
    }
    Ok(Served {
        cpu: processor_time()? - cpu,
        accepted,
    })
}

pub(super) fn targets(drive: &Drive) -> Vec<SockAddr> {
    drive.targets.iter().map(|&to| to.into()).collect()
}
