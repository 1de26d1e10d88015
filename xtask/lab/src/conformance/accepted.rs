//! Differences that are accepted: as few as can be, each with its reason, and each checked to be
//! still there.

use sidecar_ebpf_common::{interface::Interface, number};

use super::{map, predict::Prediction, probe::Probe};

/// A difference that is known and left.
pub(super) struct Accepted {
    pub name: &'static str,
    /// What differs and why it is right, or harmless.
    pub reason: &'static str,
    /// Whether it can show in this probe.
    pub applies: fn(&Probe, &Prediction) -> bool,
    pub hides: Aspect,
    /// Configurations and probes that show it. Random probes keep out of its way, unless it is
    /// about counters alone.
    pub deliberate: &'static [(&'static str, &'static str)],
}

/// What may differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Aspect {
    Everything,
    /// Our counters stand still, which is predicted; whatever else differs is not accepted.
    OurCounters,
    /// What a proxy is told about the original destination.
    OriginalDestination,
}

/// At most five.
pub(super) const ACCEPTED: &[Accepted] = &[
    Accepted {
        name: "decided-before-routing",
        reason: "connect() from a source that cannot reach the destination: with iptables the \
                 kernel looks for a route first and fails without asking a rule; here the rules \
                 are asked first, and what goes to the proxy needs no such route",
        applies: |probe, _| {
            probe
                .from
                .is_some_and(|from| from.is_loopback() || from == map::PASSTHROUGH_IP6)
                && map::interface_with(probe.destination().ip(), true) == Interface::NONE
        },
        hides: Aspect::Everything,
        deliberate: &[
            ("--dual-stack", "out tcp app 10.96.0.10:80 from=127.0.0.1"),
            ("--dual-stack", "out tcp app [fd00:96::10]:80 from=::1"),
        ],
    },
    Accepted {
        name: "bound-to-device",
        reason: "a redirected socket that is bound to a device cannot reach the proxy: with \
                 iptables its SYN is lost and it times out, here it is refused at once",
        applies: |probe, prediction| probe.device.is_some() && prediction.redirect.is_some(),
        hides: Aspect::Everything,
        deliberate: &[("(defaults)", "out tcp app 10.96.0.10:80 device=eth0")],
    },
    Accepted {
        name: "uncounted-udp",
        reason: "UDP that no setting captures passes here without being looked at, so it costs \
                 nothing and is not counted",
        applies: |_, prediction| prediction.uncounted,
        hides: Aspect::OurCounters,
        deliberate: &[("(defaults)", "out udp app 10.96.0.10:80")],
    },
    Accepted {
        name: "redirect-range",
        reason: "127.128.0.0/10 and fd73:6964:6563:6172::/64 belong to the redirect itself: \
                 nobody may connect there, while with iptables they are loopback addresses or \
                 nobody's",
        applies: |probe, _| number::is_reserved(&probe.to.ip().into()),
        hides: Aspect::Everything,
        deliberate: &[("(defaults)", "out tcp app 127.128.0.1:80")],
    },
    Accepted {
        name: "untracked-family",
        reason: "where IPv6 has no rules, iptables does not track its connections and knows no \
                 original destination; nftables, whose tables are for both families, and this \
                 software name the destination that there is",
        applies: |_, prediction| prediction.rule == "no-ipv6-rules",
        hides: Aspect::OriginalDestination,
        deliberate: &[("(defaults)", "in tcp [fd00:10:244::5]:15006")],
    },
];

/// The entries that this probe comes under.
pub(super) fn entries<'a>(
    probe: &'a Probe,
    prediction: &'a Prediction,
) -> impl Iterator<Item = &'static Accepted> + 'a {
    ACCEPTED
        .iter()
        .filter(move |entry| (entry.applies)(probe, prediction))
}

/// Whether this may differ in the probe.
pub(super) fn hides(probe: &Probe, prediction: &Prediction, aspect: Aspect) -> bool {
    entries(probe, prediction).any(|entry| entry.hides == aspect)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_short_and_its_probes_can_be_read() {
        assert!(ACCEPTED.len() <= 5);
        for entry in ACCEPTED {
            for (config, probe) in entry.deliberate {
                config.parse::<super::super::config::Config>().unwrap();
                probe.parse::<Probe>().unwrap();
            }
        }
    }
}
