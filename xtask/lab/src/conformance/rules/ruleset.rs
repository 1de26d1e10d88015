//! Tables, chains and rules as values, and their canonical text.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
    net::IpAddr,
    str::FromStr,
};

use anyhow::{Context, Result, ensure};

use super::{matches::Match, target::Target};

/// The protocol family that a rule file is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }
}

impl Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "v4",
            Self::V6 => "v6",
        })
    }
}

impl FromStr for Family {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "v4" => Ok(Self::V4),
            "v6" => Ok(Self::V6),
            _ => anyhow::bail!("{text:?} is neither v4 nor v6"),
        }
    }
}

/// The rules of one family. Its text is what `iptables-restore` takes.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Ruleset {
    pub tables: Vec<Table>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Table {
    pub name: String,
    pub chains: Vec<Chain>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chain {
    pub name: String,
    /// What a packet meets at its end; a user chain has none.
    pub policy: Option<Policy>,
    pub rules: Vec<Rule>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    Accept,
    Drop,
}

/// One rule. Its text is the canonical one, without the chain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// In canonical order; all must hold.
    pub matches: Vec<Match>,
    pub target: Target,
    /// Packets, where the text had them (`iptables-save -c`).
    pub count: Option<u64>,
}

/// A rule by its place, which iptables keeps: `nat/ISTIO_OUTPUT/3`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RuleId {
    pub table: String,
    pub chain: String,
    /// Counted from 1, as by `iptables -L --line-numbers`.
    pub index: usize,
}

impl Ruleset {
    pub fn table(&self, name: &str) -> Option<&Table> {
        self.tables.iter().find(|table| table.name == name)
    }

    pub fn rule(&self, id: &RuleId) -> Option<&Rule> {
        let chain = self.table(&id.table)?.chain(&id.chain)?;
        chain.rules.get(id.index.checked_sub(1)?)
    }

    /// Every rule, table by table and chain by chain.
    pub fn rules(&self) -> impl Iterator<Item = (RuleId, &Rule)> {
        self.chains().flat_map(|(table, chain)| {
            let rules = chain.rules.iter().zip(1..);
            rules.map(|(rule, index)| (RuleId::new(table, &chain.name, index), rule))
        })
    }

    /// The counters of these rules as `read_back` has them, which is what `iptables-save -c` prints
    /// after these rules were installed. An error if anything but these rules is there.
    pub fn counts(&self, read_back: &Self) -> Result<BTreeMap<RuleId, u64>> {
        for (id, stray) in read_back.rules() {
            ensure!(
                self.rule(&id).is_some(),
                "{id} is installed, but was not given: {stray}"
            );
        }
        self.rules()
            .map(|(id, given)| {
                let installed = read_back
                    .rule(&id)
                    .with_context(|| format!("{id} was given, but is not installed: {given}"))?;
                ensure!(
                    given.same_as(installed),
                    "{id} was given as {given:?} and is installed as {:?}",
                    installed.to_string(),
                    given = given.to_string()
                );
                let count = installed
                    .count
                    .with_context(|| format!("{id} has no counter: use iptables-save -c"))?;
                Ok((id, count))
            })
            .collect()
    }

    fn chains(&self) -> impl Iterator<Item = (&str, &Chain)> {
        self.tables.iter().flat_map(|table| {
            let chains = table.chains.iter();
            chains.map(|chain| (table.name.as_str(), chain))
        })
    }
}

impl Table {
    pub fn chain(&self, name: &str) -> Option<&Chain> {
        self.chains.iter().find(|chain| chain.name == name)
    }
}

impl Rule {
    /// Whether both say the same; counters do not matter.
    pub fn same_as(&self, other: &Self) -> bool {
        self.matches == other.matches && self.target == other.target
    }
}

impl RuleId {
    pub fn new(table: &str, chain: &str, index: usize) -> Self {
        Self {
            table: table.to_owned(),
            chain: chain.to_owned(),
            index,
        }
    }
}

impl Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.table, self.chain, self.index)
    }
}

impl FromStr for RuleId {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        let [table, chain, index] = parts[..] else {
            anyhow::bail!("{text:?} is not a rule's place, as nat/ISTIO_OUTPUT/3 is");
        };
        let index = index
            .parse()
            .with_context(|| format!("{index:?} in {text:?} is no line number"))?;
        Ok(Self::new(table, chain, index))
    }
}

impl Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tables.iter().try_for_each(|table| table.fmt(f))
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "*{}", self.name)?;
        for chain in &self.chains {
            let policy = match chain.policy {
                Some(Policy::Accept) => "ACCEPT",
                Some(Policy::Drop) => "DROP",
                None => "-",
            };
            writeln!(f, ":{} {policy} [0:0]", chain.name)?;
        }
        for chain in &self.chains {
            for rule in &chain.rules {
                if let Some(packets) = rule.count {
                    write!(f, "[{packets}:0] ")?;
                }
                let separator = if rule.is_empty() { "" } else { " " };
                writeln!(f, "-A {}{separator}{rule}", chain.name)?;
            }
        }
        writeln!(f, "COMMIT")
    }
}

impl Rule {
    fn is_empty(&self) -> bool {
        self.matches.is_empty() && self.target == Target::Count
    }
}

impl Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words: Vec<String> = self.matches.iter().map(Match::to_string).collect();
        if self.target != Target::Count {
            words.push(self.target.to_string());
        }
        f.write_str(&words.join(" "))
    }
}
