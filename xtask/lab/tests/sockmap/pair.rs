//! The same script over plain TCP and over joined sockets.

use std::{
    fmt::Debug,
    io::{self, Read},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use crate::accelerator::Accelerator;

/// No script waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(5);

/// Both ends of one connection.
pub(crate) struct Pair {
    pub(crate) sender: TcpStream,
    pub(crate) receiver: TcpStream,
    accelerator: Option<Accelerator>,
}

impl Pair {
    /// Not joined; `join` may come later.
    fn new(accelerator: Option<Accelerator>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (receiver, _) = listener.accept().unwrap();
        for socket in [&sender, &receiver] {
            socket.set_nodelay(true).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        Self {
            sender,
            receiver,
            accelerator,
        }
    }

    pub(crate) fn plain() -> Self {
        Self::new(None)
    }

    pub(crate) fn joined() -> Self {
        let mut pair = Self::new(Some(Accelerator::new()));
        pair.join();
        pair
    }

    pub(crate) fn ends(&self) -> [&TcpStream; 2] {
        [&self.sender, &self.receiver]
    }

    /// What the sender sends, not what it is answered.
    pub(crate) fn joined_one_way() -> Self {
        let mut pair = Self::new(Some(Accelerator::new()));
        if let Some(accelerator) = &mut pair.accelerator {
            accelerator.receives(&pair.receiver);
            accelerator.sends(&pair.sender);
        }
        pair
    }

    /// Both ways; over plain TCP nothing.
    pub(crate) fn join(&mut self) {
        if let Some(accelerator) = &mut self.accelerator {
            for socket in [&self.sender, &self.receiver] {
                accelerator.receives(socket);
                accelerator.sends(socket);
            }
        }
    }

    pub(crate) fn part_sender(&mut self) {
        if let Some(accelerator) = &mut self.accelerator {
            accelerator.part(&self.sender);
        }
    }

    pub(crate) fn part_receiver(&mut self) {
        if let Some(accelerator) = &mut self.accelerator {
            accelerator.part(&self.receiver);
        }
    }

    pub(crate) fn handed_over(&self) -> u64 {
        let count = |accelerator: &Accelerator| accelerator.handed_over();
        self.accelerator.as_ref().map_or(0, count)
    }
}

/// What a script saw.
#[derive(Debug)]
pub(crate) struct Seen<T> {
    plain: T,
    joined: T,
}

/// Runs it over plain TCP, and over sockets that were joined as soon as they were connected.
pub(crate) fn both<T>(script: impl Fn(&mut Pair) -> T) -> Seen<T> {
    run(script, Pair::joined())
}

/// The same, but the script itself says when to join.
pub(crate) fn both_joined_later<T>(script: impl Fn(&mut Pair) -> T) -> Seen<T> {
    run(script, Pair::new(Some(Accelerator::new())))
}

fn run<T>(script: impl Fn(&mut Pair) -> T, mut joined: Pair) -> Seen<T> {
    let seen = Seen {
        plain: script(&mut Pair::plain()),
        joined: script(&mut joined),
    };
    assert_ne!(
        joined.handed_over(),
        0,
        "nothing was handed over, so the script says nothing about joined sockets"
    );
    seen
}

impl<T: Debug + PartialEq> Seen<T> {
    /// Joined sockets do as plain ones do.
    #[track_caller]
    pub(crate) fn same(&self, expected: T) {
        assert_eq!(self.plain, expected, "plain TCP");
        assert_eq!(
            self.joined, expected,
            "joined sockets were like plain TCP in this when acceleration was left out"
        );
    }

    /// Joined sockets do as plain ones do, except on kernels on which they do otherwise.
    #[track_caller]
    pub(crate) fn same_or(&self, expected: T, joined: T) {
        assert_eq!(self.plain, expected, "plain TCP");
        assert!(
            self.joined == expected || self.joined == joined,
            "joined sockets saw {:?}",
            self.joined
        );
    }

    /// Joined sockets do something else: one of the reasons against acceleration.
    #[track_caller]
    pub(crate) fn differs(&self, plain: T, joined: T) {
        assert_eq!(self.plain, plain, "plain TCP");
        if self.joined == self.plain {
            mended();
        }
        assert_eq!(
            self.joined, joined,
            "neither like plain TCP nor as it was when acceleration was left out"
        );
    }

    /// As `differs`, of values that only bounds can be told of.
    #[track_caller]
    pub(crate) fn differs_in(&self, what: &str, broken: impl Fn(&T) -> bool) {
        assert!(!broken(&self.plain), "plain TCP, {what}: {:?}", self.plain);
        if !broken(&self.joined) {
            mended();
        }
    }
}

/// Fails with good news.
#[track_caller]
fn mended() -> ! {
    panic!(
        "good news: this kernel has mended what is tested here. Joined sockets do as plain TCP \
         does. ARCHITECTURE.md, \"No acceleration by sockmap\", lists what else stands against \
         acceleration: strike this reason there, and turn this test into one of what is the same. \
         Once no reason is left, reconsider."
    )
}

/// All that comes until the end, or until it fails.
pub(crate) fn read_to_end(mut socket: &TcpStream) -> (Vec<u8>, Result<(), io::ErrorKind>) {
    let mut got = Vec::new();
    let end = socket.read_to_end(&mut got);
    (got, end.map(drop).map_err(|error| error.kind()))
}

/// One `recv`.
pub(crate) fn read_once(mut socket: &TcpStream) -> Result<Vec<u8>, io::ErrorKind> {
    let mut buffer = vec![0; 1 << 16];
    let got = socket.read(&mut buffer).map_err(|error| error.kind())?;
    buffer.truncate(got);
    Ok(buffer)
}
