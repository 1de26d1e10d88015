//! UDP sockets that stay open, one call at a time.

use std::{
    io::IoSlice,
    net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::AsRawFd,
    time::Duration,
};

use nix::{
    libc,
    poll::PollFlags,
    sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, recvfrom, sendmsg},
};
use socket2::{Domain, Protocol, Socket, Type};

use super::tcp::{mapped, sock_name, wait_for};
use crate::{
    datagram::UdpOptions,
    wire::{During, OpError, OpResult, UdpReply},
};

pub(super) fn open(options: &UdpOptions) -> OpResult<Socket> {
    let name = || format!("{options:?}");
    let domain = if options.ipv6 {
        Domain::IPV6
    } else {
        Domain::IPV4
    };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)).during(name)?;
    if let Some(device) = &options.bind_to_device {
        socket.bind_device(Some(device.as_bytes())).during(name)?;
    }
    if let Some(addr) = options.bind {
        let addr = if options.ipv6 { mapped(addr) } else { addr };
        socket.bind(&addr.into()).during(name)?;
    }
    Ok(socket)
}

pub(super) fn connect(socket: &Socket, to: SocketAddr) -> OpResult<()> {
    let to = in_family(socket, to)?;
    socket
        .connect(&to.into())
        .during(|| format!("connect to {to}"))
}

pub(super) fn send_to(
    socket: &Socket,
    bytes: &[u8],
    to: SocketAddr,
    from: Option<IpAddr>,
) -> OpResult<()> {
    let name = || format!("send to {to} from {from:?}");
    let to = in_family(socket, to)?;
    let slices = [IoSlice::new(bytes)];
    let to = SockaddrStorage::from(to);
    let (v4, v6);
    let control = match from {
        None => None,
        Some(IpAddr::V4(from)) => {
            v4 = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr {
                    s_addr: u32::from_ne_bytes(from.octets()),
                },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            Some(ControlMessage::Ipv4PacketInfo(&v4))
        }
        Some(IpAddr::V6(from)) => {
            v6 = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr {
                    s6_addr: from.octets(),
                },
                ipi6_ifindex: 0,
            };
            Some(ControlMessage::Ipv6PacketInfo(&v6))
        }
    };
    sendmsg(
        socket.as_raw_fd(),
        &slices,
        control.as_slice(),
        MsgFlags::empty(),
        Some(&to),
    )
    .during(name)
    .map(drop)
}

/// An AF_INET6 socket writes IPv4 addresses as IPv4-mapped ones.
fn in_family(socket: &Socket, to: SocketAddr) -> OpResult<SocketAddr> {
    let is_v6 = sock_name(socket)?.is_ipv6();
    Ok(if is_v6 { mapped(to) } else { to })
}

pub(super) fn receive(socket: &Socket, timeout: Duration) -> OpResult<UdpReply> {
    let name = || "receive a datagram".to_owned();
    wait_for(socket, PollFlags::POLLIN, timeout, name)?;
    let mut payload = vec![0; 2048];
    let (length, source) =
        recvfrom::<SockaddrStorage>(socket.as_raw_fd(), &mut payload).during(name)?;
    payload.truncate(length);
    let source = source
        .as_ref()
        .and_then(to_std)
        .ok_or_else(|| OpError::new(name(), "the sender has no address"))?;
    Ok(UdpReply { payload, source })
}

fn to_std(addr: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = addr
        .as_sockaddr_in()
        .map(|&addr| SocketAddrV4::from(addr).into());
    v4.or_else(|| {
        addr.as_sockaddr_in6()
            .map(|&addr| SocketAddrV6::from(addr).into())
    })
}
