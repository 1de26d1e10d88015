//! The policy of a running redirect as rules, and the pod it is in effect in.

use std::path::Path;

use anyhow::{Context as _, Result};
use sidecar_ebpf_common::{
    facts::Owner,
    interface::Interface,
    lists::PortLists,
    maps::DEFAULT_DESTINATIONS,
    policy::{self, Switches},
};

use super::{chain::Policy, pod_view::PodView, subject::Subject};
use crate::{
    cgroup::Cgroup,
    config::{Config, Dns, Inbound, OwnerGroups, Written},
    live::Live,
    netns::Netns,
    owner::IdMap,
};

/// A redirect that some `loader` keeps.
pub struct Running {
    live: Live,
    rules: Policy,
    pod: PodView,
    /// Of the user namespace that owns the pod's network namespace, if the pod has a process.
    ids: Option<IdMap>,
}

impl Running {
    /// That of the pod with this cgroup, or of the pod that a container with this cgroup is in.
    pub fn of(path: &Path) -> Result<Self> {
        let cgroup = Cgroup::open("--cgroup", path)?;
        let live = Live::of(&cgroup)?;
        let processes = cgroup.processes();
        let netns = pod_netns(live.policy(), &processes);
        let (mut pod, mut ids) = (PodView::default(), None);
        if let Some(netns) = &netns {
            pod.interfaces = netns.interfaces()?;
            ids = Some(IdMap::of_owner(netns, &processes)?);
        }
        let rules = Policy {
            config: config(&live, &pod)?,
        };
        Ok(Self {
            live,
            rules,
            pod,
            ids,
        })
    }

    pub fn subject(&self) -> Subject<'_, &Live> {
        Subject {
            policy: *self.live.policy(),
            tables: &self.live,
            rules: &self.rules,
            pod: &self.pod,
            ipv6: self.live.policy().switches.has(Switches::IPV6),
        }
    }

    pub const fn rules(&self) -> &Policy {
        &self.rules
    }

    /// The index of the interface with that name.
    pub fn interface(&self, name: &str) -> Result<Interface> {
        let mut interfaces = self.pod.interfaces.iter();
        let found = interfaces.find(|(known, _)| known == name);
        let names: Vec<_> = self
            .pod
            .interfaces
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        found
            .map(|(_, interface)| *interface)
            .with_context(|| format!("--interface {name}: the pod has {}", names.join(", ")))
    }

    /// Ids as the pod counts them, as the kernel does.
    pub fn owner(&self, owner: Owner) -> Owner {
        self.ids.as_ref().map_or(owner, |ids| Owner {
            uid: ids.uid(owner.uid),
            gid: ids.gid(owner.gid),
        })
    }

    /// Whether only processes of one cgroup can be the proxy.
    pub fn asks_for_proxy_cgroup(&self) -> bool {
        self.live.policy().switches.has(Switches::PROXY_CGROUP)
    }
}

/// The namespace that the policy is for, found by a process that lives in it.
fn pod_netns(policy: &policy::Policy, processes: &[u32]) -> Option<Netns> {
    if !policy.scope.is_known() {
        return None;
    }
    // A process that ended meanwhile says nothing.
    let mut namespaces = processes
        .iter()
        .filter_map(|&pid| Netns::of_process(pid).ok());
    namespaces.find(|netns| {
        netns
            .cookie()
            .is_ok_and(|cookie| policy.scope.covers(cookie))
    })
}

/// The settings that make this policy.
fn config(live: &Live, pod: &PodView) -> Result<Config> {
    let policy = live.policy();
    let has = |switch| policy.switches.has(switch);
    let mut ports = Vec::new();
    for list in [
        PortLists::OUTBOUND_EXCLUDED,
        PortLists::OUTBOUND_INCLUDED,
        PortLists::INBOUND_EXCLUDED,
        PortLists::INBOUND_INCLUDED,
    ] {
        ports.extend(live.ports(list)?.into_iter().map(|port| (port, list)));
    }
    let (excluded, included) = (live.excluded()?, live.included()?);
    let dns = if !has(Switches::DNS) {
        Dns::Off
    } else if has(Switches::DNS_ALL) {
        Dns::All
    } else {
        Dns::Servers(live.dns_servers()?.into_iter().map(Into::into).collect())
    };
    let excluded_interfaces = policy.excluded_interfaces.iter().map(|index| {
        let name = pod.name(Interface(index)).map(str::to_owned);
        name.unwrap_or_else(|| format!("if{index}"))
    });
    Ok(Config {
        uids: policy.uids,
        gids: policy.gids,
        owner_groups: if has(Switches::GROUPS_INCLUDED) {
            OwnerGroups::Included(policy.groups)
        } else if has(Switches::GROUPS_EXCLUDED) {
            OwnerGroups::Excluded(policy.groups)
        } else {
            OwnerGroups::All
        },
        outbound_port: policy.outbound_port,
        inbound_port: policy.inbound_port,
        tunnel_port: policy.tunnel_port,
        written: Written::numerical(&ports, &excluded, &included),
        ports,
        excluded,
        included,
        outbound_all: has(Switches::OUTBOUND_ALL),
        loopback_included: has(Switches::LOOPBACK_INCLUDED),
        inbound: if has(Switches::INBOUND_ALL) {
            Inbound::All
        } else if has(Switches::INBOUND_PORTS) {
            Inbound::Ports
        } else {
            Inbound::Off
        },
        loopback: policy.loopback.range(),
        excluded_interfaces: excluded_interfaces.collect(),
        dns,
        dual_stack: has(Switches::IPV6),
        destinations: DEFAULT_DESTINATIONS,
        hold: policy.hold,
        notes: vec![],
    })
}
