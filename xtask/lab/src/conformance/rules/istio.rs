//! The rules that Istio makes of settings, in its words and its order (`Run` in its
//! tools/istio-iptables/pkg/capture/run.go).

use std::fmt::Display;

use anyhow::{Context, Result};

use super::{
    matches::Net,
    parse::parse,
    ruleset::{Family, Ruleset},
    settings::{Dns, Groups, Inbound, Included, Settings},
};

/// The agent's port for DNS.
const DNS_PORT: u16 = 15053;

impl Settings {
    /// The rules of one family.
    pub fn rules(&self, family: Family) -> Result<Ruleset> {
        let text = Writer::new(self, family).text();
        parse(&text).with_context(|| format!("the rules for {family}"))
    }
}

/// The lines of each table.
struct Writer<'a> {
    settings: &'a Settings,
    family: Family,
    loopback: String,
    nat: Vec<String>,
    raw: Vec<String>,
    mangle: Vec<String>,
}

impl<'a> Writer<'a> {
    fn new(settings: &'a Settings, family: Family) -> Self {
        let loopback = match family {
            Family::V4 => settings.loopback.to_string(),
            Family::V6 => "::1/128".to_owned(),
        };
        Self {
            settings,
            family,
            loopback,
            nat: Vec::new(),
            raw: Vec::new(),
            mangle: Vec::new(),
        }
    }

    fn text(mut self) -> String {
        self.inbound();
        self.outbound_first();
        self.proxy();
        self.groups();
        self.dns();
        self.outbound_last();
        if self.settings.drop_invalid {
            self.mangle = vec![
                "-A PREROUTING -m conntrack --ctstate INVALID -j ISTIO_DROP".to_owned(),
                "-A ISTIO_DROP -j DROP".to_owned(),
            ];
        }
        let table = |name: &str, chains: &[&str], lines: &[String]| {
            if lines.is_empty() {
                return String::new();
            }
            let chains: String = chains.iter().map(|chain| format!("-N {chain}\n")).collect();
            format!("*{name}\n{chains}{}\nCOMMIT\n", lines.join("\n"))
        };
        let in_nat = [
            "ISTIO_INBOUND",
            "ISTIO_REDIRECT",
            "ISTIO_IN_REDIRECT",
            "ISTIO_OUTPUT",
            "ISTIO_OUTPUT_DNS",
        ];
        [
            table("mangle", &["ISTIO_DROP"], &self.mangle),
            table("nat", &in_nat, &self.nat),
            table("raw", &["ISTIO_OUTPUT_DNS", "ISTIO_INBOUND"], &self.raw),
        ]
        .concat()
    }

    fn nat(&mut self, rule: impl Display) {
        self.nat.push(format!("-A {rule}"));
    }

    fn inbound(&mut self) {
        let Settings {
            tunnel_port,
            outbound_port,
            inbound_port,
            ..
        } = self.settings;
        for interface in &self.settings.interfaces_excluded {
            self.nat(format!("PREROUTING -i {interface} -j RETURN"));
            self.nat(format!("OUTPUT -o {interface} -j RETURN"));
        }
        self.nat(format!(
            "ISTIO_INBOUND -p tcp --dport {tunnel_port} -j RETURN"
        ));
        self.nat(format!(
            "ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports {outbound_port}"
        ));
        self.nat(format!(
            "ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports {inbound_port}"
        ));
        if self.settings.inbound != Inbound::None {
            self.nat("PREROUTING -p tcp -j ISTIO_INBOUND");
        }
        match &self.settings.inbound {
            Inbound::None => {}
            Inbound::AllBut(ports) => {
                for port in ports {
                    self.nat(format!("ISTIO_INBOUND -p tcp --dport {port} -j RETURN"));
                }
                self.nat("ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT");
            }
            Inbound::Only(ports) => {
                for port in ports {
                    self.nat(format!(
                        "ISTIO_INBOUND -p tcp --dport {port} -j ISTIO_IN_REDIRECT"
                    ));
                }
            }
        }
        self.nat("OUTPUT -j ISTIO_OUTPUT");
    }

    fn outbound_first(&mut self) {
        for port in &self.settings.outbound_ports_excluded {
            for protocol in ["tcp", "udp"] {
                self.nat(format!(
                    "ISTIO_OUTPUT -p {protocol} --dport {port} -j RETURN"
                ));
            }
        }
        // From here the proxy calls the application.
        let source = match self.family {
            Family::V4 => "127.0.0.6",
            Family::V6 => "::6",
        };
        self.nat(format!("ISTIO_OUTPUT -o lo -s {source} -j RETURN"));
    }

    /// Three rules for each of the proxy's users, then for each of its groups.
    fn proxy(&mut self) {
        let tunnel = self.settings.tunnel_port;
        let dns = self.settings.dns.is_some();
        let plain = format!("! --dport {tunnel}");
        let but_dns = format!("-m multiport ! --dports 53,{tunnel}");
        // The exception for DNS is not made for groups.
        let ports_for_users = if dns { &but_dns } else { &plain };
        for (uid, ports) in self.settings.uids.iter().map(|uid| (uid, ports_for_users)) {
            self.proxy_owner(&format!("--uid-owner {uid}"), ports);
        }
        for gid in &self.settings.gids {
            self.proxy_owner(&format!("--gid-owner {gid}"), &plain);
        }
    }

