//! Inbound connections, and which sockets of the proxy's get them. Needs root; leaves nothing
//! behind.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test, and what it measures"
)]

mod bound;
mod lookup;
mod ports;
#[path = "../stage/mod.rs"]
mod stage;
mod strangers;
mod watch;
mod workers;

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;
use sidecar_lab::{
    Agent, Conn, Errno, Level, Listener,
    pod::{POD_IP, POD_IP6},
};
use stage::Stage;

/// Long enough for a connection that has been made already to be in the queue.
const AT_ONCE: Duration = Duration::from_millis(20);
const CAPTURED: (&str, &str, u64) = ("sk_lookup", "inbound-all", 1);
/// An outbound connection for which there is no proxy.
const LOST: [(&str, &str, u64); 2] = [
    ("connect4", "9", 1),
    ("sk_lookup", "refusal:no-listener", 1),
];
const REFUSED: [(&str, &str, u64); 2] = [CAPTURED, ("sk_lookup", "refusal:no-listener", 1)];

/// How many connections wait in the listener's queue; they are closed.
fn drain(listener: &Listener) -> usize {
    let mut count = 0;
    loop {
        match listener.accept_within(AT_ONCE) {
            Ok(_) => count += 1,
            Err(error) => {
                assert_eq!(error.errno(), Errno::ETIME);
                return count;
            }
        }
    }
}

fn assert_idle(listener: &Listener) {
    assert_eq!(drain(listener), 0, "connections at {}", listener.addr);
}

impl Stage {
    /// One connection from outside must come to this listener as it was sent.
    fn comes_in(
        &self,
        remote: &Agent,
        to: SocketAddr,
        listener: &Listener,
    ) -> Result<(Conn, Conn)> {
        self.counted(&[CAPTURED], || {
            let conn = remote.connect(to)?;
            let got = listener.accept()?;
            assert_eq!(canonical(got.peer), conn.local);
            assert_eq!(canonical(got.local), to, "the address was translated");
            assert_eq!(conn.peer_name()?, to);
            let level = if to.is_ipv4() { Level::Ip } else { Level::Ipv6 };
            assert_eq!(got.original_dst(level, 128)?, to);
            conn.send(b"in")?;
            assert_eq!(got.echo()?, b"in");
            assert_eq!(conn.recv(9)?, b"in");
            Ok((conn, got))
        })
    }

    fn is_refused(&self, remote: &Agent, to: SocketAddr) -> Result<()> {
        self.counted(&REFUSED, || {
            assert_eq!(remote.connect(to).unwrap_err().errno(), Errno::ECONNREFUSED);
            Ok(())
        })
    }

    /// One connection of the application must come to this listener.
    fn goes_out(&self, to: SocketAddr, listener: &Listener) -> Result<(Conn, Conn)> {
        let hook = if to.is_ipv4() { "connect4" } else { "connect6" };
        self.counted(&[(hook, "9", 1)], || {
            let conn = self.app.connect(to)?;
            let got = listener.accept()?;
            assert_eq!((conn.peer, canonical(got.peer)), (to, conn.local));
            let level = if to.is_ipv4() { Level::Ip } else { Level::Ipv6 };
            assert_eq!(got.original_dst(level, 128)?, to);
            Ok((conn, got))
        })
    }
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

fn pod_at(port: u16) -> SocketAddr {
    (POD_IP, port).into()
}

fn pod6_at(port: u16) -> SocketAddr {
    (POD_IP6, port).into()
}
