//! nft takes the script, and the kernel counts as [`walk`] does.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, UdpSocket},
    process,
};

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

use super::*;
use crate::{
    Cleanup,
    conformance::rules::{Hook, Packet, Protocol, walk},
    netns,
    process::run,
};

/// One of each thing that Istio writes; both families have the same, but for their addresses.
const RULES: &str = "\
*nat
-N ISTIO_REDIRECT
-N ISTIO_IN_REDIRECT
-N ISTIO_OUTPUT
-N ISTIO_OUTPUT_DNS
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006
-A OUTPUT -o not+ -j RETURN
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -p tcp --dport 5432 -j RETURN
-A ISTIO_OUTPUT -p udp --dport 6000:6001 -j RETURN
-A ISTIO_OUTPUT -o lo -s SOURCE -j RETURN
-A ISTIO_OUTPUT -o lo ! -d LOOPBACK -p tcp -m multiport ! --dports 53,15008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -o lo -p tcp ! --dport 53 -m owner ! --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner ! --gid-owner 0 -m owner ! --gid-owner 7-9 -j RETURN
-A ISTIO_OUTPUT -j ISTIO_OUTPUT_DNS
-A ISTIO_OUTPUT_DNS -p tcp --dport 53 -j REDIRECT --to-ports 15053
-A ISTIO_OUTPUT_DNS -p udp --dport 53 -j REDIRECT --to-ports 15053
-A ISTIO_OUTPUT -d LOOPBACK -j RETURN
-A ISTIO_OUTPUT -j ISTIO_REDIRECT
COMMIT
*raw
-N ISTIO_OUTPUT_DNS
-A ISTIO_OUTPUT_DNS -p udp --dport 53 -m owner --uid-owner 1337 -j CT --zone 1
-A OUTPUT -p udp -m multiport --dports 53,6000 -j ISTIO_OUTPUT_DNS
-A ISTIO_OUTPUT_DNS -p udp --dport 53 -j CT --zone 2
COMMIT
";

/// A namespace with an address of each family and a way out that leads nowhere.
struct Place {
    name: String,
    _cleanup: Cleanup,
}

impl Place {
    fn new(purpose: &str) -> Self {
        let name = format!("lab-nft-{purpose}-{}", process::id());
        let gone = name.clone();
        let cleanup = Cleanup::register(move || drop(netns::delete(&gone)));
        netns::ip(None, &format!("netns add {name}\n")).unwrap();
        let inside = "link set lo up\n\
             link add out type veth peer name nowhere\n\
             link set out up\n\
             link set nowhere up\n\
             addr add 192.0.2.1/24 dev out\n\
             addr add 2001:db8::1/64 dev out nodad\n\
             addr add ::6/128 dev lo nodad\n\
             addr add ::9/128 dev lo nodad\n";
        netns::ip(Some(&name), inside).unwrap();
        Self {
            name,
            _cleanup: cleanup,
        }
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::inside(&netns::path(&self.name), work).unwrap()
    }

    fn counters(&self) -> BTreeMap<(Family, RuleId), u64> {
        let listing = self
            .inside(|| run("nft", ["-j", "list", "ruleset"], ""))
            .unwrap();
        counters_from_json(&listing).unwrap()
    }
}

struct Probe {
    protocol: Protocol,
    /// What the socket is bound to.
    from: Option<&'static str>,
    to: &'static str,
    port: u16,
    owner: (u32, u32),
}

impl Probe {
    fn address(&self) -> SocketAddr {
        SocketAddr::new(self.to.parse().unwrap(), self.port)
    }

    /// Sends the first packet of a flow and returns the address that it came from. With a port that the kernel
    /// chooses it may be a flow that was there already, which passes no nat table.
    fn send(&self, from_port: u16) -> SocketAddr {
        let address = self.address();
        // Of this thread alone, and sockets are made with these ids.
        setfsgid(Gid::from_raw(self.owner.1));
        setfsuid(Uid::from_raw(self.owner.0));
        let any = if address.is_ipv4() { "0.0.0.0" } else { "::" };
        let bind = SocketAddr::new(self.from.unwrap_or(any).parse().unwrap(), from_port);
        if self.protocol == Protocol::UDP {
            let socket = UdpSocket::bind(bind).unwrap();
            socket.connect(address).unwrap();
            socket.send(b"?").unwrap();
            return socket.local_addr().unwrap();
        }
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(address),
            socket2::Type::STREAM,
            None,
        )
        .unwrap();
        socket.bind(&bind.into()).unwrap();
        socket.set_nonblocking(true).unwrap();
        // Nobody listens anywhere: it is refused, or not answered.
        drop(socket.connect(&address.into()));
        socket.local_addr().unwrap().as_socket().unwrap()
    }

    fn packet(&self, from: SocketAddr) -> Packet {
        let dst: IpAddr = self.address().ip();
        let out = match self.to {
            "192.0.2.9" | "2001:db8::9" => "out",
            _ => "lo",
        };
        Packet {
            protocol: self.protocol,
            src: from.ip(),
            dst,
            sport: from.port(),
            dport: self.port,
            in_interface: None,
            out_interface: Some(out.to_owned()),
            owner: Some(self.owner),
        }
    }
}

