//! All counters at one moment.

use serde::{Serialize, Serializer, ser::SerializeStruct};
use sidecar_ebpf_common::counter::{Counter, Effect, Hook};

/// One value per [`Counter`], summed over CPUs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// By [`Counter::index`].
    values: Vec<u64>,
}

impl Snapshot {
    /// From the values of the counter map, in its order.
    ///
    /// # Panics
    ///
    /// If there are not [`Counter::COUNT`] of them.
    pub fn new(values: Vec<u64>) -> Self {
        assert_eq!(
            values.len(),
            Counter::COUNT as usize,
            "one value per counter"
        );
        Self { values }
    }

    pub fn zero() -> Self {
        Self {
            values: vec![0; Counter::COUNT as usize],
        }
    }

    pub fn get(&self, counter: Counter) -> u64 {
        self.values
            .get(counter.index() as usize)
            .copied()
            .unwrap_or_default()
    }

    /// Every counter that can move, in the order in which counters are shown.
    pub fn iter(&self) -> impl Iterator<Item = (Counter, u64)> + '_ {
        Counter::all().map(|counter| (counter, self.get(counter)))
    }

    /// What was counted since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let pairs = self.values.iter().zip(&earlier.values);
        Self {
            values: pairs.map(|(now, then)| now.saturating_sub(*then)).collect(),
        }
    }

    /// The connections that a rule decided.
    pub fn decisions(&self) -> impl Iterator<Item = Decision> + '_ {
        self.iter().filter_map(|(counter, connections)| {
            let (hook, rule, action) = match counter {
                Counter::Outbound(hook, rule) => (hook.hook(), rule.label(), rule.action()),
                Counter::Inbound(rule) => (Hook::SkLookup, rule.label(), rule.action()),
                Counter::Other(..) => return None,
            };
            Some(Decision {
                hook: hook.name(),
                rule,
                action: action.name(),
                connections,
            })
        })
    }

    /// What no rule decided, with the reason.
    pub fn exceptions(&self) -> impl Iterator<Item = Exception> + '_ {
        self.iter().filter_map(|(counter, count)| match counter {
            Counter::Outbound(..) | Counter::Inbound(_) => None,
            Counter::Other(hook, reason) => Some(Exception {
                hook: hook.name(),
                reason: reason.name(),
                effect: effect_name(reason.effect()),
                count,
            }),
        })
    }
}

/// How many connections one rule decided at one hook.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Decision {
    pub hook: &'static str,
    pub rule: &'static str,
    pub action: &'static str,
    pub connections: u64,
}

/// How often something was bypassed or refused for one reason at one hook.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Exception {
    pub hook: &'static str,
    pub reason: &'static str,
    pub effect: &'static str,
    pub count: u64,
}

fn effect_name(effect: Effect) -> &'static str {
    match effect {
        Effect::Bypass => "bypass",
        Effect::Refusal => "refusal",
    }
}

/// By names, never by index: `{"decisions": […], "exceptions": […]}`.
impl Serialize for Snapshot {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Snapshot", 2)?;
        object.serialize_field("decisions", &self.decisions().collect::<Vec<_>>())?;
        object.serialize_field("exceptions", &self.exceptions().collect::<Vec<_>>())?;
        object.end()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use sidecar_ebpf_common::{
        counter::{OutboundHook, Reason},
        rule::{InboundRule, OutboundRule},
    };

    use super::*;

    /// A snapshot in which only these counters are not zero.
    pub(crate) fn snapshot(counts: &[(Counter, u64)]) -> Snapshot {
        let mut values = vec![0; Counter::COUNT as usize];
        for (counter, value) in counts {
            values[counter.index() as usize] = *value;
        }
        Snapshot::new(values)
    }

    pub(crate) const RULE_9: Counter =
        Counter::Outbound(OutboundHook::Connect4, OutboundRule::Everything);
    pub(crate) const RULE_9_V6: Counter =
        Counter::Outbound(OutboundHook::Connect6, OutboundRule::Everything);
    pub(crate) const RULE_4: Counter =
        Counter::Outbound(OutboundHook::Connect4, OutboundRule::ProxyByUid);
    pub(crate) const INBOUND: Counter = Counter::Inbound(InboundRule::Everything);
    pub(crate) const FULL: Counter = Counter::Other(Hook::Connect6, Reason::TableFull);
    pub(crate) const SLOTS: Counter = Counter::Other(Hook::SockOps, Reason::SlotsFull);

    #[test]
    fn each_counter_has_its_own_value() {
        for counter in Counter::all() {
            let only = snapshot(&[(counter, 7)]);
            let moved: Vec<_> = only.iter().filter(|entry| entry.1 != 0).collect();
            assert_eq!(moved, [(counter, 7)]);
        }
    }

    #[test]
    fn a_difference_holds_what_came_in_between() {
        let before = snapshot(&[(RULE_9, 5), (FULL, 1)]);
        let after = snapshot(&[(RULE_9, 9), (FULL, 1), (INBOUND, 2)]);
        assert_eq!(after.since(&before), snapshot(&[(RULE_9, 4), (INBOUND, 2)]));
        assert_eq!(after.since(&Snapshot::zero()), after);
    }

    #[test]
    fn serialized_by_name() {
        let json = serde_json::to_value(snapshot(&[(RULE_9, 5), (FULL, 1)])).unwrap();
        let decisions = json["decisions"].as_array().unwrap();
        let outbound: usize = OutboundHook::ALL
            .iter()
            .map(|hook| hook.rules().count())
            .sum();
        assert_eq!(decisions.len(), outbound + InboundRule::ALL.len());
        let nine = decisions
            .iter()
            .find(|d| d["rule"] == "9" && d["hook"] == "connect4")
            .unwrap();
        assert_eq!(nine["action"], "redirect-outbound");
        assert_eq!(nine["connections"], 5);
        let exceptions = json["exceptions"].as_array().unwrap();
        let full = exceptions
            .iter()
            .find(|e| e["reason"] == "table-full" && e["count"] == 1);
        assert_eq!(full.unwrap()["hook"], "connect6");
        assert_eq!(full.unwrap()["effect"], "refusal");
    }
}
