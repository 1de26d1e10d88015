//! Reads one group of settings after the other, gathering what is wrong.

use std::{net::Ipv4Addr, path::Path};

use sidecar_ebpf_common::{
    addr::Port,
    lists::{Ids, PortLists},
    maps::{MAX_DESTINATIONS, MIN_DESTINATIONS},
    number::Tick,
};

use super::{
    Dns, Inbound, OwnerGroups, Problems,
    accounts::Accounts,
    annotations::FromPod,
    file,
    flag::{self, Environment, Flag, Origin, Setting, parse_bool},
    ids::{self, Kind},
    interfaces,
    ports::{self, Ports},
    problem::{Collector, quote},
    ranges::{self, Ranges},
    resolv_conf, unsupported,
};
use crate::cli::{IstioArgs, RingArgs, UnsupportedArgs};

/// The longest `--destination-hold`: a day.
const MAX_HOLD: u64 = 86_400;
/// The proxy's user to Istio, unless `$ENVOY_USER` says otherwise.
const DEFAULT_USER: &str = "istio-proxy";

pub(super) struct Reader<'a> {
    istio: &'a IstioArgs,
    pod: FromPod,
    environment: Environment<'a>,
    accounts: Accounts<'a>,
    collector: Collector,
}

/// Which ports are captured.
pub(super) struct PortSettings {
    pub(super) inbound: Inbound,
    pub(super) outbound_excluded: Ports,
    pub(super) outbound_included: Ports,
    pub(super) inbound_excluded: Ports,
    pub(super) inbound_included: Ports,
}

impl PortSettings {
    /// Istio looks at excluded inbound ports only if all others are captured.
    pub(super) fn merged(&self) -> Vec<(Port, PortLists)> {
        let inbound = match self.inbound {
            Inbound::All => (&self.inbound_excluded, PortLists::INBOUND_EXCLUDED),
            Inbound::Off | Inbound::Ports => (&self.inbound_included, PortLists::INBOUND_INCLUDED),
        };
        ports::merge(&[
            (&self.outbound_excluded, PortLists::OUTBOUND_EXCLUDED),
            (&self.outbound_included, PortLists::OUTBOUND_INCLUDED),
            inbound,
        ])
    }
}

