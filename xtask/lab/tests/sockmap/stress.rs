//! Many joined connections at once, in both directions, driven by an edge-triggered poll: no wakeup
//! is lost and no byte is wrong.

use std::{future::Future, io, time::Duration};

use tokio::{net::TcpStream, task::JoinSet, time::timeout};

use crate::{accelerator::Accelerator, pair::Pair};

const PAIRS: u64 = 50;
const LARGEST_CHUNK: u64 = 20_000;
/// At least as much goes each way.
const BYTES: usize = 100_000;

/// Xorshift: a stream of numbers that both ends can make.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = 1 + self.next() % LARGEST_CHUNK;
        (0..length).map(|_| self.next() as u8).collect()
    }
}

/// The chunks of one direction of one pair.
fn chunks(seed: u64) -> impl Iterator<Item = Vec<u8>> {
    let mut numbers = Numbers(seed * 2 + 1);
    let mut sent = 0;
    std::iter::from_fn(move || {
        let chunk = (sent < BYTES).then(|| numbers.bytes())?;
        sent += chunk.len();
        Some(chunk)
    })
}

async fn send(socket: &TcpStream, seed: u64) {
    for chunk in chunks(seed) {
        let mut rest = &chunk[..];
        while !rest.is_empty() {
            socket.writable().await.unwrap();
            match socket.try_write(rest) {
                Ok(sent) => rest = &rest[sent..],
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        tokio::task::yield_now().await;
    }
}

async fn receive(socket: &TcpStream, seed: u64) {
    let expected: Vec<u8> = chunks(seed).flatten().collect();
    let mut sizes = Numbers(seed + 77);
    let mut got = 0;
    while got < expected.len() {
        let mut buffer = sizes.bytes();
        socket.readable().await.unwrap();
        match socket.try_read(&mut buffer) {
            Ok(0) => panic!("the stream ends after {got} bytes"),
            Ok(read) => {
                let right = expected.get(got..got + read);
                assert_eq!(Some(&buffer[..read]), right, "after {got} bytes");
                got += read;
            }
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
    }
}

/// This end of a pair: sends one direction, receives the other.
async fn end(socket: std::net::TcpStream, sends: u64, receives: u64) {
    socket.set_nonblocking(true).unwrap();
    let socket = TcpStream::from_std(socket).unwrap();
    tokio::join!(send(&socket, sends), receive(&socket, receives));
}

/// All of them, on a thread of their own.
fn on_a_thread(ends: impl Iterator<Item = impl Future<Output = ()> + Send + 'static>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut tasks: JoinSet<()> = ends.collect();
        let all = async { while tasks.join_next().await.transpose().unwrap().is_some() {} };
        let stuck = "a connection is stuck: a wakeup was lost";
        timeout(Duration::from_secs(60), all).await.expect(stuck);
    });
}

#[test]
fn many_joined_connections_lose_nothing() {
    let mut accelerator = Accelerator::new();
    let pairs: Vec<_> = (1..=PAIRS).map(|seed| (seed, Pair::plain())).collect();
    for socket in pairs.iter().flat_map(|(_, pair)| pair.ends()) {
        accelerator.receives(socket);
        accelerator.sends(socket);
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            on_a_thread(
                pairs
                    .iter()
                    .map(|(seed, pair)| end(pair.sender.try_clone().unwrap(), *seed, seed + PAIRS)),
            );
        });
        scope.spawn(|| {
            on_a_thread(
                pairs.iter().map(|(seed, pair)| {
                    end(pair.receiver.try_clone().unwrap(), seed + PAIRS, *seed)
                }),
            );
        });
    });
    let sent = (1..=2 * PAIRS).flat_map(chunks);
    assert_eq!(
        accelerator.handed_over(),
        sent.map(|chunk| chunk.len() as u64).sum::<u64>(),
        "a byte went another way"
    );
}
