//! The pod as it is: its network namespace, what is followed there, and what the policy becomes by
//! it.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use sidecar_ebpf_common::{
    addr::Prefix,
    interface::{Interface, Route},
    lists::{Interfaces, MAX_INTERFACES},
    policy::{Own, Scope, Settings, Surroundings, Switches},
};

use crate::{
    cgroup::Cgroup,
    config::{Config, Dns},
    dns::Capture,
    netns::Netns,
    network::{Ipv6Rules, Network, View},
    owner::IdMap,
};

/// A pod whose network namespace is known.
pub struct Pod {
    pub netns: Netns,
    pub cookie: u64,
    network: Network,
    ids: IdMap,
    ipv6_rules: Ipv6Rules,
    dns: Option<Capture>,
    /// It has been looked at once.
    is_entered: bool,
    /// The names of interfaces that should be excluded and cannot be.
    not_excluded: String,
}

/// What a look at the pod has shown, for the tables.
pub struct Seen {
    pub surroundings: Surroundings,
    pub settings: Settings,
    pub locals: BTreeMap<Prefix, Interface>,
    pub routes: BTreeMap<Prefix, Route>,
    pub dns: Capture,
}

impl Pod {
    /// Begins to follow what happens in the namespace.
    pub fn enter(netns: Netns, cgroup: &Cgroup) -> Result<Self> {
        let cookie = netns.cookie()?;
        let ids = IdMap::of_owner(&netns, &cgroup.processes())
            .with_context(|| format!("translating the ids of {netns}"))?;
        let network = Network::open(&netns)?;
        Ok(Self {
            netns,
            cookie,
            network,
            ids,
            ipv6_rules: Ipv6Rules::Undecided,
            dns: None,
            is_entered: false,
            not_excluded: String::new(),
        })
    }

    /// Whether the pod's resolv.conf is there now, or another one: the first process of a container
    /// may still see the files of the node.
    pub fn has_other_dns_servers(&self, config: &Config, cgroup: &Cgroup) -> bool {
        config.dns == Dns::ServersOfPod && Some(Capture::find(&config.dns, cgroup)) != self.dns
    }

    /// Waits until its addresses, interfaces or routes may have changed.
    pub async fn changed(&mut self) {
        self.network.changed().await;
    }

    /// Removes what was added to the namespace.
    pub async fn leave(self) -> Result<()> {
        let removed = self.network.remove().await;
        removed.with_context(|| self.netns.to_string())
    }

    /// Reads addresses, interfaces, routes and DNS servers, and adds the routes and addresses that
    /// are missing.
    pub async fn look(&mut self, config: &Config, cgroup: &Cgroup) -> Result<Seen> {
        let mut view = self.network.view().await?;
        self.ipv6_rules = self.ipv6_rules.decide(&view, config.dual_stack);
        match self.network.install(&view, self.ipv6_rules.exist()).await {
            Ok(true) => view = self.network.view().await?,
            Ok(false) => {}
            // An address may still be tentative, or lo down: the next change tries again. Until
            // then IPv4 works with 127.0.0.1 as source, and IPv6 is refused.
            Err(error) => log::warn!("{}: {error:#}", self.netns),
        }
        let dns = Capture::find(&config.dns, cgroup);
        if config.dns == Dns::ServersOfPod && self.dns.as_ref() != Some(&dns) {
            dns.report();
        }
        let excluded = self.excluded_interfaces(config, &view)?;
        let reads_interfaces = excluded != Interfaces::EMPTY;
        let mirror = self.network.mirror(&view, reads_interfaces).await?;
        let mut surroundings = Surroundings::new(Scope::only(self.cookie));
        surroundings.sources = view.sources();
        let own = view.own_v4();
        surroundings.own = own.unwrap_or(Own::NONE);
        surroundings.excluded_interfaces = excluded;
        let mut settings = config.settings(self.ipv6_rules.exist());
        settings.uids = self.ids.uids(&settings.uids)?;
        settings.gids = self.ids.gids(&settings.gids)?;
        settings.groups = self.ids.gids(&settings.groups)?;
        settings.switches = settings
            .switches
            .with_if(view.has_ipv6_route(), Switches::IPV6_ROUTE)
            .with_if(reads_interfaces, Switches::INTERFACES)
            .with_if(own.is_some(), Switches::OWN_LISTED)
            .with_if(mirror.sources_differ, Switches::SOURCES)
            .with(dns.switches());
        self.is_entered = true;
        self.dns = Some(dns.clone());
        Ok(Seen {
            surroundings,
            settings,
            locals: view.locals,
            routes: mirror.routes,
            dns,
        })
    }

    /// The interfaces that are excluded now. Too many are an error at first; later the rest of them
    /// is redirected, which is the safe side.
    fn excluded_interfaces(&mut self, config: &Config, view: &View) -> Result<Interfaces> {
        let named = view.interfaces_named(&config.excluded_interfaces);
        let (kept, left_out) = named.split_at(named.len().min(MAX_INTERFACES));
        let left_out: Vec<_> = left_out.iter().map(|(_, name)| *name).collect();
        let left_out = left_out.join(", ");
        if !left_out.is_empty() && left_out != self.not_excluded {
            let what = format!(
                "-c (--istio-exclude-interfaces) means {} interfaces of {}, and at most \
                 {MAX_INTERFACES} can be excluded",
                named.len(),
                self.netns
            );
            if !self.is_entered {
                bail!("{what}; name fewer");
            }
            log::warn!("{what}: not excluded, so redirected: {left_out}");
        }
        self.not_excluded = left_out;
        let indices: Vec<_> = kept.iter().map(|(interface, _)| interface.0).collect();
        Interfaces::new(&indices).context("more interfaces than the policy holds")
    }
}