/// Which outbound addresses are captured.
pub(super) struct OutboundRanges {
    pub(super) all: bool,
    pub(super) included: Ranges,
    pub(super) excluded: Ranges,
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        istio: &'a IstioArgs,
        environment: Environment<'a>,
        accounts: Accounts<'a>,
    ) -> Self {
        let mut collector = Collector::default();
        Self {
            istio,
            pod: FromPod::read(&istio.annotations, &mut collector),
            environment,
            accounts,
            collector,
        }
    }

    /// Outbound, inbound, tunnel.
    pub(super) fn proxy_ports(&mut self) -> [Port; 3] {
        let istio = self.istio;
        let outbound = self.setting(&flag::ENVOY_PORT, &istio.envoy_port);
        let inbound = self.setting(&flag::INBOUND_CAPTURE_PORT, &istio.inbound_capture_port);
        let tunnel = self.setting(&flag::INBOUND_TUNNEL_PORT, &istio.inbound_tunnel_port);
        let outbound_port = ports::parse_one(&outbound, &mut self.collector);
        let inbound_port = ports::parse_one(&inbound, &mut self.collector);
        let tunnel_port = ports::parse_one(&tunnel, &mut self.collector);
        // The port of a listener tells which of the two it is.
        if let (Some(outbound_port), Some(inbound_port)) = (outbound_port, inbound_port)
            && outbound_port == inbound_port
        {
            self.collector.refuse(format!(
                "{inbound}: {} is also what {outbound} says; the proxy's two listeners need \
                 different ports",
                inbound_port.0,
            ));
        }
        [outbound_port, inbound_port, tunnel_port].map(|port| port.unwrap_or(Port(0)))
    }

    /// An empty uid list means the default, an empty gid list the same text as the uids
    /// (`FillConfigFromEnvironment` in tools/common/config/config.go).
    pub(super) fn ids(&mut self) -> (Ids, Ids) {
        let istio = self.istio;
        let mut uids = self.setting(&flag::PROXY_UID, &istio.proxy_uid);
        let mut gids = self.setting(&flag::PROXY_GID, &istio.proxy_gid);
        if uids.value.is_empty() || uids.origin == Origin::Default {
            uids = Setting {
                flag: uids.flag,
                origin: Origin::Default,
                value: self.proxy_user(uids.flag),
            };
        }
        let uid_list = ids::parse(&uids, Kind::User, self.accounts, &mut self.collector);
        if uid_list == Ids::EMPTY {
            self.collector.note(format!(
                "{uids}: no id, so the proxy is not known by its uid"
            ));
        }
        if gids.value.is_empty() {
            if uids.items().all(ids::is_plain_number) {
                return (uid_list, uid_list);
            }
            // The same string, so that names are those of groups now.
            gids.origin = uids.origin;
            gids.value = uids.value;
        }
        let gid_list = ids::parse(&gids, Kind::Group, self.accounts, &mut self.collector);
        (uid_list, gid_list)
    }

    /// The uid of the proxy's user if there is such a user here, or else the flag's default. It is
    /// worth a note when that is unexpected.
    fn proxy_user(&mut self, flag: &'static Flag) -> String {
        let named = (self.environment)("ENVOY_USER").filter(|user| !user.is_empty());
        let user = named.as_deref().unwrap_or(DEFAULT_USER);
        let found = (self.accounts.user)(user).unwrap_or_default();
        let (is, uid) = match found {
            Some(uid) => ("a user", uid.to_string()),
            None if named.is_none() => return flag.default.to_owned(),
            None => ("no user", flag.default.to_owned()),
        };
        if uid != flag.default || named.is_some() {
            let from = match &named {
                Some(_) => "environment variable ENVOY_USER",
                None => "the proxy's user",
            };
            self.collector.note(format!(
                "{from}: {} is {is} where the loader runs, so the proxy's uid is taken to be \
                 {uid}; give {flag} if it is another",
                quote(user)
            ));
        }
        uid
    }

    /// Excluded inbound ports are checked in any case.
    pub(super) fn ports(&mut self) -> PortSettings {
        let istio = self.istio;
        let included = self.setting(&flag::INBOUND_PORTS, &istio.istio_inbound_ports);
        let inbound_excluded =
            self.list(&flag::LOCAL_EXCLUDE_PORTS, &istio.istio_local_exclude_ports);
        let (inbound, inbound_included) = if included.is_wildcard() {
            (Inbound::All, Ports::new())
        } else {
            let inbound = if included.value.is_empty() {
                Inbound::Off
            } else {
                Inbound::Ports
            };
            (inbound, ports::parse_list(&included, &mut self.collector))
        };
        PortSettings {
            inbound,
            outbound_excluded: self.list(
                &flag::LOCAL_OUTBOUND_PORTS_EXCLUDE,
                &istio.istio_local_outbound_ports_exclude,
            ),
            outbound_included: self.list(&flag::OUTBOUND_PORTS, &istio.istio_outbound_ports),
            inbound_excluded,
            inbound_included,
        }
    }

    pub(super) fn outbound_ranges(&mut self) -> OutboundRanges {
        let istio = self.istio;
        let included = self.setting(&flag::SERVICE_CIDR, &istio.istio_service_cidr);
        let excluded = self.setting(
            &flag::SERVICE_EXCLUDE_CIDR,
            &istio.istio_service_exclude_cidr,
        );
        let all = included.is_wildcard();
        OutboundRanges {
            all,
            included: if all {
                Ranges::default()
            } else {
                ranges::parse(&included, &mut self.collector)
            },
            excluded: ranges::parse(&excluded, &mut self.collector),
        }
    }

    pub(super) fn excluded_interfaces(&mut self) -> Vec<String> {
        let given = &self.istio.istio_exclude_interfaces;
        let setting = self.setting(&flag::EXCLUDE_INTERFACES, given);
        interfaces::parse(&setting, &mut self.collector)
    }

    /// Excluded groups count only if all others are included (`ParseInterceptFilter` in
    /// tools/common/config/types.go).
    pub(super) fn owner_groups(&mut self) -> OwnerGroups {
        let istio = self.istio;
        let included = self.setting(&flag::OWNER_GROUPS, &istio.outbound_owner_groups);
        let excluded = self.setting(
            &flag::OWNER_GROUPS_EXCLUDE,
            &istio.outbound_owner_groups_exclude,
        );
        let group = Kind::Group;
        let excluded_groups = ids::parse(&excluded, group, self.accounts, &mut self.collector);
        let some_excluded = excluded.items().next().is_some();
        if included.is_wildcard() {
            return match some_excluded {
                true => OwnerGroups::Excluded(excluded_groups),
                false => OwnerGroups::All,
            };
        }
        if some_excluded {
            self.collector.note(format!(
                "{excluded}: changes nothing, because {included} does not say \"*\""
            ));
        }
        let groups = ids::parse(&included, group, self.accounts, &mut self.collector);
        OwnerGroups::Included(groups)
    }

    pub(super) fn loopback(&mut self) -> (Ipv4Addr, u8) {
        let given = &self.istio.outbound_ipv4_loopback_cidr;
        let setting = self.setting(&flag::LOOPBACK_CIDR, given);
        ranges::parse_loopback(&setting, &mut self.collector)
    }

    /// As in Istio, queries to any server need both flags, and no known server of either family
    /// means no capture.
    pub(super) fn dns(&mut self) -> Dns {
        let istio = self.istio;
        let redirect = self.switch(&flag::REDIRECT_DNS, &istio.redirect_dns);
        let all = self.switch(&flag::CAPTURE_ALL_DNS, &istio.capture_all_dns);
        if all.is_on && !redirect.is_on {
            self.collector.note(format!(
                "{}: changes nothing without {}",
                all.setting, redirect.setting.flag
            ));
        }
        let Some(path) = &istio.resolv_conf else {
            return match (redirect.is_on, all.is_on) {
                (false, _) => Dns::Off,
                (true, true) => Dns::All,
                (true, false) => Dns::ServersOfPod,
            };
        };
        let why = match (redirect.is_on, all.is_on) {
            (true, false) => return self.servers(path),
            (true, true) => format!("with {}", all.setting.flag),
            (false, _) => format!("without {}", redirect.setting.flag),
        };
        self.collector
            .note(format!("--resolv-conf: changes nothing {why}"));
        if redirect.is_on { Dns::All } else { Dns::Off }
    }

    fn servers(&mut self, path: &Path) -> Dns {
        match file::read(path).map(|text| resolv_conf::parse(&text)) {
            Ok(servers) if servers.is_empty() => self.collector.note(format!(
                "--resolv-conf: {} has no nameserver, so DNS is not captured",
                path.display()
            )),
            Ok(servers) => return Dns::Servers(servers),
            Err(problem) => self.collector.refuse(format!("--resolv-conf: {problem}")),
        }
        Dns::Off
    }

    pub(super) fn dual_stack(&mut self) -> bool {
        self.switch(&flag::DUAL_STACK, &self.istio.dual_stack).is_on
    }

    /// Istio drops packets that connection tracking calls invalid, because they would get past its
    /// address translation. Nothing is translated here.
    pub(super) fn drop_invalid(&mut self) {
        let drop = self.switch(&flag::DROP_INVALID, &self.istio.drop_invalid);
        if drop.is_on {
            self.collector.note(format!(
                "{}: changes nothing, because connections are redirected without connection \
                 tracking, so that no packet is invalid",
                drop.setting
            ));
        }
    }

    /// Checks the ring's size; returns the hold time in ticks.
    pub(super) fn ring(&mut self, ring: &RingArgs) -> u32 {
        let RingArgs {
            destinations,
            destination_hold,
        } = *ring;
        let possible = (MIN_DESTINATIONS..=MAX_DESTINATIONS).contains(&destinations);
        if !possible || !destinations.is_power_of_two() {
            self.collector.refuse(format!(
                "--destinations: {destinations} is not possible; expected a power of two from \
                 {MIN_DESTINATIONS} to {MAX_DESTINATIONS}"
            ));
        }
        if !(1..=MAX_HOLD).contains(&destination_hold) {
            self.collector.refuse(format!(
                "--destination-hold: {destination_hold} is not possible; expected 1 to {MAX_HOLD} \
                 seconds"
            ));
        }
        ticks(destination_hold.min(MAX_HOLD))
    }

    /// The notes, or all problems.
    pub(super) fn finish(mut self, unsupported: &UnsupportedArgs) -> Result<Vec<String>, Problems> {
        let (given, pod) = (&unsupported.given, &self.pod);
        unsupported::refuse(given, pod, self.environment, &mut self.collector);
        self.collector.finish()
    }

    fn setting(&self, flag: &'static Flag, given: &Option<String>) -> Setting {
        Setting::resolve(flag, given.as_deref(), &self.pod, self.environment)
    }

    fn list(&mut self, flag: &'static Flag, given: &Option<String>) -> Ports {
        let setting = self.setting(flag, given);
        ports::parse_list(&setting, &mut self.collector)
    }

    /// Istio takes an empty variable for false, because pflag stores the zero value when it cannot
    /// parse; so it does a malformed one, which is refused here.
    fn switch(&mut self, flag: &'static Flag, given: &Option<String>) -> Switch {
        let setting = self.setting(flag, given);
        let empty = setting.value.is_empty() && setting.origin != Origin::CommandLine;
        let is_on = parse_bool(&setting.value).unwrap_or_else(|| {
            if !empty {
                self.collector.refuse(format!(
                    "{setting}: {} is neither true nor false",
                    quote(&setting.value)
                ));
            }
            false
        });
        Switch { setting, is_on }
    }
}

/// A setting that is true or false.
struct Switch {
    setting: Setting,
    is_on: bool,
}

/// Seconds in ticks, rounded up: a slot is free once more than this many ticks have begun since its
/// last use, so never before the seconds are over.
fn ticks(seconds: u64) -> u32 {
    let ticks = (seconds * 1_000_000_000).div_ceil(1 << Tick::SHIFT);
    u32::try_from(ticks).unwrap_or(u32::MAX)
}
