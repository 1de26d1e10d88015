//! Every map, and what the hooks may do with it.
#![expect(
    unsafe_code,
    reason = "map values are raw memory shared with other CPUs"
)]

use core::arch::asm;

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap, LpmTrie, PerCpuArray, lpm_trie::Key},
};
use sidecar_ebpf_common::{
    addr::{Ip, OrigDst, Port, Prefix},
    counter::Counter,
    facts::Tables,
    interface::{Interface, Route},
    listen::{Binds, NormalLookup},
    lists::{PortGroup, PortLists},
    maps::{DEFAULT_DESTINATIONS, Listeners, MAX_DNS_SERVERS, MAX_LOCALS, MAX_RANGES, MAX_ROUTES},
    number::{Dealt, Destination, Number, Tenant, Tick},
    policy::{Policy, Switches},
    usual::usually,
};

use crate::atomic;

/// A global is a map too, of one value, but its address is known when the program is loaded: nothing
/// is looked up.
#[unsafe(link_section = ".data.policy")]
static mut POLICY: Policy = Policy::NONE;
#[map]
static PORTS: Array<PortGroup> = Array::with_max_entries(PortGroup::GROUPS, 0);
#[map]
static INCLUDED: LpmTrie<Ip, u32> = LpmTrie::with_max_entries(MAX_RANGES, BPF_F_NO_PREALLOC);
#[map]
static EXCLUDED: LpmTrie<Ip, u32> = LpmTrie::with_max_entries(MAX_RANGES, BPF_F_NO_PREALLOC);
#[map]
static LOCALS: LpmTrie<Ip, Interface> = LpmTrie::with_max_entries(MAX_LOCALS, BPF_F_NO_PREALLOC);
#[map]
static ROUTES: LpmTrie<Ip, Route> = LpmTrie::with_max_entries(MAX_ROUTES, BPF_F_NO_PREALLOC);
#[map]
static DNS_SERVERS: HashMap<Ip, u32> =
    HashMap::with_max_entries(MAX_DNS_SERVERS, BPF_F_NO_PREALLOC);
/// Not preallocated: an idle pod pays for the buckets only.
#[map]
static NUMBERS: HashMap<OrigDst, Number> =
    HashMap::with_max_entries(DEFAULT_DESTINATIONS, BPF_F_NO_PREALLOC);
#[map]
static DESTINATIONS: Array<Destination> = Array::with_max_entries(DEFAULT_DESTINATIONS, 0);
#[unsafe(link_section = ".data.numbers")]
static mut DEALT: Dealt = Dealt {
    recent: [Destination::EMPTY; OrigDst::HASHES],
    handed_out: 0,
};
#[unsafe(link_section = ".data.binds")]
static mut BINDS: Binds = Binds::NONE;
#[unsafe(link_section = ".data.lookup")]
static mut NORMAL_LOOKUP: NormalLookup = NormalLookup::NOWHERE;
#[map]
static UNREGISTERED: Array<u32> = Array::with_max_entries(Listeners::ALL.len() as u32, 0);
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::COUNT, 0);

/// Where a global is. The compiler may not look through this: it would take a global that no program
/// writes for a constant.
#[inline(always)]
fn global<T>(at: *mut T) -> *mut T {
    let found;
    // SAFETY: no instruction at all.
    unsafe { asm!("/* {0} */", inout(reg) at => found, options(pure, readonly, preserves_flags)) };
    found
}

#[inline(always)]
pub(crate) fn policy() -> &'static Policy {
    // SAFETY: a global lives as long as the program. User space may write it meanwhile, and every bit
    // pattern is a value.
    unsafe { &*global(&raw mut POLICY) }
}

#[inline(always)]
pub(crate) fn increment(index: u32) {
    if let Some(value) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: the map value is eight aligned bytes that live as long as the program.
        unsafe { atomic::increment(value) };
    }
}

/// What the decision looks up, in maps.
pub(crate) struct Maps {
    pub(crate) policy: &'static Policy,
    pub(crate) features: Switches,
}

impl Tables for Maps {
    #[inline(always)]
    fn features(&self) -> Switches {
        self.features
    }

