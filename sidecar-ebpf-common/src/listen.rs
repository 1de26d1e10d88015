//! The proxy's listening sockets, before they are in the listener map: on which ports they are, and
//! what wakes the loader.

use crate::{addr::Port, maps::Listeners};

/// The ports on which the proxy listens. Known when the programs are loaded.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProxyPorts {
    pub outbound: Port,
    pub inbound: Port,
    pub dns: Port,
}

const _: () = assert!(size_of::<ProxyPorts>() == 6);

impl ProxyPorts {
    /// Whose listeners a port is for. If two are the same port, it is the first one's.
    #[inline(always)]
    pub const fn listeners(&self, port: Port) -> Option<Listeners> {
        if port.0 == self.outbound.0 {
            Some(Listeners::Outbound)
        } else if port.0 == self.inbound.0 {
            Some(Listeners::Inbound)
        } else if port.0 == self.dns.0 {
            Some(Listeners::Dns)
        } else {
            None
        }
    }
}

/// How many times a TCP socket of the pod has bound to each of the proxy's ports. Only the programs write
/// it.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Binds([u64; Listeners::ALL.len()]);

const _: () = assert!(size_of::<Binds>() == 24);

impl Binds {
    pub const NONE: Self = Self([0; Listeners::ALL.len()]);

    pub const fn of(&self, listeners: Listeners) -> u64 {
        self.0[listeners.index() as usize]
    }
}

/// The ports whose redirected IPv4 connections are left to the kernel's normal lookup, because all that
/// listens there is the proxy's and bound to every address. Only the loader writes it, and only for
/// the [`Binds`] that it knows of: whoever binds after that takes it back.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NormalLookup([u64; Listeners::ALL.len()]);

const _: () = assert!(size_of::<NormalLookup>() == 24);

impl NormalLookup {
    /// No port is ever bound to so often.
    pub const NOWHERE: Self = Self([u64::MAX; Listeners::ALL.len()]);

    /// For one more port, as of so many binds.
    #[must_use]
    pub const fn with(mut self, listeners: Listeners, binds: &Binds) -> Self {
        self.0[listeners.index() as usize] = binds.of(listeners);
        self
    }
}

/// Something that the loader must look after: an entry of the ring buffer.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event(u64);

impl Event {
    /// The kernel counts cookies from 1 and does not get that far.
    const LISTENS: u64 = 1 << 63;
    /// A connection was refused because no listener is registered.
    pub const NO_LISTENER: Self = Self(0);
    /// How many fit the ring buffer at least: entries have a header of eight bytes.
    pub const MOST: usize = Self::RING_BYTES as usize / 16;
    /// A page, the least there is; where pages are larger the loader asks for one of them.
    pub const RING_BYTES: u32 = 4096;

    /// The socket with this cookie binds to a port of the proxy. It may listen soon, later or never.
    #[inline(always)]
    pub const fn bound(cookie: u64) -> Self {
        Self(cookie)
    }

    /// The same socket listens now, and is registered if it can be.
    #[inline(always)]
    pub const fn listens(cookie: u64) -> Self {
        Self(cookie | Self::LISTENS)
    }

    /// As it lies in the ring buffer.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self(u64::from_ne_bytes(bytes.try_into().ok()?)))
    }

    pub const fn news(self) -> News {
        match self.0 {
            0 => News::NoListener,
            listens if listens & Self::LISTENS != 0 => News::Listens(listens & !Self::LISTENS),
            cookie => News::Bound(cookie),
        }
    }
}

/// What an [`Event`] says. Sockets are named by their cookies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum News {
    NoListener,
    Bound(u64),
    Listens(u64),
}
