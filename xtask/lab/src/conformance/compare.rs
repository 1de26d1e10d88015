//! What was seen against what was predicted, and leg against leg.

use std::fmt;

use super::{
    accepted::{self, Aspect},
    leg::{OURS, Outcome},
    predict::{Moves, Prediction},
    probe::Probe,
    wire::Observation,
};

/// The legs without a kernel, for differences between them.
pub(super) const PURE: &str = "decision/interpreter";

/// A leg that does something else than it must.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Difference {
    pub leg: String,
    pub probe: Probe,
    pub what: String,
    /// Only the counters differ, and the probe is one of several that were counted together.
    pub of_group: bool,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.leg, self.probe, self.what)
    }
}

/// One group of probes and what each leg made of it.
pub(crate) struct Compared<'a> {
    pub(crate) probes: Vec<(&'a Probe, &'a Prediction)>,
    /// By leg; the first is the one that the others are compared with.
    pub(crate) outcomes: Vec<(&'static str, &'a Outcome)>,
    /// What may differ is not compared.
    pub(crate) lenient: bool,
}

impl Compared<'_> {
    pub(crate) fn differences(&self) -> Vec<Difference> {
        let mut found = Vec::new();
        for (leg, outcome) in &self.outcomes {
            for (at, (probe, prediction)) in self.probes.iter().enumerate() {
                let seen = outcome.observations.get(at);
                if let Some(what) = self.unlike(at, probe, prediction, seen) {
                    found.push(Difference {
                        leg: (*leg).to_owned(),
                        probe: (*probe).clone(),
                        what,
                        of_group: false,
                    });
                }
            }
            if let Some(what) = self.miscounted(leg, &outcome.moved)
                && let Some((probe, _)) = self.probes.first()
            {
                found.push(Difference {
                    leg: (*leg).to_owned(),
                    probe: (*probe).clone(),
                    what,
                    of_group: self.probes.len() > 1,
                });
            }
        }
        found
    }

    /// What one leg saw that it should not have seen.
    fn unlike(
        &self,
        at: usize,
        probe: &Probe,
        prediction: &Prediction,
        seen: Option<&Observation>,
    ) -> Option<String> {
        let Some(seen) = seen else {
            return Some("it was not made".to_owned());
        };
        let server = seen.seen.as_ref().map(|seen| &seen.server);
        if server != prediction.server.as_ref() {
            let (wanted, got) = (name(prediction.server.as_ref()), name(server));
            let why = seen.failure.as_ref().map(failure).unwrap_or_default();
            let rule = prediction.rule;
            return Some(format!(
                "rule {rule}: {wanted} must answer, but {got} does{why}"
            ));
        }
        let (first, outcome) = self.outcomes.first()?;
        let (mut wanted, mut seen) = (outcome.observations.get(at)?.clone(), seen.clone());
        if self.lenient && accepted::hides(probe, prediction, Aspect::OriginalDestination) {
            for observation in [&mut wanted, &mut seen] {
                observation
                    .seen
                    .iter_mut()
                    .for_each(|seen| seen.original = None);
            }
        }
        (wanted != seen).then(|| format!("{}, unlike {first}", words(&seen, &wanted)))
    }

    fn miscounted(&self, leg: &str, moved: &Moves) -> Option<String> {
        let mut wanted = Moves::new();
        for (_, prediction) in &self.probes {
            let moves = if leg == OURS {
                &prediction.ours
            } else {
                &prediction.theirs
            };
            for (name, count) in moves {
                *wanted.entry(name.clone()).or_default() += count;
            }
        }
        if wanted == *moved {
            return None;
        }
        let names: std::collections::BTreeSet<_> = wanted.keys().chain(moved.keys()).collect();
        let of = |moves: &Moves, name: &String| moves.get(name).copied().unwrap_or(0);
        let wrong: Vec<_> = names
            .into_iter()
            .filter(|name| of(&wanted, name) != of(moved, name))
            .map(|name| format!("{name} {} not {}", of(moved, name), of(&wanted, name)))
            .collect();
        Some(format!("it counted otherwise: {}", wrong.join(", ")))
    }
}

fn name(server: Option<&String>) -> &str {
    server.map_or("nobody", String::as_str)
}

fn failure(failure: &super::wire::Failure) -> String {
    let errno = nix::errno::Errno::from_raw(failure.errno);
    format!(" ({}: {errno:?})", failure.call)
}

/// The fields that differ.
fn words(seen: &Observation, wanted: &Observation) -> String {
    let value = |it: &Observation| serde_json::to_value(it).unwrap_or_default();
    let (seen, wanted) = (value(seen), value(wanted));
    let fields = ["failure", "seen", "peer_name", "sock_name", "reply_from"];
    let unlike = fields
        .iter()
        .filter(|field| seen.get(**field) != wanted.get(**field));
    let text =
        |value: Option<&serde_json::Value>| value.map_or("none".to_owned(), ToString::to_string);
    let words: Vec<_> = unlike
        .map(|field| {
            format!(
                "{field} {} not {}",
                text(seen.get(*field)),
                text(wanted.get(*field))
            )
        })
        .collect();
    words.join(", ")
}