    #[inline(always)]
    fn port_lists(&self, port: Port) -> PortLists {
        PORTS
            .get(PortGroup::index(port))
            .map_or(PortLists::NONE, |group| group.get(port))
    }

    #[inline(always)]
    fn is_excluded(&self, ip: &Ip) -> bool {
        contains(&EXCLUDED, ip)
    }

    #[inline(always)]
    fn is_included(&self, ip: &Ip) -> bool {
        contains(&INCLUDED, ip)
    }

    #[inline(always)]
    fn is_dns_server(&self, ip: &Ip) -> bool {
        // A copy, so that an address that is not looked up need not lie in memory.
        let ip = *ip;
        // SAFETY: the value is not looked at.
        unsafe { DNS_SERVERS.get(ip) }.is_some()
    }

    #[inline(always)]
    fn is_own(&self, ip: &Ip) -> bool {
        if usually(ip.is_v4()) && usually(self.policy.switches.has(Switches::OWN_LISTED)) {
            self.policy.own.contains(ip)
        } else {
            self.interface_with(ip) != Interface::NONE
        }
    }

    #[inline(always)]
    fn interface_with(&self, ip: &Ip) -> Interface {
        LOCALS
            .get(Key::new(Prefix::FULL_BITS, *ip))
            .map_or(Interface::NONE, |interface| *interface)
    }

    #[inline(always)]
    fn interface_towards(&self, ip: &Ip) -> Interface {
        route_to(ip).map_or(Interface::NONE, |route| route.interface)
    }
}

/// What the pod's routes say about an address; `None` where the route map has nothing.
#[inline(always)]
pub(crate) fn route_to(ip: &Ip) -> Option<&'static Route> {
    ROUTES.get(Key::new(Prefix::FULL_BITS, *ip))
}

#[inline(always)]
fn contains(trie: &LpmTrie<Ip, u32>, ip: &Ip) -> bool {
    trie.get(Key::new(Prefix::FULL_BITS, *ip)).is_some()
}

/// How many numbers have been handed out.
#[inline(always)]
pub(crate) fn handed_out() -> u64 {
    // SAFETY: eight aligned bytes; other CPUs only add to them atomically.
    unsafe { (&raw const DEALT.handed_out).read_volatile() }
}

/// Takes the next number: nobody else gets this value.
#[inline(always)]
pub(crate) fn take_next() -> u64 {
    // SAFETY: eight aligned bytes that live as long as the program.
    unsafe { atomic::take_ticket(&raw mut DEALT.handed_out) }
}

#[inline(always)]
pub(crate) fn number_of(dst: &OrigDst) -> Option<Number> {
    // SAFETY: values are four aligned bytes, which are read and written whole.
    unsafe { NUMBERS.get(dst) }.copied()
}

/// Remembers the number for later connections. Failure costs a number next time, nothing else.
#[inline(always)]
pub(crate) fn remember(dst: &OrigDst, number: Number) {
    let _: Result<(), i32> = NUMBERS.insert(dst, number, 0);
}

#[inline(always)]
pub(crate) fn forget(dst: &OrigDst) {
    let _: Result<(), i32> = NUMBERS.remove(dst);
}

/// A slot of the ring, or its copy. Any CPU may read it at any time; only one that has claimed it
/// writes it.
pub(crate) struct Slot(*mut Destination);

impl Slot {
    #[inline(always)]
    pub(crate) fn at(index: u32) -> Option<Self> {
        DESTINATIONS.get_ptr_mut(index).map(Self)
    }

    /// The copy of the slot that was last asked for of those with this hash.
    #[inline(always)]
    pub(crate) fn recent(hash: usize) -> Self {
        // SAFETY: a hash is below the length.
        Self(unsafe { global((&raw mut DEALT.recent).cast::<Destination>()).add(hash) })
    }

    #[inline(always)]
    pub(crate) fn tenant(&self) -> Tenant {
        // SAFETY: the pointer is a slot's; eight aligned bytes without padding are read at
        // once.
        unsafe {
            let word = (&raw const (*self.0).tenant).cast::<u64>().read_volatile();
            core::mem::transmute::<u64, Tenant>(word)
        }
    }

