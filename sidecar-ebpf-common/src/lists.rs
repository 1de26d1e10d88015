//! Lists of ids and of ports, as the hooks read them.

use crate::{
    addr::Port,
    usual::{rarely, usually},
};

/// How many user or group ids of the proxy one list may hold. Istio itself writes one.
pub const MAX_IDS: usize = 16;
/// How many groups outbound capture may name (`maxOwnerGroups`, tools/common/config/validation.go).
pub const MAX_GROUPS: usize = 64;
/// How many network interfaces may be excluded at once.
pub const MAX_INTERFACES: usize = 16;

/// The proxy's user ids or group ids.
pub type Ids = IdList<MAX_IDS>;
/// Groups that outbound capture is limited to, or that are left out of it.
pub type Groups = IdList<MAX_GROUPS>;
/// Interface indices.
pub type Interfaces = IdList<MAX_INTERFACES>;

/// A list of numbers in the order of the rules.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IdList<const N: usize> {
    len: u32,
    ids: [u32; N],
}

const _: () = assert!(size_of::<Ids>() == 68);
const _: () = assert!(size_of::<Groups>() == 260);
const _: () = assert!(size_of::<Interfaces>() == 68);

impl<const N: usize> IdList<N> {
    pub const EMPTY: Self = Self {
        len: 0,
        ids: [0; N],
    };

    /// `None` if there are more than the list holds.
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

    #[inline(always)]
    pub const fn first(&self) -> Option<u32> {
        if self.len == 0 {
            None
        } else {
            Some(self.ids[0])
        }
    }

    #[inline(always)]
    pub fn contains(&self, id: u32) -> bool {
        if rarely(self.ids[0] == id) {
            // Where there is none, the place of the first one is empty.
            self.len != 0
        } else if usually(self.len <= 1) {
            // Nearly every list has one entry.
            false
        } else {
            self.iter().any(|listed| listed == id)
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
