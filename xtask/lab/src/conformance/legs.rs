//! All legs together: one configuration, many probes, what differed.

use std::{collections::BTreeMap, thread};

use anyhow::{Context as _, Result, anyhow};

use super::{
    accepted::{self, Aspect},
    backends::Backend,
    compare::{Compared, Difference, PURE},
    config::{Resolved, Rules},
    leg::{Leg, Outcome},
    predict::{self, Oracle, Prediction},
    probe::Probe,
};

/// Client ports, out of the range that the kernel gives by itself. Each is used again only after
/// all others, when connection tracking has forgotten it.
const CLIENT_PORTS: std::ops::Range<u16> = 33_000..60_999;

pub(crate) struct Legs {
    legs: Vec<Leg>,
    next_port: u16,
    /// What is replaced in the text of real rules: to see that it is found.
    alter: Option<(String, String)>,
}

/// One configuration's result.
#[derive(Default, Debug)]
pub(crate) struct Evaluation {
    pub(crate) predictions: Vec<Prediction>,
    pub(crate) differences: Vec<Difference>,
    /// How many probes came under an entry of the accepted list.
    pub(crate) accepted: BTreeMap<&'static str, u64>,
    /// How often rules counted, by leg.
    pub(crate) counted: BTreeMap<&'static str, u64>,
}

impl Legs {
    pub(crate) fn new(backends: &[Backend], alter: Option<(String, String)>) -> Result<Self> {
        // Side by side: most of it is waiting for processes.
        let legs: Result<Vec<Leg>> = thread::scope(|scope| {
            let real = backends
                .iter()
                .map(|&it| scope.spawn(move || Leg::real(it)));
            let mut threads: Vec<_> = real.collect();
            threads.push(scope.spawn(Leg::ours));
            threads
                .into_iter()
                .map(|it| it.join().map_err(|_| anyhow!("a leg panicked"))?)
                .collect()
        });
        Ok(Self {
            legs: legs?,
            next_port: CLIENT_PORTS.start,
            alter,
        })
    }

