//! Reads one group of settings after the other, gathering what is wrong.

use sidecar_ebpf_common::{
    addr::Port,
    lists::{Ids, PortLists},
    maps::{MAX_DESTINATIONS, MIN_DESTINATIONS},
    number::Tick,
};

use super::{
    Inbound, Problems,
    flag::{self, Environment, Flag, Origin, Setting, parse_bool},
    ids, ports,
    problem::{Collector, quote},
    ranges::{self, Ranges},
    unsupported,
};
use crate::cli::{IstioArgs, RingArgs, UnsupportedArgs};

/// The longest `--destination-hold`: a day.
const MAX_HOLD: u64 = 86_400;

pub(super) struct Reader<'a> {
    istio: &'a IstioArgs,
    environment: Environment<'a>,
    collector: Collector,
}

/// Which outbound addresses are captured.
pub(super) struct OutboundRanges {
    pub(super) all: bool,
    pub(super) included: Ranges,
    pub(super) excluded: Ranges,
}

impl<'a> Reader<'a> {
    pub(super) fn new(istio: &'a IstioArgs, environment: Environment<'a>) -> Self {
        Self {
            istio,
            environment,
            collector: Collector::default(),
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

    /// An empty uid list means the default, an empty gid list the same as the uids
    /// (`FillConfigFromEnvironment` in tools/common/config/config.go).
    pub(super) fn ids(&mut self) -> (Ids, Ids) {
        let istio = self.istio;
        let mut uids = self.setting(&flag::PROXY_UID, &istio.proxy_uid);
        let gids = self.setting(&flag::PROXY_GID, &istio.proxy_gid);
        if uids.value.is_empty() {
            uids = Setting {
                flag: uids.flag,
                origin: Origin::Default,
                value: uids.flag.default.to_owned(),
            };
        }
        let user = (self.environment)("ENVOY_USER").filter(|user| !user.is_empty());
        if let (Origin::Default, Some(user)) = (uids.origin, user) {
            self.collector.note(format!(
                "environment variable ENVOY_USER: {} is not looked up; give {} unless the proxy's \
                 uid is {}",
                quote(&user),
                uids.flag,
                uids.value
            ));
        }
        let uid_list = ids::parse(&uids, &mut self.collector);
        if uid_list == Ids::EMPTY {
            self.collector.note(format!(
                "{uids}: no id, so the proxy is not known by its uid"
            ));
        }
        if gids.value.is_empty() {
            return (uid_list, uid_list);
        }
        (uid_list, ids::parse(&gids, &mut self.collector))
    }

    /// Which inbound ports are captured, and all four port lists. Istio looks at excluded inbound
    /// ports only if all others are captured; they are checked in any case.
    pub(super) fn ports(&mut self) -> (Inbound, Vec<(Port, PortLists)>) {
        let istio = self.istio;
        let included = self.setting(&flag::INBOUND_PORTS, &istio.istio_inbound_ports);
        let excluded = self.list(&flag::LOCAL_EXCLUDE_PORTS, &istio.istio_local_exclude_ports);
        let (inbound, inbound_list) = if included.is_wildcard() {
            (Inbound::All, (excluded, PortLists::INBOUND_EXCLUDED))
        } else {
            let inbound = if included.value.is_empty() {
                Inbound::Off
            } else {
                Inbound::Ports
            };
            let included = ports::parse_list(&included, &mut self.collector);
            (inbound, (included, PortLists::INBOUND_INCLUDED))
        };
        let outbound_excluded = self.list(
            &flag::LOCAL_OUTBOUND_PORTS_EXCLUDE,
            &istio.istio_local_outbound_ports_exclude,
        );
        let outbound_included = self.list(&flag::OUTBOUND_PORTS, &istio.istio_outbound_ports);
        let ports = ports::merge(&[
            (outbound_excluded, PortLists::OUTBOUND_EXCLUDED),
            (outbound_included, PortLists::OUTBOUND_INCLUDED),
            inbound_list,
        ]);
        (inbound, ports)
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

    /// Istio takes an empty variable for false, because pflag stores the zero value when it cannot
    /// parse; so it does a malformed one, which is refused here.
    pub(super) fn dual_stack(&mut self) -> bool {
        let setting = self.setting(&flag::DUAL_STACK, &self.istio.dual_stack);
        if setting.value.is_empty() && matches!(setting.origin, Origin::Environment(_)) {
            return false;
        }
        parse_bool(&setting.value).unwrap_or_else(|| {
            self.collector.refuse(format!(
                "{setting}: {} is neither true nor false",
                quote(&setting.value)
            ));
            false
        })
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
        unsupported::refuse(&unsupported.given, self.environment, &mut self.collector);
        self.collector.finish()
    }

    fn setting(&self, flag: &'static Flag, given: &Option<String>) -> Setting {
        Setting::resolve(flag, given.as_deref(), self.environment)
    }

    fn list(&mut self, flag: &'static Flag, given: &Option<String>) -> ports::Ports {
        let setting = self.setting(flag, given);
        ports::parse_list(&setting, &mut self.collector)
    }
}

/// Seconds in ticks, rounded up: a slot is free once more than this many ticks have begun since its
/// last use, so never before the seconds are over.
fn ticks(seconds: u64) -> u32 {
    let ticks = (seconds * 1_000_000_000).div_ceil(1 << Tick::SHIFT);
    u32::try_from(ticks).unwrap_or(u32::MAX)
}
