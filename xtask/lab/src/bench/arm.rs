//! An arm: a pod with one way of redirecting, or none. All arms of a run are alive at once, each in
//! a pod of its own.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use sidecar_ebpf_common::number::{V4_RANGE, V4_RANGE_LEN};
use sidecar_loader::answers;
use socket2::SockRef;

use super::{
    crew::{Crew, SERVICES, Slice, Way, Ways},
    floor::FloorPrograms,
    further::Running,
    kernel::{self, Held},
    kind::Kind,
    record::{Case, Direction, Point, Work},
};
use crate::{
    Agent, Listener, Loader,
    conformance::{Backend, Installed, Redirected},
    netns::inside,
    pod::{POD_IP, Pod},
    process::run,
};

/// The proxy's ports by Istio's default.
pub const OUTBOUND_PORT: u16 = 15001;
pub const INBOUND_PORT: u16 = 15006;
/// The application's port.
pub const APP_PORT: u16 = 8080;

/// How an arm departs from the default.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Flags as the loader takes them, each one `--name=value`; the rules are made to match.
    pub flags: Vec<String>,
    /// More flags for the loader alone.
    pub loader: Vec<String>,
    /// Where in a sweep this is.
    pub at: Option<Point>,
}

/// One arm at work. Dropping it ends everything in it.
#[derive(Debug)]
pub struct Arm {
    pub name: String,
    pub at: Option<Point>,
    kind: Kind,
    ways: Ways,
    crew: Option<Crew>,
    redirect: Redirect,
    empty: Option<FloorPrograms>,
    /// What was counted when we looked last.
    last: Redirected,
    // Last: what runs in it ends before it goes.
    pub pod: Pod,
}

/// The listeners of a process that stands for the proxy; dropping it closes them.
#[derive(Debug)]
pub(super) struct Front {
    pub(super) outbound: Listener,
    /// A proxy that lacks one is still waited for.
    _inbound: Listener,
}

#[derive(Debug)]
enum Redirect {
    None,
    Rules(Installed),
    // Boxed, for the others are small.
    Ours(Box<Loader>),
    NeededCalls(Box<FloorPrograms>),
    Further(Running),
}

impl Arm {
    pub fn start(kind: &Kind, settings: &Settings) -> Result<Self> {
        let name = kind.name().to_owned();
        Self::begin(kind, settings).with_context(|| format!("starting the arm {name}"))
    }

    fn begin(kind: &Kind, settings: &Settings) -> Result<Self> {
        let pod = Pod::new(kind.name())?;
        let redirect = match kind {
            Kind::None => Redirect::None,
            Kind::Path | Kind::EmptyPrograms => {
                add_routes(&pod)?;
                Redirect::None
            }
            Kind::NeededCalls => {
                add_routes(&pod)?;
                Redirect::NeededCalls(FloorPrograms::needed_calls(&pod)?.into())
            }
            Kind::Rules(backend) => {
                Redirect::Rules(Installed::new(&pod, *backend, &settings.flags)?)
            }
            Kind::Ours => {
                // Named, for no process of the pod runs yet by which the loader would find it.
                let netns = format!("--netns={}", pod.netns_path().display());
                let flags = settings.flags.iter().chain(&settings.loader);
                let flags: Vec<&str> = flags.chain([&netns]).map(String::as_str).collect();
                Redirect::Ours(Loader::start(&pod, &flags)?.into())
            }
            Kind::Further(further) => Redirect::Further(Running::start(further, &pod)?),
        };
        let way = match kind {
            Kind::None => Way::Loopback,
            Kind::Path | Kind::EmptyPrograms => Way::Numbered,
            Kind::Rules(_) | Kind::Ours | Kind::NeededCalls | Kind::Further(_) => Way::Redirected,
        };
        let empty = matches!(kind, Kind::EmptyPrograms)
            .then(|| FloorPrograms::empty(&pod))
            .transpose()?;
        let mut arm = Self {
            name: kind.name().to_owned(),
            at: settings.at,
            kind: kind.clone(),
            ways: Ways {
                way,
                outbound_port: OUTBOUND_PORT,
                inbound_port: if way == Way::Redirected {
                    INBOUND_PORT
                } else {
                    APP_PORT
                },
            },
            crew: None,
            redirect,
            empty,
            last: Redirected::default(),
            pod,
        };
        arm.last = arm.read_counters()?;
        Ok(arm)
    }

