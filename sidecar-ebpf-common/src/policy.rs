//! What the user asked for, as one map value that the hooks read.

use crate::addr::Port;

/// How many user or group ids one list may hold. Istio itself writes one.
pub const MAX_IDS: usize = 16;

/// A list of user or group ids in the order of the rules.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IdList {
    len: u32,
    ids: [u32; MAX_IDS],
}

const _: () = assert!(size_of::<IdList>() == 68);

impl IdList {
    pub const EMPTY: Self = Self {
        len: 0,
        ids: [0; MAX_IDS],
    };

    /// `None` if there are more than [`MAX_IDS`].
    pub fn new(ids: &[u32]) -> Option<Self> {
        let mut list = Self::EMPTY;
        list.ids.get_mut(..ids.len())?.copy_from_slice(ids);
        list.len = ids.len() as u32;
        Some(list)
    }

    #[inline(always)]
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        // A walk over the whole array, stopped by the length: the verifier knows its bound.
        let len = self.len;
        self.ids
            .iter()
            .zip(0..)
            .take_while(move |(_, i)| *i < len)
            .map(|(id, _)| *id)
    }
}

/// A set of [`Policy`] switches.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Switches(u32);

impl Switches {
    pub const NONE: Self = Self(0);
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

    #[inline(always)]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
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

/// The policy of one pod.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy {
    pub scope: Scope,
    pub uids: IdList,
    pub gids: IdList,
    pub switches: Switches,
    /// Proxy's port for outbound connections.
    pub outbound_port: Port,
    /// Proxy's port for inbound connections.
    pub inbound_port: Port,
    /// Never redirected inbound or to the own pod (HBONE).
    pub tunnel_port: Port,
    zero: u16,
    /// Slots in the number ring less one; a power of two less one.
    pub ring_mask: u32,
    /// How long a number stays reserved after its last use, in [`crate::number::Tick`]s.
    pub hold: u32,
    /// [`crate::LAYOUT_VERSION`] of whoever wrote this.
    pub layout: u32,
}

const _: () = assert!(size_of::<Policy>() == 176);

/// Which sockets of the cgroup the policy is for, by the cookie of their network namespace.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scope {
    /// The pod's namespace; 0 while it is not known yet.
    pod: u64,
    /// The namespace to leave alone while the pod's is not known; 0 for none.
    spared: u64,
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
        if self.pod != 0 {
            cookie == self.pod
        } else {
            cookie != self.spared
        }
    }

    #[inline(always)]
    pub const fn is_known(&self) -> bool {
        self.pod != 0
    }
}

/// The parts of a [`Policy`] that come from settings; the rest has one right value.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub uids: IdList,
    pub gids: IdList,
    pub switches: Switches,
    pub outbound_port: Port,
    pub inbound_port: Port,
    pub tunnel_port: Port,
    pub ring_mask: u32,
    pub hold: u32,
}

impl Policy {
    pub const fn new(scope: Scope, settings: Settings) -> Self {
        let Settings {
            uids,
            gids,
            switches,
            outbound_port,
            inbound_port,
            tunnel_port,
            ring_mask,
            hold,
        } = settings;
        Self {
            scope,
            uids,
            gids,
            switches,
            outbound_port,
            inbound_port,
            tunnel_port,
            zero: 0,
            ring_mask,
            hold,
            layout: crate::LAYOUT_VERSION,
        }
    }
}

/// What the port lists say about one port: four bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PortLists(u64);

impl PortLists {
    pub const NONE: Self = Self(0);
    pub const OUTBOUND_EXCLUDED: Self = Self(1);
    pub const OUTBOUND_INCLUDED: Self = Self(1 << 1);
    pub const INBOUND_EXCLUDED: Self = Self(1 << 2);
    pub const INBOUND_INCLUDED: Self = Self(1 << 3);

    #[inline(always)]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// The lists for 16 neighbouring ports: value `port / 16` of the port map.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PortGroup(u64);

const _: () = assert!(size_of::<PortGroup>() == 8);

impl PortGroup {
    pub const GROUPS: u32 = 65_536 / 16;

    #[inline(always)]
    pub const fn index(port: Port) -> u32 {
        (port.0 >> 4) as u32
    }

    #[inline(always)]
    pub const fn get(self, port: Port) -> PortLists {
        PortLists(self.0 >> Self::shift(port) & 0xf)
    }

    pub const fn add(&mut self, port: Port, lists: PortLists) {
        self.0 |= lists.0 << Self::shift(port);
    }

    #[inline(always)]
    const fn shift(port: Port) -> u32 {
        (port.0 as u32 & 0xf) * 4
    }
}
