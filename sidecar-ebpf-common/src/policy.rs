//! What the user asked for, as one map value that the hooks read.

use core::net::Ipv4Addr;

use crate::{
    addr::{Ip, Port},
    interface::Interface,
    lists::{Groups, Ids, Interfaces},
    usual::{rarely, usually},
};

/// A set of [`Policy`] switches.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Switches(u32);

impl Switches {
    pub const NONE: Self = Self(0);
    pub const ALL: Self = Self(u32::MAX);
    /// IPv6 has rules at all (Istio: dual stack, or the pod's first address is IPv6).
    pub const IPV6: Self = Self(1);
    /// Outbound capture of every address (`-i '*'`).
    pub const OUTBOUND_ALL: Self = Self(1 << 1);
    /// The included-range trie has entries.
    pub const OUTBOUND_RANGES: Self = Self(1 << 2);
    /// The excluded-range trie has entries.
    pub const OUTBOUND_EXCLUDED_RANGES: Self = Self(1 << 3);
    /// The port map holds excluded or included outbound ports.
    pub const OUTBOUND_PORTS: Self = Self(1 << 4);
    /// An included range starts at a loopback address, so that rules 3 and 6 are not there.
    pub const LOOPBACK_INCLUDED: Self = Self(1 << 5);
    /// Inbound capture of every port but the excluded ones (`-b '*'`).
    pub const INBOUND_ALL: Self = Self(1 << 6);
    /// Inbound capture of the listed ports.
    pub const INBOUND_PORTS: Self = Self(1 << 7);

    /// The redirect's IPv6 range is local to the pod's namespace. Without that a rewritten IPv6
    /// connection would leave the pod.
    pub const IPV6_ROUTE: Self = Self(1 << 8);

    /// DNS is captured: queries to port 53 go to the proxy's agent.
    pub const DNS: Self = Self(1 << 9);
    /// Queries to any server are captured, not only to the listed ones.
    pub const DNS_ALL: Self = Self(1 << 10);
    /// Outbound capture is for members of the listed groups only.
    pub const GROUPS_INCLUDED: Self = Self(1 << 11);
    /// Outbound capture leaves members of the listed groups out.
    pub const GROUPS_EXCLUDED: Self = Self(1 << 12);
    /// Some interface is excluded; the route map says which destinations lead there.
    pub const INTERFACES: Self = Self(1 << 13);
    /// The kernel chooses different source addresses for different destinations; the route map
    /// says which.
    pub const SOURCES: Self = Self(1 << 14);
    /// Only processes of the proxy's own cgroup can be the proxy.
    pub const PROXY_CGROUP: Self = Self(1 << 15);
    /// [`Policy::own`] lists all of the pod's own IPv4 addresses outside 127.0.0.0/8.
    pub const OWN_LISTED: Self = Self(1 << 16);

    #[inline(always)]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Those of them that are also in `others`.
    #[inline(always)]
    #[must_use]
    pub const fn among(self, others: Self) -> Self {
        Self(self.0 & others.0)
    }

    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[must_use]
    pub const fn with_if(self, condition: bool, other: Self) -> Self {
        if condition { self.with(other) } else { self }
    }
}

/// The policy of one pod. What every connection asks comes first, on neighbouring cache lines.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy {
    pub scope: Scope,
    pub switches: Switches,
    /// Proxy's port for outbound connections.
    pub outbound_port: Port,
    /// Proxy's port for inbound connections.
    pub inbound_port: Port,
    /// Never redirected inbound or to the own pod (HBONE).
    pub tunnel_port: Port,
    /// Where the proxy's agent answers DNS queries.
    pub dns_port: Port,
    /// Slots in the number ring less one; a power of two less one.
    pub ring_mask: u32,
    /// How long a number stays reserved after its last use, in [`crate::number::Tick`]s.
    pub hold: u32,
    pub own: Own,
    /// What counts as localhost.
    pub loopback: Loopback,
    pub uids: Ids,
    pub gids: Ids,
    pub sources: Sources,
    pub excluded_interfaces: Interfaces,
    /// Whom outbound capture includes or excludes; the switches say which.
    pub groups: Groups,
    /// [`crate::LAYOUT_VERSION`] of whoever wrote this.
    pub layout: u32,
    pub proxy_cgroup: ProxyCgroup,
}

const _: () = assert!(size_of::<Policy>() == 568);

/// Which sockets of the cgroup the policy is for, by the cookie of their network namespace.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scope {
    /// The namespace to leave alone while the pod's is not known; 0 for none.
    spared: u64,
    /// The pod's namespace; 0 while it is not known yet.
    pod: u64,
}

impl Scope {
    /// Only sockets of this namespace.
    pub const fn only(cookie: u64) -> Self {
        Self {
            pod: cookie,
            spared: 0,
        }
    }

    /// The pod has no process yet: sockets of any namespace but this.
    pub const fn any_but(cookie: u64) -> Self {
        Self {
            pod: 0,
            spared: cookie,
        }
    }

    #[inline(always)]
    pub const fn covers(&self, cookie: u64) -> bool {
        // No namespace has the cookie 0.
        usually(cookie == self.pod) || self.pod == 0 && cookie != self.spared
    }

    #[inline(always)]
    pub const fn is_known(&self) -> bool {
        self.pod != 0
    }
}

/// IPv4 addresses that are "localhost" to rules 2, 5 and 8; for IPv6 that is `::1`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loopback {
    /// Network byte order, like the words of an [`Ip`].
    net: u32,
    mask: u32,
}