    pub const fn kind(&self) -> &Kind {
        &self.kind
    }

    /// Whether connections are meant to be redirected in it.
    pub const fn is_redirected(&self) -> bool {
        matches!(self.ways.way, Way::Redirected)
    }

    /// Whether it takes part: further arms may know only one direction.
    pub fn covers(&self, case: Case) -> bool {
        match (&self.redirect, &self.kind) {
            (Redirect::Further(running), _) => running.covers(case.direction),
            // What these cost, they cost once per connection.
            (_, Kind::Path | Kind::EmptyPrograms | Kind::NeededCalls) => {
                (case.work, case.direction) == (Work::Connect, Direction::Outbound)
            }
            _ => true,
        }
    }

    /// The loader, in the arm that has one.
    pub fn loader(&self) -> Option<&Loader> {
        match &self.redirect {
            Redirect::Ours(loader) => Some(loader),
            Redirect::None
            | Redirect::Rules(_)
            | Redirect::NeededCalls(_)
            | Redirect::Further(_) => None,
        }
    }

    /// The programs that run for its connections, in the arms that have any of ours or in their place.
    pub(super) fn programs(&self) -> Result<Held> {
        match (&self.redirect, &self.empty) {
            (Redirect::Ours(loader), _) => Held::of(loader.pid()),
            (Redirect::NeededCalls(programs), _) => programs.held(),
            (_, Some(empty)) => empty.held(),
            _ => bail!("no program runs in the arm {}", self.name),
        }
    }

    /// Works through the case for so long. Workers are started for the first one.
    pub fn slice(&mut self, case: Case, time: Duration) -> Result<Slice> {
        let crew = match &mut self.crew {
            Some(crew) => crew,
            none => {
                let crew = none.insert(Crew::start(&self.pod, self.ways)?);
                match (&self.kind, &self.redirect) {
                    (Kind::Path | Kind::EmptyPrograms | Kind::NeededCalls, _) => {
                        answers::send_by_lo(&SockRef::from(&crew.outbound))
                            .context("sending the proxy's answers by lo")?;
                    }
                    (_, Redirect::Ours(loader)) => loader.wait_until_quiet()?,
                    _ => {}
                }
                crew
            }
        };
        crew.slice(case, time)
    }

    /// Has a process listen where connections arrive, and waits until what redirects knows it. The
    /// workers must not listen meanwhile.
    pub(super) fn listen(&self, agent: &Agent) -> Result<Front> {
        let at = |port| agent.listen((Ipv4Addr::UNSPECIFIED, port));
        let front = Front {
            outbound: at(self.ways.outbound_port)?,
            _inbound: at(self.ways.inbound_port)?,
        };
        if let Redirect::Ours(loader) = &self.redirect {
            loader.wait_until_quiet()?;
        }
        Ok(front)
    }

    /// Ends the workers, so that others may have their ports.
    pub fn dismiss(&mut self) {
        self.crew = None;
    }

    /// How many connections were redirected since the last call (or the start), by the counters of
    /// what redirects; `None` where it has none. Without redirection it is made sure that nothing
    /// is there that could.
    pub fn counted(&mut self) -> Result<Option<Redirected>> {
        if let Redirect::Further(running) = &self.redirect
            && !running.has_counters()
        {
            return Ok(None);
        }
        let now = self.read_counters()?;
        let before = std::mem::replace(&mut self.last, now);
        Ok(Some(Redirected {
            outbound: now.outbound.saturating_sub(before.outbound),
            inbound: now.inbound.saturating_sub(before.inbound),
        }))
    }

