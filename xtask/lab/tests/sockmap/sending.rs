//! What the sender is told, and how much it may send.

use std::{
    io::{self, IoSlice, IoSliceMut, Write as _},
    net::TcpStream,
    os::fd::AsRawFd as _,
    time::Duration,
};

use nix::sys::socket::{MsgFlags, recvmsg, sendmsg};
use rustix::event::PollFlags;

use crate::{
    options::{acknowledged, comes, queued_and_bound, readable, received, want_zero_copy},
    pair::{both, read_once},
};

/// More than any socket's buffer here, far less than the machine's memory.
const ENOUGH: u64 = 64 << 20;

/// Sends until the kernel says stop, or to the cap.
fn send_all_it_takes(mut socket: &TcpStream) -> u64 {
    socket.set_nonblocking(true).unwrap();
    let chunk = vec![b'x'; 1 << 16];
    let mut sent = 0;
    while sent < ENOUGH {
        match socket.write(&chunk) {
            Ok(bytes) => sent += bytes as u64,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => panic!("send: {error}"),
        }
    }
    sent
}

#[test]
fn a_reader_that_stalls_does_not_stop_the_sender() {
    let seen = both(|pair| {
        let sent = send_all_it_takes(&pair.sender);
        let writable = comes(&pair.sender, PollFlags::OUT, Duration::ZERO);
        let (queued, bound) = queued_and_bound(&pair.receiver);
        (sent, writable, queued > 4 * bound)
    });
    seen.differs_in(
        "bytes sent, still writable, over the bound",
        |(sent, writable, over)| *sent >= ENOUGH && *writable && *over,
    );
}

#[test]
fn zero_copy_sends_are_never_reported_complete() {
    let seen = both(|pair| {
        want_zero_copy(&pair.sender);
        let sender = pair.sender.as_raw_fd();
        let bytes = vec![b'x'; 20_000];
        let slices = [IoSlice::new(&bytes)];
        let flags = MsgFlags::from_bits_retain(nix::libc::MSG_ZEROCOPY);
        sendmsg::<()>(sender, &slices, &[], flags, None).unwrap();
        read_once(&pair.receiver).unwrap();
        comes(&pair.sender, PollFlags::ERR, Duration::from_millis(500)) && {
            let mut buffer = [0; 8];
            let mut slices = [IoSliceMut::new(&mut buffer)];
            let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
            recvmsg::<()>(sender, &mut slices, None, flags).is_ok()
        }
    });
    seen.differs(true, false);
}

#[test]
fn tcp_info_does_not_count_what_was_handed_over() {
    let seen = both(|pair| {
        let before = acknowledged(&pair.sender);
        (&pair.sender).write_all(&[b'x'; 50]).unwrap();
        assert!(readable(&pair.receiver));
        read_once(&pair.receiver).unwrap();
        (
            acknowledged(&pair.sender) - before,
            received(&pair.receiver),
        )
    });
    seen.differs((50, 50), (0, 0));
}

/// With plain TCP the sender learns that its bytes were thrown away.
#[test]
fn a_close_over_unread_bytes_looks_like_a_clean_end() {
    let seen = both(|pair| {
        (&pair.sender).write_all(&[b'x'; 5_000]).unwrap();
        assert!(readable(&pair.receiver));
        // The peer of a socket that is gone: a copy of the descriptor would keep it open.
        let closed = std::mem::replace(&mut pair.receiver, pair.sender.try_clone().unwrap());
        drop(closed);
        assert!(readable(&pair.sender));
        read_once(&pair.sender)
    });
    seen.differs(Err(io::ErrorKind::ConnectionReset), Ok(Vec::new()));
}
