//! What joined sockets do as plain ones do.

use std::{
    io::{self, Write as _},
    net::Shutdown,
    os::fd::{AsFd as _, AsRawFd as _},
    time::{Duration, Instant},
};

use nix::{
    fcntl::{SpliceFFlags, splice},
    sys::socket::{MsgFlags, recv},
    unistd::{pipe, write},
};

use crate::{
    options::readable,
    pair::{both, read_once, read_to_end},
};

#[test]
fn the_end_comes_after_the_bytes() {
    let seen = both(|pair| {
        (&pair.sender).write_all(&[b'x'; 20_000]).unwrap();
        pair.sender.shutdown(Shutdown::Write).unwrap();
        let (got, end) = read_to_end(&pair.receiver);
        (got.len(), end)
    });
    seen.same((20_000, Ok(())));
}

#[test]
fn the_other_direction_outlives_a_half_close() {
    let seen = both(|pair| {
        (&pair.sender).write_all(b"question").unwrap();
        pair.sender.shutdown(Shutdown::Write).unwrap();
        let question = read_to_end(&pair.receiver).0;
        (&pair.receiver).write_all(&[b'x'; 10_000]).unwrap();
        pair.receiver.shutdown(Shutdown::Write).unwrap();
        (question, read_to_end(&pair.sender).0.len())
    });
    seen.same((b"question".to_vec(), 10_000));
}

#[test]
fn queued_bytes_can_be_peeked_at() {
    let seen = both(|pair| {
        (&pair.sender).write_all(b"bytes").unwrap();
        assert!(readable(&pair.receiver));
        let mut buffer = [0; 9];
        let peeked = recv(pair.receiver.as_raw_fd(), &mut buffer, MsgFlags::MSG_PEEK);
        (peeked, read_once(&pair.receiver).unwrap())
    });
    seen.same((Ok(5), b"bytes".to_vec()));
}

/// Linux 6.1 counts none of them; it was mended since (`tcp_bpf_ioctl`).
#[test]
fn queued_bytes_can_be_counted_on_newer_kernels() {
    let seen = both(|pair| {
        (&pair.sender).write_all(b"bytes").unwrap();
        assert!(readable(&pair.receiver));
        rustix::io::ioctl_fionread(pair.receiver.as_fd()).unwrap()
    });
    seen.same_or(5, 0);
}

#[test]
fn a_recv_gives_up_after_its_time() {
    let seen = both(|pair| {
        (&pair.sender).write_all(b"bytes").unwrap();
        read_once(&pair.receiver).unwrap();
        let limit = Duration::from_millis(100);
        pair.receiver.set_read_timeout(Some(limit)).unwrap();
        let begun = Instant::now();
        let got = read_once(&pair.receiver);
        (got, begun.elapsed() >= limit)
    });
    seen.same((Err(io::ErrorKind::WouldBlock), true));
}

#[test]
fn a_pipe_can_be_spliced_into_them() {
    let seen = both(|pair| {
        let (reader, writer) = pipe().unwrap();
        write(&writer, b"bytes").unwrap();
        let none = SpliceFFlags::empty();
        let spliced = splice(&reader, None, &pair.sender, None, 99, none);
        (spliced, read_once(&pair.receiver).unwrap())
    });
    seen.same((Ok(5), b"bytes".to_vec()));
}

#[test]
fn a_send_to_a_closed_socket_fails() {
    let seen = both(|pair| {
        (&pair.sender).write_all(b"bytes").unwrap();
        read_once(&pair.receiver).unwrap();
        let closed = std::mem::replace(&mut pair.receiver, pair.sender.try_clone().unwrap());
        drop(closed);
        let mut failed = None;
        for _ in 0..10 {
            let sent = (&pair.sender).write_all(b"too late");
            failed = failed.or(sent.err().map(|error| error.kind()));
            std::thread::sleep(Duration::from_millis(10));
        }
        failed
    });
    seen.same(Some(io::ErrorKind::BrokenPipe));
}
