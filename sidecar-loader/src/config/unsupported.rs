//! The settings of istio-iptables that are not understood. None is ignored: a value that asks for
//! what happens anyway passes, any other is refused by name, whether it comes as a flag or in the
//! environment.

use super::{
    annotations::FromPod,
    flag::{Environment, from_environment, parse_bool, split},
    problem::{Collector, quote},
};

/// A setting of istio-iptables that is known only in order to be refused.
#[derive(Debug)]
pub struct Unsupported {
    /// Its flag.
    pub long: &'static str,
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

const TPROXY: &str = "inbound connections are handed to the proxy without TPROXY, with the \
                      client's address on them; TPROXY would need marks and routes for the \
                      proxy's own connections";
const VIRTUAL: &str = "traffic of virtual machines inside the pod is not captured; it would need \
                       programs on those interfaces";

const fn unsupported(
    long: &'static str,
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
    unsupported("istio-inbound-interception-mode", Some('m'), &["ISTIO_INBOUND_INTERCEPTION_MODE"],
        Harmless::OneOf(&["", "REDIRECT"]), TPROXY),
    unsupported("istio-inbound-tproxy-mark", Some('t'), &["ISTIO_INBOUND_TPROXY_MARK"],
        Harmless::InEnvironment, TPROXY),
    unsupported("istio-inbound-tproxy-route-table", Some('r'), &["ISTIO_INBOUND_TPROXY_ROUTE_TABLE"],
        Harmless::InEnvironment, TPROXY),
    unsupported("kube-virt-interfaces", Some('k'), &["KUBE_VIRT_INTERFACES"],
        Harmless::EmptyList, VIRTUAL),
    unsupported("dry-run", Some('n'), &["DRY_RUN"],
        Harmless::False, "there is no dry run"),
    unsupported("skip-rule-apply", None, &["SKIP_RULE_APPLY"],
        Harmless::False, "the rules apply while the loader runs; do not start it instead"),
    unsupported("run-validation", None, &["RUN_VALIDATION"],
        Harmless::False, "the self-test is `loader validate`, run in the pod"),
    unsupported("iptables-probe-port", None, &["IPTABLES_PROBE_PORT"],
        Harmless::InEnvironment, "the self-test is `loader validate`, run in the pod"),
    unsupported("probe-timeout", None, &["PROBE_TIMEOUT"],
        Harmless::InEnvironment, "the self-test is `loader validate`, run in the pod"),
    unsupported("cleanup-only", None, &["CLEANUP_ONLY"],
        Harmless::False, "nothing stays behind once the loader ends, so there is nothing to clean up"),
    unsupported("network-namespace", None, &["NETWORK_NAMESPACE"],
        Harmless::OneOf(&[""]), "use --netns PATH"),
    unsupported("native-nftables", None, &["NATIVE_NFTABLES"],
        Harmless::False, "the rules are those of the iptables backend, which differ for IPv6"),
    unsupported("cni-mode", None, &["CNI_MODE"],
        Harmless::InEnvironment, "no iptables is run"),
    unsupported("reconcile", None, &["RECONCILE"],
        Harmless::InEnvironment, "no iptables is run"),
    unsupported("force-apply", None, &["FORCE_APPLY"],
        Harmless::InEnvironment, "no iptables is run"),
    unsupported("force-iptables-binary", None, &["FORCE_IPTABLES_BINARY"],
        Harmless::InEnvironment, "no iptables is run"),
];

impl Unsupported {
    /// Whether the flag stands alone on the command line, or takes a value.
    pub fn is_switch(&self) -> bool {
        match self.harmless {
            Harmless::False => true,
            Harmless::InEnvironment => {
                matches!(self.long, "cni-mode" | "reconcile" | "force-apply")
            }
            Harmless::EmptyList | Harmless::OneOf(_) => false,
        }
    }

    fn name(&self) -> String {
        let long = self.long;
        match self.short {
            Some(short) => format!("--{long} (-{short})"),
            None => format!("--{long}"),
        }
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
/// name; a flag overrides what the pod says, and that the variables.
pub(super) fn refuse(
    flags: &[(&'static str, String)],
    pod: &FromPod,
    environment: Environment<'_>,
    collector: &mut Collector,
) {
    for setting in UNSUPPORTED {
        let name = setting.name();
        let from_flag = flags.iter().find(|(long, _)| setting.long == *long);
        let from_pod = pod.says(setting.long, setting.env);
        let (what, value) = if let Some((_, value)) = from_flag {
            (name, value.clone())
        } else if let Some(said) = from_pod {
            let what = format!("{}, which is {name}", said.source);
            (what, said.value.clone())
        } else if let Some((variable, value)) = from_environment(setting.env, environment) {
            let what = format!("environment variable {variable}, which is {name}");
            (what, value)
        } else {
            continue;
        };
        let value = value.trim();
        if !setting.harmless.accepts(value, from_flag.is_some()) {
            collector.refuse(format!(
                "{what}: {} is not supported: {}",
                quote(value),
                setting.why
            ));
        }
    }
}
