//! The network that probes live in: addresses, interfaces, who listens where. What the pods are
//! made of and what predictions are made from are the same lists.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sidecar_ebpf_common::interface::Interface;
use sidecar_loader::cmd::{matches::Range, pod_view::PodView};

use super::{probe::Probe, wire::Service};
use crate::pod::{POD_IP, POD_IP6};

/// A second address on eth0, of each family.
pub(super) const SECOND_IP: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 66);
pub(super) const SECOND_IP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0x66);
/// The pod's addresses on net1, and what is at its other end.
pub(super) const NET1_IP: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 2);
pub(super) const NET1_IP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 2);
pub(super) const NET1_REMOTE_IP: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
pub(super) const NET1_REMOTE_IP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 1);
/// From where the proxy delivers inbound connections; on lo if IPv6 has rules.
pub(super) const PASSTHROUGH_IP6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);

/// Applications and the rest of the world listen here, with TCP and UDP.
pub(super) const PORTS: &[u16] = &[
    22, 53, 80, 443, 3306, 8000, 8050, 8080, 9080, 15008, 15010, 15012, 15020, 15021, 15090, 31000,
    32000,
];
/// Nobody listens here.
pub(super) const DEAD_PORTS: &[u16] = &[81, 9999, 15002];
/// The proxy listens here; which of them is asked depends on the settings.
pub(super) const PROXY_PORTS: &[u16] = &[15001, 15006, 15011, 15016];
pub(super) const DNS_PORT: u16 = 15053;

/// Interfaces as they are numbered in predictions.
pub(super) const ETH0: Interface = Interface(2);
pub(super) const NET1: Interface = Interface(3);

pub(super) const INTERFACES: [(Interface, &str); 3] =
    [(Interface::LO, "lo"), (ETH0, "eth0"), (NET1, "net1")];

pub(super) fn name_of(interface: Interface) -> Option<&'static str> {
    let named = INTERFACES.iter().find(|(index, _)| *index == interface);
    named.map(|(_, name)| *name)
}

/// The pod as `loader explain` sees it; `ipv6` tells whether IPv6 has rules.
pub(crate) fn view(ipv6: bool) -> PodView {
    let interfaces = INTERFACES.map(|(index, name)| (name.to_owned(), index));
    let mut locals: Vec<(IpAddr, Interface)> = vec![
        (POD_IP.into(), ETH0),
        (POD_IP6.into(), ETH0),
        (SECOND_IP.into(), ETH0),
        (SECOND_IP6.into(), ETH0),
        (NET1_IP.into(), NET1),
        (NET1_IP6.into(), NET1),
    ];
    if ipv6 {
        locals.push((PASSTHROUGH_IP6.into(), Interface::LO));
    }
    let range = |addr: IpAddr, len| Range { addr, len };
    PodView {
        interfaces: interfaces.to_vec(),
        locals,
        routes: vec![
            (range(Ipv4Addr::UNSPECIFIED.into(), 0), ETH0),
            (range(Ipv6Addr::UNSPECIFIED.into(), 0), ETH0),
            (range(NET1_IP.into(), 24), NET1),
            (range(NET1_IP6.into(), 64), NET1),
        ],
    }
}

/// The interface that has this address; `ipv6` tells whether IPv6 has rules.
pub(super) fn interface_with(ip: IpAddr, ipv6: bool) -> Interface {
    match ip.to_canonical() {
        ip if ip.is_loopback() => Interface::LO,
        IpAddr::V4(POD_IP | SECOND_IP) | IpAddr::V6(POD_IP6 | SECOND_IP6) => ETH0,
        IpAddr::V4(NET1_IP) | IpAddr::V6(NET1_IP6) => NET1,
        IpAddr::V6(PASSTHROUGH_IP6) if ipv6 => Interface::LO,
        IpAddr::V4(_) | IpAddr::V6(_) => Interface::NONE,
    }
}

/// The interface that leads to an address outside the pod.
pub(super) fn interface_towards(ip: IpAddr) -> Interface {
    let is_net1 = match ip.to_canonical() {
        IpAddr::V4(ip) => ip.octets().starts_with(&[192, 168, 77]),
        IpAddr::V6(ip) => ip.octets().starts_with(&[0xfd, 0, 0, 0x77, 0, 0, 0, 0]),
    };
    if is_net1 { NET1 } else { ETH0 }
}

/// The source that the kernel chooses for a socket that is bound to none.
pub(super) fn source_towards(ip: IpAddr, ipv6: bool) -> IpAddr {
    let local = interface_with(ip, ipv6);
    match ip {
        // Of IPv6 addresses the destination itself suits best.
        IpAddr::V6(_) if local != Interface::NONE => ip,
        IpAddr::V4(_) if ip.is_loopback() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V4(_) if local == NET1 || interface_towards(ip) == NET1 => NET1_IP.into(),
        IpAddr::V4(_) => POD_IP.into(),
        IpAddr::V6(_) if interface_towards(ip) == NET1 => NET1_IP6.into(),
        IpAddr::V6(_) => POD_IP6.into(),
    }
}

/// Who answers where the probe goes without a redirect.
pub(super) fn server_at(probe: &Probe, ipv6: bool) -> Option<String> {
    let to = probe.destination();
    let port = to.port();
    let has_rule_free_server = PORTS.contains(&port);
    if probe.is_outbound() && interface_with(to.ip(), ipv6) == Interface::NONE {
        return is_served_outside(port).then(|| format!("remote:{port}"));
    }
    if port == DNS_PORT {
        let at_home = [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            Ipv6Addr::LOCALHOST.into(),
        ];
        return at_home
            .contains(&to.ip())
            .then(|| server_behind(port))
            .flatten();
    }
    if probe.kind.is_tcp() && PROXY_PORTS.contains(&port) {
        return server_behind(port);
    }
    has_rule_free_server.then(|| format!("app:{port}"))
}

fn is_served_outside(port: u16) -> bool {
    PORTS.contains(&port) || PROXY_PORTS.contains(&port) || port == DNS_PORT
}

/// Who answers behind a redirect to this port.
pub(super) fn server_behind(port: u16) -> Option<String> {
    match port {
        DNS_PORT => Some(format!("dns:{port}")),
        _ => PROXY_PORTS.contains(&port).then(|| format!("proxy:{port}")),
    }
}

const WILDCARDS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    IpAddr::V6(Ipv6Addr::UNSPECIFIED),
];
const LOCALHOSTS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

/// TCP and UDP.
fn both(name: &str, addrs: [IpAddr; 2], ports: Vec<u16>) -> Vec<Service> {
    let of = |udp| Service {
        name: name.to_owned(),
        addrs: addrs.to_vec(),
        ports: ports.clone(),
        udp,
        is_proxy: false,
    };
    vec![of(false), of(true)]
}

pub(crate) fn application() -> Vec<Service> {
    both("app", WILDCARDS, PORTS.to_vec())
}

pub(crate) fn proxy() -> Vec<Service> {
    vec![Service {
        name: "proxy".to_owned(),
        addrs: WILDCARDS.to_vec(),
        ports: PROXY_PORTS.to_vec(),
        udp: false,
        is_proxy: true,
    }]
}

/// The DNS server of the proxy's agent, which is bound to localhost only.
pub(crate) fn agent() -> Vec<Service> {
    both("dns", LOCALHOSTS, vec![DNS_PORT])
}

pub(crate) fn remote() -> Vec<Service> {
    let ports = [PORTS, PROXY_PORTS, &[DNS_PORT]].concat();
    both("remote", WILDCARDS, ports)
}
