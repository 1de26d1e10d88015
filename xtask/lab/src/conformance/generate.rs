//! Random configurations and random probes.

use std::net::{IpAddr, SocketAddr};

use super::{
    config::{Config, Flag, Resolved},
    knobs::{CAPTURE_ALL_DNS, DNS_SERVERS, EXCLUDED_GROUPS, INCLUDED_GROUPS, KNOBS, REDIRECT_DNS},
    map::{DEAD_PORTS, DNS_PORT, PORTS, PROXY_PORTS},
    owners::CASES,
    probe::{Kind, Probe},
    rng::Rng,
};

/// The fixed configurations: Istio's defaults, and each knob alone.
pub(super) fn classics() -> Vec<Config> {
    let mut texts = vec![
        "(defaults)".to_owned(),
        "--dual-stack".to_owned(),
        // The defaults of the CNI plugin.
        "--istio-local-outbound-ports-exclude=15020 --istio-local-exclude-ports=15020,15021,15090"
            .to_owned(),
    ];
    for knob in KNOBS {
        for value in knob.classic {
            let flag = Flag {
                name: knob.flag.to_owned(),
                value: value.map(str::to_owned),
            };
            // With a family more, each is worth twice.
            let dual_stack = if knob.flag == "dual-stack" {
                ""
            } else {
                " --dual-stack"
            };
            texts.push(format!("{flag}{dual_stack}"));
        }
    }
    texts.extend(
        [
            "--redirect-dns --capture-all-dns --dual-stack",
            "--redirect-dns --dns-servers=10.96.0.10,fd00:96::10 --dual-stack",
            "--redirect-dns --dns-servers=10.96.0.10 --dual-stack",
            // Without a uid nothing stands before rule 6.
            "--proxy-uid=, --proxy-gid=1337 --dual-stack",
        ]
        .map(str::to_owned),
    );
    let parsed = texts
        .iter()
        .map(|text| text.parse().expect("one of the knobs above"));
    let mut configs: Vec<Config> = parsed.collect();
    configs.dedup();
    configs
}

/// A configuration that the loader accepts.
pub(super) fn config(rng: &mut Rng) -> Config {
    loop {
        let mut config = Config::default();
        for knob in KNOBS {
            let chance = match knob.flag {
                "dual-stack" => 70,
                // Without one of them there is no DNS capture to see.
                CAPTURE_ALL_DNS | DNS_SERVERS => 50,
                _ => 30,
            };
            if rng.percent(chance) {
                config.flags.push(Flag {
                    name: knob.flag.to_owned(),
                    value: knob.value(rng),
                });
            }
        }
        sort_out(&mut config);
        // Some combinations are refused, as they are by iptables.
        if Resolved::new(&config).is_ok() {
            return config;
        }
    }
}

/// Takes away what means nothing beside the rest.
fn sort_out(config: &mut Config) {
    if !config.has(REDIRECT_DNS) {
        config
            .flags
            .retain(|flag| flag.name != CAPTURE_ALL_DNS && flag.name != DNS_SERVERS);
    } else if config.has(CAPTURE_ALL_DNS) {
        config.flags.retain(|flag| flag.name != DNS_SERVERS);
    }
    if config
        .get(INCLUDED_GROUPS)
        .is_some_and(|flag| flag.value.as_deref() != Some("*"))
    {
        config.flags.retain(|flag| flag.name != EXCLUDED_GROUPS);
    }
}

const OUTSIDE4: &[&str] = &[
    "10.96.0.10",
    "10.96.0.11",
    "10.96.3.9",
    "10.111.3.4",
    "10.112.0.1",
    "203.0.113.9",
    "203.0.113.53",
    "198.51.100.7",
    "8.8.8.8",
    "10.244.0.1",
    "10.244.7.7",
];
const OUTSIDE6: &[&str] = &[
    "fd00:96::10",
    "fd00:96::11",
    "fd00:96:1::5",
    "2001:db8::1",
    "2001:db8::53",
    "2001:db9::1",
    "fd00:10:244::1",
];
const NET1_OUTSIDE: &[&str] = &["192.168.77.1", "fd00:77::1"];
const OWN4: &[&str] = &["10.244.0.5", "10.244.0.66", "192.168.77.2"];
const OWN6: &[&str] = &["fd00:10:244::5", "fd00:10:244::66", "fd00:77::2"];
const LOCAL4: &[&str] = &["127.0.0.1", "127.0.0.9", "127.0.0.6", "0.0.0.0"];
const LOCAL6: &[&str] = &["::1", "::"];
const PASSTHROUGH4: &str = "127.0.0.6";
const PASSTHROUGH6: &str = "::6";

/// What probes of one configuration are drawn from.
pub(super) struct Space {
    ports: Vec<u16>,
    ipv6: bool,
    dns: bool,
}

