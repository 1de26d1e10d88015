//! Which DNS servers' queries are captured, as far as it is known now.

use std::{collections::BTreeSet, fs, net::IpAddr, os::unix::fs::MetadataExt as _};

use sidecar_ebpf_common::{addr::Ip, maps::MAX_DNS_SERVERS, policy::Switches};

use crate::{
    cgroup::Cgroup,
    config::{Dns, resolv_conf},
};

/// How many processes of a pod are asked for their resolv.conf. Containers of one pod have the same.
const PROCESSES: usize = 16;
const MAX: usize = MAX_DNS_SERVERS as usize;

/// What is captured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Capture {
    Off,
    /// Queries to these servers; there is at least one.
    Servers(BTreeSet<Ip>),
    All,
}

impl Capture {
    /// What the settings say. While the servers are the pod's own and no process of it tells them,
    /// all queries are captured: none gets past the agent because it came early.
    pub fn find(dns: &Dns, pod: &Cgroup) -> Self {
        if *dns == Dns::ServersOfPod {
            of_processes(&pod.processes()).map_or(Self::All, Self::of)
        } else {
            Self::before_pod(dns)
        }
    }

    /// As long as the pod is not known.
    pub fn before_pod(dns: &Dns) -> Self {
        match dns {
            Dns::Off => Self::Off,
            Dns::All | Dns::ServersOfPod => Self::All,
            Dns::Servers(servers) => {
                Self::of(servers.iter().map(|&server| server.into()).collect())
            }
        }
    }

    /// Without a server Istio captures nothing (`Run`, tools/istio-iptables/pkg/capture/run.go).
    fn of(servers: BTreeSet<Ip>) -> Self {
        match servers.len() {
            0 => Self::Off,
            1..=MAX => Self::Servers(servers),
            // More than fit: better too much than too little.
            _ => Self::All,
        }
    }

    pub fn switches(&self) -> Switches {
        match self {
            Self::Off => Switches::NONE,
            Self::Servers(_) => Switches::DNS,
            Self::All => Switches::DNS.with(Switches::DNS_ALL),
        }
    }

    /// Says what has been found in the pod.
    pub fn report(&self) {
        match self {
            Self::Off => log::warn!(
                "the pod's resolv.conf names no server, so DNS is not captured; --capture-all-dns \
                 captures the queries to any"
            ),
            Self::Servers(servers) => {
                let servers: Vec<String> = servers
                    .iter()
                    .map(|&server| IpAddr::from(server).to_string())
                    .collect();
                log::info!("capturing the DNS queries to {}", servers.join(", "));
            }
            Self::All => log::info!(
                "capturing the DNS queries to any server until the pod's resolv.conf can be read"
            ),
        }
    }
}

/// The servers in the resolv.conf of any of the processes; `None` if none has one (yet).
fn of_processes(processes: &[u32]) -> Option<BTreeSet<Ip>> {
    let mut files = BTreeSet::new();
    let mut found = None;
    for pid in processes.iter().take(PROCESSES) {
        let path = format!("/proc/{pid}/root/etc/resolv.conf");
        // A process that ended, or an image without the file, says nothing.
        let Ok(file) = fs::metadata(&path).map(|meta| (meta.dev(), meta.ino())) else {
            continue;
        };
        if files.insert(file)
            && let Ok(text) = fs::read_to_string(&path)
        {
            let servers = resolv_conf::parse(&text).into_iter().map(Ip::from);
            found.get_or_insert_with(BTreeSet::new).extend(servers);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(list: &[&str]) -> Dns {
        Dns::Servers(list.iter().map(|ip| ip.parse().unwrap()).collect())
    }

    #[test]
    fn listed_servers_are_captured_at_once() {
        let capture = Capture::before_pod(&servers(&["10.0.0.1", "fd00::1", "10.0.0.1"]));
        assert_eq!(capture.switches(), Switches::DNS);
        assert!(matches!(capture, Capture::Servers(servers) if servers.len() == 2));
    }

    #[test]
    fn without_a_server_nothing_is_captured() {
        let capture = Capture::before_pod(&servers(&[]));
        assert_eq!(capture, Capture::Off);
        assert_eq!(capture.switches(), Switches::NONE);
    }

    #[test]
    fn everything_is_captured_until_the_pod_tells_its_servers() {
        let capture = Capture::before_pod(&Dns::ServersOfPod);
        assert!(capture.switches().has(Switches::DNS_ALL));
        assert_eq!(of_processes(&[]), None);
    }

    #[test]
    fn too_many_servers_to_tell_apart_are_all() {
        let many: Vec<String> = (0..=MAX).map(|i| format!("10.0.0.{i}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(Capture::before_pod(&servers(&many)), Capture::All);
    }
}
