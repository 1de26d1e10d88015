//! Work on one open connection: round trips, and as many bytes as will go.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use socket2::Socket;

use super::{
    connect::targets,
    meter::{Meter, processor_time},
    order::{Accepted, Drive, Drove, Served},
    socket::{PATIENCE, accept, ask_original_dst, connect, reset},
};

/// What one write hands to the kernel, and what one read asks for.
const CHUNK: usize = 64 * 1024;
/// An operation of bulk work: a megabyte.
const CHUNKS: usize = 16;
/// Ends the bytes of bulk work.
const LAST: u8 = b'.';

pub(super) fn round_trips(drive: &Drive, bytes: usize) -> Result<Drove> {
    let mut client = open(drive)?;
    client.set_tcp_nodelay(true)?;
    let mut buffer = vec![b'x'; bytes];
    let mut meter = Meter::start(drive)?;
    loop {
        client.write_all(&buffer).context("sending")?;
        client
            .read_exact(&mut buffer)
            .context("waiting for the answer")?;
        if !meter.next() {
            break;
        }
    }
    let drove = meter.end(1, Accepted::default())?;
    part(client)?;
    Ok(drove)
}

pub(super) fn echo(listener: &Socket, bytes: usize) -> Result<Served> {
    serve(listener, |server| {
        server.set_tcp_nodelay(true)?;
        let mut buffer = vec![0; bytes];
        loop {
            match server.read_exact(&mut buffer) {
                Ok(()) => server.write_all(&buffer).context("answering")?,
                Err(error) if is_end(error.kind()) => return Ok(()),
                Err(error) => return Err(error).context("receiving"),
            }
        }
    })
}

/// One way; done when the other end has read everything.
pub(super) fn send(drive: &Drive) -> Result<Drove> {
    let mut client = open(drive)?;
    let mut chunk = vec![b'x'; CHUNK];
    let mut meter = Meter::start(drive)?;
    loop {
        for _ in 0..CHUNKS {
            client.write_all(&chunk).context("sending")?;
        }
        if !meter.next() {
            break;
        }
    }
    // Part of the last operation: all of it has been read.
    chunk.truncate(1);
    chunk.fill(LAST);
    client.write_all(&chunk).context("sending the end")?;
    let answer = client.read_exact(&mut chunk);
    answer.context("waiting for the other end to have read everything")?;
    let drove = meter.end(1, Accepted::default())?;
    part(client)?;
    Ok(drove)
}

pub(super) fn receive(listener: &Socket) -> Result<Served> {
    serve(listener, |server| {
        let mut buffer = vec![0; CHUNK];
        loop {
            let length = server.read(&mut buffer).context("receiving")?;
            let last = length
                .checked_sub(1)
                .context("the stream ended too early")?;
            if buffer.get(last) == Some(&LAST) {
                break;
            }
        }
        server.write_all(&[LAST]).context("answering")?;
        // Until the client has closed.
        drop(server.read(&mut buffer));
        Ok(())
    })
}

fn open(drive: &Drive) -> Result<Socket> {
    let to = targets(drive);
    let client = connect(to.first().context("no address to connect to")?)?;
    client.set_read_timeout(Some(PATIENCE))?;
    Ok(client)
}

/// The reset comes last, after the acknowledgement of the last byte, which another processor may be
/// about to deliver: a packet for a connection that is gone would look like a new one.
fn part(client: Socket) -> Result<()> {
    thread::sleep(Duration::from_millis(1));
    reset(client)
}

/// One connection, to its end.
fn serve(listener: &Socket, work: impl FnOnce(&mut Socket) -> Result<()>) -> Result<Served> {
    listener.set_read_timeout(Some(PATIENCE))?;
    let cpu = processor_time()?;
    let mut accepted = Accepted::default();
    let mut server = accept(listener)?;
    server.set_read_timeout(Some(PATIENCE))?;
    ask_original_dst(&server, &mut accepted)?;
    work(&mut server)?;
    drop(server);
    Ok(Served {
        cpu: processor_time()? - cpu,
        accepted,
    })
}

fn is_end(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof)
}