impl Space {
    pub(super) fn new(resolved: &Resolved) -> Self {
        let mut ports = [PORTS, DEAD_PORTS, PROXY_PORTS, &[DNS_PORT]].concat();
        // Ports that the settings name come twice as often.
        let named = resolved.policy.config.ports.iter().map(|entry| entry.0.0);
        let named: Vec<u16> = named.filter(|port| ports.contains(port)).collect();
        ports.extend(named);
        let dns = resolved.config.has(REDIRECT_DNS);
        if dns {
            ports.extend([53; 12]);
        }
        Self {
            ports,
            ipv6: resolved.ipv6(),
            dns,
        }
    }

    pub(super) fn probe(&self, rng: &mut Rng) -> Probe {
        let kind = match rng.below(100) {
            _ if self.dns && rng.percent(40) => *rng.pick(&Kind::ALL),
            0..80 => Kind::Tcp,
            80..90 => Kind::Udp,
            _ => Kind::UdpConnected,
        };
        let is_v6 = rng.percent(40);
        if rng.percent(25) {
            let own = if is_v6 { OWN6 } else { OWN4 };
            return Probe::inbound(kind, self.to(rng, own));
        }
        let owner = match rng.below(100) {
            0..35 => &CASES[0],
            35..60 => &CASES[1],
            _ => rng.pick(CASES),
        };
        let choice = rng.below(100);
        let to = if choice < 50 {
            self.to(rng, if is_v6 { OUTSIDE6 } else { OUTSIDE4 })
        } else if choice < 75 {
            self.to(rng, if is_v6 { OWN6 } else { OWN4 })
        } else if choice < 95 {
            self.to_localhost(rng, is_v6)
        } else {
            let at = usize::from(is_v6);
            self.to(rng, NET1_OUTSIDE.get(at..=at).unwrap_or(NET1_OUTSIDE))
        };
        let mut probe = Probe::outbound(owner, kind, to);
        probe.mapped = !is_v6 && rng.percent(25);
        if rng.percent(35) {
            probe.from = Some(self.source(rng, &probe));
        }
        probe
    }

    fn to(&self, rng: &mut Rng, addrs: &[&str]) -> SocketAddr {
        SocketAddr::new(address(rng.pick::<&str>(addrs)), *rng.pick(&self.ports))
    }

    fn to_localhost(&self, rng: &mut Rng, is_v6: bool) -> SocketAddr {
        if is_v6 && self.ipv6 && rng.percent(20) {
            return self.to(rng, &[PASSTHROUGH6]);
        }
        self.to(rng, if is_v6 { LOCAL6 } else { LOCAL4 })
    }

    /// A source from which the destination can be reached.
    fn source(&self, rng: &mut Rng, probe: &Probe) -> IpAddr {
        let is_v6 = probe.to.is_ipv6();
        let own = if is_v6 { OWN6 } else { OWN4 };
        let is_local = probe.destination().ip().is_loopback()
            || own.iter().any(|it| address(it) == probe.destination().ip())
            || probe.to.ip() == address(PASSTHROUGH6);
        let mut sources = own.to_vec();
        if is_local && is_v6 {
            sources.push("::1");
            if self.ipv6 {
                sources.extend([PASSTHROUGH6; 2]);
            }
        } else if is_local {
            sources.extend(["127.0.0.1", PASSTHROUGH4, PASSTHROUGH4, "127.0.0.9"]);
        }
        address(rng.pick::<&str>(&sources))
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("one of the addresses above")
}

#[cfg(test)]
mod tests {
    use super::{
        super::accepted::{self, Aspect},
        *,
    };

    #[test]
    fn the_fixed_configurations_are_accepted() {
        let configs = classics();
        assert!(configs.len() > 20, "{}", configs.len());
        for config in configs {
            Resolved::new(&config).unwrap();
        }
    }

    #[test]
    fn the_same_seed_makes_the_same_run() {
        let run = |seed| {
            let mut rng = Rng::new(seed);
            let config = config(&mut rng);
            let space = Space::new(&Resolved::new(&config).unwrap());
            let probes: Vec<_> = (0..50).map(|_| space.probe(&mut rng).to_string()).collect();
            (config, probes)
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }

    #[test]
    fn the_legs_without_a_kernel_agree() {
        let mut rng = Rng::new(3);
        for _ in 0..60 {
            let resolved = Resolved::new(&config(&mut rng)).unwrap();
            let oracle = super::super::predict::Oracle::new(&resolved).unwrap();
            let space = Space::new(&resolved);
            for _ in 0..500 {
                let probe = space.probe(&mut rng);
                let said = oracle.predict(&probe).unwrap();
                if !accepted::hides(&probe, &said, Aspect::Everything) {
                    assert_eq!(said.disagreement, None, "{}: {probe}", resolved.config);
                }
            }
        }
    }
}
