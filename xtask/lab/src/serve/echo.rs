//! A TCP server that answers each byte with itself and notes who came.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::PoisonError,
    thread,
};

use super::{Log, tcp};
use crate::wire::{During, ListenOptions, OpResult, Seen};

pub(super) fn serve(addr: SocketAddr, log: Log<Seen>) -> OpResult<SocketAddr> {
    let (socket, local) = tcp::listen(&ListenOptions::at(addr))?;
    let listener = TcpListener::from(socket);
    thread::Builder::new()
        .spawn(move || {
            for stream in listener.incoming().flatten() {
                let log = log.clone();
                // A thread that cannot be made drops the connection, which the client sees.
                let _ = thread::Builder::new().spawn(move || echo(stream, &log));
            }
        })
        .during(|| format!("echo server at {addr}"))?;
    Ok(local)
}

/// Ends with the stream; whatever ends it, the other side sees it too.
fn echo(mut stream: TcpStream, log: &Log<Seen>) {
    let (Ok(peer), Ok(local)) = (stream.peer_addr(), stream.local_addr()) else {
        return;
    };
    let mut buffer = [0; 16 << 10];
    let mut first = true;
    loop {
        let length = stream.read(&mut buffer).unwrap_or(0);
        let bytes = buffer.get(..length).unwrap_or_default();
        if first {
            let seen = Seen {
                peer,
                local,
                first_bytes: bytes.to_vec(),
            };
            log.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(seen);
            first = false;
        }
        if bytes.is_empty() || stream.write_all(bytes).is_err() {
            return;
        }
    }
}
