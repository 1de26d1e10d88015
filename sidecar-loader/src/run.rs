//! The main job: attach, show the counters, follow the pod, detach.

use std::{
    env,
    io::{self, IsTerminal as _},
    net::{SocketAddr, TcpListener},
    pin::pin,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use aya_log::EbpfLogger;
use sidecar_ebpf_common::counter::Hook;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{MissedTickBehavior, interval, sleep},
};

use crate::{
    cgroup::Cgroup,
    cli::{Cli, PodArgs},
    config::Config,
    metrics::{self, Sample},
    netns::{self, Netns},
    output::{self, Output, PodFound, Reader, Ready, Took},
    owner, privilege,
    program::Programs,
    redirect::{Cgroups, Change, Redirect},
    snapshot::Snapshot,
    tables::{Tables, lock},
};

/// How often an empty cgroup is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// How often a pod that runs is looked at: whether it is still there, and all its listeners known.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// How late a message of the programs may be shown.
const LOG_LOOK: Duration = Duration::from_millis(500);

pub async fn run(cli: Cli) -> Result<()> {
    let environment = |name: &str| env::var(name).ok();
    let config = Config::resolve(&cli.istio, &cli.unsupported, &cli.ring, &environment)?;
    for note in &config.notes {
        log::warn!("{note}");
    }
    privilege::check()?;
    // From here on a signal means: undo.
    let mut stop = Stop::listen()?;

    let host = Netns::host()?;
    let cgroups = open_cgroups(&cli.pod)?;
    let netns = find_netns(&cli.pod, &cgroups.pod, &host)?;
    let metrics = cli.output.metrics_addr.map(bind_metrics).transpose()?;

    let spared = if cli.pod.allow_host_netns {
        0
    } else {
        host.cookie()?
    };
    let loading = Instant::now();
    let mut redirect = Redirect::load(config, cgroups, spared)?;
    let load = loading.elapsed();
    start_logging(redirect.programs())?;
    let attaching = Instant::now();
    let started = start(&mut redirect, netns).await;
    let attach = attaching.elapsed();
    let mut session = Session {
        output: output::stdout(cli.output.format(io::stdout().is_terminal())),
        host,
        netns_is_named: cli.pod.netns.is_some(),
        last: Instant::now(),
    };
    let result = match started {
        Ok(()) => {
            serve_metrics(metrics.as_ref(), &mut redirect)?;
            let every = cli
                .output
                .interval(cli.output.format(io::stdout().is_terminal()));
            let ready = ready(
                &redirect,
                metrics.map(|(_, addr)| addr),
                Took { load, attach },
            );
            session.watch(&mut redirect, &ready, every, &mut stop).await
        }
        Err(error) => Err(error),
    };
    let tables = redirect.tables();
    let detaching = Instant::now();
    let detached = redirect.detach().await;
    let detach = detaching.elapsed();
    // What made it stop matters more than what went wrong while cleaning up.
    result?;
    detached?;
    // A reader that is gone is found out below.
    let _: Reader = output::reader(session.output.detached(detach))?;
    let last = snapshot(&tables)?;
    output::reader(session.output.finish(&last))
        .context("writing to stdout")
        .map(drop)
}

async fn start(redirect: &mut Redirect, netns: Option<Netns>) -> Result<()> {
    match netns {
        Some(netns) => redirect.attach(netns).await,
        None => {
            log::info!(
                "{} has no process in a network namespace of its own yet: waiting; \
                 outbound connections are redirected already",
                redirect.cgroup().path().display()
            );
            redirect.attach_waiting()
        }
    }
}

/// What goes on between attaching and detaching.
struct Session {
    output: Box<dyn Output>,
    host: Netns,
    /// By `--netns`, so it is not looked for.
    netns_is_named: bool,
    last: Instant,
}

impl Session {
    async fn watch(
        &mut self,
        redirect: &mut Redirect,
        ready: &Ready,
        every: Duration,
        stop: &mut Stop,
    ) -> Result<()> {
        let written = self.output.ready(ready);
        if output::reader(written)? == Reader::Gone {
            return Ok(());
        }
        let mut show = interval(every);
        show.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let pause = |redirect: &Redirect| {
            if redirect.netns().is_some() {
                LOOK_AGAIN
            } else {
                LOOK
            }
        };
        let mut look = pin!(sleep(pause(redirect)));
        loop {
            // Waiting can be given up for another event; what follows from one is done to its end.
            let event = tokio::select! {
                () = stop.requested() => Event::Stop,
                change = redirect.changed() => Event::Changed(change),
                () = &mut look => Event::Look,
                _ = show.tick() => Event::Show,
            };
            let reader = match event {
                Event::Stop => return Ok(()),
                Event::Changed(change) => {
                    redirect.follow(change).await;
                    Reader::Present
                }
                Event::Look => {
                    let Some(reader) = self.look(redirect).await? else {
                        return Ok(());
                    };
                    look.as_mut()
                        .reset((Instant::now() + pause(redirect)).into());
                    reader
                }
                Event::Show => self.show(redirect)?,
            };
            if reader == Reader::Gone {
                log::info!("nobody reads the output any more: detaching");
                return Ok(());
            }
        }
    }

    fn show(&mut self, redirect: &Redirect) -> Result<Reader> {
        let elapsed = self.last.elapsed();
        self.last = Instant::now();
        let written = self
            .output
            .counters(&snapshot(&redirect.tables())?, elapsed);
        output::reader(written).context("writing to stdout")
    }

