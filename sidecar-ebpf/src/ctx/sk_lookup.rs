//! The context of the sk_lookup hook.
#![expect(
    unsafe_code,
    reason = "context structures are raw pointers from the kernel"
)]

use aya_ebpf::{bindings::bpf_sk_lookup, programs::SkLookupContext};
use sidecar_ebpf_common::{
    addr::{Ip, Port},
    interface::Interface,
    policy::Switches,
};

use crate::features;

use super::{AF_INET, IPPROTO_TCP, field, words};

pub(crate) struct SkLookup<'a>(pub(crate) &'a SkLookupContext);

/// Where a packet is addressed to, and where it comes from.
pub(crate) struct Ends {
    pub(crate) local: Ip,
    pub(crate) remote: Ip,
}

impl<'a> SkLookup<'a> {
    #[inline(always)]
    pub(crate) fn new(ctx: &'a SkLookupContext) -> Self {
        Self(ctx)
    }

    #[inline(always)]
    fn ptr(&self) -> *const bpf_sk_lookup {
        self.0.lookup
    }

    #[inline(always)]
    pub(crate) fn is_tcp(&self) -> bool {
        // SAFETY: the pointer is the program's context.
        unsafe { field!(self.ptr(), protocol) == IPPROTO_TCP }
    }

    #[inline(always)]
    pub(crate) fn ends(&self) -> Ends {
        if self.is_v4() {
            self.ends_v4()
        } else {
            self.ends_v6()
        }
    }

    #[inline(always)]
    pub(crate) fn is_v4(&self) -> bool {
        // SAFETY: as above.
        unsafe { field!(self.ptr(), family) == AF_INET }
    }

    /// Of an IPv4 packet.
    #[inline(always)]
    pub(crate) fn ends_v4(&self) -> Ends {
        // SAFETY: as above.
        unsafe {
            Ends {
                local: Ip::from_v4_word(field!(self.ptr(), local_ip4)),
                remote: Ip::from_v4_word(field!(self.ptr(), remote_ip4)),
            }
        }
    }

    #[inline(always)]
    fn ends_v6(&self) -> Ends {
        // SAFETY: as above.
        unsafe {
            Ends {
                local: Ip::from_v6_words(words!(self.ptr(), local_ip6)),
                remote: Ip::from_v6_words(words!(self.ptr(), remote_ip6)),
            }
        }
    }

    #[inline(always)]
    pub(crate) fn local_port(&self) -> Port {
        // SAFETY: as above. This field is in host byte order.
        Port(unsafe { field!(self.ptr(), local_port) } as u16)
    }

    /// Where the packet came in; for one that never left the pod, an interface that has the address.
    /// None if no policy asks, so that a kernel whose context does not tell takes the program as long
    /// as nobody does. Linux 5.17, f89315650ba3.
    #[inline(always)]
    pub(crate) fn interface(&self) -> Interface {
        if !features::all().has(Switches::INTERFACES) {
            return Interface::NONE;
        }
        // SAFETY: as above.
        Interface(unsafe { field!(self.ptr(), ingress_ifindex) })
    }
}
