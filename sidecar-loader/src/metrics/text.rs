//! The metrics in the OpenMetrics text format, which Prometheus reads. Every series is there from
//! the first scrape, at zero.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::{Registry, Unit},
};
use sidecar_ebpf_common::counter::{Counter, Effect, Hook};

use super::Sample;
use crate::owner;

const PREFIX: &str = "sidecar_ebpf";

/// One scrape's answer.
pub fn encode(sample: Sample) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(sample));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

impl Collector for Sample {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let encoder = &mut encoder;
        self.encode_decisions(encoder)?;
        self.encode_exceptions(
            encoder,
            Effect::Bypass,
            (
                "bypasses",
                "Times something was left alone without asking the rules, by reason.",
            ),
        )?;
        self.encode_exceptions(
            encoder,
            Effect::Refusal,
            (
                "refusals",
                "Times a connection or a question was refused, by reason.",
            ),
        )?;
        self.encode_state(encoder)?;
        self.encode_tables(encoder)?;
        let labels = [("version", env!("CARGO_PKG_VERSION"))];
        let help = ("build_info", "The version that runs, as a label.");
        gauges(encoder, help, [(labels, 1)])
    }
}

impl Sample {
    fn encode_decisions(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = (
            "decisions",
            "Connections by the rule that decided them: its number in Istio's default chain, or \
             the name of a rule in between.",
        );
        let series = self.counters.decisions().map(|decision| {
            let labels = [
                ("hook", decision.hook),
                ("rule", decision.rule),
                ("action", decision.action),
            ];
            (labels, decision.connections)
        });
        counters(encoder, help, series)
    }

    fn encode_exceptions(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        effect: Effect,
        help: Help,
    ) -> Result<(), fmt::Error> {
        let series = self
            .counters
            .iter()
            .filter_map(|(counter, count)| match counter {
                Counter::Other(hook, reason) if reason.effect() == effect => {
                    Some(([("hook", hook.name()), ("reason", reason.name())], count))
                }
                Counter::Other(..) | Counter::Outbound(..) | Counter::Inbound(_) => None,
            });
        counters(encoder, help, series)
    }

    fn encode_state(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let attached = Hook::ALL.iter().map(|hook| {
            (
                [("hook", hook.name())],
                u64::from(self.attached.contains(hook)),
            )
        });
        let help = (
            "program_attached",
            "Whether a program is attached at the hook.",
        );
        gauges(encoder, help, attached)?;

        let listening = self.listeners.iter();
        let listening = listening.map(|(listeners, count)| ([("port", listeners.name())], *count));
        let help = (
            "listeners",
            "Listening sockets of the proxy that are known, by the port that connections are \
             redirected to.",
        );
        gauges(encoder, help, listening)?;

        let judged_by = owner::Source::NAMES.iter().map(|&name| {
            let current = u64::from(name == self.owner.name());
            ([("source", name)], current)
        });
        let help = (
            "owner_source",
            "1 for the credentials by which the proxy is told: its socket's, as iptables does, or its task's.",
        );
        gauges(encoder, help, judged_by)
    }

    fn encode_tables(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = (
            "destinations",
            "Destinations of redirected connections that have a number.",
        );
        single(encoder, help, &ConstGauge::new(self.destinations))?;
        let help = (
            "destinations_max",
            "Destinations that can have a number at a time.",
        );
        single(encoder, help, &ConstGauge::new(self.destinations_max))?;
        let help = ("destination_numbers", "Numbers handed out to destinations.");
        single(encoder, help, &ConstCounter::new(self.destination_numbers))?;

        let help = (
            "local_addresses",
            "Addresses and prefixes that are local to the pod.",
        );
        single(encoder, help, &ConstGauge::new(self.local_addresses))
    }
}

/// A family's name, without prefix and `_total`, and what it is.
type Help = (&'static str, &'static str);
type Label = (&'static str, &'static str);
const NO_UNIT: Option<&Unit> = None;

