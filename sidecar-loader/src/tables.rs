//! Typed handles to the maps, and the one place that writes them.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::Range,
    os::fd::AsFd,
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, lpm_trie::Key},
};
use sidecar_ebpf_common::{
    addr::{Ip, OrigDst, Port, Prefix},
    counter::Counter,
    interface::{Interface, Route},
    listen::{Binds, NormalLookup},
    lists::{PortGroup, PortLists},
    maps::{self, Listeners},
    number::{Dealt, Number},
    policy::Policy,
};

use crate::sys;

pub struct Tables {
    policy: Array<MapData, Policy>,
    ports: Array<MapData, PortGroup>,
    included: LpmTrie<MapData, Ip, u32>,
    excluded: LpmTrie<MapData, Ip, u32>,
    locals: Mirrored<Interface>,
    routes: Mirrored<Route>,
    dns_servers: HashMap<MapData, Ip, u32>,
    numbers: HashMap<MapData, OrigDst, Number>,
    dealt: Array<MapData, Dealt>,
    listeners: MapData,
    binds: Array<MapData, Binds>,
    normal_lookup: Array<MapData, NormalLookup>,
    unregistered: Array<MapData, u32>,
    asleep: Array<MapData, u32>,
    counters: PerCpuArray<MapData, u64>,
    destination_max: u64,
}

impl Tables {
    pub fn take(ebpf: &mut Ebpf, destinations: u32) -> Result<Self> {
        macro_rules! map {
            ($kind:ident, $name:expr) => {
                $kind::try_from(
                    ebpf.take_map($name)
                        .with_context(|| format!("no map {}", $name))?,
                )
                .with_context(|| format!("map {}", $name))?
            };
        }
        let Some(Map::SockMap(listeners)) = ebpf.take_map(maps::LISTENERS) else {
            bail!("no socket map {}", maps::LISTENERS);
        };
        Ok(Self {
            policy: map!(Array, maps::POLICY),
            ports: map!(Array, maps::PORTS),
            included: map!(LpmTrie, maps::INCLUDED),
            excluded: map!(LpmTrie, maps::EXCLUDED),
            locals: Mirrored::new(map!(LpmTrie, maps::LOCALS)),
            routes: Mirrored::new(map!(LpmTrie, maps::ROUTES)),
            dns_servers: map!(HashMap, maps::DNS_SERVERS),
            numbers: map!(HashMap, maps::NUMBERS),
            dealt: map!(Array, maps::DEALT),
            listeners,
            binds: map!(Array, maps::BINDS),
            normal_lookup: map!(Array, maps::NORMAL_LOOKUP),
            unregistered: map!(Array, maps::UNREGISTERED),
            asleep: map!(Array, maps::ASLEEP),
            counters: map!(PerCpuArray, maps::COUNTERS),
            destination_max: u64::from(destinations),
        })
    }

    pub fn set_policy(&mut self, policy: &Policy) -> Result<()> {
        self.policy.set(0, policy, 0).context("writing the policy")
    }

    pub fn set_ports(&mut self, lists: &[(Port, PortLists)]) -> Result<()> {
        let mut groups = BTreeMap::<u32, PortGroup>::new();
        for &(port, list) in lists {
            groups
                .entry(PortGroup::index(port))
                .or_default()
                .add(port, list);
        }
        for (index, group) in groups {
            self.ports
                .set(index, group, 0)
                .context("writing the port lists")?;
        }
        Ok(())
    }

    pub fn set_ranges(&mut self, included: &[Prefix], excluded: &[Prefix]) -> Result<()> {
        for prefix in included {
            insert(&mut self.included, prefix).context("writing the included ranges")?;
        }
        for prefix in excluded {
            insert(&mut self.excluded, prefix).context("writing the excluded ranges")?;
        }
        Ok(())
    }

    pub fn set_locals(&mut self, locals: BTreeMap<Prefix, Interface>) -> Result<()> {
        self.locals
            .become_equal_to(locals)
            .context("mirroring the local addresses")
    }

    pub fn set_routes(&mut self, routes: BTreeMap<Prefix, Route>) -> Result<()> {
        self.routes
            .become_equal_to(routes)
            .context("mirroring the routes")
    }

