//! The flags taken over from istio-iptables: names, environment, defaults, and whose word counts.
//!
//! Names as in Istio's tools/istio-iptables/pkg/cmd/root.go and pkg/constants/constants.go; the
//! defaults are the values that a default Istio installation passes to it.

use std::fmt;

use super::annotations::FromPod;

/// Looks up an environment variable; injected so that tests need not touch their own environment.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// One flag of istio-iptables.
#[derive(Debug)]
pub struct Flag {
    pub long: &'static str,
    pub short: Option<char>,
    /// Environment variables, of which the last one that is set counts.
    pub env: &'static [&'static str],
    pub default: &'static str,
}

/// Istio binds no variable to it: `ENVOY_PORT` appears in its help and its log, and is not read.
pub const ENVOY_PORT: Flag = Flag {
    long: "envoy-port",
    short: Some('p'),
    env: &[],
    default: "15001",
};
pub const INBOUND_CAPTURE_PORT: Flag = Flag {
    long: "inbound-capture-port",
    short: Some('z'),
    env: &["INBOUND_CAPTURE_PORT"],
    default: "15006",
};
pub const INBOUND_TUNNEL_PORT: Flag = Flag {
    long: "inbound-tunnel-port",
    short: Some('e'),
    env: &["INBOUND_TUNNEL_PORT"],
    default: "15008",
};
/// An empty value means the user `$ENVOY_USER`, and the default if there is none.
pub const PROXY_UID: Flag = Flag {
    long: "proxy-uid",
    short: Some('u'),
    env: &["PROXY_UID"],
    default: "1337",
};
/// An empty value means the same ids as [`PROXY_UID`].
pub const PROXY_GID: Flag = Flag {
    long: "proxy-gid",
    short: Some('g'),
    env: &["PROXY_GID"],
    default: "",
};
pub const INBOUND_PORTS: Flag = Flag {
    long: "istio-inbound-ports",
    short: Some('b'),
    env: &["ISTIO_INBOUND_PORTS"],
    default: "*",
};
pub const LOCAL_EXCLUDE_PORTS: Flag = Flag {
    long: "istio-local-exclude-ports",
    short: Some('d'),
    env: &["ISTIO_LOCAL_EXCLUDE_PORTS"],
    default: "15090,15021,15020",
};
pub const SERVICE_CIDR: Flag = Flag {
    long: "istio-service-cidr",
    short: Some('i'),
    env: &["ISTIO_SERVICE_CIDR"],
    default: "*",
};
pub const SERVICE_EXCLUDE_CIDR: Flag = Flag {
    long: "istio-service-exclude-cidr",
    short: Some('x'),
    env: &["ISTIO_SERVICE_EXCLUDE_CIDR"],
    default: "",
};
pub const OUTBOUND_PORTS: Flag = Flag {
    long: "istio-outbound-ports",
    short: Some('q'),
    env: &["ISTIO_OUTBOUND_PORTS"],
    default: "",
};
pub const LOCAL_OUTBOUND_PORTS_EXCLUDE: Flag = Flag {
    long: "istio-local-outbound-ports-exclude",
    short: Some('o'),
    env: &["ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE"],
    default: "",
};
pub const EXCLUDE_INTERFACES: Flag = Flag {
    long: "istio-exclude-interfaces",
    short: Some('c'),
    env: &["ISTIO_EXCLUDE_INTERFACES"],
    default: "",
};
/// To Istio a variable only, like the two after it; the flags are ours.
pub const OWNER_GROUPS: Flag = Flag {
    long: "outbound-owner-groups",
    short: None,
    env: &["ISTIO_OUTBOUND_OWNER_GROUPS"],
    default: "*",
};
pub const OWNER_GROUPS_EXCLUDE: Flag = Flag {
    long: "outbound-owner-groups-exclude",
    short: None,
    env: &["ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE"],
    default: "",
};
pub const LOOPBACK_CIDR: Flag = Flag {
    long: "outbound-ipv4-loopback-cidr",
    short: None,
    env: &["ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR"],
    default: "127.0.0.1/32",
};
pub const REDIRECT_DNS: Flag = Flag {
    long: "redirect-dns",
    short: None,
    env: &["REDIRECT_DNS", "ISTIO_META_DNS_CAPTURE"],
    default: "false",
};
pub const CAPTURE_ALL_DNS: Flag = Flag {
    long: "capture-all-dns",
    short: None,
    env: &["CAPTURE_ALL_DNS"],
    default: "false",
};
pub const DROP_INVALID: Flag = Flag {
    long: "drop-invalid",
    short: None,
    env: &["DROP_INVALID", "INVALID_DROP"],
    default: "false",
};
pub const DUAL_STACK: Flag = Flag {
    long: "dual-stack",
    short: None,
    env: &["DUAL_STACK", "ISTIO_DUAL_STACK"],
    default: "false",
};