fn counters<const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): Help,
    series: impl IntoIterator<Item = ([Label; N], u64)>,
) -> Result<(), fmt::Error> {
    let mut family = encoder.encode_descriptor(name, help, NO_UNIT, MetricType::Counter)?;
    for (labels, value) in series {
        ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn gauges<const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): Help,
    series: impl IntoIterator<Item = ([Label; N], u64)>,
) -> Result<(), fmt::Error> {
    let mut family = encoder.encode_descriptor(name, help, NO_UNIT, MetricType::Gauge)?;
    for (labels, value) in series {
        ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn single(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): Help,
    value: &impl EncodeMetric,
) -> Result<(), fmt::Error> {
    value.encode(encoder.encode_descriptor(name, help, NO_UNIT, value.metric_type())?)
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use sidecar_ebpf_common::{
        counter::{OutboundHook, Reason},
        maps::Listeners,
        rule::InboundRule,
    };

    use super::*;
    use crate::snapshot::{
        Snapshot,
        tests::{FULL, RULE_9, SLOTS, snapshot},
    };

    pub(in crate::metrics) fn sample(counters: Snapshot) -> Sample {
        Sample {
            counters,
            attached: vec![Hook::Connect4, Hook::SkLookup],
            listeners: vec![
                (Listeners::Outbound, 2),
                (Listeners::Inbound, 1),
                (Listeners::Dns, 0),
            ],
            owner: owner::Source::Task,
            destinations: 3,
            destinations_max: 16,
            destination_numbers: 5,
            local_addresses: 4,
        }
    }

    /// Every series with its value; asserts that the text is well formed on the way.
    pub(in crate::metrics) fn parse(text: &str) -> BTreeMap<String, f64> {
        let mut series = BTreeMap::new();
        let mut helped = BTreeSet::new();
        let mut family = String::new();
        let body = text.strip_suffix("# EOF\n").expect("an end");
        for line in body.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').expect("a help text");
                assert!(help.ends_with('.'), "{line}");
                assert!(helped.insert(name.to_owned()), "{name} twice");
                continue;
            }
            if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').expect("a type");
                assert!(helped.contains(name), "{name} without help");
                let suffix = if kind == "counter" { "_total" } else { "" };
                family = format!("{name}{suffix}");
                continue;
            }
            let (name, value) = line.rsplit_once(' ').expect("a value");
            assert_eq!(name.split('{').next(), Some(family.as_str()), "{line}");
            let value = value.parse().unwrap();
            assert_eq!(series.insert(name.to_owned(), value), None, "{name} twice");
        }
        series
    }

    #[test]
    fn every_series_is_there_at_zero() {
        let series = parse(&encode(sample(Snapshot::zero())).unwrap());
        let count = |family: &str| {
            let of_family = series.iter().filter(|(name, _)| {
                name.split('{').next() == Some(&format!("sidecar_ebpf_{family}_total"))
            });
            of_family
                .inspect(|(name, value)| assert_eq!(**value, 0.0, "{name}"))
                .count()
        };
        let outbound: usize = OutboundHook::ALL
            .iter()
            .map(|hook| hook.rules().count())
            .sum();
        assert_eq!(count("decisions"), outbound + InboundRule::ALL.len());
        let exceptions: usize = Reason::ALL.iter().map(|reason| reason.hooks().len()).sum();
        assert_eq!(count("bypasses") + count("refusals"), exceptions);
        assert!(count("bypasses") > 0 && count("refusals") > 0);
    }

    #[test]
    fn counters_carry_their_labels() {
        let counted = snapshot(&[(RULE_9, 7), (FULL, 2), (SLOTS, 1)]);
        let series = parse(&encode(sample(counted)).unwrap());
        let counters = series
            .iter()
            .filter(|(name, value)| name.contains("_total{") && **value != 0.0)
            .map(|(name, value)| format!("{name} {value}"));
        assert_eq!(
            counters.collect::<Vec<_>>(),
            [
                "sidecar_ebpf_bypasses_total{hook=\"sock_ops\",reason=\"slots-full\"} 1",
                "sidecar_ebpf_decisions_total{hook=\"connect4\",rule=\"9\",\
                 action=\"redirect-outbound\"} 7",
                "sidecar_ebpf_refusals_total{hook=\"connect6\",reason=\"table-full\"} 2",
            ]
        );
    }

    #[test]
    fn state_is_in_gauges() {
        let series = parse(&encode(sample(Snapshot::zero())).unwrap());
        for (name, value) in [
            ("program_attached{hook=\"connect4\"}", 1.0),
            ("program_attached{hook=\"connect6\"}", 0.0),
            ("program_attached{hook=\"sk_lookup\"}", 1.0),
            ("listeners{port=\"outbound\"}", 2.0),
            ("listeners{port=\"inbound\"}", 1.0),
            ("listeners{port=\"dns\"}", 0.0),
            ("destinations", 3.0),
            ("destinations_max", 16.0),
            ("destination_numbers_total", 5.0),
            ("local_addresses", 4.0),
            (
                concat!("build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}"),
                1.0,
            ),
        ] {
            assert_eq!(
                series.get(&format!("sidecar_ebpf_{name}")),
                Some(&value),
                "{name}"
            );
        }
        let programs = series
            .keys()
            .filter(|name| name.contains("program_attached"))
            .count();
        assert_eq!(programs, Hook::ALL.len());
    }
}
