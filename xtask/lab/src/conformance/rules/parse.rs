//! The text of `iptables-save` and `iptables-restore`.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};

use super::{
    rule::{Names, parse_rule},
    ruleset::{Chain, Family, Policy, Rule, Ruleset, Table},
    target::Target,
};

/// The chains that a table has from the start, in the order in which iptables prints them.
const BUILT_IN: [(&str, &[&str]); 4] = [
    ("raw", &["PREROUTING", "OUTPUT"]),
    (
        "mangle",
        &["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"],
    ),
    ("nat", &["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"]),
    ("filter", &["INPUT", "FORWARD", "OUTPUT"]),
];

/// Programs that Istio's rule files name before the rules and after them.
const PROBES: [&str; 2] = ["iptables-save", "ip6tables-save"];

/// The rules of one family.
pub fn parse(text: &str) -> Result<Ruleset> {
    parse_with(text, Names::SYSTEM)
}

/// The same, with users and groups from elsewhere.
pub fn parse_with(text: &str, names: Names<'_>) -> Result<Ruleset> {
    let mut parser = Parser {
        names,
        done: Vec::new(),
        open: None,
    };
    for (line, number) in text.lines().zip(1..) {
        parser
            .line(line.trim())
            .with_context(|| format!("line {number}: {line}"))?;
    }
    if let Some(table) = parser.open {
        bail!("the table {} has no COMMIT", table.name);
    }
    let ruleset = Ruleset {
        tables: parser.done,
    };
    check_family(&ruleset)?;
    Ok(ruleset)
}

/// Splits the format of Istio's own rule files: IPv4's text, then, where there is one, IPv6's. The
/// first table that is there for the second time begins IPv6's.
pub fn split_families(text: &str) -> Result<(String, Option<String>)> {
    let mut families = vec![String::new()];
    let mut seen = BTreeSet::new();
    for line in text.lines().filter(|line| !PROBES.contains(&line.trim())) {
        if let Some(table) = line.trim().strip_prefix('*')
            && !seen.insert(table.trim())
        {
            seen = BTreeSet::from([table.trim()]);
            families.push(String::new());
        }
        if let Some(family) = families.last_mut() {
            family.push_str(line);
            family.push('\n');
        }
    }
    let mut families = families.into_iter();
    let first = families.next().unwrap_or_default();
    let second = families.next();
    ensure!(
        families.next().is_none(),
        "a table is there for the third time: more than two families?"
    );
    Ok((first, second))
}

/// A text is for one family; its addresses show which.
fn check_family(ruleset: &Ruleset) -> Result<()> {
    let mut families = ruleset.rules().flat_map(|(id, rule)| {
        rule.matches
            .iter()
            .filter_map(move |m| Some((Family::of(m.criterion.net()?.address), id.clone())))
    });
    let Some((family, _)) = families.next() else {
        return Ok(());
    };
    match families.find(|(other, _)| *other != family) {
        None => Ok(()),
        Some((_, id)) => {
            bail!("{id} is of another family than the rules before it: split the text")
        }
    }
}

struct Parser<'a> {
    names: Names<'a>,
    done: Vec<Table>,
    /// The one whose COMMIT is still to come.
    open: Option<Table>,
}

impl Parser<'_> {
    fn line(&mut self, line: &str) -> Result<()> {
        if line.is_empty() || line.starts_with('#') {
            return Ok(());
        }
        if let Some(name) = line.strip_prefix('*') {
            return self.begin(name.trim());
        }
        let open = self.open.as_mut();
        let table = open.context("outside of a table: a line like *nat must come before")?;
        if line == "COMMIT" {
            check_jumps(table)?;
            self.done.extend(self.open.take());
            return Ok(());
        }
        if let Some(declaration) = line.strip_prefix(':') {
            return declare(table, declaration);
        }
        let (count, command) = split_count(line)?;
        let words = split_words(command)?;
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["-N" | "--new-chain", chain] => table.add_chain(chain, None),
            ["-A" | "--append", chain, spec @ ..] => {
                let rule = parse_rule(spec, count, self.names)?;
                table.chain_mut(chain)?.rules.push(rule);
                Ok(())
            }
            ["-I" | "--insert", chain, spec @ ..] => {
                let (number, spec) = split_number(spec);
                let rule = parse_rule(spec, count, self.names)?;
                table.chain_mut(chain)?.insert(number, rule)
            }
            _ => bail!("only -N, -A and -I are known here"),
        }
    }

    fn begin(&mut self, name: &str) -> Result<()> {
        ensure!(self.open.is_none(), "the table before it has no COMMIT");
        ensure!(
            self.done.iter().all(|table| table.name != name),
            "the table {name} for the second time: is this the other family's?"
        );
        ensure!(
            built_in(name).is_some(),
            "{name:?} is no table of iptables known here"
        );
        self.open = Some(Table {
            name: name.to_owned(),
            chains: Vec::new(),
        });
        Ok(())
    }
}

