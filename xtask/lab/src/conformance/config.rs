//! A configuration: flags of the loader as text, and what they come to.

use std::{
    ffi::OsString,
    fmt, fs,
    net::IpAddr,
    path::{Path, PathBuf},
    str::FromStr,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Error, Result, bail, ensure};
use sidecar_ebpf_common::facts::Owner;
use sidecar_loader::cmd::{self, Command, Job, chain};

use super::{
    knobs::{self, DNS_SERVERS, REDIRECT_DNS},
    rules::{self, Ruleset},
};

/// What the agent is where that does not make it the proxy.
const ANYBODY: u32 = 1338;

/// One flag as it is typed; the name is without its dashes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Flag {
    pub name: String,
    pub value: Option<String>,
}

impl Flag {
    /// The items of its list.
    pub(super) fn items(&self) -> impl Iterator<Item = &str> {
        let items = self.value.as_deref().unwrap_or_default().split(',');
        items.filter(|item| !item.is_empty())
    }
}

impl fmt::Display for Flag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "--{}={value}", self.name),
            None => write!(f, "--{}", self.name),
        }
    }
}

/// Flags in the order in which they are typed. `--dns-servers=LIST` stands for a resolv.conf.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Config {
    pub flags: Vec<Flag>,
}

impl Config {
    pub(super) fn get(&self, name: &str) -> Option<&Flag> {
        self.flags.iter().find(|flag| flag.name == name)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.flags.is_empty() {
            return f.write_str("(defaults)");
        }
        let flags: Vec<_> = self.flags.iter().map(Flag::to_string).collect();
        f.write_str(&flags.join(" "))
    }
}

impl FromStr for Config {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "(defaults)" {
            return Ok(Self::default());
        }
        let flags = text.split_whitespace().map(|word| {
            let word = word.strip_prefix("--").with_context(|| {
                format!("{word:?} is no flag: write it as --name=value, without spaces")
            })?;
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (word, None),
            };
            ensure!(
                knobs::knob_of(name).is_some(),
                "--{name} is no knob that is tried here"
            );
            let name = name.to_owned();
            Ok(Flag { name, value })
        });
        let flags = flags.collect::<Result<_>>()?;
        Ok(Self { flags })
    }
}

/// A configuration that was understood.
#[derive(Debug)]
pub(super) struct Resolved {
    pub config: Config,
    /// What the loader is started with.
    pub args: Vec<String>,
    pub policy: chain::Policy,
    pub dns_servers: Vec<IpAddr>,
    pub rules: Rules,
    _resolv_conf: Option<ResolvConf>,
}

/// The rules of both families.
#[derive(Clone, Debug)]
pub struct Rules {
    pub v4: Ruleset,
    /// `None`: IPv6 has no rules.
    pub v6: Option<Ruleset>,
}

impl Rules {
    pub fn parse(v4: &str, v6: Option<&str>) -> Result<Self> {
        Ok(Self {
            v4: rules::parse(v4)?,
            v6: v6.map(rules::parse).transpose()?,
        })
    }
}

impl Resolved {
    pub(super) fn new(config: &Config) -> Result<Self> {
        Self::read(config).with_context(|| format!("the configuration {config}"))
    }

    fn read(config: &Config) -> Result<Self> {
        // Never those of this machine.
        let needed = config.has(DNS_SERVERS) || config.has(REDIRECT_DNS);
        let resolv_conf = match needed {
            true => Some(ResolvConf::write(config.get(DNS_SERVERS))?),
            false => None,
        };
        let mut args: Vec<String> = config
            .flags
            .iter()
            .filter(|flag| flag.name != DNS_SERVERS)
            .map(Flag::to_string)
            .collect();
        if let Some(file) = &resolv_conf {
            args.push(format!("--resolv-conf={}", file.path.display()));
        }
        let (policy, v4) = rules_of(&args, false)?;
        let ipv6 = policy.config.dual_stack;
        let v6 = match ipv6 {
            true => Some(rules_of(&args, true)?.1),
            false => None,
        };
        let dns_servers = resolv_conf.as_ref().map(|file| file.servers.clone());
        Ok(Self {
            config: config.clone(),
            args,
            policy,
            dns_servers: dns_servers.unwrap_or_default(),
            rules: Rules::parse(&v4, v6.as_deref())?,
            _resolv_conf: resolv_conf,
        })
    }

    /// The same settings with rules that come from elsewhere.
    pub(super) fn with_rules(self, rules: Rules) -> Self {
        Self { rules, ..self }
    }

    /// As whom the proxy's agent runs: its answers find back only if it is the proxy's.
    pub(crate) fn agent(&self) -> Result<Owner> {
        let config = &self.policy.config;
        let (uid, gid) = (config.uids.first(), config.gids.first());
        ensure!(uid.or(gid).is_some(), "no uid and no gid is the proxy's");
        Ok(Owner {
            uid: uid.unwrap_or(ANYBODY),
            gid: gid.unwrap_or(ANYBODY),
        })
    }

    /// Whether IPv6 has rules: the pod's first address is an IPv4 one.
    pub(super) const fn ipv6(&self) -> bool {
        self.policy.config.dual_stack
    }
}

/// What `loader rules --iptables` prints, and the settings behind it.
fn rules_of(args: &[String], ipv6: bool) -> Result<(chain::Policy, String)> {
    let mut line = vec!["loader", "rules", "--iptables"];
    if ipv6 {
        line.push("--ipv6");
    }
    let line = line.into_iter().chain(args.iter().map(String::as_str));
    let job = cmd::parse(line.map(OsString::from))?;
    let Job::Command(command) = job else {
        bail!("the loader does not know the subcommand `rules`");
    };
    let Command::Rules(rules) = &*command else {
        bail!("the loader took `rules` for something else");
    };
    // Settings come from these flags alone.
    let policy = chain::Policy::resolve(&rules.policy, &|_| None)?;
    let mut text = Vec::new();
    cmd::run(&command, &mut text)?;
    let text = String::from_utf8(text).context("rules that are no text")?;
    Ok((policy, text))
}

/// A file that is removed again.
#[derive(Debug)]
struct ResolvConf {
    path: PathBuf,
    servers: Vec<IpAddr>,
}

impl ResolvConf {
    fn write(flag: Option<&Flag>) -> Result<Self> {
        let items = flag.into_iter().flat_map(Flag::items);
        let servers: Vec<IpAddr> = items
            .map(|item| {
                item.parse()
                    .with_context(|| format!("the DNS server {item:?}"))
            })
            .collect::<Result<_>>()?;
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("sidecar-lab-{}-{number}-resolv.conf", std::process::id());
        let path = std::env::temp_dir().join(name);
        let lines: Vec<_> = servers
            .iter()
            .map(|it| format!("nameserver {it}\n"))
            .collect();
        write(&path, &lines.concat())?;
        Ok(Self { path, servers })
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

impl Drop for ResolvConf {
    fn drop(&mut self) {
        // Nothing depends on its absence.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_what_its_text_says() {
        for text in [
            "(defaults)",
            "--proxy-uid=3,4 --istio-inbound-ports= --dual-stack",
        ] {
            let config: Config = text.parse().unwrap();
            assert_eq!(config.to_string(), text);
            Resolved::new(&config).unwrap();
        }
        "--cgroup=x".parse::<Config>().unwrap_err();
    }

    #[test]
    fn without_dual_stack_ipv6_has_no_rules() {
        let rules = |text: &str| Resolved::new(&text.parse().unwrap()).unwrap().rules;
        assert!(rules("--dual-stack").v6.is_some());
        assert!(rules("(defaults)").v6.is_none());
    }
}