    /// Makes the map of DNS servers equal to `servers`: new ones first, as above.
    pub fn set_dns_servers(&mut self, servers: &BTreeSet<Ip>) -> Result<()> {
        for server in servers {
            self.dns_servers
                .insert(server, 1, 0)
                .context("writing the DNS servers")?;
        }
        let known: Vec<Ip> = self.dns_servers.keys().flatten().collect();
        for server in known.iter().filter(|server| !servers.contains(server)) {
            match self.dns_servers.remove(server) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(error).context("forgetting a DNS server"),
            }
        }
        Ok(())
    }

    pub fn local_count(&self) -> usize {
        self.locals.held.len()
    }

    /// Enters a listening socket of the proxy in a slot that is free; `false` if it is not.
    pub fn set_listener(&mut self, slot: u32, socket: impl AsFd) -> io::Result<bool> {
        match sys::sockmap_insert(self.listeners.fd(), slot, socket) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The cookie of the socket that listens in a slot.
    pub fn listener(&self, slot: u32) -> Result<Option<u64>> {
        sys::sockmap_cookie(self.listeners.fd(), slot)
            .with_context(|| format!("looking at slot {slot} of the listeners"))
    }

    /// The cookies of all sockets that are registered.
    pub fn registered(&self) -> Result<BTreeSet<u64>> {
        self.taken(0..Listeners::SLOTS * Listeners::ALL.len() as u32)
            .map(|taken| Ok(taken?.1))
            .collect()
    }

    /// The sockets that are registered for a port, by slot and cookie.
    pub fn registered_at(&self, listeners: Listeners) -> Result<Vec<(u32, u64)>> {
        let first = listeners.first_slot();
        self.taken(first..first + Listeners::SLOTS).collect()
    }

    /// How many are registered for each of the proxy's ports.
    pub fn listener_counts(&self) -> Result<Vec<(Listeners, u64)>> {
        let count = |listeners| Ok((listeners, self.registered_at(listeners)?.len() as u64));
        Listeners::ALL.into_iter().map(count).collect()
    }

    fn taken(&self, slots: Range<u32>) -> impl Iterator<Item = Result<(u32, u64)>> {
        slots.filter_map(|slot| {
            let cookie = self.listener(slot).transpose()?;
            Some(cookie.map(|cookie| (slot, cookie)))
        })
    }

    /// How many sockets have bound to the proxy's ports.
    pub fn binds(&self) -> Result<Binds> {
        self.binds
            .get(&0, 0)
            .context("reading how many sockets have bound to the proxy's ports")
    }

    /// Says where the kernel's normal lookup finds the proxy's listeners.
    pub fn set_normal_lookup(&mut self, ports: NormalLookup) -> Result<()> {
        self.normal_lookup
            .set(0, ports, 0)
            .context("writing where the kernel finds the proxy's listeners")
    }

    /// Whether a socket listens, be it one that no slot takes. Slots fill from both ends.
    pub fn has_listener(&self, listeners: Listeners) -> Result<bool> {
        let (first, last) = (listeners.first_slot(), Listeners::SLOTS - 1);
        for i in 0..=last / 2 {
            if self.listener(first + i)?.is_some() || self.listener(first + last - i)?.is_some() {
                return Ok(true);
            }
        }
        self.has_unregistered(listeners)
    }

    /// Whether the programs tell of the next connection for which there is no listener.
    pub fn set_asleep(&mut self, asleep: bool) -> Result<()> {
        self.asleep
            .set(0, u32::from(asleep), 0)
            .context("asking to be woken")
    }

    pub fn has_unregistered(&self, listeners: Listeners) -> Result<bool> {
        let flag = self.unregistered.get(&listeners.index(), 0);
        Ok(flag.context("reading which listeners cannot be registered")? != 0)
    }

    /// Says that the proxy has a listening socket that no slot takes.
    pub fn set_unregistered(&mut self, listeners: Listeners) -> Result<()> {
        self.unregistered
            .set(listeners.index(), 1, 0)
            .context("noting a listener that cannot be registered")
    }

    /// How many destinations have a number now.
    pub fn destination_count(&self) -> usize {
        self.numbers.keys().flatten().count()
    }

    /// How many destinations can have one.
    pub fn destination_max(&self) -> u64 {
        self.destination_max
    }

    pub fn numbers_handed_out(&self) -> Result<u64> {
        let dealt = self
            .dealt
            .get(&0, 0)
            .context("reading the number counter")?;
        Ok(dealt.handed_out)
    }

    /// Every counter by [`Counter::index`], summed over the CPUs.
    pub fn counters(&self) -> Result<Vec<u64>> {
        (0..Counter::COUNT).map(|index| self.sum(index)).collect()
    }

    pub fn counter(&self, counter: Counter) -> Result<u64> {
        self.sum(counter.index())
    }

    fn sum(&self, index: u32) -> Result<u64> {
        let values = self.counters.get(&index, 0);
        Ok(values.context("reading the counters")?.iter().sum())
    }
}

/// A trie that follows something outside.
struct Mirrored<V: Pod> {
    trie: LpmTrie<MapData, Ip, V>,
    held: BTreeMap<Prefix, V>,
}

impl<V: Pod + PartialEq> Mirrored<V> {
    fn new(trie: LpmTrie<MapData, Ip, V>) -> Self {
        Self {
            trie,
            held: BTreeMap::new(),
        }
    }

    /// What is new comes first, so that a prefix that stays is never missing.
    fn become_equal_to(&mut self, wanted: BTreeMap<Prefix, V>) -> Result<(), MapError> {
        for (prefix, value) in &wanted {
            if self.held.get(prefix) != Some(value) {
                self.trie.insert(&key(prefix), *value, 0)?;
                self.held.insert(*prefix, *value);
            }
        }
        for prefix in self.held.keys() {
            if !wanted.contains_key(prefix) {
                match self.trie.remove(&key(prefix)) {
                    Ok(()) | Err(MapError::KeyNotFound) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        self.held = wanted;
        Ok(())
    }
}

fn key(prefix: &Prefix) -> Key<Ip> {
    Key::new(prefix.trie_bits(), prefix.ip)
}

fn insert(trie: &mut LpmTrie<MapData, Ip, u32>, prefix: &Prefix) -> Result<(), MapError> {
    trie.insert(&key(prefix), 1, 0)
}

/// A panic elsewhere leaves what is locked here as valid as it was: each write is whole.
pub fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
