//! From a configuration and a probe that differ to the least that still differs.

use anyhow::Result;

use super::{
    compare::Difference,
    config::{Config, Flag, Resolved},
    legs::Legs,
    owners::CASES,
    probe::{Kind, Probe},
};

/// One probe in one configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Case {
    pub(crate) config: Config,
    pub(crate) probe: Probe,
}

/// Each attempt loads all legs anew.
const ATTEMPTS: u32 = 60;

/// Takes away what the difference does not need, as long as the same leg still differs.
pub(crate) fn shrink(
    legs: &mut Legs,
    config: &Config,
    difference: &Difference,
) -> Result<(Case, Difference)> {
    let mut least = Case {
        config: config.clone(),
        probe: difference.probe.clone(),
    };
    let mut shown = difference.clone();
    let mut attempts = 0;
    'again: loop {
        for smaller in smaller(&least) {
            attempts += 1;
            if attempts > ATTEMPTS {
                return Ok((least, shown));
            }
            if let Some(found) = differs(legs, &smaller, &difference.leg)? {
                (least, shown) = (smaller, found);
                continue 'again;
            }
        }
        return Ok((least, shown));
    }
}

/// How this leg differs in the case, if it does.
fn differs(legs: &mut Legs, case: &Case, leg: &str) -> Result<Option<Difference>> {
    // What is no valid configuration shows nothing.
    let Ok(resolved) = Resolved::new(&case.config) else {
        return Ok(None);
    };
    let found = legs.evaluate(&resolved, std::slice::from_ref(&case.probe))?;
    let mut differences = found.differences.into_iter();
    Ok(differences.find(|difference| difference.leg == leg))
}

/// Everything that is one step smaller, the largest steps first.
fn smaller(case: &Case) -> Vec<Case> {
    let flags = &case.config.flags;
    let mut configs = Vec::new();
    if flags.len() > 1 {
        configs.push(Config::default());
    }
    for at in 0..flags.len() {
        let mut config = case.config.clone();
        config.flags.remove(at);
        configs.push(config);
    }
    for (at, flag) in flags.iter().enumerate() {
        for flag in fewer_items(flag) {
            let mut config = case.config.clone();
            if let Some(place) = config.flags.get_mut(at) {
                *place = flag;
            }
            configs.push(config);
        }
    }
    let probe = case.probe.clone();
    let configs = configs.into_iter().map(|config| Case {
        config,
        probe: probe.clone(),
    });
    let probes = plainer(&case.probe).into_iter().map(|probe| Case {
        config: case.config.clone(),
        probe,
    });
    configs.chain(probes).collect()
}

fn fewer_items(flag: &Flag) -> Vec<Flag> {
    let items: Vec<&str> = flag.items().collect();
    if items.len() < 2 {
        return Vec::new();
    }
    (0..items.len())
        .map(|left_out| {
            let kept = items.iter().enumerate().filter(|(at, _)| *at != left_out);
            let kept: Vec<&str> = kept.map(|(_, item)| *item).collect();
            Flag {
                value: Some(kept.join(",")),
                ..flag.clone()
            }
        })
        .collect()
}

fn plainer(probe: &Probe) -> Vec<Probe> {
    let mut all = Vec::new();
    let mut try_with = |change: &dyn Fn(&mut Probe)| {
        let mut plainer = probe.clone();
        change(&mut plainer);
        if plainer != *probe {
            all.push(plainer);
        }
    };
    try_with(&|probe| probe.from = None);
    try_with(&|probe| probe.mapped = false);
    try_with(&|probe| probe.device = None);
    try_with(&|probe| probe.owner = probe.owner.and(CASES.first()));
    if probe.kind == Kind::UdpConnected {
        try_with(&|probe| probe.kind = Kind::Udp);
    }
    try_with(&|probe| probe.to.set_port(80));
    all
}