    fn proxy_owner(&mut self, owner: &str, ports: &str) {
        let loopback = &self.loopback;
        let to_itself = format!(
            "ISTIO_OUTPUT -o lo ! -d {loopback} -p tcp {ports} -m owner {owner} -j ISTIO_IN_REDIRECT"
        );
        self.nat(to_itself);
        if !self.settings.includes_loopback() {
            let ports = match self.settings.dns {
                Some(_) => "-p tcp ! --dport 53 ",
                None => "",
            };
            self.nat(format!(
                "ISTIO_OUTPUT -o lo {ports}-m owner ! {owner} -j RETURN"
            ));
        }
        self.nat(format!("ISTIO_OUTPUT -m owner {owner} -j RETURN"));
    }

    fn groups(&mut self) {
        match &self.settings.groups {
            Groups::AllBut(groups) => {
                for group in groups {
                    self.nat(format!(
                        "ISTIO_OUTPUT -m owner --gid-owner {group} -j RETURN"
                    ));
                }
            }
            Groups::Only(groups) => {
                let none: String = groups
                    .iter()
                    .map(|group| format!("-m owner ! --gid-owner {group} "))
                    .collect();
                self.nat(format!("ISTIO_OUTPUT {none}-j RETURN"));
            }
        }
    }

    /// In `nat` what goes to the agent, in `raw` what keeps its conversations apart from those of
    /// the application, which look the same.
    fn dns(&mut self) {
        let Some(dns) = &self.settings.dns else {
            return;
        };
        let servers: Vec<Option<Net>> = match dns {
            Dns::All => vec![None],
            Dns::Servers(servers) => servers
                .iter()
                .filter(|server| Family::of(**server) == self.family)
                .map(|server| Some(Net::single(*server)))
                .collect(),
        };
        let at = |flag: &str, server: &Option<Net>| match server {
            Some(server) => format!("{flag} {server} "),
            None => String::new(),
        };
        if !servers.is_empty() {
            self.nat("ISTIO_OUTPUT -j ISTIO_OUTPUT_DNS");
        }
        for protocol in ["tcp", "udp"] {
            for server in &servers {
                let to = at("-d", server);
                self.nat(format!(
                    "ISTIO_OUTPUT_DNS -p {protocol} --dport 53 {to}-j REDIRECT --to-ports {DNS_PORT}"
                ));
            }
        }

        let uids = self
            .settings
            .uids
            .iter()
            .map(|uid| format!("--uid-owner {uid}"));
        let gids = self
            .settings
            .gids
            .iter()
            .map(|gid| format!("--gid-owner {gid}"));
        let mut raw = vec!["OUTPUT -j ISTIO_OUTPUT_DNS".to_owned()];
        for owner in uids.chain(gids) {
            for (ports, zone) in [
                ("--dport 53".to_owned(), 1),
                (format!("--sport {DNS_PORT}"), 2),
            ] {
                raw.push(format!(
                    "ISTIO_OUTPUT_DNS -p udp {ports} -m owner {owner} -j CT --zone {zone}"
                ));
            }
        }
        if !servers.is_empty() {
            raw.push("PREROUTING -j ISTIO_INBOUND".to_owned());
        }
        for server in &servers {
            let (to, from) = (at("-d", server), at("-s", server));
            raw.push(format!(
                "ISTIO_OUTPUT_DNS -p udp --dport 53 {to}-j CT --zone 2"
            ));
            raw.push(format!(
                "ISTIO_INBOUND -p udp --sport 53 {from}-j CT --zone 1"
            ));
        }
        self.raw = raw.iter().map(|rule| format!("-A {rule}")).collect();
    }

    fn outbound_last(&mut self) {
        self.nat(format!("ISTIO_OUTPUT -d {} -j RETURN", self.loopback));
        for net in self.of_family(&self.settings.excluded) {
            self.nat(format!("ISTIO_OUTPUT -d {net} -j RETURN"));
        }
        for port in &self.settings.outbound_ports {
            self.nat(format!(
                "ISTIO_OUTPUT -p tcp --dport {port} -j ISTIO_REDIRECT"
            ));
        }
        match &self.settings.included {
            Included::All => self.nat("ISTIO_OUTPUT -j ISTIO_REDIRECT"),
            Included::Only(nets) => {
                for net in self.of_family(nets) {
                    self.nat(format!("ISTIO_OUTPUT -d {net} -j ISTIO_REDIRECT"));
                }
            }
        }
    }

    fn of_family(&self, nets: &[Net]) -> Vec<Net> {
        let same = |net: &&Net| Family::of(net.address) == self.family;
        nets.iter().filter(same).copied().collect()
    }
}

impl Settings {
    /// Whether an included range is of loopback addresses, in either family.
    fn includes_loopback(&self) -> bool {
        match &self.included {
            Included::All => false,
            Included::Only(nets) => nets.iter().any(Net::is_loopback),
        }
    }
}
