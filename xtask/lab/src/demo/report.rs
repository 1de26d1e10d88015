//! What was driven, what was counted and what was seen, as data.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
};

use serde::Serialize;

use crate::Counters;

#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Whether every counter and every endpoint was as expected.
    pub(super) as_expected: bool,
    pub(super) proxy: String,
    pub(super) sections: Vec<Section>,
}

/// Kinds of traffic under the same circumstances.
#[derive(Debug, Serialize)]
pub(super) struct Section {
    pub(super) title: &'static str,
    pub(super) about: String,
    /// What the loader was told beside the cgroup.
    pub(super) loader_arguments: Vec<&'static str>,
    pub(super) kinds: Vec<Kind>,
}

#[derive(Debug, Serialize)]
pub(super) struct Kind {
    /// The number in the article.
    pub(super) number: u8,
    pub(super) title: &'static str,
    pub(super) about: &'static str,
    pub(super) hops: Vec<Hop>,
    /// Every counter that moved meanwhile.
    pub(super) moved: Vec<Moved>,
    pub(super) seen: Vec<Sight>,
    /// Why the kernel and the article differ.
    pub(super) why: Option<&'static str>,
    /// What kept the traffic from reaching its end, or its end from telling.
    pub(super) failure: Option<String>,
    pub(super) as_expected: bool,
}

/// A connection of which a program of the pod is one end.
#[derive(Debug, Serialize)]
pub(super) struct Hop {
    pub(super) from: &'static str,
    pub(super) to: SocketAddr,
    /// The rule by the article.
    pub(super) article: &'static str,
    pub(super) expected: Decision,
    /// `None` if no counter moved for it.
    pub(super) counted: Option<Decision>,
}

impl Hop {
    fn agrees(&self) -> bool {
        let Some(counted) = &self.counted else {
            return false;
        };
        match self.article {
            INBOUND => counted.hook == "sk_lookup" && counted.action == "redirect-inbound",
            PASSES_INBOUND => counted.hook == "sk_lookup" && counted.action == "pass",
            // A further hop by the article ("…, then 4") is one more than there is.
            rule => {
                let rule = rule.strip_prefix("rule ").unwrap_or(rule);
                rule.split(" -> ").next() == Some(counted.rule.as_str())
            }
        }
    }
}

/// What the article says about connections from outside.
pub(super) const INBOUND: &str = "inbound -> 15006";
pub(super) const PASSES_INBOUND: &str = "passes inbound";

/// A counter of decisions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Decision {
    pub(super) hook: String,
    pub(super) rule: String,
    pub(super) action: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Moved {
    #[serde(flatten)]
    pub(super) counter: Decision,
    pub(super) by: i128,
}

impl fmt::Display for Moved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:+}", self.counter, self.by)
    }
}

/// What one endpoint saw of the kind.
#[derive(Debug, Serialize)]
pub(super) struct Sight {
    pub(super) who: &'static str,
    pub(super) facts: Vec<Fact>,
}

#[derive(Debug, Serialize)]
pub(super) struct Fact {
    pub(super) what: &'static str,
    pub(super) address: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) expected: Option<String>,
    pub(super) as_expected: bool,
}

/// What an address should be, as far as that is known.
#[derive(Clone, Copy, Debug)]
pub(super) enum Want {
    Exactly(SocketAddr),
    /// The port is the kernel's choice.
    From(IpAddr),
}

impl Fact {
    pub(super) fn new(what: &'static str, address: Option<SocketAddr>, want: Want) -> Self {
        let as_expected = match want {
            Want::Exactly(wanted) => address == Some(wanted),
            Want::From(ip) => address.is_some_and(|address| address.ip() == ip),
        };
        let expected = match want {
            Want::Exactly(wanted) => wanted.to_string(),
            Want::From(ip) => ip.to_string(),
        };
        Self {
            what,
            address,
            expected: Some(expected),
            as_expected,
        }
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => write!(f, "{} {address}", self.what)?,
            None => write!(f, "{} unknown", self.what)?,
        }
        match &self.expected {
            Some(expected) if !self.as_expected => write!(f, " (EXPECTED {expected})"),
            _ => Ok(()),
        }
    }
}

impl Decision {
    pub(super) fn new(hook: &str, rule: &str, action: &str) -> Self {
        Self {
            hook: hook.to_owned(),
            rule: rule.to_owned(),
            action: action.to_owned(),
        }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.hook, self.rule)?;
        // Bypasses and refusals have no action.
        if self.action.is_empty() {
            Ok(())
        } else {
            write!(f, " ({})", self.action)
        }
    }
}

/// Every counter that changed, by how much.
pub(super) fn moved(before: &Counters, after: &Counters) -> Vec<Moved> {
    let rows: BTreeSet<_> = before.rows.keys().chain(after.rows.keys()).collect();
    let value = |counters: &Counters, row| i128::from(counters.rows.get(row).copied().unwrap_or(0));
    rows.into_iter()
        .map(|row| Moved {
            counter: Decision::new(&row.hook, &row.name, &row.action),
            by: value(after, row) - value(before, row),
        })
        .filter(|moved| moved.by != 0)
        .collect()
}

