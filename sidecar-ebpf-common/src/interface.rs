//! Network interfaces of the pod, and which of them a destination leads to.

use crate::addr::Ip;

/// The index of an interface in the pod's network namespace.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Interface(pub u32);

impl Interface {
    /// No interface: an address that is not local, a socket that is not bound to a device.
    pub const NONE: Self = Self(0);
    /// `lo`: the first interface of every namespace (`LOOPBACK_IFINDEX`,
    /// include/net/net_namespace.h).
    pub const LO: Self = Self(1);
}

/// Where a prefix of addresses outside the pod leads: a value of the route map, 24 bytes.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// The address that the kernel chooses as the source; unspecified if it chooses none, or with
    /// `lo` if it chooses the destination itself.
    pub source: Ip,
    /// The interface that packets leave by.
    pub interface: Interface,
}

const _: () = assert!(size_of::<Route>() == 24);