    /// Looks after the pod: its first process, its move to another network namespace, what went
    /// wrong last time, its end. `None` says that it is gone.
    async fn look(&mut self, redirect: &mut Redirect) -> Result<Option<Reader>> {
        if !redirect.cgroup().exists() {
            log::info!("{} is gone: detaching", redirect.cgroup().path().display());
            return Ok(None);
        }
        redirect.catch_up().await;
        let Some(netns) = self.new_netns(redirect) else {
            return Ok(Some(Reader::Present));
        };
        let name = netns.to_string();
        // Detaching because of this would let everything pass.
        if let Err(error) = redirect.pod_started(netns).await {
            log::warn!("{error:#}; trying again");
            return Ok(Some(Reader::Present));
        }
        let netns_cookie = redirect.netns().map_or(0, |(_, cookie)| cookie);
        let found = PodFound {
            netns: name,
            netns_cookie,
        };
        let written = self.output.pod_found(&found);
        output::reader(written)
            .context("writing to stdout")
            .map(Some)
    }

    /// The namespace of the pod's processes, if it is not the one that is known.
    fn new_netns(&self, redirect: &Redirect) -> Option<Netns> {
        if self.netns_is_named {
            return None;
        }
        // Several at once is for the user to sort out at the start; later it passes.
        let found = netns::of_cgroup(redirect.cgroup(), &self.host).ok()??;
        match redirect.netns() {
            Some((known, _)) if known.is(&found) => None,
            Some((known, _)) => {
                log::info!("the pod's processes have moved from {known} to {found}");
                Some(found)
            }
            None => Some(found),
        }
    }
}

/// What the session waits for.
enum Event {
    Stop,
    Changed(Change),
    Look,
    Show,
}

fn open_cgroups(args: &PodArgs) -> Result<Cgroups> {
    let pod = Cgroup::open("--cgroup", &args.cgroup)?;
    let proxy = args
        .proxy_cgroup
        .as_deref()
        .map(|path| Cgroup::open("--proxy-cgroup", path))
        .transpose()?;
    if let Some(proxy) = &proxy
        && proxy.contains(&pod)
    {
        bail!(
            "--proxy-cgroup {} holds --cgroup {}: then the application would run in the proxy's \
             cgroup; name the cgroup of the proxy's container alone",
            proxy.path().display(),
            pod.path().display()
        );
    }
    Ok(Cgroups { pod, proxy })
}

/// The namespace that was named, or that of the pod's processes; `None` if there are none yet.
fn find_netns(args: &PodArgs, pod: &Cgroup, host: &Netns) -> Result<Option<Netns>> {
    let Some(named) = &args.netns else {
        return netns::of_cgroup(pod, host);
    };
    let netns = Netns::open(named)?;
    if netns.is(host) && !args.allow_host_netns {
        bail!(
            "{netns} is the host's own network namespace: redirecting it would capture the host's \
             traffic; name the pod's with --netns, or say --allow-host-netns if you mean it"
        );
    }
    Ok(Some(netns))
}

fn bind_metrics(addr: SocketAddr) -> Result<(TcpListener, SocketAddr)> {
    let listener =
        TcpListener::bind(addr).with_context(|| format!("--metrics-addr {addr}: cannot listen"))?;
    listener.set_nonblocking(true).context("--metrics-addr")?;
    let addr = listener.local_addr().context("--metrics-addr")?;
    Ok((listener, addr))
}

fn serve_metrics(bound: Option<&(TcpListener, SocketAddr)>, redirect: &mut Redirect) -> Result<()> {
    let Some((listener, _)) = bound else {
        return Ok(());
    };
    let listener = listener.try_clone().context("--metrics-addr")?;
    let listener = tokio::net::TcpListener::from_std(listener).context("--metrics-addr")?;
    let attached = redirect.attached();
    let tables = redirect.tables();
    let owner = redirect.owner();
    let source = move || sample(&tables, &attached, owner);
    tokio::spawn(metrics::serve(listener, source));
    Ok(())
}

fn sample(
    tables: &Mutex<Tables>,
    attached: &Mutex<Vec<Hook>>,
    owner: owner::Source,
) -> Result<Sample> {
    let tables = lock(tables);
    Ok(Sample {
        counters: Snapshot::new(tables.counters()?),
        attached: lock(attached).clone(),
        listeners: tables.listener_counts()?,
        owner,
        destinations: tables.destination_count() as u64,
        destinations_max: tables.destination_max(),
        destination_numbers: tables.numbers_handed_out()?,
        local_addresses: tables.local_count() as u64,
    })
}

fn snapshot(tables: &Arc<Mutex<Tables>>) -> Result<Snapshot> {
    Ok(Snapshot::new(lock(tables).counters()?))
}

fn ready(redirect: &Redirect, metrics_addr: Option<SocketAddr>, took: Took) -> Ready {
    let netns = redirect.netns();
    Ready {
        version: env!("CARGO_PKG_VERSION"),
        cgroup: redirect.cgroup().path().to_owned(),
        netns: netns.map(|(netns, _)| netns.to_string()),
        netns_cookie: netns.map(|(_, cookie)| cookie),
        metrics_addr,
        hooks: lock(&redirect.attached()).clone(),
        took,
    }
}

/// Passes on what the programs log: rare events only.
fn start_logging(programs: &mut Programs) -> Result<()> {
    let mut logger = EbpfLogger::init(programs.ebpf()).context("reading the programs' log")?;
    tokio::spawn(async move {
        let mut look = interval(LOG_LOOK);
        loop {
            look.tick().await;
            logger.flush();
        }
    });
    Ok(())
}

/// The signals that end the loader.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("waiting for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn requested(&mut self) {
        let interrupt = pin!(self.interrupt.recv());
        let terminate = pin!(self.terminate.recv());
        tokio::select! {
            _ = interrupt => {}
            _ = terminate => {}
        }
    }
}