impl Loopback {
    /// 127.0.0.1 alone, Istio's default.
    pub const LOCALHOST: Self = Self::new(Ipv4Addr::LOCALHOST, 32);

    /// The range of that length (at most 32) around the address.
    pub const fn new(addr: Ipv4Addr, len: u32) -> Self {
        let mask = match len {
            0 => 0,
            _ => u32::MAX << (32 - len),
        };
        Self {
            net: (addr.to_bits() & mask).to_be(),
            mask: mask.to_be(),
        }
    }

    /// The first address of the range, and its length.
    pub const fn range(&self) -> (Ipv4Addr, u8) {
        let addr = Ipv4Addr::from_bits(u32::from_be(self.net));
        (addr, self.mask.count_ones() as u8)
    }

    #[inline(always)]
    pub fn contains(&self, ip: &Ip) -> bool {
        if ip.is_v4() {
            ip.words()[0] & self.mask == self.net
        } else {
            *ip == Ip::LOOPBACK_V6
        }
    }
}

/// The pod's own IPv4 addresses, where they are few: the same as in the map of local addresses, for
/// a look that costs next to nothing.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Own([u32; Own::MAX]);

impl Own {
    pub const MAX: usize = 4;
    /// An address of 127.0.0.0/8 in the places that are left over: nobody asks for one of those.
    pub const NONE: Self = Self([Ipv4Addr::LOCALHOST.to_bits().to_be(); Self::MAX]);

    /// `None` if they are more than there is room for.
    pub fn listing(addresses: &[Ipv4Addr]) -> Option<Self> {
        let mut own = Self::NONE;
        for (place, address) in own.0.get_mut(..addresses.len())?.iter_mut().zip(addresses) {
            *place = address.to_bits().to_be();
        }
        Some(own)
    }

    /// Whether it is one of them. Not to be asked for addresses of 127.0.0.0/8 or of IPv6.
    #[inline(always)]
    pub fn contains(&self, ip: &Ip) -> bool {
        let asked = ip.words()[0];
        rarely(self.0[0] == asked)
            || rarely(self.0[1] == asked)
            || rarely(self.0[2] == asked)
            || rarely(self.0[3] == asked)
    }
}

/// The source addresses that the kernel chooses where no route says otherwise; unspecified while
/// the pod has none.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sources {
    v4: u32,
    v6: Ip,
}

impl Sources {
    pub const NONE: Self = Self::new(Ipv4Addr::UNSPECIFIED, Ip::UNSPECIFIED_V6);

    pub const fn new(v4: Ipv4Addr, v6: Ip) -> Self {
        Self {
            v4: v4.to_bits().to_be(),
            v6,
        }
    }

    #[inline(always)]
    pub const fn v4(&self) -> Ip {
        Ip::from_v4_word(self.v4)
    }

    #[inline(always)]
    pub const fn v6(&self) -> Ip {
        self.v6
    }
}

/// The cgroup of the proxy's container, if it is told by that too. Zero otherwise.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ProxyCgroup {
    /// As `bpf_get_current_ancestor_cgroup_id` returns it: the inode number of the directory.
    pub id: u64,
    /// How deep it lies below the root of the hierarchy, which is level 0.
    pub level: u64,
}

/// The parts of a [`Policy`] that come from settings; the rest has one right value.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub uids: Ids,
    pub gids: Ids,
    pub groups: Groups,
    pub switches: Switches,
    pub outbound_port: Port,
    pub inbound_port: Port,
    pub tunnel_port: Port,
    pub dns_port: Port,
    pub loopback: Loopback,
    pub ring_mask: u32,
    pub hold: u32,
}

/// The parts of a [`Policy`] that come from the pod as it is now.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings {
    pub scope: Scope,
    pub proxy_cgroup: ProxyCgroup,
    pub own: Own,
    pub sources: Sources,
    pub excluded_interfaces: Interfaces,
}

impl Surroundings {
    pub const fn new(scope: Scope) -> Self {
        Self {
            scope,
            proxy_cgroup: ProxyCgroup { id: 0, level: 0 },
            own: Own::NONE,
            sources: Sources::NONE,
            excluded_interfaces: Interfaces::EMPTY,
        }
    }
}

impl Policy {
    /// No rule, no namespace: what is there before the loader has written one.
    pub const NONE: Self = Self::new(
        Surroundings::new(Scope::only(0)),
        Settings {
            uids: Ids::EMPTY,
            gids: Ids::EMPTY,
            groups: Groups::EMPTY,
            switches: Switches::NONE,
            outbound_port: Port(0),
            inbound_port: Port(0),
            tunnel_port: Port(0),
            dns_port: Port(0),
            loopback: Loopback::LOCALHOST,
            ring_mask: 0,
            hold: 0,
        },
    );

    pub const fn new(pod: Surroundings, settings: Settings) -> Self {
        let Settings {
            uids,
            gids,
            groups,
            switches,
            outbound_port,
            inbound_port,
            tunnel_port,
            dns_port,
            loopback,
            ring_mask,
            hold,
        } = settings;
        Self {
            scope: pod.scope,
            proxy_cgroup: pod.proxy_cgroup,
            uids,
            gids,
            switches,
            outbound_port,
            inbound_port,
            tunnel_port,
            dns_port,
            ring_mask,
            hold,
            loopback,
            own: pod.own,
            sources: pod.sources,
            excluded_interfaces: pod.excluded_interfaces,
            groups,
            layout: crate::LAYOUT_VERSION,
        }
    }

    #[inline(always)]
    pub fn excludes(&self, interface: Interface) -> bool {
        self.excluded_interfaces.contains(interface.0)
    }
}
