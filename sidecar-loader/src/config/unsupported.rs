//! The settings of istio-iptables that are not understood. None is ignored: a value that asks for
//! what happens anyway passes, any other is refused by name, whether it comes as a flag or in the
//! environment.

use super::{
    flag::{Environment, from_environment, parse_bool, split},
    problem::{Collector, quote},
};

/// A setting of istio-iptables that is known only in order to be refused.
#[derive(Debug)]
pub struct Unsupported {
    /// Its flag; a few settings are environment variables only.
    pub long: Option<&'static str>,
    pub short: Option<char>,
    /// Of these the last one that is set counts.
    pub env: &'static [&'static str],
    /// Which values change nothing.
    pub harmless: Harmless,
    /// What it would do, and what to do instead.
    pub why: &'static str,
}

/// Which values of an unsupported setting ask for nothing that does not happen anyway.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Harmless {
    /// False, in any of Go's spellings. Takes no value on the command line.
    False,
    /// A list without items.
    EmptyList,
    /// Exactly one of these.
    OneOf(&'static [&'static str]),
    /// Any value in the environment, because it only tunes something that is refused already. As a
    /// flag it is refused.
    InEnvironment,
}

const DNS: &str = "DNS is not captured";
const TPROXY: &str = "inbound connections are handed to the proxy without TPROXY";

const fn unsupported(
    long: Option<&'static str>,
    short: Option<char>,
    env: &'static [&'static str],
    harmless: Harmless,
    why: &'static str,
) -> Unsupported {
    Unsupported {
        long,
        short,
        env,
        harmless,
        why,
    }
}

#[rustfmt::skip]
pub const UNSUPPORTED: &[Unsupported] = &[
    unsupported(Some("istio-inbound-interception-mode"), Some('m'), &["ISTIO_INBOUND_INTERCEPTION_MODE"],
        Harmless::OneOf(&["", "REDIRECT"]), TPROXY),
    unsupported(Some("istio-inbound-tproxy-mark"), Some('t'), &["ISTIO_INBOUND_TPROXY_MARK"],
        Harmless::InEnvironment, TPROXY),
    unsupported(Some("istio-inbound-tproxy-route-table"), Some('r'), &["ISTIO_INBOUND_TPROXY_ROUTE_TABLE"],
        Harmless::InEnvironment, TPROXY),
    unsupported(Some("istio-exclude-interfaces"), Some('c'), &["ISTIO_EXCLUDE_INTERFACES"],
        Harmless::EmptyList, "interfaces cannot be excluded; exclude ranges (-x) or ports (-o, -d)"),
    unsupported(Some("kube-virt-interfaces"), Some('k'), &["KUBE_VIRT_INTERFACES"],
        Harmless::EmptyList, "traffic of virtual machines inside the pod is not captured"),
    unsupported(Some("redirect-dns"), None, &["REDIRECT_DNS", "ISTIO_META_DNS_CAPTURE"],
        Harmless::False, DNS),
    unsupported(Some("capture-all-dns"), None, &["CAPTURE_ALL_DNS"],
        Harmless::False, DNS),
    unsupported(Some("drop-invalid"), None, &["DROP_INVALID", "INVALID_DROP"],
        Harmless::False, "packets are not looked at one by one, so none is dropped as invalid"),
    unsupported(Some("dry-run"), Some('n'), &["DRY_RUN"],
        Harmless::False, "there is no dry run"),
    unsupported(Some("skip-rule-apply"), None, &["SKIP_RULE_APPLY"],
        Harmless::False, "the rules apply while the loader runs; do not start it instead"),
    unsupported(Some("run-validation"), None, &["RUN_VALIDATION"],
        Harmless::False, "the self-test is `loader validate`, run in the pod"),
    unsupported(Some("iptables-probe-port"), None, &["IPTABLES_PROBE_PORT"],
        Harmless::InEnvironment, "the self-test is `loader validate`, run in the pod"),
    unsupported(Some("probe-timeout"), None, &["PROBE_TIMEOUT"],
        Harmless::InEnvironment, "the self-test is `loader validate`, run in the pod"),
    unsupported(Some("cleanup-only"), None, &["CLEANUP_ONLY"],
        Harmless::False, "nothing stays behind once the loader ends, so there is nothing to clean up"),
    unsupported(Some("network-namespace"), None, &["NETWORK_NAMESPACE"],
        Harmless::OneOf(&[""]), "use --netns PATH"),
    unsupported(Some("native-nftables"), None, &["NATIVE_NFTABLES"],
        Harmless::False, "the rules are those of the iptables backend, which differ for IPv6"),
    unsupported(Some("cni-mode"), None, &["CNI_MODE"],
        Harmless::InEnvironment, "no iptables is run"),
    unsupported(Some("reconcile"), None, &["RECONCILE"],
        Harmless::InEnvironment, "no iptables is run"),
    unsupported(Some("force-apply"), None, &["FORCE_APPLY"],
        Harmless::InEnvironment, "no iptables is run"),
    unsupported(Some("force-iptables-binary"), None, &["FORCE_IPTABLES_BINARY"],
        Harmless::InEnvironment, "no iptables is run"),
    // Set but empty includes no group, so that Istio captures nothing (ParseInterceptFilter in
    // tools/common/config/types.go).
    unsupported(None, None, &["ISTIO_OUTBOUND_OWNER_GROUPS"],
        Harmless::OneOf(&["*"]), "outbound capture cannot be limited to groups"),
    unsupported(None, None, &["ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE"],
        Harmless::EmptyList, "groups cannot be excluded from outbound capture; --proxy-gid (-g) exempts groups"),
    // Istio itself refuses an empty value (ValidateIPv4LoopbackCidr in
    // tools/common/config/validation.go).
    unsupported(None, None, &["ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR"],
        Harmless::OneOf(&["127.0.0.1/32"]), "localhost is 127.0.0.1/32"),
];

