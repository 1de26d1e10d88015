//! One pod for each leg, all alike: the network of [`super::map`], the servers, and a prober for
//! each owner case.

use std::{collections::BTreeMap, fs, path::Path};

use super::{
    dialog::Dialog,
    map::{
        self, NET1_IP, NET1_IP6, NET1_REMOTE_IP, NET1_REMOTE_IP6, PASSTHROUGH_IP6, SECOND_IP,
        SECOND_IP6,
    },
    owners::CASES,
    probe::Probe,
    wire::{Observation, Order, Role},
};
use crate::{
    netns::{inside, ip, ip_inside},
    pod::Pod,
};
use anyhow::{Context as _, Result};
use sidecar_ebpf_common::facts::Owner;

/// A pod with everything in it but rules.
pub(crate) struct World {
    probers: BTreeMap<Option<&'static str>, Dialog>,
    _servers: Vec<Dialog>,
    agent: Option<(Owner, Dialog)>,
    has_passthrough: bool,
    // Last: the processes end before their cgroups are removed.
    pub(crate) pod: Pod,
}

impl World {
    pub(crate) fn new(hint: &str) -> Result<Self> {
        let pod = Pod::new(hint)?;
        lay_network(&pod).context("building the network of a conformance run")?;
        let serve = |place, services| Dialog::start(&place, &Role::Serve(services));
        let servers = vec![
            serve(pod.app(), map::application())?,
            serve(pod.proxy(), map::proxy())?,
            serve(pod.remote(), map::remote())?,
        ];
        let mut probers = BTreeMap::new();
        for case in CASES {
            // It becomes its owner by itself, in its own way.
            let place = pod.app().user(0, 0);
            let role = Role::Probe(Some(case.name.to_owned()));
            probers.insert(Some(case.name), Dialog::start(&place, &role)?);
        }
        probers.insert(None, Dialog::start(&pod.remote(), &Role::Probe(None))?);
        Ok(Self {
            probers,
            _servers: servers,
            agent: None,
            has_passthrough: false,
            pod,
        })
    }

    /// Makes the probes, each with its own local port, and returns what became of each.
    pub(crate) fn probe(&mut self, probes: &[(&Probe, u16)]) -> Result<Vec<Observation>> {
        let mut by_owner: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for (at, (probe, _)) in probes.iter().enumerate() {
            by_owner
                .entry(probe.owner.map(|case| case.name))
                .or_default()
                .push(at);
        }
        let mut done = vec![Observation::default(); probes.len()];
        for (owner, places) in by_owner {
            let prober = self
                .probers
                .get_mut(&owner)
                .context("an owner without a prober")?;
            let orders: Vec<Order> = places
                .iter()
                .filter_map(|&at| probes.get(at))
                .map(|(probe, port)| Order {
                    probe: probe.to_string(),
                    port: *port,
                })
                .collect();
            let observed: Vec<Observation> = prober.ask(&orders)?;
            for (at, observation) in places.into_iter().zip(observed) {
                if let Some(place) = done.get_mut(at) {
                    *place = observation;
                }
            }
        }
        Ok(done)
    }

    /// The proxy's agent, which answers DNS queries, runs as this owner.
    pub(crate) fn set_agent(&mut self, owner: Owner) -> Result<()> {
        if self
            .agent
            .as_ref()
            .is_none_or(|(current, _)| *current != owner)
        {
            // The old one frees its ports first.
            self.agent = None;
            let place = self.pod.proxy().user(owner.uid, owner.gid);
            let agent = Dialog::start(&place, &Role::Serve(map::agent()))?;
            self.agent = Some((owner, agent));
        }
        Ok(())
    }

    /// `::6`, which istio-iptables puts on lo where IPv6 has rules.
    pub(crate) fn set_passthrough(&mut self, wanted: bool) -> Result<()> {
        if wanted != self.has_passthrough {
            let verb = if wanted { "add" } else { "del" };
            let nodad = if wanted { " nodad" } else { "" };
            self.pod.ip(&format!(
                "addr {verb} {PASSTHROUGH_IP6}/128 dev lo{nodad}\n"
            ))?;
            self.has_passthrough = wanted;
        }
        Ok(())
    }
}

fn lay_network(pod: &Pod) -> Result<()> {
    let (name, remote) = (pod.name(), format!("{}-remote", pod.name()));
    for namespace in [pod.netns_path(), pod.remote_netns_path()] {
        // An answer may take another way than the question.
        inside(&namespace, || {
            for interface in ["all", "default", "eth0"] {
                let file = format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter");
                fs::write(&file, "0").with_context(|| format!("writing {file}"))?;
            }
            // Each datagram to a port where nobody listens is answered.
            for (file, value) in [
                ("ipv4/icmp_ratelimit", "0"),
                ("ipv4/icmp_msgs_per_sec", "1000000"),
                ("ipv4/icmp_msgs_burst", "1000000"),
                ("ipv6/icmp/ratelimit", "0"),
            ] {
                let file = format!("/proc/sys/net/{file}");
                // Older kernels have some of them for the whole machine, generous enough.
                if Path::new(&file).exists() {
                    fs::write(&file, value).with_context(|| format!("writing {file}"))?;
                }
            }
            anyhow::Ok(())
        })??;
    }
    ip(
        None,
        &format!("link add net1 netns {name} type veth peer name net1 netns {remote}\n"),
    )?;
    pod.add_address(SECOND_IP.into())?;
    pod.add_address(SECOND_IP6.into())?;
    pod.ip(&format!(
        "link set net1 up\naddr add {NET1_IP}/24 dev net1\naddr add {NET1_IP6}/64 dev net1 nodad\n"
    ))?;
    // A local route in the table `main` leaves the way back to the pod alone.
    let commands = format!(
        "link set net1 up\naddr add {NET1_REMOTE_IP}/24 dev net1\n\
         addr add {NET1_REMOTE_IP6}/64 dev net1 nodad\n\
         route add local 0.0.0.0/0 dev lo table main\nroute add local ::/0 dev lo table main\n"
    );
    ip_inside(&pod.remote_netns_path(), ["-batch", "-"], &commands)?;
    Ok(())
}
