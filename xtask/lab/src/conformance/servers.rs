//! The servers of a pod and of the rest of the world: each answers with what it sees, so that one
//! round trip tells a prober everything. One thread a socket.

use std::{
    io::{IoSlice, IoSliceMut, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd as _, AsRawFd as _},
    thread,
};

use anyhow::{Context as _, Result};
use nix::{
    libc,
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg,
        setsockopt, sockopt,
    },
};
use socket2::{Domain, Protocol, Socket, Type};

use super::wire::{Seen, Service};
use crate::raw;

const STACK: usize = 128 * 1024;
const BACKLOG: i32 = 1024;

/// Opens every socket, then answers on threads of its own.
pub(crate) fn start(services: &[Service]) -> Result<()> {
    for service in services {
        for &addr in &service.addrs {
            for &port in &service.ports {
                let addr = SocketAddr::new(addr, port);
                let server = Server {
                    name: format!("{}:{port}", service.name),
                    is_proxy: service.is_proxy,
                };
                open(server, addr, service.udp)
                    .with_context(|| format!("{} at {addr}", service.name))?;
            }
        }
    }
    Ok(())
}

struct Server {
    name: String,
    is_proxy: bool,
}

fn open(server: Server, addr: SocketAddr, udp: bool) -> Result<()> {
    let domain = Domain::for_address(addr);
    let (kind, protocol) = if udp {
        (Type::DGRAM, Protocol::UDP)
    } else {
        (Type::STREAM, Protocol::TCP)
    };
    let socket = Socket::new(domain, kind, Some(protocol))?;
    if !udp {
        socket.set_reuse_address(true)?;
    }
    if domain == Domain::IPV6 {
        socket.set_only_v6(true)?;
    }
    if udp && domain == Domain::IPV6 {
        setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    } else if udp {
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
    }
    socket.bind(&addr.into())?;
    if !udp {
        socket.listen(BACKLOG)?;
    }
    let answer = move || loop {
        // A client that is gone already must not end the server.
        let _ = if udp {
            server.datagram(&socket)
        } else {
            server.connection(&socket)
        };
    };
    let thread = thread::Builder::new().stack_size(STACK);
    thread.spawn(answer).context("starting a thread")?;
    Ok(())
}

impl Server {
    fn connection(&self, listener: &Socket) -> Result<()> {
        let (mut socket, peer) = listener.accept()?;
        let peer = peer.as_socket().context("no peer")?;
        let seen = Seen {
            server: self.name.clone(),
            peer,
            original: self.is_proxy.then(|| original_dst(&socket, peer)),
        };
        socket.write_all(serde_json::to_string(&seen)?.as_bytes())?;
        Ok(())
    }

    fn datagram(&self, socket: &Socket) -> Result<()> {
        let mut bytes = [0; 64];
        let mut buffers = [IoSliceMut::new(&mut bytes)];
        let mut control = nix::cmsg_space!(libc::in6_pktinfo, libc::in_pktinfo);
        let message = recvmsg::<SockaddrStorage>(
            socket.as_raw_fd(),
            &mut buffers,
            Some(&mut control),
            MsgFlags::empty(),
        )?;
        let from = message.address.context("no sender")?;
        let seen = Seen {
            server: self.name.clone(),
            peer: to_std(&from).context("no peer")?,
            original: None,
        };
        let text = serde_json::to_string(&seen)?;
        let buffers = [IoSlice::new(text.as_bytes())];
        // The answer comes from the address that was asked.
        let mut source4 = None;
        let mut source6 = None;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::Ipv4PacketInfo(mut info) = control {
                info.ipi_ifindex = 0;
                info.ipi_spec_dst = info.ipi_addr;
                source4 = Some(info);
            } else if let ControlMessageOwned::Ipv6PacketInfo(mut info) = control {
                info.ipi6_ifindex = 0;
                source6 = Some(info);
            }
        }
        let control = source4
            .as_ref()
            .map(ControlMessage::Ipv4PacketInfo)
            .or(source6.as_ref().map(ControlMessage::Ipv6PacketInfo));
        sendmsg(
            socket.as_raw_fd(),
            &buffers,
            control.as_slice(),
            MsgFlags::empty(),
            Some(&from),
        )?;
        Ok(())
    }
}

/// Asked by the peer's family, as Envoy does.
fn original_dst(socket: &Socket, peer: SocketAddr) -> Result<SocketAddr, i32> {
    let (level, length) = if peer.is_ipv4() {
        (libc::SOL_IP, 16)
    } else {
        (libc::SOL_IPV6, 28)
    };
    let mut bytes = [0; 28];
    let buffer = bytes.get_mut(..length).ok_or(libc::EINVAL)?;
    raw::get_option(socket.as_fd(), level, raw::ORIGINAL_DST, buffer)
        .map_err(|error| error.raw_os_error().unwrap_or(0))?;
    let port = u16::from_be_bytes([bytes[2], bytes[3]]);
    let ip: IpAddr = if peer.is_ipv4() {
        Ipv4Addr::new(bytes[4], bytes[5], bytes[6], bytes[7]).into()
    } else {
        let mut octets = [0; 16];
        octets.copy_from_slice(&bytes[8..24]);
        Ipv6Addr::from(octets).into()
    };
    Ok(SocketAddr::new(ip, port))
}

pub(crate) fn to_std(addr: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = addr.as_sockaddr_in() {
        return Some(SocketAddr::new(v4.ip().into(), v4.port()));
    }
    let v6 = addr.as_sockaddr_in6()?;
    Some(SocketAddr::new(v6.ip().into(), v6.port()))
}
