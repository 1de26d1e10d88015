//! The words of one rule, behind `-A CHAIN`.

use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::{Group, User};

use super::{
    matches::{Criterion, Ids, Interface, Match, Protocol},
    ruleset::Rule,
    target::{Connmark, Masked, Target},
};

/// Looks up the names of users and groups.
#[derive(Clone, Copy)]
pub struct Names<'a> {
    pub user: &'a dyn Fn(&str) -> Option<u32>,
    pub group: &'a dyn Fn(&str) -> Option<u32>,
}

impl Names<'static> {
    /// Those of this machine, as iptables itself asks.
    pub const SYSTEM: Self = Self {
        user: &|name| Some(User::from_name(name).ok()??.uid.as_raw()),
        group: &|name| Some(Group::from_name(name).ok()??.gid.as_raw()),
    };
}

/// The rule that these words make.
pub(super) fn parse_rule(words: &[&str], count: Option<u64>, names: Names<'_>) -> Result<Rule> {
    let mut reader = Reader {
        words,
        names,
        modules: Vec::new(),
        negated: false,
        matches: Vec::new(),
        target: Target::Count,
    };
    while let Some(word) = reader.next_word() {
        reader
            .option(word)
            .with_context(|| format!("at the word {word:?}"))?;
    }
    reader.finish(count)
}

struct Reader<'a> {
    /// Those not read yet.
    words: &'a [&'a str],
    names: Names<'a>,
    /// What `-m` named so far; the last one says whose `--mark` it is.
    modules: Vec<&'a str>,
    /// Whether a `!` waits for what it negates.
    negated: bool,
    matches: Vec<Match>,
    target: Target,
}

/// The modules that are loaded by `-p` as well, or that have no words of their own here.
const SILENT_MODULES: [&str; 2] = ["tcp", "udp"];
const MODULES: [&str; 6] = [
    "multiport",
    "owner",
    "mark",
    "connmark",
    "conntrack",
    "comment",
];

