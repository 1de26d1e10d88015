//! A pod as the rules see it, and the programs' tables for it, made from plain lists.

use std::net::IpAddr;

use sidecar_ebpf_common::{
    addr::{Ip, OrigDst, Port, Prefix},
    facts::{Inbound, Outbound, Owner, Protocol, Socket, Tables},
    interface::Interface,
    lists::{Interfaces, PortGroup, PortLists},
    policy::{Policy, Scope, Surroundings, Switches},
};

use super::matches::{Facts, InterfaceName, Range};
use crate::config::{Config, Dns};

/// Interfaces, addresses and routes of a pod. Loopback addresses need not be named.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PodView {
    pub interfaces: Vec<(String, Interface)>,
    /// Addresses of the pod, each with the interface that has it.
    pub locals: Vec<(IpAddr, Interface)>,
    /// Where other addresses lead. The longest range counts.
    pub routes: Vec<(Range, Interface)>,
}

impl Default for PodView {
    /// A pod without any address but loopback.
    fn default() -> Self {
        Self {
            interfaces: vec![("lo".to_owned(), Interface::LO)],
            locals: vec![],
            routes: vec![],
        }
    }
}

impl PodView {
    /// The index of the interface with this name; made up if it is new.
    pub fn interface(&mut self, name: &str) -> Interface {
        let known = self.interfaces.iter().find(|(known, _)| known == name);
        if let Some((_, interface)) = known {
            return *interface;
        }
        let last = self.interfaces.iter().map(|(_, interface)| interface.0);
        let next = Interface(last.max().unwrap_or(Interface::LO.0) + 1);
        self.interfaces.push((name.to_owned(), next));
        next
    }

    pub fn name(&self, interface: Interface) -> Option<&str> {
        let mut interfaces = self.interfaces.iter();
        let found = interfaces.find(|(_, known)| *known == interface);
        found.map(|(name, _)| name.as_str())
    }

    /// The interfaces whose names are excluded; `None` if there are too many for the programs.
    pub fn excluded(&self, config: &Config) -> Option<Interfaces> {
        let is_excluded = |name: &str| {
            let mut patterns = config.excluded_interfaces.iter();
            patterns.any(|pattern| InterfaceName(pattern.clone()).matches(name))
        };
        let excluded = self.interfaces.iter().filter(|(name, _)| is_excluded(name));
        let indices: Vec<_> = excluded.map(|(_, interface)| interface.0).collect();
        Interfaces::new(&indices)
    }

    /// The policy that the programs would have in this pod; `None` if it does not fit.
    pub fn policy(&self, config: &Config, ipv6: bool) -> Option<Policy> {
        let surroundings = Surroundings {
            excluded_interfaces: self.excluded(config)?,
            ..Surroundings::new(Scope::only(1))
        };
        let mut settings = config.settings(ipv6);
        settings.switches = settings.switches.with_if(
            surroundings.excluded_interfaces != Interfaces::EMPTY,
            Switches::INTERFACES,
        );
        Some(Policy::new(surroundings, settings))
    }

    fn interface_with(&self, addr: IpAddr) -> Interface {
        let mut locals = self.locals.iter();
        let found = locals.find(|(local, _)| *local == addr);
        found.map_or(Interface::NONE, |(_, interface)| *interface)
    }

    fn interface_towards(&self, addr: IpAddr) -> Interface {
        let leads_there = self.routes.iter().filter(|(range, _)| range.contains(addr));
        let longest = leads_there.max_by_key(|(range, _)| range.len);
        longest.map_or(Interface::NONE, |(_, interface)| *interface)
    }

    /// What the rules ask about a connection or a datagram. `asked` may be 0.0.0.0 or `::`.
    pub fn outbound_facts(&self, socket: Socket, asked: OrigDst, tables: &impl Tables) -> Facts {
        let flow = Outbound::new(socket, asked);
        let to_local = flow.is_to_lo(tables);
        let dst = flow.dst().ip;
        let out = match socket.device {
            _ if to_local => Interface::LO,
            Interface::NONE => tables.interface_towards(&dst),
            device => device,
        };
        Facts {
            protocol: socket.protocol,
            to_local,
            device: self.name(socket.device).map(str::to_owned),
            out_interface: self.name(out).map(str::to_owned),
            in_interface: None,
            source: flow.known_source(to_local).map(IpAddr::from),
            dst: dst.into(),
            port: asked.port.0,
            owner: socket.owner,
        }
    }

