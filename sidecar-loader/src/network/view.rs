//! What the pod's network namespace holds, and what follows for the rules.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use sidecar_ebpf_common::{
    addr::{Ip, Prefix},
    interface::Interface,
    policy::{Own, Sources},
};

/// What is there now.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Every address and prefix that is local, the redirect's own ranges left out, and the interface
    /// that it belongs to.
    pub locals: BTreeMap<Prefix, Interface>,
    /// The first IPv4 address that is neither loopback nor link-local.
    pub v4: Option<Ipv4Addr>,
    /// The first such IPv6 address.
    pub v6: Option<Ipv6Addr>,
    /// What the kernel may choose as source: every address but loopback ones, `::6`, and for IPv6
    /// link-local ones.
    pub(super) addresses: BTreeSet<IpAddr>,
    /// Interfaces and their names, by index.
    pub(super) links: Vec<(Interface, String)>,
    /// The prefixes of all routes that are not in the table of local addresses, and whether packets
    /// for the prefix leave by several interfaces at once.
    pub(super) elsewhere: BTreeMap<Prefix, bool>,
    pub(super) has_passthrough: bool,
    pub(super) v4_route: Option<RangeRoute>,
    pub(super) v6_route: Option<RangeRoute>,
    /// The addresses to which there is a route for answers.
    pub(super) answers: BTreeSet<Ipv4Addr>,
}

/// A route for one of the redirect's ranges, with its source address.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RangeRoute {
    pub(super) source: Option<IpAddr>,
}

impl View {
    /// Whether Istio would install IPv6 rules: the pod has no IPv4 address, or has one of each and
    /// dual stack is on (`getLocalIP`, tools/istio-iptables/pkg/cmd/root.go; Go lists interface
    /// addresses as the kernel dumps them, IPv4 first).
    pub fn has_ipv6_rules(&self, dual_stack: bool) -> bool {
        match (self.v4, self.v6) {
            (Some(_), Some(_)) => dual_stack,
            (Some(_), None) => false,
            (None, _) => true,
        }
    }

    /// The source addresses that rewritten connections get by themselves.
    pub fn sources(&self) -> Sources {
        let source = |route: &Option<RangeRoute>| route.as_ref()?.source;
        let v4 = source(&self.v4_route).and_then(|source| match source {
            IpAddr::V4(source) => Some(source),
            IpAddr::V6(_) => None,
        });
        Sources::new(
            v4.unwrap_or(Ipv4Addr::UNSPECIFIED),
            source(&self.v6_route).map_or(Ip::UNSPECIFIED_V6, Ip::from),
        )
    }

    /// The pod's own IPv4 addresses outside 127.0.0.0/8; `None` if the policy cannot list them, because
    /// they are too many or a whole range is local.
    pub fn own_v4(&self) -> Option<Own> {
        let own = self.locals.keys().filter(|local| local.ip.is_v4());
        let own = own.filter(|local| !local.ip.is_loopback());
        let addresses: Option<Vec<_>> = own
            .map(|local| match IpAddr::from(local.ip) {
                IpAddr::V4(ip) if local.len == 32 => Some(ip),
                IpAddr::V4(_) | IpAddr::V6(_) => None,
            })
            .collect();
        Own::listing(&addresses?)
    }

    /// Whether a rewritten IPv6 connection stays in the pod.
    pub fn has_ipv6_route(&self) -> bool {
        self.v6_route.is_some()
    }
}

/// Whether IPv6 has rules in this pod. Istio decides that once, by the addresses it finds; here an
/// address that comes later can still bring them, and none that goes takes them away: IPv6 would
/// pass without the proxy from then on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ipv6Rules {
    /// The pod has no address yet. Treated as if it had rules.
    Undecided,
    No,
    Yes,
}

impl Ipv6Rules {
    pub fn exist(self) -> bool {
        self != Self::No
    }

    #[must_use]
    pub fn decide(self, view: &View, dual_stack: bool) -> Self {
        match self {
            Self::Undecided if view.v4.is_none() && view.v6.is_none() => Self::Undecided,
            Self::Undecided if view.has_ipv6_rules(dual_stack) => Self::Yes,
            Self::No if dual_stack && view.v6.is_some() => Self::Yes,
            Self::Undecided | Self::No => Self::No,
            Self::Yes => Self::Yes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(v4: Option<&str>, v6: Option<&str>) -> View {
        View {
            v4: v4.map(|ip| ip.parse().unwrap()),
            v6: v6.map(|ip| ip.parse().unwrap()),
            ..View::default()
        }
    }

    #[test]
    fn ipv6_rules_exist_as_with_istio() {
        let both = view(Some("10.0.0.1"), Some("fd00::1"));
        assert!(!both.has_ipv6_rules(false));
        assert!(both.has_ipv6_rules(true));
        let v4 = view(Some("10.0.0.1"), None);
        assert!(!v4.has_ipv6_rules(false) && !v4.has_ipv6_rules(true));
        let v6 = view(None, Some("fd00::1"));
        assert!(v6.has_ipv6_rules(false) && v6.has_ipv6_rules(true));
        assert!(view(None, None).has_ipv6_rules(false));
    }

    #[test]
    fn ipv6_rules_outlive_the_addresses_they_came_from() {
        let (v4, both, none) = (
            view(Some("10.0.0.1"), None),
            view(Some("10.0.0.1"), Some("fd00::1")),
            view(None, None),
        );
        let rules = Ipv6Rules::Undecided.decide(&none, true);
        assert_eq!(rules, Ipv6Rules::Undecided);
        let rules = rules.decide(&v4, true);
        assert_eq!(rules, Ipv6Rules::No);
        let rules = rules.decide(&both, true);
        assert_eq!(rules, Ipv6Rules::Yes);
        assert_eq!(rules.decide(&v4, true), Ipv6Rules::Yes);
        // Without dual stack an IPv4 address that goes for a moment brings no rules.
        let v6 = view(None, Some("fd00::1"));
        assert_eq!(Ipv6Rules::No.decide(&v6, false), Ipv6Rules::No);
    }
}
