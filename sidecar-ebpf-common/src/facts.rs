//! The facts that the rules look at, and what they look up.

use crate::{
    addr::{Ip, OrigDst, Port},
    interface::Interface,
    lists::PortLists,
    policy::Switches,
    usual::{rarely, usually},
};

/// Who owns a socket, in the numbering of the initial user namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
}

impl Owner {
    /// What the kernel itself owns: no user has this id, so it is "not the proxy".
    pub const NOBODY: Self = Self {
        uid: u32::MAX,
        gid: u32::MAX,
    };
}

/// The address a socket is bound to before it connects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    Unbound,
    Bound(Ip),
}

/// What the rules tell apart. Other protocols are never captured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    Tcp,
    Udp,
}

/// What is known about the process that connects or sends, apart from the owner of its socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Caller {
    /// The owner decides.
    MayBeProxy,
    /// It runs outside the proxy's cgroup, so it is not the proxy whoever owns its socket.
    Application,
}

/// The socket that connects or sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Socket {
    pub protocol: Protocol,
    pub owner: Owner,
    pub source: Source,
    /// What it is bound to with SO_BINDTODEVICE.
    pub device: Interface,
    pub caller: Caller,
}

impl Socket {
    /// The owner whom the rules for the proxy look at.
    #[inline(always)]
    pub(crate) const fn proxy(&self) -> Owner {
        match self.caller {
            Caller::MayBeProxy => self.owner,
            Caller::Application => Owner::NOBODY,
        }
    }
}

/// The facts about a connection that is about to be made, or a datagram that is about to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outbound {
    pub(crate) socket: Socket,
    pub(crate) dst: OrigDst,
}

impl Outbound {
    /// `asked` is what `connect()` was called with; 0.0.0.0 and `::` become what they mean.
    #[inline(always)]
    pub fn new(socket: Socket, asked: OrigDst) -> Self {
        let dst = OrigDst::new(resolve_unspecified(asked.ip, socket.source), asked.port);
        Self { socket, dst }
    }

    /// Where the connection goes unless it is redirected.
    #[inline(always)]
    pub const fn dst(&self) -> &OrigDst {
        &self.dst
    }

    /// What `-o lo` asks: whether packets stay in the pod. A socket that is bound to a device finds
    /// only the local addresses of that device (`fib_lookup` with an output interface), except that
    /// one bound to lo never leaves it.
    #[inline(always)]
    pub fn is_to_lo(&self, tables: &impl Tables) -> bool {
        let dst = &self.dst.ip;
        let device = self.socket.device;
        if usually(device == Interface::NONE) {
            rarely(dst.is_loopback()) || tables.is_own(dst)
        } else {
            device == Interface::LO || !dst.is_loopback() && device == tables.interface_with(dst)
        }
    }

    /// The source that packets will have, where it is known before the kernel has chosen one: an
    /// IPv6 socket that is not bound talks to an address of the pod from that same address
    /// (RFC 6724, rule 1; `ipv6_get_saddr_eval`, net/ipv6/addrconf.c).
    #[inline(always)]
    pub fn known_source(&self, to_lo: bool) -> Option<Ip> {
        match self.socket.source {
            Source::Bound(ip) => Some(ip),
            Source::Unbound if to_lo && !self.dst.ip.is_v4() => Some(self.dst.ip),
            Source::Unbound => None,
        }
    }

    #[inline(always)]
    pub(crate) fn leaves_by(&self, to_lo: bool, tables: &impl Tables) -> Interface {
        if to_lo {
            Interface::LO
        } else if self.socket.device == Interface::NONE {
            tables.interface_towards(&self.dst.ip)
        } else {
            self.socket.device
        }
    }
}

/// The facts about a TCP connection that comes in from outside the pod.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inbound {
    pub dst: Ip,
    pub port: Port,
    /// Where it comes in.
    pub interface: Interface,
}

/// What the decision looks up. In the kernel these are maps.
pub trait Tables {
    /// The switches that can be on at all: no policy that is decided with these tables has others.
    #[inline(always)]
    fn features(&self) -> Switches {
        Switches::ALL
    }

    /// Which port lists name this port.
    fn port_lists(&self, port: Port) -> PortLists;
    /// Whether the address lies in an excluded outbound range.
    fn is_excluded(&self, ip: &Ip) -> bool;
    /// Whether the address lies in an included outbound range.
    fn is_included(&self, ip: &Ip) -> bool;
    /// Whether queries to this DNS server are captured. Asked only if not all are.
    fn is_dns_server(&self, ip: &Ip) -> bool;
    /// Whether the pod's namespace has this address, which is none of loopback.
    #[inline(always)]
    fn is_own(&self, ip: &Ip) -> bool {
        self.interface_with(ip) != Interface::NONE
    }
    /// The interface that has this address; none if it is not local to the pod's namespace.
    fn interface_with(&self, ip: &Ip) -> Interface;
    /// The interface that leads to this address, which is not local. Asked only if an interface is
    /// excluded.
    fn interface_towards(&self, ip: &Ip) -> Interface;
}

impl<T: Tables> Tables for &T {
    fn features(&self) -> Switches {
        (**self).features()
    }

    fn port_lists(&self, port: Port) -> PortLists {
        (**self).port_lists(port)
    }

    fn is_excluded(&self, ip: &Ip) -> bool {
        (**self).is_excluded(ip)
    }

    fn is_included(&self, ip: &Ip) -> bool {
        (**self).is_included(ip)
    }

    fn is_dns_server(&self, ip: &Ip) -> bool {
        (**self).is_dns_server(ip)
    }

    fn is_own(&self, ip: &Ip) -> bool {
        (**self).is_own(ip)
    }

    fn interface_with(&self, ip: &Ip) -> Interface {
        (**self).interface_with(ip)
    }

    fn interface_towards(&self, ip: &Ip) -> Interface {
        (**self).interface_towards(ip)
    }
}

/// `connect()` to 0.0.0.0 or `::` means the socket's own address, or loopback if it has none; the
/// kernel turns it into that after the hook (`ip_route_output_key_hash_rcu`, net/ipv4/route.c;
/// `tcp_v6_connect`, net/ipv6/tcp_ipv6.c, which knows loopback only).
#[inline(always)]
fn resolve_unspecified(dst: Ip, source: Source) -> Ip {
    if usually(!dst.is_unspecified()) {
        return dst;
    }
    if !dst.is_v4() {
        return match source {
            Source::Bound(ip) if ip.is_v4() => Ip::LOOPBACK_V4,
            Source::Bound(_) | Source::Unbound => Ip::LOOPBACK_V6,
        };
    }
    match source {
        Source::Bound(ip) if ip.is_v4() => ip,
        Source::Bound(_) | Source::Unbound => Ip::LOOPBACK_V4,
    }
}