impl Unsupported {
    /// Whether the flag stands alone on the command line, or takes a value.
    pub fn is_switch(&self) -> bool {
        match self.harmless {
            Harmless::False => true,
            Harmless::InEnvironment => {
                matches!(self.long, Some("cni-mode" | "reconcile" | "force-apply"))
            }
            Harmless::EmptyList | Harmless::OneOf(_) => false,
        }
    }

    fn flag_name(&self) -> Option<String> {
        let long = self.long?;
        Some(match self.short {
            Some(short) => format!("--{long} (-{short})"),
            None => format!("--{long}"),
        })
    }
}

impl Harmless {
    fn accepts(self, value: &str, from_flag: bool) -> bool {
        match self {
            // Istio takes an empty or malformed variable for false. A malformed one is refused
            // here, because nobody sets it in order to have no effect.
            Self::False => parse_bool(value) == Some(false) || value.is_empty() && !from_flag,
            Self::EmptyList => split(value).next().is_none(),
            Self::OneOf(values) => values.contains(&value),
            Self::InEnvironment => !from_flag,
        }
    }
}

/// Refuses what is asked for and not supported. `flags` holds the flags that were given by long
/// name; a flag overrides its variables.
pub(super) fn refuse(
    flags: &[(&'static str, String)],
    environment: Environment<'_>,
    collector: &mut Collector,
) {
    for setting in UNSUPPORTED {
        let from_flag = flags.iter().find(|(long, _)| setting.long == Some(*long));
        let flag_name = setting.flag_name();
        let (what, value, is_flag) = match (from_flag, flag_name) {
            (Some((_, value)), Some(name)) => (name, value.clone(), true),
            (_, name) => match from_environment(setting.env, environment) {
                Some((variable, value)) => {
                    let as_flag = name
                        .map(|name| format!(", which is {name}"))
                        .unwrap_or_default();
                    (
                        format!("environment variable {variable}{as_flag}"),
                        value,
                        false,
                    )
                }
                None => continue,
            },
        };
        let value = value.trim();
        if !setting.harmless.accepts(value, is_flag) {
            collector.refuse(format!(
                "{what}: {} is not supported: {}",
                quote(value),
                setting.why
            ));
        }
    }
}
