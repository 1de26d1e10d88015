//! What the reader gets, by other means than a plain `recv`.

use std::{
    io::{self, Write as _},
    net::{Shutdown, TcpStream},
    os::fd::AsRawFd as _,
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{SpliceFFlags, splice},
    sys::socket::{MsgFlags, recv, send},
    unistd::{gettid, pipe},
};
use rustix::event::PollFlags;

use crate::{
    options::{blocks_in_recv, comes, readable, set_low_water},
    pair::{both, read_once, read_to_end},
};

const BYTES: usize = 5_000;

/// As Go's `io.Copy` does between two connections, and haproxy if it is told to.
fn splice_out(socket: &TcpStream) -> Result<usize, Errno> {
    let (_reader, writer) = pipe().unwrap();
    splice(
        socket,
        None,
        &writer,
        None,
        1 << 16,
        SpliceFFlags::SPLICE_F_NONBLOCK,
    )
}

#[test]
fn splice_does_not_see_what_poll_promises() {
    let seen = both(|pair| {
        (&pair.sender).write_all(&[b'x'; BYTES]).unwrap();
        let promised = readable(&pair.receiver);
        (promised, splice_out(&pair.receiver))
    });
    seen.differs((true, Ok(BYTES)), (true, Err(Errno::EAGAIN)));
}

/// So a stream that ends is cut short, and nobody sees an error.
#[test]
fn splice_reports_the_end_before_queued_bytes() {
    let seen = both(|pair| {
        (&pair.sender).write_all(&[b'x'; BYTES]).unwrap();
        pair.sender.shutdown(Shutdown::Write).unwrap();
        assert!(comes(
            &pair.receiver,
            PollFlags::RDHUP,
            Duration::from_secs(1)
        ));
        let spliced = splice_out(&pair.receiver);
        (spliced, read_to_end(&pair.receiver).0.len())
    });
    seen.differs((Ok(BYTES), 0), (Ok(0), BYTES));
}

/// They come in line, and who asks for the urgent one gets the next.
#[test]
fn urgent_bytes_are_not_urgent() {
    let seen = both(|pair| {
        let (sender, receiver) = (pair.sender.as_raw_fd(), pair.receiver.as_raw_fd());
        send(sender, b"urgent!", MsgFlags::MSG_OOB).unwrap();
        let pressing = comes(&pair.receiver, PollFlags::PRI, Duration::from_millis(300));
        let mut byte = [0];
        let out_of_band = recv(receiver, &mut byte, MsgFlags::MSG_OOB).map(|_| byte[0]);
        (pressing, out_of_band, read_once(&pair.receiver).unwrap())
    });
    seen.differs(
        (true, Ok(b'!'), b"urgent".to_vec()),
        (false, Ok(b'u'), b"rgent!".to_vec()),
    );
}

#[test]
fn the_low_water_mark_is_passed_over() {
    let seen = both(|pair| {
        set_low_water(&pair.receiver, 1_000);
        (&pair.sender).write_all(b"too little").unwrap();
        readable(&pair.receiver)
    });
    seen.differs(false, true);
}

#[test]
fn a_recv_that_waits_for_all_does_not() {
    let seen = both(|pair| {
        (&pair.sender).write_all(&[b'x'; 50]).unwrap();
        let sender = pair.sender.try_clone().unwrap();
        let reader = gettid();
        let rest = std::thread::spawn(move || {
            blocks_in_recv(reader, Duration::from_secs(1));
            (&sender).write_all(&[b'x'; 50]).unwrap();
        });
        let got = recv(
            pair.receiver.as_raw_fd(),
            &mut [0; 100],
            MsgFlags::MSG_WAITALL,
        );
        rest.join().unwrap();
        got
    });
    seen.differs(Ok(100), Ok(50));
}

#[test]
fn a_reset_leaves_the_queued_bytes() {
    let seen = both(|pair| {
        (&pair.sender).write_all(&[b'x'; BYTES]).unwrap();
        assert!(readable(&pair.receiver));
        let gone = std::mem::replace(&mut pair.sender, pair.receiver.try_clone().unwrap());
        socket2::SockRef::from(&gone)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(gone);
        std::thread::sleep(Duration::from_millis(50));
        let (got, end) = read_to_end(&pair.receiver);
        (got.len(), end)
    });
    seen.same((BYTES, Err(io::ErrorKind::ConnectionReset)));
}