impl<'a> Reader<'a> {
    fn next_word(&mut self) -> Option<&'a str> {
        let (first, rest) = self.words.split_first()?;
        self.words = rest;
        Some(first)
    }

    fn option(&mut self, word: &'a str) -> Result<()> {
        match word {
            "!" => return self.negate(),
            "-m" | "--match" => self.module()?,
            "-j" | "--jump" => self.target()?,
            "-p" | "--protocol" | "--proto" => self.add(Criterion::Protocol, str::parse)?,
            "-s" | "--source" | "--src" => self.add(Criterion::Source, str::parse)?,
            "-d" | "--destination" | "--dst" => self.add(Criterion::Destination, str::parse)?,
            "-i" | "--in-interface" => self.add(Criterion::InInterface, interface)?,
            "-o" | "--out-interface" => self.add(Criterion::OutInterface, interface)?,
            "--sport" | "--source-port" => self.add(Criterion::SourcePort, str::parse)?,
            "--dport" | "--destination-port" => self.add(Criterion::DestinationPort, str::parse)?,
            "--sports" | "--source-ports" => {
                self.add_of("multiport", Criterion::SourcePorts, list)?
            }
            "--dports" | "--destination-ports" => {
                self.add_of("multiport", Criterion::DestinationPorts, list)?;
            }
            "--uid-owner" => {
                let user = self.names.user;
                self.add_of("owner", Criterion::Uid, |text| ids(text, user))?;
            }
            "--gid-owner" => {
                let group = self.names.group;
                self.add_of("owner", Criterion::Gid, |text| ids(text, group))?;
            }
            "--mark" if self.modules.last() == Some(&"connmark") => {
                self.add(Criterion::Connmark, str::parse)?;
            }
            "--mark" => self.add_of("mark", Criterion::Mark, str::parse)?,
            "--ctstate" => self.add_of("conntrack", Criterion::State, states)?,
            "--comment" => {
                self.add_of("comment", Criterion::Comment, |text| Ok(text.to_owned()))?
            }
            _ => bail!("it is not known here"),
        }
        ensure!(!self.negated, "it cannot be negated");
        Ok(())
    }

    fn negate(&mut self) -> Result<()> {
        ensure!(!self.negated, "it is there twice");
        self.negated = true;
        Ok(())
    }

    /// Reads a value and what a `!` before it or before its option makes of it.
    fn add<T>(
        &mut self,
        criterion: impl Fn(T) -> Criterion,
        read: impl Fn(&str) -> Result<T>,
    ) -> Result<()> {
        let mut word = self.value()?;
        if word == "!" {
            self.negate()?;
            word = self.value()?;
        }
        let criterion = criterion(read(word)?);
        let negated = std::mem::take(&mut self.negated);
        if negated || !criterion.is_trivial() {
            self.matches.push(Match { criterion, negated });
        }
        Ok(())
    }

    /// The same for an option that a module has.
    fn add_of<T>(
        &mut self,
        module: &str,
        criterion: impl Fn(T) -> Criterion,
        read: impl Fn(&str) -> Result<T>,
    ) -> Result<()> {
        ensure!(
            self.modules.contains(&module),
            "it needs -m {module} before it"
        );
        self.add(criterion, read)
    }

    fn value(&mut self) -> Result<&'a str> {
        self.next_word().context("its value is missing")
    }

    fn value_as<T: FromStr<Err: Into<anyhow::Error>>>(&mut self) -> Result<T> {
        let word = self.value()?;
        let value: Result<T, _> = word.parse();
        value.map_err(|error| error.into().context(format!("its value is {word:?}")))
    }

    fn module(&mut self) -> Result<()> {
        let name = self.value()?;
        ensure!(
            MODULES.contains(&name) || SILENT_MODULES.contains(&name),
            "the module {name:?} is not known here"
        );
        self.modules.push(name);
        Ok(())
    }

    fn target(&mut self) -> Result<()> {
        ensure!(self.target == Target::Count, "a rule has one target");
        self.target = match self.value()? {
            "RETURN" => Target::Return,
            "ACCEPT" => Target::Accept,
            "DROP" => Target::Drop,
            "REDIRECT" => {
                self.one_of(&["--to-ports", "--to-port"])?;
                Target::Redirect(self.value_as()?)
            }
            "CT" => {
                self.one_of(&["--zone"])?;
                Target::Zone(self.value_as()?)
            }
            "MARK" => self.mark()?,
            "CONNMARK" => self.connmark()?,
            "TPROXY" => self.tproxy()?,
            name if name.starts_with('-') => bail!("{name:?} is no target"),
            name => Target::Chain(name.to_owned()),
        };
        Ok(())
    }

    /// The next word, which must be one of these.
    fn one_of(&mut self, words: &[&str]) -> Result<&'a str> {
        let wanted = words.join(" or ");
        let word = self
            .next_word()
            .with_context(|| format!("{wanted} is missing"))?;
        ensure!(words.contains(&word), "{word:?} stands for {wanted}");
        Ok(word)
    }

    fn mark(&mut self) -> Result<Target> {
        let word = self.one_of(&["--set-mark", "--set-xmark"])?;
        let mut mark: Masked = self.value_as()?;
        if word == "--set-mark" {
            mark.mask |= mark.value;
        }
        Ok(Target::Mark(mark))
    }

    fn connmark(&mut self) -> Result<Target> {
        let way = match self.one_of(&["--save-mark", "--restore-mark"])? {
            "--save-mark" => Connmark::Save,
            _ => Connmark::Restore,
        };
        while self.take_option(&["--nfmask", "--ctmask"]).is_some() {
            let mask: Masked = self.value_as()?;
            ensure!(mask.value == u32::MAX, "only whole marks are known here");
        }
        Ok(Target::Connmark(way))
    }

    fn tproxy(&mut self) -> Result<Target> {
        let mut port = None;
        let mut mark = Masked { value: 0, mask: 0 };
        while let Some(word) = self.take_option(&["--on-port", "--on-ip", "--tproxy-mark"]) {
            match word {
                "--on-port" => port = Some(self.value_as()?),
                "--on-ip" => {
                    let address: std::net::IpAddr = self.value_as()?;
                    ensure!(address.is_unspecified(), "--on-ip is not known here");
                }
                _ => mark = self.value_as()?,
            }
        }
        let port = port.context("--on-port is missing")?;
        Ok(Target::Tproxy { port, mark })
    }

    /// Takes the next word if it is one of these.
    fn take_option(&mut self, words: &[&str]) -> Option<&'a str> {
        words
            .contains(self.words.first()?)
            .then(|| self.next_word())?
    }

    fn finish(mut self, count: Option<u64>) -> Result<Rule> {
        ensure!(!self.negated, "a ! has nothing to negate");
        let ported = self.matches.iter().any(|m| matches!(m.criterion, Criterion::Protocol(Protocol::TCP | Protocol::UDP) if !m.negated));
        let asks_for_ports = self.matches.iter().any(|m| m.criterion.asks_for_ports());
        let redirects = matches!(self.target, Target::Redirect(_) | Target::Tproxy { .. });
        ensure!(
            ported || !(asks_for_ports || redirects),
            "ports need -p tcp or -p udp"
        );
        self.matches.sort();
        Ok(Rule {
            matches: self.matches,
            target: self.target,
            count,
        })
    }
}

fn interface(text: &str) -> Result<Interface> {
    // One byte of IFNAMSIZ is for the end of the string.
    ensure!(
        (1..nix::libc::IFNAMSIZ).contains(&text.len()),
        "{text:?} is no name of an interface"
    );
    Ok(Interface(text.to_owned()))
}

fn list<T: FromStr<Err = anyhow::Error>>(text: &str) -> Result<Vec<T>> {
    text.split(',').map(str::parse).collect()
}

fn ids(text: &str, by_name: &dyn Fn(&str) -> Option<u32>) -> Result<Ids> {
    if let Ok(id) = text.parse() {
        return Ok(Ids::one(id));
    }
    let range = text
        .split_once('-')
        .and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    if let Some((first, last)) = range {
        ensure!(first <= last, "{text:?} ends before it begins");
        return Ok(Ids { first, last });
    }
    let id = by_name(text).with_context(|| format!("nobody here has the name {text:?}"))?;
    Ok(Ids::one(id))
}

fn states(text: &str) -> Result<Vec<String>> {
    const STATES: [&str; 7] = [
        "INVALID",
        "NEW",
        "RELATED",
        "ESTABLISHED",
        "UNTRACKED",
        "SNAT",
        "DNAT",
    ];
    let mut states: Vec<String> = text.split(',').map(str::to_owned).collect();
    if let Some(unknown) = states
        .iter()
        .find(|state| !STATES.contains(&state.as_str()))
    {
        bail!("{unknown:?} is no state of a connection");
    }
    states.sort();
    Ok(states)
}