fn built_in(table: &str) -> Option<&'static [&'static str]> {
    let found = BUILT_IN.iter().find(|(name, _)| *name == table);
    found.map(|(_, chains)| *chains)
}

/// `NAME POLICY [packets:bytes]`, where a user chain has `-` for a policy.
fn declare(table: &mut Table, declaration: &str) -> Result<()> {
    let mut words = declaration.split_whitespace();
    let name = words.next().context("the chain's name is missing")?;
    let policy = match words.next() {
        Some("ACCEPT") => Some(Policy::Accept),
        Some("DROP") => Some(Policy::Drop),
        Some("-") => None,
        Some(other) => bail!("{other:?} is no policy"),
        None => bail!("the chain's policy is missing"),
    };
    let is_built_in = built_in(&table.name).is_some_and(|chains| chains.contains(&name));
    ensure!(
        is_built_in == policy.is_some(),
        "a policy is for the chains that every table has, - for all others"
    );
    table.add_chain(name, policy)
}

impl Table {
    fn add_chain(&mut self, name: &str, policy: Option<Policy>) -> Result<()> {
        ensure!(
            self.chain(name).is_none(),
            "the chain {name} is there already"
        );
        self.chains.push(Chain {
            name: name.to_owned(),
            policy,
            rules: Vec::new(),
        });
        Ok(())
    }

    /// The chain of that name; one that every table has need not be declared.
    fn chain_mut(&mut self, name: &str) -> Result<&mut Chain> {
        let is_built_in = built_in(&self.name).is_some_and(|chains| chains.contains(&name));
        if is_built_in && self.chain(name).is_none() {
            self.add_chain(name, Some(Policy::Accept))?;
        }
        self.chains
            .iter_mut()
            .find(|chain| chain.name == name)
            .with_context(|| format!("there is no chain {name}"))
    }
}

impl Chain {
    /// Puts the rule where the one of this number is, counted from 1.
    fn insert(&mut self, number: usize, rule: Rule) -> Result<()> {
        ensure!(
            (1..=self.rules.len() + 1).contains(&number),
            "{} has {} rules, so there is no place {number} in it",
            self.name,
            self.rules.len()
        );
        self.rules.insert(number - 1, rule);
        Ok(())
    }
}

/// Jumps must lead to user chains, and never back.
fn check_jumps(table: &Table) -> Result<()> {
    table
        .chains
        .iter()
        .try_for_each(|chain| check_jumps_from(table, chain, &mut Vec::new()))
}

fn check_jumps_from<'a>(table: &'a Table, chain: &'a Chain, way: &mut Vec<&'a str>) -> Result<()> {
    way.push(&chain.name);
    for rule in &chain.rules {
        let Target::Chain(name) = &rule.target else {
            continue;
        };
        let next = table
            .chain(name)
            .filter(|next| next.policy.is_none())
            .with_context(|| format!("{}: no user chain {name} to jump to: {rule}", chain.name))?;
        ensure!(
            !way.contains(&name.as_str()),
            "{}: a jump in circles: {rule}",
            chain.name
        );
        check_jumps_from(table, next, way)?;
    }
    way.pop();
    Ok(())
}

/// `[packets:bytes] rest`, as `iptables-save -c` prints a rule.
fn split_count(line: &str) -> Result<(Option<u64>, &str)> {
    let Some(rest) = line.strip_prefix('[') else {
        return Ok((None, line));
    };
    let (counts, command) = rest.split_once(']').context("no ] behind the counters")?;
    let (packets, _) = counts.split_once(':').context("no : in the counters")?;
    let packets = packets
        .parse()
        .with_context(|| format!("the count {packets:?}"))?;
    Ok((Some(packets), command))
}

/// The place for `-I`, which is the first one if not given.
fn split_number<'a, 'b>(words: &'b [&'a str]) -> (usize, &'b [&'a str]) {
    match words {
        [first, rest @ ..] => first.parse().map_or((1, words), |number| (number, rest)),
        [] => (1, words),
    }
}

/// Splits at blanks that are not between quotes; a backslash between quotes takes the next
/// character as it is.
fn split_words(line: &str) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let (word, after) = if let Some(quoted) = rest.strip_prefix('"') {
            split_quoted(quoted)?
        } else {
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            (rest[..end].to_owned(), &rest[end..])
        };
        words.push(word);
        rest = after.trim_start();
    }
    Ok(words)
}

/// What is before the closing quote, and what is behind it.
fn split_quoted(text: &str) -> Result<(String, &str)> {
    let mut word = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => return Ok((word, chars.as_str())),
            '\\' => word.extend(chars.next()),
            _ => word.push(c),
        }
    }
    bail!("a quote is not closed")
}