/// Every flag of istio-iptables that is understood.
pub const SUPPORTED: &[&Flag] = &[
    &ENVOY_PORT,
    &INBOUND_CAPTURE_PORT,
    &INBOUND_TUNNEL_PORT,
    &PROXY_UID,
    &PROXY_GID,
    &INBOUND_PORTS,
    &LOCAL_EXCLUDE_PORTS,
    &SERVICE_CIDR,
    &SERVICE_EXCLUDE_CIDR,
    &OUTBOUND_PORTS,
    &LOCAL_OUTBOUND_PORTS_EXCLUDE,
    &EXCLUDE_INTERFACES,
    &OWNER_GROUPS,
    &OWNER_GROUPS_EXCLUDE,
    &LOOPBACK_CIDR,
    &REDIRECT_DNS,
    &CAPTURE_ALL_DNS,
    &DROP_INVALID,
    &DUAL_STACK,
];

impl fmt::Display for Flag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--{}", self.long)?;
        if let Some(short) = self.short {
            write!(f, " (-{short})")?;
        }
        Ok(())
    }
}

/// Who gave a value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    Default,
    Environment(&'static str),
    /// The pod, as a file describes it; this tells where in the file.
    Annotation(String),
    CommandLine,
}

/// The value that counts for a flag, without surrounding blanks.
#[derive(Debug)]
pub struct Setting {
    pub flag: &'static Flag,
    pub origin: Origin,
    pub value: String,
}

impl Setting {
    /// Default, environment, annotations, command line: the later wins. A variable that is set but
    /// empty counts as an empty value, as in Istio (`BindEnv` in pkg/flag/flag.go goes by whether
    /// it is set).
    pub(super) fn resolve(
        flag: &'static Flag,
        command_line: Option<&str>,
        pod: &FromPod,
        environment: Environment<'_>,
    ) -> Self {
        let (origin, value) = if let Some(value) = command_line {
            (Origin::CommandLine, value.to_owned())
        } else if let Some(said) = pod.says(flag.long, flag.env) {
            (
                Origin::Annotation(said.source.clone()),
                said.value.to_owned(),
            )
        } else if let Some(found) = from_environment(flag.env, environment) {
            (Origin::Environment(found.0), found.1)
        } else {
            (Origin::Default, flag.default.to_owned())
        };
        Self {
            flag,
            origin,
            value: value.trim().to_owned(),
        }
    }

    /// The items of a comma-separated list. Empty ones are dropped, as in Istio (`Split` in
    /// tools/common/config/types.go); blanks around an item, which Istio would hand to iptables,
    /// are no harm here.
    pub fn items(&self) -> impl Iterator<Item = &str> {
        split(&self.value)
    }

    pub fn is_wildcard(&self) -> bool {
        self.value == "*"
    }
}

/// How messages name a setting: the flag, and where the value is from if that is elsewhere.
impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Environment(name) => write!(f, "{} from ${name}", self.flag),
            Origin::Annotation(source) => write!(f, "{} from {source}", self.flag),
            Origin::Default | Origin::CommandLine => write!(f, "{}", self.flag),
        }
    }
}

/// The last variable of `names` that is set, and its value.
pub(super) fn from_environment(
    names: &'static [&'static str],
    environment: Environment<'_>,
) -> Option<(&'static str, String)> {
    names
        .iter()
        .rev()
        .find_map(|&name| Some((name, environment(name)?)))
}

pub(super) fn split(list: &str) -> impl Iterator<Item = &str> {
    list.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

/// A boolean as Go's `strconv.ParseBool` reads it.
pub(super) fn parse_bool(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}
