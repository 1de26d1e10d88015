//! Many connections: clients say which destination they meant, servers compare it with the
//! original destination they were told.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::errno::Errno;
use socket2::{SockRef, Socket};

use super::tcp;
use crate::{
    proxy::original_dst,
    wire::{During, ListenOptions, LoadOutcome, LoadPlan, LoadReport, OpError, OpResult},
};

/// An IPv6 (or mapped IPv4) address and a port, both in network order.
const MEANT_LENGTH: usize = 18;
/// How many wrong or missing ones are described in words.
const EXAMPLES: usize = 10;
/// Long enough for a client thread that waits for its turn on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn serve(
    addr: SocketAddr,
    workers: u32,
    report: &Arc<Mutex<LoadReport>>,
) -> OpResult<SocketAddr> {
    let mut options = ListenOptions {
        reuse_port: true,
        backlog: 4096,
        ..ListenOptions::at(addr)
    };
    for _ in 0..workers {
        let (socket, local) = tcp::listen(&options)?;
        options.addr = local;
        let (listener, report) = (TcpListener::from(socket), report.clone());
        thread::Builder::new()
            .spawn(move || {
                for stream in listener.incoming().flatten() {
                    judge(&stream, &report);
                }
            })
            .during(|| format!("load server at {local}"))?;
    }
    Ok(options.addr)
}

fn judge(stream: &TcpStream, report: &Mutex<LoadReport>) {
    // Asked first thing after accept, as proxies do.
    let original = original_dst(&SockRef::from(stream));
    // A socket that takes no timeout gives no bytes either.
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let mut meant = [0; MEANT_LENGTH];
    let said = { stream }.read_exact(&mut meant);
    {
        let mut report = lock(report);
        match (said, original) {
            (Err(_), _) => report.silent += 1,
            (Ok(()), Ok(original)) if original == decode(&meant) => report.right += 1,
            (Ok(()), Ok(original)) => {
                report.wrong += 1;
                note(
                    &mut report,
                    format!("meant {}, told {original}", decode(&meant)),
                );
            }
            (Ok(()), Err(error)) => {
                report.missing += 1;
                note(
                    &mut report,
                    format!("meant {}, told {error}", decode(&meant)),
                );
            }
        }
    }
    // The client counts a failure to hear this as its own.
    let _ = { stream }.write_all(b"!");
}

fn note(report: &mut LoadReport, text: String) {
    if report.examples.len() < EXAMPLES {
        report.examples.push(text);
    }
}

pub(super) fn connect(plan: &LoadPlan) -> OpResult<LoadOutcome> {
    if plan.addresses == 0 || plan.ports == 0 {
        return Err(OpError::new("load connect", "a plan without destinations"));
    }
    let started = Instant::now();
    let (next, outcome) = (AtomicU32::new(0), Mutex::new(LoadOutcome::default()));
    thread::scope(|scope| {
        for _ in 0..plan.threads {
            scope.spawn(|| {
                let mut own = LoadOutcome::default();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= plan.connections {
                        break;
                    }
                    match one_connection(destination(plan, number), plan.timeout) {
                        Ok(()) => own.ok += 1,
                        Err(what) => *own.failed.entry(what).or_default() += 1,
                    }
                }
                add(&mut lock(&outcome), own);
            });
        }
    });
    let outcome = outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(LoadOutcome {
        elapsed: started.elapsed(),
        ..outcome
    })
}

fn add(sum: &mut LoadOutcome, part: LoadOutcome) {
    sum.ok += part.ok;
    for (what, count) in part.failed {
        *sum.failed.entry(what).or_default() += count;
    }
}

/// Goes through all addresses, then through all addresses at the next port, and so on.
fn destination(plan: &LoadPlan, number: u32) -> SocketAddr {
    let address = number % plan.addresses;
    let port = (number / plan.addresses) % u32::from(plan.ports);
    let ip = match plan.base {
        IpAddr::V4(base) => Ipv4Addr::from(u32::from(base).wrapping_add(address)).into(),
        IpAddr::V6(base) => IpAddr::V6((u128::from(base).wrapping_add(address.into())).into()),
    };
    // The port counts from the first one and was reduced to a u16 above.
    SocketAddr::new(ip, plan.first_port.wrapping_add(port as u16))
}

/// Fails with the step and the errno.
fn one_connection(to: SocketAddr, timeout: Duration) -> Result<(), String> {
    let step = |name: &'static str| {
        move |error: io::Error| {
            let errno = error.raw_os_error().map(Errno::from_raw);
            errno.map_or_else(
                || format!("{name}: {error}"),
                |errno| format!("{name} {errno:?}"),
            )
        }
    };
    let socket = Socket::new(
        socket2::Domain::for_address(to),
        socket2::Type::STREAM,
        Some(socket2::Protocol::TCP),
    )
    .map_err(step("socket"))?;
    // A reset in place of a farewell: it leaves no TIME_WAIT behind, so ports do not run out.
    socket
        .set_linger(Some(Duration::ZERO))
        .map_err(step("linger"))?;
    socket
        .set_read_timeout(Some(timeout))
        .map_err(step("timeout"))?;
    socket
        .set_write_timeout(Some(timeout))
        .map_err(step("timeout"))?;
    socket.connect(&to.into()).map_err(step("connect"))?;
    (&socket).write_all(&encode(to)).map_err(step("send"))?;
    (&socket).read_exact(&mut [0]).map_err(step("answer"))
}

fn encode(addr: SocketAddr) -> [u8; MEANT_LENGTH] {
    let ip = match addr.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let mut bytes = [0; MEANT_LENGTH];
    let (head, tail) = bytes.split_at_mut(16);
    head.copy_from_slice(&ip.octets());
    tail.copy_from_slice(&addr.port().to_be_bytes());
    bytes
}

fn decode(bytes: &[u8; MEANT_LENGTH]) -> SocketAddr {
    let (mut ip, mut port) = ([0; 16], [0; 2]);
    let (head, tail) = bytes.split_at(16);
    ip.copy_from_slice(head);
    port.copy_from_slice(tail);
    SocketAddr::new(Ipv6Addr::from(ip).to_canonical(), u16::from_be_bytes(port))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meant_destination_survives_the_wire() {
        for text in ["10.96.1.2:80", "[fd00:96::1]:65535"] {
            let addr: SocketAddr = text.parse().unwrap();
            assert_eq!(decode(&encode(addr)), addr);
        }
    }

    #[test]
    fn a_plan_covers_all_its_destinations() {
        let plan = LoadPlan {
            threads: 1,
            connections: 6,
            base: [10, 96, 0, 255].into(),
            addresses: 2,
            first_port: 80,
            ports: 3,
            timeout: PATIENCE,
        };
        let all: Vec<String> = (0..7).map(|n| destination(&plan, n).to_string()).collect();
        assert_eq!(
            all,
            [
                "10.96.0.255:80",
                "10.96.1.0:80",
                "10.96.0.255:81",
                "10.96.1.0:81",
                "10.96.0.255:82",
                "10.96.1.0:82",
                "10.96.0.255:80",
            ]
        );
    }
}