    /// A copy; torn if another CPU writes the slot meanwhile, which looking at the tenant before
    /// and after tells.
    #[inline(always)]
    pub(crate) fn dst(&self) -> OrigDst {
        // SAFETY: the pointer is a slot's; every bit pattern is a value.
        unsafe { core::mem::transmute::<[u64; 3], OrigDst>(self.dst_words()) }
    }

    /// Whether [`Slot::dst`] is this, by three comparisons.
    #[inline(always)]
    pub(crate) fn holds(&self, dst: OrigDst) -> bool {
        let there = self.dst_words();
        // SAFETY: 24 bytes without padding.
        let wanted: [u64; 3] = unsafe { core::mem::transmute(dst) };
        usually(there[0] == wanted[0])
            && usually(there[1] == wanted[1])
            && usually(there[2] == wanted[2])
    }

    #[inline(always)]
    fn dst_words(&self) -> [u64; 3] {
        // SAFETY: the pointer is a slot's; 24 bytes without padding, eight-byte aligned.
        unsafe {
            (&raw const (*self.0).dst)
                .cast::<[u64; 3]>()
                .read_volatile()
        }
    }

    #[inline(always)]
    pub(crate) fn touch(&self, now: Tick) {
        // SAFETY: the pointer is a slot's; the field is four aligned bytes.
        unsafe { (&raw mut (*self.0).tenant.last_used).write_volatile(now) }
    }

    /// Takes the slot from the tenant that was seen in it; fails if that has changed, also if its
    /// number has been handed out again.
    #[inline(always)]
    pub(crate) fn claim(&self, seen: Tenant) -> bool {
        let (seen, claimed) = (word(seen), word(Tenant::CLAIMED));
        // SAFETY: the pointer is a slot's; the tenant is eight aligned bytes.
        unsafe {
            atomic::compare_exchange((&raw mut (*self.0).tenant).cast(), seen, claimed) == seen
        }
    }

    /// Only after [`Slot::claim`].
    #[inline(always)]
    pub(crate) fn write(&self, destination: &Destination) {
        // SAFETY: the pointer is a slot's; nobody else writes a claimed slot.
        unsafe {
            (&raw mut (*self.0).dst).write_volatile(destination.dst);
            // As a whole: a number with another one's last use would look free.
            (&raw mut (*self.0).tenant)
                .cast::<u64>()
                .write_volatile(word(destination.tenant));
        }
    }
}

#[inline(always)]
fn word(tenant: Tenant) -> u64 {
    // SAFETY: both are eight bytes without padding.
    unsafe { core::mem::transmute(tenant) }
}

/// Whether the kernel's normal lookup finds the proxy's listeners for redirected IPv4 connections, and nobody
/// has bound to their port since the loader has seen to that.
#[inline(always)]
pub(crate) fn are_found_by_kernel(listeners: Listeners) -> bool {
    let (binds, seen) = (&raw mut BINDS, &raw mut NORMAL_LOOKUP);
    // SAFETY: aligned words, as many as there are kinds of listeners; programs and user space write them
    // whole.
    unsafe {
        let word = |words: *mut u64| {
            global(words)
                .add(listeners.index() as usize)
                .read_volatile()
        };
        word(seen.cast()) == word(binds.cast())
    }
}

/// From now on [`are_found_by_kernel`] is not true any more.
#[inline(always)]
pub(crate) fn count_bind(listeners: Listeners) {
    let binds: *mut u64 = (&raw mut BINDS).cast();
    // SAFETY: eight aligned bytes that live as long as the program.
    unsafe { atomic::increment(binds.add(listeners.index() as usize)) };
}

/// Whether the proxy has a listening socket that could not be registered.
#[inline(always)]
pub(crate) fn has_unregistered(listeners: Listeners) -> bool {
    UNREGISTERED
        .get(listeners.index())
        .is_some_and(|flag| *flag != 0)
}

#[inline(always)]
pub(crate) fn set_unregistered(listeners: Listeners) {
    let _: Result<(), i32> = UNREGISTERED.set(listeners.index(), 1_u32, 0);
}