    /// How many SYNs have been sent more than once so far, from the pod or to it.
    pub(super) fn syns_resent(&self) -> Result<u64> {
        let namespaces = [self.pod.netns_path(), self.pod.remote_netns_path()];
        namespaces
            .iter()
            .map(|netns| kernel::syns_resent(netns))
            .sum()
    }

    /// Who says it.
    pub fn counted_by(&self) -> String {
        match &self.redirect {
            Redirect::None => {
                "no rule is there, and SO_ORIGINAL_DST has no answer for any connection".to_owned()
            }
            Redirect::Rules(_) => "packet counters of the rules that redirect".to_owned(),
            Redirect::Ours(_) => {
                "the loader's counters connect4 rule 9 and sk_lookup inbound-all".to_owned()
            }
            Redirect::NeededCalls(_) => "the counter of the program at connect4".to_owned(),
            Redirect::Further(running) if running.has_counters() => {
                "the arm's own counter command".to_owned()
            }
            Redirect::Further(_) => format!(
                "no counter: the proxy accepted them, and nobody listens at {} and its like",
                SERVICES[0]
            ),
        }
    }

    fn read_counters(&self) -> Result<Redirected> {
        let read = match &self.redirect {
            Redirect::None => nothing_redirects(&self.pod),
            Redirect::Rules(installed) => installed.redirected(),
            Redirect::Ours(loader) => loader.counters().map(|counters| Redirected {
                outbound: counters.get("connect4", "9"),
                inbound: counters.get("sk_lookup", "inbound-all"),
            }),
            Redirect::NeededCalls(programs) => programs.counted().map(|outbound| Redirected {
                outbound,
                inbound: 0,
            }),
            Redirect::Further(running) => running.redirected(),
        };
        read.with_context(|| format!("the counters of the arm {}", self.name))
    }

    /// Takes away what redirects, so that a test sees what a run says of it. In the arm without
    /// redirection: adds something.
    pub(super) fn break_it(&mut self) -> Result<()> {
        match &mut self.redirect {
            Redirect::None => Installed::new(&self.pod, Backend::Native, &[]).map(drop),
            Redirect::Rules(_) => self.pod_flush(),
            Redirect::Ours(loader) => {
                loader.signal(Signal::SIGKILL)?;
                loader.wait().map(drop)
            }
            Redirect::NeededCalls(programs) => programs.lose_redirect(),
            Redirect::Further(running) => running.tear_down(),
        }
    }

    fn pod_flush(&self) -> Result<()> {
        inside(&self.pod.netns_path(), || {
            run("iptables-legacy", ["-t", "nat", "-F"], "")?;
            run("nft", ["flush", "ruleset"], "")
        })??;
        Ok(())
    }
}

/// As the loader does, for connections that go where its own go.
fn add_routes(pod: &Pod) -> Result<()> {
    let range = Ipv4Addr::from_bits(V4_RANGE);
    let tos = answers::TOS;
    pod.ip(&format!(
        "route add local {range}/{V4_RANGE_LEN} dev lo src {POD_IP}\n\
         route add local {POD_IP} dev lo tos {tos:#04x}\n"
    ))
}

/// An error if the pod has any rules.
fn nothing_redirects(pod: &Pod) -> Result<Redirected> {
    let (rules, tables) = inside(&pod.netns_path(), || {
        let rules = run("nft", ["list", "ruleset"], "")?;
        // The tables of iptables-legacy; without its module there is no such file, and none.
        let tables = std::fs::read_to_string("/proc/thread-self/net/ip_tables_names");
        anyhow::Ok((rules, tables.unwrap_or_default()))
    })??;
    let found = format!("{rules}{tables}");
    ensure!(
        found.trim().is_empty(),
        "the pod without redirection has rules: {found}"
    );
    Ok(Redirected::default())
}