/// Gives each hop the count it is expected to have caused, if there was one. Whether nothing is
/// missing and nothing is left.
pub(super) fn attribute(hops: &mut [Hop], moved: &[Moved]) -> bool {
    let mut left: BTreeMap<&Decision, i128> = moved.iter().map(|it| (&it.counter, it.by)).collect();
    for hop in hops.iter_mut() {
        if let Some(count) = left.get_mut(&hop.expected).filter(|count| **count > 0) {
            *count -= 1;
            hop.counted = Some(hop.expected.clone());
        }
    }
    hops.iter().all(|hop| hop.counted.is_some()) && left.values().all(|count| *count == 0)
}

impl Report {
    pub(super) fn new(proxy: String, sections: Vec<Section>) -> Self {
        let mut report = Self {
            as_expected: true,
            proxy,
            sections,
        };
        report.as_expected = report.differences().is_empty();
        report
    }

    /// A line for each thing that was not as expected.
    pub(super) fn differences(&self) -> Vec<String> {
        self.sections
            .iter()
            .flat_map(|section| section.kinds.iter().map(move |kind| (section, kind)))
            .filter(|(_, kind)| !kind.as_expected)
            .map(|(section, kind)| {
                let place = format!("{}, kind {} ({})", section.title, kind.number, kind.title);
                format!("{place}: {}", kind.difference())
            })
            .collect()
    }
}

impl Kind {
    /// Whether the kernel counted what the article says.
    pub(super) fn agrees(&self) -> bool {
        self.hops.iter().all(Hop::agrees)
    }

    fn difference(&self) -> String {
        let expected: Vec<String> = self.hops.iter().map(|it| it.expected.to_string()).collect();
        let counted: Vec<String> = self.moved.iter().map(Moved::to_string).collect();
        let facts = self.seen.iter().flat_map(|sight| {
            let wrong = sight.facts.iter().filter(|fact| !fact.as_expected);
            wrong.map(move |fact| format!("; the {} saw {fact}", sight.who))
        });
        let failure = self.failure.as_ref().map(|why| format!("; {why}"));
        format!(
            "expected {}; counted {}{}{}",
            expected.join(", "),
            if counted.is_empty() {
                "nothing".to_owned()
            } else {
                counted.join(", ")
            },
            facts.collect::<String>(),
            failure.unwrap_or_default()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(rule: &str) -> Hop {
        Hop {
            from: "app",
            to: "10.96.0.10:80".parse().unwrap(),
            article: "rule 9",
            expected: Decision::new("connect4", rule, "pass"),
            counted: None,
        }
    }

    fn counted(counts: &[(&str, i128)]) -> Vec<Moved> {
        let counters = counts.iter().map(|&(rule, by)| Moved {
            counter: Decision::new("connect4", rule, "pass"),
            by,
        });
        counters.collect()
    }

    #[test]
    fn each_count_explains_one_hop() {
        let mut hops = [hop("4"), hop("4")];
        assert!(attribute(&mut hops, &counted(&[("4", 2)])));
        assert!(hops.iter().all(|hop| hop.counted.is_some()));
    }

    #[test]
    fn a_missing_count_a_further_count_and_another_action_are_differences() {
        let mut hops = [hop("4"), hop("4")];
        assert!(!attribute(&mut hops, &counted(&[("4", 1)])));
        assert!(hops[0].counted.is_some() && hops[1].counted.is_none());
        assert!(!attribute(&mut [hop("4")], &counted(&[("4", 2)])));
        assert!(!attribute(&mut [hop("4")], &counted(&[("4", 1), ("3", 1)])));
        assert!(!attribute(&mut [hop("4")], &counted(&[("3", 1)])));
        let mut other = counted(&[("4", 1)]);
        other[0].counter.action = "redirect-outbound".to_owned();
        assert!(!attribute(&mut [hop("4")], &other));
    }

    #[test]
    fn the_article_agrees_when_it_names_the_rule_that_counted() {
        let agrees = |article, hook: &str, rule: &str, action: &str| {
            let counted = Some(Decision::new(hook, rule, action));
            Hop {
                article,
                counted,
                ..hop("9")
            }
            .agrees()
        };
        assert!(agrees(
            "rule 9 -> 15001",
            "connect4",
            "9",
            "redirect-outbound"
        ));
        assert!(agrees("rule 4", "connect4", "4", "pass"));
        assert!(!agrees("rule 8", "connect4", "4", "pass"));
        assert!(!agrees(
            "rule 9, then 4",
            "connect4",
            "9",
            "redirect-outbound"
        ));
        assert!(agrees(
            INBOUND,
            "sk_lookup",
            "inbound-all",
            "redirect-inbound"
        ));
        assert!(!agrees(INBOUND, "sk_lookup", "inbound-off", "pass"));
        assert!(agrees(
            PASSES_INBOUND,
            "sk_lookup",
            "inbound-excluded-port",
            "pass"
        ));
        assert!(!hop("9").agrees());
    }

    #[test]
    fn a_fact_says_what_it_should_have_been() {
        let seen = "10.244.0.5:1234".parse().ok();
        let pod = "10.244.0.5".parse().unwrap();
        assert_eq!(
            Fact::new("peer", seen, Want::From(pod)).to_string(),
            "peer 10.244.0.5:1234"
        );
        let wanted = Want::Exactly("10.96.0.10:80".parse().unwrap());
        let wrong = Fact::new("peer", seen, wanted);
        assert!(!wrong.as_expected);
        assert_eq!(
            wrong.to_string(),
            "peer 10.244.0.5:1234 (EXPECTED 10.96.0.10:80)"
        );
    }
}
