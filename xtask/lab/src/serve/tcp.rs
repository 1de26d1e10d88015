//! TCP sockets, one call at a time.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr},
    os::fd::AsFd,
    time::Duration,
};

use nix::{
    errno::Errno,
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::{
    raw,
    wire::{
        ConnectOptions, During, FastOpen, Level, ListenOptions, OpError, OpResult, OriginalDst,
    },
};

pub(super) fn listen(options: &ListenOptions) -> OpResult<(Socket, SocketAddr)> {
    let socket = bind(options)?;
    start_listening(&socket, options.backlog)?;
    let addr = sock_name(&socket)?;
    Ok((socket, addr))
}

pub(super) fn bind(options: &ListenOptions) -> OpResult<Socket> {
    let name = || format!("bind to {}", options.addr);
    let protocol = if options.mptcp {
        Protocol::MPTCP
    } else {
        Protocol::TCP
    };
    let domain = Domain::for_address(options.addr);
    let socket = Socket::new(domain, Type::STREAM, Some(protocol)).during(name)?;
    socket.set_reuse_address(true).during(name)?;
    socket.set_reuse_port(options.reuse_port).during(name)?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(options.v6_only).during(name)?;
    }
    bind_to_device(&socket, options.bind_to_device.as_deref())?;
    if options.tos != 0 {
        socket.set_tos_v4(options.tos.into()).during(name)?;
    }
    socket.bind(&options.addr.into()).during(name)?;
    if options.fast_open {
        raw::set_tcp_option(socket.as_fd(), libc::TCP_FASTOPEN, 128).during(name)?;
    }
    Ok(socket)
}

fn bind_to_device(socket: &Socket, device: Option<&str>) -> OpResult<()> {
    let Some(device) = device else { return Ok(()) };
    let bound = socket.bind_device(Some(device.as_bytes()));
    bound.during(|| format!("bind to {device}"))
}

pub(super) fn start_listening(socket: &Socket, backlog: i32) -> OpResult<()> {
    socket.listen(backlog).during(|| "listen".to_owned())
}

pub(super) fn accept(listener: &Socket, timeout: Duration) -> OpResult<(Socket, SocketAddr)> {
    let name = || "accept".to_owned();
    wait_for(listener, PollFlags::POLLIN, timeout, name)?;
    let (socket, peer) = listener.accept().during(name)?;
    Ok((socket, to_std(&peer, name)?))
}

pub(super) fn connect(options: &ConnectOptions) -> OpResult<Socket> {
    let name = || format!("connect to {}", options.to);
    let to = if options.mapped {
        mapped(options.to)
    } else {
        options.to
    };
    let protocol = if options.mptcp {
        Protocol::MPTCP
    } else {
        Protocol::TCP
    };
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(protocol)).during(name)?;
    socket
        .set_reuse_address(options.reuse_address)
        .during(name)?;
    bind_to_device(&socket, options.bind_to_device.as_deref())?;
    if let Some(from) = options.from {
        let from = if options.mapped { mapped(from) } else { from };
        socket
            .bind(&from.into())
            .during(|| format!("bind to {from}"))?;
    }
    match (options.io_uring, options.fast_open) {
        (true, _) => {
            raw::uring_connect(socket.as_fd(), &to.into(), options.timeout).during(name)?
        }
        (false, FastOpen::No) if options.nonblocking => {
            connect_nonblocking(&socket, to, options.timeout)?;
        }
        (false, FastOpen::No) => connect_plain(&socket, to, options.timeout)?,
        (false, FastOpen::SendTo) => {
            set_timeouts(&socket, options.timeout).during(name)?;
            let sent =
                socket.send_to_with_flags(&options.first_bytes, &to.into(), libc::MSG_FASTOPEN);
            all_sent(late(sent), &options.first_bytes, name, options.timeout)?;
        }
        (false, FastOpen::ConnectOption) => {
            raw::set_tcp_option(socket.as_fd(), libc::TCP_FASTOPEN_CONNECT, 1).during(name)?;
            connect_plain(&socket, to, options.timeout)?;
            all_sent(
                socket.send(&options.first_bytes),
                &options.first_bytes,
                name,
                options.timeout,
            )?;
        }
    }
    Ok(socket)
}

/// A blocking `connect()`, with the kernel's own send timeout as its limit.
pub(super) fn connect_plain(socket: &Socket, to: SocketAddr, timeout: Duration) -> OpResult<()> {
    let name = || format!("connect to {to}");
    set_timeouts(socket, timeout).during(name)?;
    late(socket.connect(&to.into())).during(name)
}