    pub(crate) fn names(&self) -> Vec<&'static str> {
        self.legs.iter().map(Leg::name).collect()
    }

    /// Makes the probes in every leg and compares.
    pub(crate) fn evaluate(&mut self, resolved: &Resolved, probes: &[Probe]) -> Result<Evaluation> {
        let oracle = Oracle::new(resolved)?;
        let predictions: Vec<Prediction> = probes
            .iter()
            .map(|probe| oracle.predict(probe))
            .collect::<Result<_>>()?;
        let mut result = Evaluation::default();
        for (probe, prediction) in probes.iter().zip(&predictions) {
            let accepted = accepted::hides(probe, prediction, Aspect::Everything);
            if let Some(what) = prediction.disagreement.as_ref().filter(|_| !accepted) {
                result.differences.push(Difference {
                    leg: PURE.to_owned(),
                    probe: probe.clone(),
                    what: what.clone(),
                    of_group: false,
                });
            }
        }
        let real = self.altered(&resolved.rules)?;
        let groups = grouped(probes, &predictions);
        let outcomes = self.run(Some((resolved, &real)), probes, &groups)?;
        let found = self.compare(probes, &predictions, &groups, &outcomes, true);
        for (leg, outcome) in self.names().into_iter().zip(&outcomes) {
            let counted: u64 = outcome.iter().flat_map(|it| it.moved.values()).sum();
            *result.counted.entry(leg).or_default() += counted;
        }
        // Which of a group's probes was counted otherwise shows one by one.
        let again: Vec<Vec<usize>> = found
            .iter()
            .filter(|(_, difference)| difference.of_group)
            .filter_map(|(group, _)| groups.get(*group))
            .flatten()
            .map(|&at| vec![at])
            .collect();
        let mut found: Vec<Difference> = found.into_iter().map(|(_, it)| it).collect();
        if !again.is_empty() {
            let outcomes = self.run(None, probes, &again)?;
            let singles = self.compare(probes, &predictions, &again, &outcomes, true);
            if !singles.is_empty() {
                found.retain(|it| !it.of_group);
                found.extend(singles.into_iter().map(|(_, it)| it));
            }
        }
        for difference in found {
            let at = probes.iter().position(|probe| *probe == difference.probe);
            let prediction = at
                .and_then(|at| predictions.get(at))
                .context("a strange probe")?;
            if !accepted::hides(&difference.probe, prediction, Aspect::Everything) {
                result.differences.push(difference);
            }
        }
        for (probe, prediction) in probes.iter().zip(&predictions) {
            for entry in accepted::entries(probe, prediction) {
                *result.accepted.entry(entry.name).or_default() += 1;
            }
        }
        result.predictions = predictions;
        Ok(result)
    }

    /// Whether this probe makes any leg differ, accepted or not, or be silent where others count.
    pub(crate) fn shows(&mut self, resolved: &Resolved, probe: &Probe) -> Result<bool> {
        let prediction = Oracle::new(resolved)?.predict(probe)?;
        let probes = [probe.clone()];
        let outcomes = self.run(Some((resolved, &resolved.rules)), &probes, &[vec![0]])?;
        let predictions = std::slice::from_ref(&prediction);
        let found = self.compare(&probes, predictions, &[vec![0]], &outcomes, false);
        let moved = |ours| {
            let legs = self
                .legs
                .iter()
                .zip(&outcomes)
                .filter(move |(leg, _)| leg.is_ours() == ours);
            legs.flat_map(|(_, outcome)| outcome)
                .any(|outcome| !outcome.moved.is_empty())
        };
        Ok(!found.is_empty() || prediction.uncounted && moved(false) && !moved(true))
    }

    fn altered(&self, rules: &Rules) -> Result<Rules> {
        let Some((from, to)) = &self.alter else {
            return Ok(rules.clone());
        };
        let alter = |text: String| text.replace(from, to);
        let v6 = rules.v6.as_ref().map(|v6| alter(v6.to_string()));
        Rules::parse(&alter(rules.v4.to_string()), v6.as_deref())
    }

    fn run(
        &mut self,
        load: Option<(&Resolved, &Rules)>,
        probes: &[Probe],
        groups: &[Vec<usize>],
    ) -> Result<Vec<Vec<Outcome>>> {
        let mut with_ports = Vec::new();
        for group in groups {
            let group = group.iter().filter_map(|&at| probes.get(at));
            with_ports.push(group.map(|probe| (probe, self.port())).collect::<Vec<_>>());
        }
        let with_ports = &with_ports;
        thread::scope(|scope| {
            let threads: Vec<_> = self
                .legs
                .iter_mut()
                .map(|leg| {
                    scope.spawn(move || {
                        let name = leg.name();
                        if let Some((resolved, real)) = load {
                            leg.load(resolved, real)
                                .with_context(|| format!("loading {name}"))?;
                        }
                        leg.run(with_ports)
                            .with_context(|| format!("probing {name}"))
                    })
                })
                .collect();
            let joined = threads.into_iter();
            joined
                .map(|it| it.join().map_err(|_| anyhow!("a leg panicked"))?)
                .collect()
        })
    }

    fn port(&mut self) -> u16 {
        let port = self.next_port;
        self.next_port = if port + 1 == CLIENT_PORTS.end {
            CLIENT_PORTS.start
        } else {
            port + 1
        };
        port
    }

    /// Differences with the number of the group they are in. Leniently, what may differ of a probe
    /// that must be the same otherwise is left out.
    fn compare(
        &self,
        probes: &[Probe],
        predictions: &[Prediction],
        groups: &[Vec<usize>],
        outcomes: &[Vec<Outcome>],
        lenient: bool,
    ) -> Vec<(usize, Difference)> {
        let mut found = Vec::new();
        for (number, group) in groups.iter().enumerate() {
            let members = group
                .iter()
                .filter_map(|&at| Some((probes.get(at)?, predictions.get(at)?)));
            let legs = self.legs.iter().map(Leg::name).zip(outcomes);
            let compared = Compared {
                probes: members.collect(),
                lenient,
                outcomes: legs
                    .filter_map(|(leg, all)| Some((leg, all.get(number)?)))
                    .collect(),
            };
            found.extend(compared.differences().into_iter().map(|it| (number, it)));
        }
        found
    }
}

/// Probes that the same rule decides, by their places; counters are read once a group.
fn grouped(probes: &[Probe], predictions: &[Prediction]) -> Vec<Vec<usize>> {
    let mut groups: BTreeMap<_, Vec<usize>> = BTreeMap::new();
    for (at, (probe, prediction)) in probes.iter().zip(predictions).enumerate() {
        let key = (
            probe.is_outbound(),
            prediction.rule,
            predict::family(probe),
            probe.kind.is_tcp(),
            // What may count otherwise must not be counted together with what may not.
            accepted::hides(probe, prediction, Aspect::Everything),
        );
        groups.entry(key).or_default().push(at);
    }
    groups.into_values().collect()
}
