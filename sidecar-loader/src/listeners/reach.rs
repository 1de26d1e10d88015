//! Where the kernel's own lookup brings redirected IPv4 connections to the proxy. There no program needs to
//! look a listener up.
//!
//! That is so if what listens on the port is bound to every address: as long as one such socket listens, the
//! kernel lets nobody else listen on the port, at whatever address (`inet_csk_get_port`,
//! net/ipv4/inet_connection_sock.c), but a socket of the same user that shares the port by SO_REUSEPORT,
//! as the proxy's workers do.

use std::{io, net::IpAddr};

use anyhow::Result;
use rustix::net::sockopt::socket_cookie;
use sidecar_ebpf_common::{listen::ProxyPorts, maps::Listeners};
use socket2::SockRef;

use super::find;
use crate::{answers, cgroup::Cgroup, netns::Netns, tables::Tables};

/// A port of the proxy, and the registered sockets that the kernel finds there.
#[derive(Debug)]
pub struct LeftToKernel {
    pub listeners: Listeners,
    /// Each by its slot in the listener map and its cookie.
    sockets: Vec<(u32, u64)>,
}

impl LeftToKernel {
    /// Whether one of them listens still.
    pub fn still_listens(&self, tables: &Tables) -> Result<bool> {
        for &(slot, cookie) in &self.sockets {
            if tables.listener(slot)? == Some(cookie) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Looks at what the proxy listens with, and has its answers go by lo ([`answers`]). Returns the ports on which
/// every socket that can get an IPv4 connection is the proxy's and found by the kernel.
pub fn settle(
    tables: &Tables,
    ports: ProxyPorts,
    netns: &Netns,
    cgroup: &Cgroup,
) -> Result<Vec<LeftToKernel>> {
    let mut found = Vec::new();
    let mut not_found = Vec::new();
    let strangers = find::each(ports, netns, cgroup, |listeners, pid, socket| {
        let seen = socket.and_then(|socket| {
            let listener = SockRef::from(&socket);
            if answers::stay_in_pod(listeners, ports)
                && let Err(error) = answers::send_by_lo(&listener)
            {
                log::debug!("process {pid}: its answers do not go by lo: {error}");
            }
            Ok((Reach::of(&listener)?, socket_cookie(&socket)?))
        });
        match seen {
            Ok((Reach::Found, cookie)) => found.push((listeners, cookie)),
            Ok((Reach::NotForIpv4, _)) => {}
            Ok((Reach::NotFound, _)) => not_found.push(listeners),
            Err(error) => {
                log::debug!("process {pid}: looking at its {listeners:?} listener: {error:#}");
                not_found.push(listeners);
            }
        }
    })?;
    let mut left = Vec::new();
    for listeners in Listeners::ALL {
        let is_certain = !not_found.contains(&listeners)
            && !strangers.contains(&listeners)
            && !tables.has_unregistered(listeners)?;
        let mut sockets = tables.registered_at(listeners)?;
        sockets.retain(|&(_, cookie)| found.contains(&(listeners, cookie)));
        if is_certain && !sockets.is_empty() {
            left.push(LeftToKernel { listeners, sockets });
        }
    }
    Ok(left)
}

/// Leaves the proxy's sockets as they were before [`settle`].
pub fn release(ports: ProxyPorts, netns: &Netns, cgroup: &Cgroup) -> Result<()> {
    find::each(ports, netns, cgroup, |_, pid, socket| {
        let released = socket.and_then(|socket| Ok(answers::send_as_any(&SockRef::from(&socket))?));
        if let Err(error) = released {
            log::debug!("process {pid}: releasing its listener: {error:#}");
        }
    })
    .map(drop)
}

/// What the kernel's lookup makes of a listening socket, for an IPv4 connection to any address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reach {
    Found,
    NotForIpv4,
    NotFound,
}

impl Reach {
    fn of(socket: &SockRef<'_>) -> io::Result<Self> {
        let bound = socket.local_addr()?.as_socket().map(|addr| addr.ip());
        let is_everywhere = match bound {
            Some(IpAddr::V4(ip)) => ip.is_unspecified(),
            Some(IpAddr::V6(_)) if socket.only_v6()? => return Ok(Self::NotForIpv4),
            Some(IpAddr::V6(ip)) if ip.is_unspecified() => true,
            Some(IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_none() => return Ok(Self::NotForIpv4),
            Some(IpAddr::V6(_)) | None => false,
        };
        Ok(if is_everywhere && socket.device()?.is_none() {
            Self::Found
        } else {
            Self::NotFound
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use socket2::{Domain, Socket, Type};

    use super::*;

    fn reach(at: &str, prepare: impl FnOnce(&Socket)) -> Reach {
        let at: SocketAddr = at.parse().unwrap();
        let socket = Socket::new(Domain::for_address(at), Type::STREAM, None).unwrap();
        prepare(&socket);
        socket.bind(&at.into()).unwrap();
        Reach::of(&SockRef::from(&socket)).unwrap()
    }

    #[test]
    fn only_sockets_that_are_bound_to_every_address_are_found() {
        let dual = |socket: &Socket| socket.set_only_v6(false).unwrap();
        let v6_only = |socket: &Socket| socket.set_only_v6(true).unwrap();
        for (at, expected) in [
            ("0.0.0.0:0", Reach::Found),
            ("127.0.0.1:0", Reach::NotFound),
            ("127.0.0.2:0", Reach::NotFound),
        ] {
            assert_eq!(reach(at, |_| ()), expected, "{at}");
        }
        for (at, expected) in [
            ("[::]:0", Reach::Found),
            ("[::1]:0", Reach::NotForIpv4),
            ("[::ffff:127.0.0.1]:0", Reach::NotFound),
        ] {
            assert_eq!(reach(at, dual), expected, "{at}");
        }
        assert_eq!(reach("[::]:0", v6_only), Reach::NotForIpv4);
    }
}
