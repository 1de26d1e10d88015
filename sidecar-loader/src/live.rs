//! The policy that is in effect in a pod: read from the maps of the programs that are attached to
//! it, whoever attached them. Needs the privilege that attaching needs.

use std::{collections::BTreeMap, fs::File, path::Path};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use aya::{
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, MapInfo, lpm_trie::Key},
    programs::{ProgramInfo, loaded_programs},
};
use sidecar_ebpf_common::{
    LAYOUT_VERSION,
    addr::{Ip, Port, Prefix},
    counter::Hook,
    facts::Tables,
    interface::{Interface, Route},
    lists::{PortGroup, PortLists},
    maps,
    policy::Policy,
};

use crate::{cgroup::Cgroup, program, sys};

/// A running redirect, seen from outside the process that keeps it.
pub struct Live {
    policy: Policy,
    ports: Array<MapData, PortGroup>,
    included: LpmTrie<MapData, Ip, u32>,
    excluded: LpmTrie<MapData, Ip, u32>,
    locals: LpmTrie<MapData, Ip, Interface>,
    routes: LpmTrie<MapData, Ip, Route>,
    dns_servers: HashMap<MapData, Ip, u32>,
}

impl Live {
    /// The redirect of the pod whose cgroup this is, or a cgroup below it.
    pub fn of(cgroup: &Cgroup) -> Result<Self> {
        for path in cgroup.ancestry() {
            if let Some(live) = Self::attached_to(path)? {
                return Ok(live);
            }
        }
        bail!(
            "{}: no redirect is attached to it or above it; is `loader --cgroup` running for this \
             pod?",
            cgroup.path().display()
        )
    }

    fn attached_to(path: &Path) -> Result<Option<Self>> {
        let dir = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        let attached = sys::query_cgroup(dir, program::attach_type(Hook::Connect4))
            .with_context(|| format!("asking which programs are attached to {}", path.display()))?;
        for program in loaded_programs() {
            let program = program.context("listing the loaded programs")?;
            if attached.programs.contains(&program.id())
                && let Some(maps) = Maps::of(&program)?
            {
                let live = maps.open().with_context(|| {
                    format!("reading the maps of the redirect at {}", path.display())
                })?;
                return Ok(Some(live));
            }
        }
        Ok(None)
    }

    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The ports of one list, in order.
    pub fn ports(&self, list: PortLists) -> Result<Vec<Port>> {
        let mut ports = Vec::new();
        for index in 0..PortGroup::GROUPS {
            let group = self
                .ports
                .get(&index, 0)
                .context("reading the port lists")?;
            let first = (index * 16) as u16;
            ports.extend(
                (first..=first | 15)
                    .map(Port)
                    .filter(|&port| group.get(port).has(list)),
            );
        }
        Ok(ports)
    }

    pub fn included(&self) -> Result<Vec<Prefix>> {
        prefixes(self.included.keys()).context("reading the included ranges")
    }

    pub fn excluded(&self) -> Result<Vec<Prefix>> {
        prefixes(self.excluded.keys()).context("reading the excluded ranges")
    }

    pub fn dns_servers(&self) -> Result<Vec<Ip>> {
        let servers: Result<Vec<_>, _> = self.dns_servers.keys().collect();
        servers.context("reading the DNS servers")
    }
}

/// The programs' own tables. A map that cannot be read any more (the pod has gone) has no entries.
impl Tables for Live {
    fn port_lists(&self, port: Port) -> PortLists {
        self.ports
            .get(&PortGroup::index(port), 0)
            .map_or(PortLists::NONE, |group| group.get(port))
    }

    fn is_excluded(&self, ip: &Ip) -> bool {
        self.excluded.get(&full(ip), 0).is_ok()
    }

    fn is_included(&self, ip: &Ip) -> bool {
        self.included.get(&full(ip), 0).is_ok()
    }

    fn is_dns_server(&self, ip: &Ip) -> bool {
        self.dns_servers.get(ip, 0).is_ok()
    }

    fn interface_with(&self, ip: &Ip) -> Interface {
        self.locals.get(&full(ip), 0).unwrap_or(Interface::NONE)
    }

    fn interface_towards(&self, ip: &Ip) -> Interface {
        self.routes
            .get(&full(ip), 0)
            .map_or(Interface::NONE, |route| route.interface)
    }
}

fn full(ip: &Ip) -> Key<Ip> {
    Key::new(Prefix::FULL_BITS, *ip)
}

fn prefixes(
    keys: impl Iterator<Item = Result<Key<Ip>, MapError>>,
) -> Result<Vec<Prefix>, MapError> {
    let mut prefixes: Vec<Prefix> = keys
        .map(|key| key.map(|key| Prefix::new(key.data(), key.prefix_len() - Prefix::FAMILY_BITS)))
        .collect::<Result<_, _>>()?;
    prefixes.sort_unstable();
    Ok(prefixes)
}

/// The maps that a program uses, by name.
struct Maps(BTreeMap<String, u32>);

impl Maps {
    /// `None` if they are not those of a redirect. Another program may go while it is looked at.
    fn of(program: &ProgramInfo) -> Result<Option<Self>> {
        let ids = program
            .map_ids()
            .context("asking for the maps of a program")?
            .unwrap_or_default();
        let maps: BTreeMap<_, _> = ids
            .into_iter()
            .filter_map(|id| {
                let info = MapInfo::from_id(id).ok()?;
                Some((info.name_as_str()?.to_owned(), id))
            })
            .collect();
        let is_ours = [maps::POLICY, maps::NUMBERS, maps::DESTINATIONS]
            .iter()
            .all(|name| maps.contains_key(*name));
        Ok(is_ours.then_some(Self(maps)))
    }

    fn open(&self) -> Result<Live> {
        macro_rules! map {
            ($kind:ident, $name:expr) => {
                $kind::try_from(Map::$kind(self.data($name)?))
                    .map_err(|error| other_version($name, error))?
            };
        }
        let policy: Array<MapData, Policy> = map!(Array, maps::POLICY);
        let policy = policy.get(&0, 0).context("reading the policy")?;
        ensure!(
            policy.layout == LAYOUT_VERSION,
            "its maps have layout {}, this program reads {LAYOUT_VERSION}: use the `loader` that is \
             running",
            policy.layout
        );
        Ok(Live {
            policy,
            ports: map!(Array, maps::PORTS),
            included: map!(LpmTrie, maps::INCLUDED),
            excluded: map!(LpmTrie, maps::EXCLUDED),
            locals: map!(LpmTrie, maps::LOCALS),
            routes: map!(LpmTrie, maps::ROUTES),
            dns_servers: map!(HashMap, maps::DNS_SERVERS),
        })
    }

    fn data(&self, name: &str) -> Result<MapData> {
        let id = *self
            .0
            .get(name)
            .with_context(|| format!("it has no map {name}: use the `loader` that is running"))?;
        MapData::from_id(id).with_context(|| format!("opening map {name} ({id})"))
    }
}

fn other_version(name: &str, error: MapError) -> anyhow::Error {
    anyhow!("map {name} is of another version ({error}): use the `loader` that is running")
}
