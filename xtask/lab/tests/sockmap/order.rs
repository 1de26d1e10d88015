//! Connections that are joined, or taken out, while bytes are on their way.

use std::{
    io::{self, Write as _},
    sync::mpsc,
    time::Duration,
};

use nix::unistd::gettid;

use crate::{
    options::{blocks_in_recv, readable},
    pair::{Pair, both, both_joined_later, read_once},
};

/// Two sends, and whatever has come after each of the two reads.
fn read_twice(pair: &Pair) -> Vec<u8> {
    let mut got = read_once(&pair.receiver).unwrap_or_default();
    if got.len() < b"first second".len() && readable(&pair.receiver) {
        got.extend(read_once(&pair.receiver).unwrap_or_default());
    }
    got
}

/// Why long-lived connections cannot be joined later on, unless nothing is unread on either side.
#[test]
fn bytes_of_a_socket_joined_later_overtake_unread_ones() {
    let seen = both_joined_later(|pair| {
        (&pair.sender).write_all(b"first ").unwrap();
        assert!(readable(&pair.receiver));
        pair.join();
        (&pair.sender).write_all(b"second").unwrap();
        read_twice(pair)
    });
    seen.differs(b"first second".to_vec(), b"secondfirst ".to_vec());
}

/// Why no connection can be joined later on whose reader blocks, as every idle one's of a program
/// with a thread for each connection does.
#[test]
fn a_reader_that_waits_already_does_not_wake() {
    let seen = both_joined_later(|pair| {
        let reader = pair.receiver.try_clone().unwrap();
        reader
            .set_read_timeout(Some(Duration::from_secs(2)))
            .unwrap();
        let (tell, thread) = mpsc::channel();
        let reader = std::thread::spawn(move || {
            tell.send(gettid()).unwrap();
            read_once(&reader)
        });
        let within = Duration::from_secs(1);
        assert!(blocks_in_recv(thread.recv().unwrap(), within));
        pair.join();
        (&pair.sender).write_all(b"bytes").unwrap();
        reader.join().unwrap()
    });
    seen.differs(Ok(b"bytes".to_vec()), Err(io::ErrorKind::WouldBlock));
}

/// Why it cannot be switched off by taking sockets out.
#[test]
fn taking_a_socket_out_loses_what_it_has_not_read() {
    let seen = both(|pair| {
        (&pair.sender).write_all(b"first ").unwrap();
        assert!(readable(&pair.receiver));
        pair.part_receiver();
        (&pair.sender).write_all(b"second").unwrap();
        assert!(readable(&pair.receiver));
        read_twice(pair)
    });
    seen.differs(b"first second".to_vec(), b"second".to_vec());
}

/// A direction can go back to TCP as long as the reader stays joined.
#[test]
fn order_is_kept_when_the_sender_alone_is_taken_out() {
    let seen = both(|pair| {
        (&pair.sender).write_all(b"first ").unwrap();
        pair.part_sender();
        (&pair.sender).write_all(b"second").unwrap();
        read_twice(pair)
    });
    seen.same(b"first second".to_vec());
}