fn connect_nonblocking(socket: &Socket, to: SocketAddr, timeout: Duration) -> OpResult<()> {
    let name = || format!("connect to {to}");
    socket.set_nonblocking(true).during(name)?;
    match socket.connect(&to.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
            wait_for(socket, PollFlags::POLLOUT, timeout, name)?;
            if let Some(error) = socket.take_error().during(name)? {
                return Err(error).during(name);
            }
        }
        Err(error) => return Err(error).during(name),
    }
    socket.set_nonblocking(false).during(name)
}

pub(super) fn disconnect(socket: &Socket) -> OpResult<()> {
    rustix::net::connect_unspec(socket).during(|| "disconnect".to_owned())
}

pub(super) fn original_dst(socket: &Socket, level: Level, length: u32) -> OpResult<OriginalDst> {
    let (number, text) = match level {
        Level::Ip => (libc::SOL_IP, "SO_ORIGINAL_DST at SOL_IP"),
        Level::Ipv6 => (libc::SOL_IPV6, "SO_ORIGINAL_DST at SOL_IPV6"),
    };
    let name = || format!("{text} with {length} bytes");
    let mut bytes = vec![0xaa; length as usize];
    let length =
        raw::get_option(socket.as_fd(), number, raw::ORIGINAL_DST, &mut bytes).during(name)?;
    let addr = read_sockaddr(&bytes)
        .ok_or_else(|| OpError::new(name(), format!("no socket address: {bytes:?}")))?;
    Ok(OriginalDst {
        addr,
        length,
        bytes,
    })
}

/// Reads a `sockaddr_in` or `sockaddr_in6` as the kernel lays them out.
fn read_sockaddr(bytes: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?);
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    let ip: IpAddr = match i32::from(family) {
        libc::AF_INET => Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(4..8)?).ok()?).into(),
        libc::AF_INET6 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(8..24)?).ok()?).into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

pub(super) fn peer_name(socket: &Socket) -> OpResult<SocketAddr> {
    let name = || "getpeername".to_owned();
    to_std(&socket.peer_addr().during(name)?, name)
}

pub(super) fn sock_name(socket: &Socket) -> OpResult<SocketAddr> {
    let name = || "getsockname".to_owned();
    to_std(&socket.local_addr().during(name)?, name)
}

pub(super) fn send(mut socket: &Socket, bytes: &[u8]) -> OpResult<()> {
    socket
        .write_all(bytes)
        .during(|| format!("send {} bytes", bytes.len()))
}

pub(super) fn recv(mut socket: &Socket, max: usize, timeout: Duration) -> OpResult<Vec<u8>> {
    let name = || format!("receive up to {max} bytes");
    wait_for(socket, PollFlags::POLLIN, timeout, name)?;
    let mut bytes = vec![0; max];
    let length = socket.read(&mut bytes).during(name)?;
    bytes.truncate(length);
    Ok(bytes)
}

pub(super) fn echo(socket: &Socket, timeout: Duration) -> OpResult<Vec<u8>> {
    let bytes = recv(socket, 64 << 10, timeout)?;
    send(socket, &bytes)?;
    Ok(bytes)
}

pub(super) fn shutdown(socket: &Socket) -> OpResult<()> {
    socket
        .shutdown(Shutdown::Write)
        .during(|| "shutdown".to_owned())
}

pub(super) fn wait_for(
    socket: &impl AsFd,
    what: PollFlags,
    timeout: Duration,
    name: impl Fn() -> String,
) -> OpResult<()> {
    let limit = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(socket.as_fd(), what)], limit).during(&name)? {
        0 => Err(OpError::timeout(name(), timeout)),
        _ => Ok(()),
    }
}

fn set_timeouts(socket: &Socket, timeout: Duration) -> io::Result<()> {
    socket.set_write_timeout(Some(timeout))
}

/// The kernel says "in progress" when a blocking connect runs into the send timeout.
fn late<T>(result: io::Result<T>) -> io::Result<T> {
    result.map_err(|error| match error.raw_os_error() {
        Some(libc::EINPROGRESS | libc::EAGAIN) => Errno::ETIME.into(),
        _ => error,
    })
}

fn all_sent(
    sent: io::Result<usize>,
    bytes: &[u8],
    name: impl Fn() -> String,
    timeout: Duration,
) -> OpResult<()> {
    match sent.during(&name)? {
        length if length == bytes.len() => Ok(()),
        length => Err(OpError::new(
            name(),
            format!("only {length} bytes within {timeout:?}"),
        )),
    }
}

pub(super) fn mapped(addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), addr.port()),
        IpAddr::V6(_) => addr,
    }
}

fn to_std(addr: &SockAddr, name: impl Fn() -> String) -> OpResult<SocketAddr> {
    addr.as_socket()
        .ok_or_else(|| OpError::new(name(), format!("{addr:?} is not an IP address")))
}