    /// What the rules ask about a connection from outside.
    pub fn inbound_facts(&self, flow: &Inbound) -> Facts {
        Facts {
            protocol: Protocol::Tcp,
            to_local: true,
            device: None,
            out_interface: None,
            in_interface: self.name(flow.interface).map(str::to_owned),
            source: None,
            dst: flow.dst.into(),
            port: flow.port.0,
            owner: Owner::NOBODY,
        }
    }
}

/// The programs' tables for these settings in this pod.
#[derive(Clone, Copy, Debug)]
pub struct Lists<'a> {
    pub config: &'a Config,
    pub pod: &'a PodView,
}

impl Tables for Lists<'_> {
    fn port_lists(&self, port: Port) -> PortLists {
        let mut group = PortGroup::default();
        for &(_, list) in self.config.ports.iter().filter(|entry| entry.0 == port) {
            group.add(port, list);
        }
        group.get(port)
    }

    fn is_excluded(&self, ip: &Ip) -> bool {
        any_contains(&self.config.excluded, ip)
    }

    fn is_included(&self, ip: &Ip) -> bool {
        any_contains(&self.config.included, ip)
    }

    fn is_dns_server(&self, ip: &Ip) -> bool {
        match &self.config.dns {
            Dns::Off | Dns::ServersOfPod => false,
            Dns::Servers(servers) => servers.contains(&(*ip).into()),
            Dns::All => true,
        }
    }

    fn interface_with(&self, ip: &Ip) -> Interface {
        self.pod.interface_with((*ip).into())
    }

    fn interface_towards(&self, ip: &Ip) -> Interface {
        self.pod.interface_towards((*ip).into())
    }
}

fn any_contains(ranges: &[Prefix], ip: &Ip) -> bool {
    let addr = IpAddr::from(*ip);
    ranges.iter().any(|prefix| range(prefix).contains(addr))
}

fn range(prefix: &Prefix) -> Range {
    Range {
        addr: prefix.ip.into(),
        len: u8::try_from(prefix.len).unwrap_or(u8::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::{Job, PolicyArgs, tests::parsed};

    fn config() -> Config {
        let Ok(Job::Redirect(cli)) = parsed(&["--cgroup", "pod"]) else {
            panic!("no main job")
        };
        let args = PolicyArgs {
            istio: cli.istio,
            unsupported: cli.unsupported,
        };
        args.resolve(&|_| None).unwrap()
    }

    fn range(text: &str, len: u8) -> Range {
        let addr = text.parse().unwrap();
        Range { addr, len }
    }

    #[test]
    fn the_longest_route_counts() {
        let mut pod = PodView::default();
        let [eth0, eth1] = ["eth0", "eth1"].map(|name| pod.interface(name));
        pod.routes = vec![
            (range("0.0.0.0", 0), eth0),
            (range("192.168.7.0", 24), eth1),
            (range("192.168.0.0", 16), eth0),
        ];
        let towards = |text: &str| pod.interface_towards(text.parse().unwrap());
        assert_eq!(towards("192.168.7.9"), eth1);
        assert_eq!(towards("192.168.8.9"), eth0);
        assert_eq!(towards("8.8.8.8"), eth0);
        assert_eq!(towards("::9"), Interface::NONE);
    }

    #[test]
    fn interfaces_keep_their_index_and_lo_has_the_kernel_s() {
        let mut pod = PodView::default();
        assert_eq!(pod.interface("lo"), Interface::LO);
        let eth0 = pod.interface("eth0");
        assert_ne!(eth0, Interface::LO);
        assert_eq!(pod.interface("eth0"), eth0);
        assert_ne!(pod.interface("eth1"), eth0);
        assert_eq!(pod.name(eth0), Some("eth0"));
        assert_eq!(pod.name(Interface::NONE), None);
    }

    #[test]
    fn names_and_patterns_exclude_the_interfaces_that_are_there() {
        let mut pod = PodView::default();
        let indices = ["eth0", "net1", "net2"].map(|name| pod.interface(name).0);
        let mut config = config();
        config.excluded_interfaces = vec!["net+".to_owned(), "missing".to_owned()];
        let excluded: Vec<_> = pod.excluded(&config).unwrap().iter().collect();
        assert_eq!(excluded, indices[1..]);
        for number in 0..20 {
            pod.interface(&format!("network{number}"));
        }
        assert_eq!(pod.excluded(&config), None, "more than the programs take");
    }
}