fn probes() -> Vec<Probe> {
    let mut probes = Vec::new();
    let places = [
        ("192.0.2.9", None),
        ("192.0.2.1", None),
        ("127.0.0.1", None),
        ("127.0.0.9", None),
        ("127.0.0.9", Some("127.0.0.6")),
        ("2001:db8::9", None),
        ("2001:db8::1", None),
        ("::1", None),
        ("::9", Some("::6")),
    ];
    for (to, from) in places {
        for protocol in [Protocol::TCP, Protocol::UDP] {
            for port in [53, 80, 5432, 6000, 6001, 6002, 15008] {
                for owner in [(0, 0), (1337, 0), (1000, 1337), (1000, 8), (1000, 1000)] {
                    probes.push(Probe {
                        protocol,
                        from,
                        to,
                        port,
                        owner,
                    });
                }
            }
        }
    }
    probes
}

#[test]
fn the_kernel_counts_as_the_walk_does() {
    let v4 = rules(
        &RULES
            .replace("SOURCE", "127.0.0.6")
            .replace("LOOPBACK", "127.0.0.1"),
    );
    let v6 = rules(&RULES.replace("SOURCE", "::6").replace("LOOPBACK", "::1"));
    let place = Place::new("counts");
    let script = to_nft(Some(&v4), Some(&v6)).unwrap();
    // Twice: the second replaces the first.
    for _ in 0..2 {
        place.inside(|| run("nft", ["-f", "-"], &script)).unwrap();
    }

    let mut expected = place.counters();
    assert_eq!(expected.len(), v4.rules().count() + v6.rules().count());
    for (from_port, probe) in (20_000..).zip(probes()) {
        let packet = probe.packet(place.inside(|| probe.send(from_port)));
        let family = Family::of(packet.dst);
        let rules = match family {
            Family::V4 => &v4,
            Family::V6 => &v6,
        };
        for table in ["raw", "nat"] {
            for id in walk(rules, table, Hook::Output, &packet).unwrap().matched {
                *expected.get_mut(&(family, id)).unwrap() += 1;
            }
        }
        let counted = place.counters();
        let differs = expected.iter().find(|(id, count)| counted[id] != **count);
        assert_eq!(differs, None, "{packet:?}: {counted:?}");
    }
    let never: Vec<_> = expected.iter().filter(|(_, count)| **count == 0).collect();
    assert_eq!(
        never.len(),
        2,
        "only the interface that is not there: {never:?}"
    );
}

/// Also those that Istio does not use, or not in both senses.
#[test]
fn nft_takes_every_condition() {
    let conditions = [
        "-s 10.0.0.0/8",
        "-d 10.0.0.1",
        "-i in+",
        "-o out",
        "-p icmp",
        "-p sctp",
        "-p tcp --sport 1",
        "-p udp --dport 1:2",
        "-p tcp -m multiport --sports 1,3:4",
        "-p udp -m multiport --dports 1",
        "-m owner --uid-owner 1-3",
        "-m owner --gid-owner 1",
        "-m mark --mark 1",
        "-m mark --mark 0x10/0xf0",
        "-m connmark --mark 1",
        "-m conntrack --ctstate NEW",
        "-m conntrack --ctstate RELATED,ESTABLISHED",
    ];
    let mut text = "*mangle\n".to_owned();
    for condition in conditions {
        let (chain, flag) = match condition.contains("-i ") {
            true => ("PREROUTING", condition),
            false => ("OUTPUT", condition),
        };
        // The last flag is the one that takes a value.
        let at = flag.rfind(" -").map_or(0, |blank| blank + 1);
        let (before, last) = flag.split_at(at);
        text += &format!("-A {chain} {flag} -j ACCEPT\n-A {chain} {before}! {last} -j DROP\n");
    }
    text += "COMMIT\n";
    let rules = rules(&text);
    let place = Place::new("takes");
    let script = to_nft(Some(&rules), None).unwrap();
    place.inside(|| run("nft", ["-f", "-"], &script)).unwrap();
    assert_eq!(place.counters().len(), 2 * conditions.len());
}
