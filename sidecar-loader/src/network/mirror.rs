//! Where the addresses outside the pod lead, and from which source: what the kernel itself answers,
//! prefix by prefix, for the programs to look up.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use rtnetlink::{
    Error, IpVersion, RouteMessageBuilder,
    packet_route::{
        route::{RouteHeader, RouteMessage, RouteType},
        rule::{RuleAction, RuleAttribute, RuleMessage},
    },
};
use sidecar_ebpf_common::{
    addr::{Ip, Prefix},
    decide::PASSTHROUGH_V6,
    interface::{Interface, Route},
    maps::MAX_ROUTES,
};

use super::{
    Network, View,
    nets::{Family, Nets, contains},
    routes::{RT_TABLE_LOCAL, output_interface, preferred_source},
};

/// The last of the three tables that are looked up by default (include/uapi/linux/rtnetlink.h).
const RT_TABLE_DEFAULT: u8 = 253;

/// What the route map holds.
#[derive(Debug, Default)]
pub struct Mirror {
    /// Local prefixes too, for their sources.
    pub routes: BTreeMap<Prefix, Route>,
    /// Some destination has another source than rewritten connections get by themselves.
    pub sources_differ: bool,
}

const NOWHERE: Interface = Interface::NONE;

impl Network {
    /// Empty where nobody will ask: with `interfaces` somebody asks for the interfaces; for sources
    /// only if there is a choice between several.
    ///
    /// The kernel is asked for one address of each prefix, as an unbound socket of root would. So
    /// metrics, source hints, and rules that choose a table by destination are in the answer. Rules
    /// that ask for more are not, which is worth a warning; and a route with hops on several
    /// interfaces leads to none of them, because taking one for the other could leave the proxy out.
    ///
    /// In a network that is local as a whole an address may be its own source: that is said by lo
    /// without a source.
    pub async fn mirror(&mut self, view: &View, interfaces: bool) -> Result<Mirror> {
        let wanted: Vec<_> = Family::ALL
            .into_iter()
            .filter(|family| interfaces || view.has_choice(*family))
            .collect();
        let mut mirror = Mirror::default();
        if wanted.is_empty() {
            return Ok(mirror);
        }
        let by_rules = self.read_rules().await;
        for family in wanted {
            let prefixes = view.elsewhere.keys().chain(view.locals.keys());
            let mut nets = Nets::new(family, prefixes.chain(&by_rules));
            nets.divide_by(&view.sources_of(family));
            for (prefix, example) in nets.with_examples() {
                let mut route = self.ask(example).await?;
                if view.leaves_by_several(example) {
                    route.interface = NOWHERE;
                }
                if prefix.len < family.width() && route.source == Ip::from(example) {
                    route.source = nowhere(example).source;
                }
                mirror.routes.insert(prefix, route);
            }
        }
        if mirror.routes.len() > MAX_ROUTES as usize {
            log::warn!(
                "the pod has more than {MAX_ROUTES} routes: none is followed, so excluded \
                 interfaces (-c) are not seen behind them, and connections have the pod's first \
                 address as source"
            );
            return Ok(Mirror::default());
        }
        mirror.sources_differ = view.has_other_sources(&mirror.routes);
        Ok(mirror)
    }

    /// The kernel's route to this address.
    async fn ask(&self, ip: IpAddr) -> Result<Route> {
        let question = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(ip, if ip.is_ipv4() { 32 } else { 128 })?
            .build();
        let mut answers = self.handle.route().get(question).execute();
        match answers.try_next().await {
            Ok(Some(answer)) => Ok(understood(ip, &answer)),
            // Unreachable, prohibited, a black hole, or no route at all.
            Ok(None) | Err(Error::NetlinkError(_)) => Ok(nowhere(ip)),
            Err(error) => Err(error).with_context(|| format!("asking for the route to {ip}")),
        }
    }

    /// The destinations that routing rules name. Warns if there are rules that a pod does not begin
    /// with.
    async fn read_rules(&mut self) -> Vec<Prefix> {
        let mut destinations = Vec::new();
        let mut are_default = true;
        for version in [IpVersion::V4, IpVersion::V6] {
            let mut rules = self.handle.rule().get(version).execute();
            // A kernel without policy routing has no rules to list.
            while let Ok(Some(rule)) = rules.try_next().await {
                are_default &= is_default(&rule);
                destinations.extend(destination(&rule));
            }
        }
        if !are_default && !self.warned_of_rules {
            self.warned_of_rules = true;
            log::warn!(
                "the pod has policy routing rules (`ip rule`): excluded interfaces (-c) and source \
                 addresses are judged by the route that a connection from an unbound socket of \
                 root without marks takes"
            );
        }
        destinations
    }
}

fn understood(ip: IpAddr, answer: &RouteMessage) -> Route {
    let kind = answer.header.kind;
    let interface = if kind == RouteType::Local {
        Interface::LO
    } else if kind == RouteType::Unicast {
        output_interface(answer).map_or(NOWHERE, Interface)
    } else {
        NOWHERE
    };
    Route {
        interface,
        source: preferred_source(answer).map_or(nowhere(ip).source, Ip::from),
    }
}

fn nowhere(ip: IpAddr) -> Route {
    Route {
        interface: NOWHERE,
        source: if ip.is_ipv4() {
            Ip::UNSPECIFIED_V4
        } else {
            Ip::UNSPECIFIED_V6
        },
    }
}

fn destination(rule: &RuleMessage) -> Option<Prefix> {
    rule.attributes.iter().find_map(|attribute| {
        if let RuleAttribute::Destination(ip) = attribute {
            Some(Prefix::new((*ip).into(), rule.header.dst_len.into()))
        } else {
            None
        }
    })
}

