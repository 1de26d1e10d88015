//! The real thing: rules in a pod, and their counters.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};

use super::{
    config::Rules,
    predict::{Moves, counter},
    rules::{self, Family, RuleId, Ruleset},
};
use crate::process::run;

/// An implementation of the rules.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Backend {
    Legacy,
    Nft,
    Native,
}

impl Backend {
    pub const ALL: [Self; 3] = [Self::Legacy, Self::Nft, Self::Native];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Legacy => "iptables-legacy",
            Self::Nft => "iptables-nft",
            Self::Native => "nftables",
        }
    }

    /// Puts the rules in place of what was there. The calling thread is in the namespace.
    pub fn load(self, rules: &Rules) -> Result<()> {
        let v6 = rules.v6.clone().unwrap_or_default();
        match self {
            Self::Legacy | Self::Nft => {
                self.restore(Family::V4, &rules.v4)?;
                self.restore(Family::V6, &v6)?;
            }
            Self::Native => {
                let text = rules::nftables::to_nft(Some(&rules.v4), rules.v6.as_ref())?;
                run("nft", ["-f", "-"], &format!("flush ruleset\n{text}"))
                    .with_context(|| format!("nft with\n{text}"))?;
            }
        }
        // Connections of before must not meet those that come.
        run("conntrack", ["-F"], "").context("package conntrack")?;
        Ok(())
    }

    /// Puts the rules into a namespace that has none, as Istio does: other tables are not touched,
    /// so they cost nothing. The calling thread is in the namespace.
    pub(super) fn install(self, rules: &Rules) -> Result<()> {
        let families = [
            (Family::V4, Some(&rules.v4)),
            (Family::V6, rules.v6.as_ref()),
        ];
        for (family, rules) in families {
            let Some(rules) = rules else { continue };
            let (program, args, text) = match self {
                Self::Legacy | Self::Nft => {
                    let program = self.program(family, "restore");
                    (program, ["--noflush", "--wait"], rules.to_string())
                }
                Self::Native => {
                    let (v4, v6) = match family {
                        Family::V4 => (Some(rules), None),
                        Family::V6 => (None, Some(rules)),
                    };
                    let text = rules::nftables::to_nft(v4, v6)?;
                    ("nft".to_owned(), ["-f", "-"], text)
                }
            };
            run(&program, args, &text).with_context(|| format!("{program} with\n{text}"))?;
        }
        Ok(())
    }

    /// Takes away the IPv4 rules of the table nat, which is all that default settings make.
    pub(super) fn remove(self) -> Result<()> {
        let (program, args, text) = match self {
            Self::Legacy | Self::Nft => {
                let program = self.program(Family::V4, "restore");
                (program, ["--wait"].as_slice(), "*nat\nCOMMIT\n")
            }
            Self::Native => ("nft".to_owned(), ["flush", "ruleset"].as_slice(), ""),
        };
        run(&program, args, text)
            .map(drop)
            .with_context(|| format!("{program}, to take rules away"))
    }

    /// Packets by rule of the table nat, where they are connections.
    pub fn counts(self, rules: &Rules) -> Result<Moves> {
        let mut counts = Moves::new();
        let mut add = |family, counted: BTreeMap<RuleId, u64>| {
            let nat = counted.into_iter().filter(|(id, _)| id.table == "nat");
            counts.extend(nat.map(|(id, count)| (counter(family, &id), count)));
        };
        match self {
            Self::Legacy | Self::Nft => {
                add(Family::V4, self.saved(Family::V4, &rules.v4)?);
                if let Some(v6) = &rules.v6 {
                    add(Family::V6, self.saved(Family::V6, v6)?);
                }
            }
            Self::Native => {
                let json = run("nft", ["-j", "list", "ruleset"], "")?;
                for ((family, id), count) in rules::nftables::counters_from_json(&json)? {
                    add(family, BTreeMap::from([(id, count)]));
                }
            }
        }
        Ok(counts)
    }

    fn program(self, family: Family, verb: &str) -> String {
        let name = match family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        let kind = if self == Self::Legacy {
            "legacy"
        } else {
            "nft"
        };
        format!("{name}-{kind}-{verb}")
    }

    fn restore(self, family: Family, rules: &Ruleset) -> Result<()> {
        let program = self.program(family, "restore");
        // Without --noflush each table that is named begins empty.
        let text = format!("*raw\nCOMMIT\n*mangle\nCOMMIT\n*nat\nCOMMIT\n{rules}");
        run(&program, ["--wait"], &text)
            .with_context(|| format!("{program} (package iptables) with\n{rules}"))?;
        Ok(())
    }

    fn saved(self, family: Family, rules: &Ruleset) -> Result<BTreeMap<RuleId, u64>> {
        let program = self.program(family, "save");
        let text = run(&program, ["--counters", "-t", "nat"], "")?;
        let read_back = rules::parse(&text).with_context(|| format!("reading {program}"))?;
        let nat = Ruleset {
            tables: rules
                .tables
                .iter()
                .filter(|it| it.name == "nat")
                .cloned()
                .collect(),
        };
        nat.counts(&read_back).with_context(|| program)
    }
}

impl std::str::FromStr for Backend {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let named = Self::ALL.into_iter().find(|backend| backend.name() == text);
        let Some(backend) = named else {
            let names = Self::ALL.map(Self::name).join(", ");
            bail!("{text:?} is none of {names}");
        };
        Ok(backend)
    }
}
