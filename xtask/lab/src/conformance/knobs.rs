//! Every knob of the loader that changes rules, with values worth trying.

use super::rng::Rng;

/// One setting.
pub(super) struct Knob {
    /// The loader's long flag, without the dashes; [`DNS_SERVERS`] stands for a resolv.conf.
    pub flag: &'static str,
    /// Tried alone in a fixed configuration each; `None` is a flag without a value.
    pub classic: &'static [Option<&'static str>],
    random: Values,
}

/// The servers of the pod's resolv.conf, as a list.
pub(super) const DNS_SERVERS: &str = "dns-servers";
pub(super) const REDIRECT_DNS: &str = "redirect-dns";
pub(super) const CAPTURE_ALL_DNS: &str = "capture-all-dns";
pub(super) const PROXY_UID: &str = "proxy-uid";
pub(super) const PROXY_GID: &str = "proxy-gid";
pub(super) const INCLUDED_GROUPS: &str = "outbound-owner-groups";
pub(super) const EXCLUDED_GROUPS: &str = "outbound-owner-groups-exclude";

enum Values {
    /// No value.
    Switch,
    OneOf(&'static [&'static str]),
    /// A list of up to so many.
    Some(&'static [&'static str], usize),
    /// One of the first, or a list of up to so many of the second.
    Either(&'static [&'static str], &'static [&'static str], usize),
}

const PORTS: &[&str] = &[
    "22",
    "53",
    "80",
    "443",
    "3306",
    "8080",
    "9080",
    "15020",
    "15021",
    "15090",
    "31000",
    "32000",
    "8000:8100",
    "15053",
    "15001",
    "9999",
];
const RANGES: &[&str] = &[
    "10.96.0.0/12",
    "10.96.0.10/32",
    "10.96.0.10",
    "10.96.3.7/24",
    "203.0.113.0/24",
    "198.51.100.0/24",
    "10.244.0.0/16",
    "192.168.77.0/24",
    "0.0.0.0/0",
    "fd00:96::/64",
    "fd00:96::10/128",
    "2001:db8::/32",
    "fd00::/8",
    "::/0",
    "fd00:10:244::/64",
];
const LOOPBACKS: &[&str] = &["127.0.0.0/8", "127.0.0.1/32", "::1/128"];
const SERVERS: &[&str] = &[
    "10.96.0.10",
    "203.0.113.53",
    "10.244.0.66",
    "fd00:96::10",
    "2001:db8::53",
    "127.0.0.9",
];
const GROUPS: &[&str] = &["888", "889", "1000", "0", "3", "1337"];

const fn knob(
    flag: &'static str,
    classic: &'static [Option<&'static str>],
    random: Values,
) -> Knob {
    Knob {
        flag,
        classic,
        random,
    }
}

/// Every knob.
pub(super) const KNOBS: &[Knob] = &[
    knob(
        "envoy-port",
        &[Some("15011"), Some("15999")],
        Values::OneOf(&["15011", "15999"]),
    ),
    knob(
        "inbound-capture-port",
        &[Some("15016"), Some("15999")],
        Values::OneOf(&["15016", "15999"]),
    ),
    knob(
        "inbound-tunnel-port",
        &[Some("8080")],
        Values::OneOf(&["80", "8080", "15009", "53"]),
    ),
    knob(
        PROXY_UID,
        &[Some("3,4"), Some("1337,3"), Some("0")],
        Values::OneOf(&[
            "1337", "3", "3,4", "1337,3", "4,1337", "0", "1,2,1337", "1000",
        ]),
    ),
    knob(
        PROXY_GID,
        &[Some("3,4"), Some("888"), Some("1,2")],
        Values::OneOf(&["1337", "888", "3,4", "1,2", "1337,888", "0", "1000"]),
    ),
    knob(
        "istio-inbound-ports",
        &[Some(""), Some("80,8080"), Some("*")],
        Values::Either(&["", "*"], PORTS, 5),
    ),
    knob(
        "istio-local-exclude-ports",
        &[Some(""), Some("80,9080")],
        Values::Either(&[""], PORTS, 4),
    ),
    knob(
        "istio-service-cidr",
        &[
            Some(""),
            Some("10.96.0.0/12,fd00:96::/64"),
            Some("127.0.0.0/8,10.96.0.0/12"),
        ],
        Values::Either(&["*", ""], RANGES, 5),
    ),
    knob(
        "istio-service-exclude-cidr",
        &[Some("10.96.0.10/32,fd00:96::10/128")],
        Values::Some(RANGES, 4),
    ),
    knob(
        "istio-outbound-ports",
        &[Some("9080,443")],
        Values::Some(PORTS, 4),
    ),
    knob(
        "istio-local-outbound-ports-exclude",
        &[Some("15020"), Some("53,80")],
        Values::Some(PORTS, 4),
    ),
    knob("dual-stack", &[None], Values::Switch),
    knob(REDIRECT_DNS, &[None], Values::Switch),
    knob(CAPTURE_ALL_DNS, &[], Values::Switch),
    knob(DNS_SERVERS, &[], Values::Some(SERVERS, 4)),
    knob("drop-invalid", &[None], Values::Switch),
    knob(
        INCLUDED_GROUPS,
        &[Some("888,1000"), Some("")],
        Values::Either(&["*", ""], GROUPS, 4),
    ),
    knob(EXCLUDED_GROUPS, &[Some("888")], Values::Some(GROUPS, 3)),
    knob(
        "istio-exclude-interfaces",
        &[Some("net1"), Some("eth0")],
        Values::OneOf(&["net1", "eth0", "net1,nothing0", "lo", "net+", "eth0,net1"]),
    ),
    knob(
        "outbound-ipv4-loopback-cidr",
        &[Some("127.0.0.0/8")],
        Values::OneOf(&[
            "127.0.0.0/8",
            "127.0.0.1/32",
            "127.0.0.8/29",
            "127.0.0.0/24",
        ]),
    ),
];

pub(super) fn knob_of(flag: &str) -> Option<&'static Knob> {
    KNOBS.iter().find(|knob| knob.flag == flag)
}

impl Knob {
    /// A value to try; `None` is a flag without one.
    pub(super) fn value(&self, rng: &mut Rng) -> Option<String> {
        let list = |items: Vec<&&str>| items.into_iter().copied().collect::<Vec<_>>().join(",");
        match &self.random {
            Values::Switch => None,
            Values::OneOf(values) => Some((*rng.pick(values)).to_owned()),
            Values::Some(values, most) => Some(list(rng.some(values, *most))),
            Values::Either(values, _, _) if rng.percent(30) => Some((*rng.pick(values)).to_owned()),
            Values::Either(_, items, most) => {
                let mut text = list(rng.some(items, *most));
                if self.flag == "istio-service-cidr" && rng.percent(15) {
                    text += ",";
                    text += rng.pick::<&str>(LOOPBACKS);
                }
                Some(text)
            }
        }
    }
}