/// Whether a rule is one of those that every namespace begins with: `from all lookup` of the tables
/// local, main and default.
fn is_default(rule: &RuleMessage) -> bool {
    let header = &rule.header;
    let plain = rule.attributes.iter().all(|attribute| {
        matches!(
            attribute,
            RuleAttribute::Priority(_)
                | RuleAttribute::Table(_)
                | RuleAttribute::Protocol(_)
                | RuleAttribute::SuppressPrefixLen(u32::MAX)
        )
    });
    plain
        && header.action == RuleAction::ToTable
        && (header.src_len, header.dst_len, header.tos) == (0, 0, 0)
        && [RT_TABLE_LOCAL, RouteHeader::RT_TABLE_MAIN, RT_TABLE_DEFAULT].contains(&header.table)
}

impl View {
    fn sources_of(&self, family: Family) -> Vec<IpAddr> {
        let of_family = self.addresses.iter().filter(|ip| family.has(**ip));
        of_family.copied().collect()
    }

    /// Whether different destinations may have different sources.
    fn has_choice(&self, family: Family) -> bool {
        self.sources_of(family).len() > 1 || self.has_local_network(family)
    }

    /// Whether a whole network but 127.0.0.0/8 is local, which has a source of its own.
    fn has_local_network(&self, family: Family) -> bool {
        self.locals.keys().any(|prefix| {
            let ip = IpAddr::from(prefix.ip);
            family.has(ip) && prefix.len < family.width() && !ip.is_loopback()
        })
    }

    /// Whether the longest prefix with this address is routed by several interfaces.
    fn leaves_by_several(&self, ip: IpAddr) -> bool {
        let is_rare = self.elsewhere.values().any(|several| *several);
        is_rare
            && self
                .elsewhere
                .iter()
                .filter(|(prefix, _)| contains(prefix, ip))
                .max_by_key(|(prefix, _)| prefix.len)
                .is_some_and(|(_, several)| *several)
    }

    /// The programs know by themselves which source loopback addresses and `::6` have. Link-local
    /// ones cannot be given as a source, because that binds a socket to their interface.
    fn has_other_sources(&self, routes: &BTreeMap<Prefix, Route>) -> bool {
        let usual = self.sources();
        routes.iter().any(|(prefix, route)| {
            let usual = if prefix.ip.is_v4() {
                usual.v4()
            } else {
                usual.v6()
            };
            (route.interface == Interface::LO || !route.source.is_unspecified())
                && route.source != usual
                && !prefix.ip.is_loopback()
                && prefix.ip != PASSTHROUGH_V6
                && !is_link_local(prefix)
        })
    }
}

fn is_link_local(prefix: &Prefix) -> bool {
    matches!(IpAddr::from(prefix.ip), IpAddr::V6(ip) if ip.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::view::RangeRoute;

    fn prefix(ip: &str, len: u32) -> Prefix {
        Prefix::new(ip.parse::<IpAddr>().unwrap().into(), len)
    }

    /// A pod as most are.
    fn pod() -> View {
        let [v4, v6] = ["10.0.0.5", "fd00::5"].map(|ip| ip.parse::<IpAddr>().unwrap());
        let locals = [
            ("127.0.0.0", 8),
            ("::1", 128),
            ("::6", 128),
            ("fe80::1", 128),
        ];
        let range = |source| {
            Some(RangeRoute {
                source: Some(source),
            })
        };
        View {
            locals: locals
                .map(|(ip, len)| (prefix(ip, len), Interface::LO))
                .into(),
            addresses: [v4, v6].into(),
            v4_route: range(v4),
            v6_route: range(v6),
            ..View::default()
        }
    }

    #[test]
    fn nobody_is_asked_where_there_is_no_choice() {
        let choices = |view: &View| Family::ALL.map(|family| view.has_choice(family));
        assert_eq!(choices(&pod()), [false, false]);
        let mut second = pod();
        second.addresses.insert("fd00::6".parse().unwrap());
        assert_eq!(choices(&second), [false, true]);
        let mut network = pod();
        network.locals.insert(prefix("10.9.0.0", 16), Interface::LO);
        assert_eq!(choices(&network), [true, false]);
    }

    #[test]
    fn sources_differ_if_some_route_has_another() {
        let differ = |ip: &str, len, source: &str, interface| {
            let source = source.parse::<IpAddr>().unwrap().into();
            let interface = Interface(interface);
            let route = Route { source, interface };
            pod().has_other_sources(&[(prefix(ip, len), route)].into())
        };
        assert!(!differ("0.0.0.0", 0, "10.0.0.5", 2));
        assert!(!differ("10.0.0.5", 32, "10.0.0.5", 1));
        assert!(!differ("192.0.2.0", 24, "0.0.0.0", 0));
        assert!(!differ("127.0.0.0", 8, "127.0.0.1", 1));
        assert!(!differ("::6", 128, "::6", 1));
        assert!(!differ("fe80::1", 128, "fe80::1", 1));
        assert!(differ("192.0.2.0", 24, "10.0.0.6", 2));
        assert!(differ("::", 0, "fd00::6", 2));
        assert!(differ("10.9.0.0", 16, "0.0.0.0", 1));
    }

    #[test]
    fn the_longest_route_tells_whether_it_divides() {
        let mut view = pod();
        let routes = [
            ("0.0.0.0", 0, true),
            ("192.0.2.0", 24, false),
            ("::", 0, false),
        ];
        view.elsewhere = routes
            .map(|(ip, len, several)| (prefix(ip, len), several))
            .into();
        let several = |ip: &str| view.leaves_by_several(ip.parse().unwrap());
        assert!(several("192.0.3.1") && !several("192.0.2.1") && !several("2001:db8::1"));
    }
}
