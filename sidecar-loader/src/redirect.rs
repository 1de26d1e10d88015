//! One pod's redirect: programs, tables and routes, put in place and taken away together.

mod listening;

use std::{
    future::pending,
    sync::{Arc, Mutex},
};

use anyhow::{Result, bail};
use sidecar_ebpf_common::{
    counter::Hook,
    listen::ProxyPorts,
    policy::{Policy, ProxyCgroup, Scope, Settings, Surroundings, Switches},
};
use tokio::time::sleep_until;

use crate::{
    cgroup::Cgroup,
    config::{Config, DNS_PORT, Dns},
    dns::Capture,
    events::Events,
    listeners::{LeftToKernel, Search},
    netns::Netns,
    owner::Source,
    pod::Pod,
    program::{DNS, DnsHooks, Programs},
    tables::{Tables, lock},
    watch::Watch,
};

/// Whose sockets are redirected, and where the proxy's are.
#[derive(Debug)]
pub struct Cgroups {
    pub pod: Cgroup,
    /// Where the proxy runs: beside the pod's cgroup, or in it. Inside, a process must run there to
    /// be the proxy. `None` if that is not known.
    pub proxy: Option<Cgroup>,
}

impl Cgroups {
    /// Where listening sockets and questions for the original destination come from.
    fn proxy(&self) -> &Cgroup {
        self.proxy.as_ref().unwrap_or(&self.pod)
    }

    /// Where the proxy runs, if that is outside the pod's cgroup.
    fn proxy_outside_pod(&self) -> Option<&Cgroup> {
        self.proxy
            .as_ref()
            .filter(|proxy| !self.pod.contains(proxy))
    }

    /// What tells the proxy beside the owner of its sockets. A proxy outside the pod's cgroup is
    /// not asked at all.
    fn proxy_within_pod(&self) -> Result<Option<ProxyCgroup>> {
        match &self.proxy {
            Some(proxy) if self.pod.contains(proxy) => proxy.as_the_kernel_knows_it().map(Some),
            Some(_) | None => Ok(None),
        }
    }
}

pub struct Redirect {
    config: Config,
    cgroups: Cgroups,
    programs: Programs,
    tables: Arc<Mutex<Tables>>,
    pod: Option<Pod>,
    ports: ProxyPorts,
    events: Events,
    watch: Watch,
    search: Search,
    /// The ports that are left to the kernel's normal lookup.
    left_to_kernel: Vec<LeftToKernel>,
    owner: Source,
    proxy_cgroup: Option<ProxyCgroup>,
    dns: DnsHooks,
    /// The switches that the programs were loaded for.
    features: Switches,
    spared: u64,
    /// The last refresh failed.
    is_stale: bool,
}

/// The hooks that ask the outbound rules. They come last and go first, so that no connection is
/// redirected that nothing could answer for.
const OUTBOUND: [Hook; 2] = [Hook::Connect4, Hook::Connect6];
const APPLICATION: [Hook; 2] = [Hook::Getpeername4, Hook::Getpeername6];
/// The hooks that tell of sockets that may listen. They come first: of a socket that has bound
/// before, only a search tells.
const BIND: [Hook; 2] = [Hook::Bind4, Hook::Bind6];

/// What a redirect waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// The pod's addresses or routes may have changed.
    Network,
    /// The proxy may listen with other sockets soon, or is done with it.
    Listeners,
}

impl Redirect {
    /// Loads the programs and fills the tables, within a tokio runtime. Nothing is attached yet.
    /// While the pod's namespace is not known, sockets of every namespace are redirected but those
    /// of the one with the cookie `spared`; 0 spares none.
    pub fn load(config: Config, cgroups: Cgroups, spared: u64) -> Result<Self> {
        let owner = Source::find();
        let dns = match (&config.dns, cgroups.proxy_outside_pod()) {
            (Dns::Off, _) => DnsHooks::Off,
            (_, None) => DnsHooks::Pod,
            (_, Some(_)) => DnsHooks::PodAndProxy,
        };
        let proxy_cgroup = cgroups.proxy_within_pod()?;
        let features = config
            .features()
            .with_if(proxy_cgroup.is_some(), Switches::PROXY_CGROUP);
        let ports = ProxyPorts {
            outbound: config.outbound_port,
            inbound: config.inbound_port,
            dns: DNS_PORT,
        };
        let (programs, mut tables, events) =
            Programs::load(config.destinations, ports, owner, dns, features)?;
        tables.set_ports(&config.ports)?;
        tables.set_ranges(&config.included, &config.excluded)?;
        Ok(Self {
            config,
            cgroups,
            programs,
            tables: Arc::new(Mutex::new(tables)),
            pod: None,
            ports,
            events,
            watch: Watch::new(),
            search: Search::default(),
            left_to_kernel: Vec::new(),
            owner,
            proxy_cgroup,
            dns,
            features,
            spared,
            is_stale: false,
        })
    }

    /// Attaches to a pod whose namespace is known. What the proxy listens on already is registered
    /// before inbound traffic is captured, so that no connection is refused meanwhile.
    pub async fn attach(&mut self, netns: Netns) -> Result<()> {
        self.enter(netns).await?;
        self.attach_bind()?;
        self.wake()?;
        self.capture_inbound()?;
        self.attach_all(&[Hook::Getsockopt], Side::Proxy)?;
        self.attach_outbound()
    }

    /// Attaches to a cgroup without processes: outbound applies at once.
    pub fn attach_waiting(&mut self) -> Result<()> {
        self.wait_for_pod()?;
        self.attach_bind()?;
        self.wake()?;
        self.attach_all(&[Hook::Getsockopt], Side::Proxy)?;
        self.attach_outbound()
    }

    fn attach_bind(&mut self) -> Result<()> {
        self.attach_all(&BIND, Side::Pod)?;
        self.attach_also_to_proxy(&BIND)
    }

    fn attach_outbound(&mut self) -> Result<()> {
        self.attach_all(&APPLICATION, Side::Pod)?;
        if self.dns == DnsHooks::PodAndProxy {
            self.programs.attach_answers(self.cgroups.proxy())?;
        }
        if self.dns != DnsHooks::Off {
            self.attach_all(&DNS, Side::Pod)?;
        }
        self.attach_all(&OUTBOUND, Side::Pod)
    }

    /// The pod has got its first process, or its processes have moved to another namespace.
    /// Inbound is captured first: until the proxy's listeners are registered it is refused, never
    /// passed.
    pub async fn pod_started(&mut self, netns: Netns) -> Result<()> {
        self.leave().await;
        let started = self.start_pod(netns).await;
        if started.is_err() {
            self.leave().await;
            self.wait_for_pod()?;
        }
        started
    }

    async fn start_pod(&mut self, netns: Netns) -> Result<()> {
        self.enter(netns).await?;
        self.capture_inbound()?;
        self.wake()
    }

    /// Takes everything out of the pod's namespace that is there.
    async fn leave(&mut self) {
        self.programs.detach_from_netns();
        if let Some(pod) = self.pod.take()
            && let Err(error) = pod.leave().await
        {
            log::warn!("{error:#}");
        }
    }

    fn wait_for_pod(&self) -> Result<()> {
        let capture = Capture::before_pod(&self.config.dns);
        let mut settings = self.config.settings(true);
        settings.switches = settings.switches.with(capture.switches());
        self.set_dns_servers(&capture)?;
        self.set_policy(Surroundings::new(Scope::any_but(self.spared)), settings)
    }

    pub fn netns(&self) -> Option<(&Netns, u64)> {
        self.pod.as_ref().map(|pod| (&pod.netns, pod.cookie))
    }

    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroups.pod
    }

    pub fn attached(&self) -> Arc<Mutex<Vec<Hook>>> {
        self.programs.attached()
    }

    /// By which credentials connections are judged.
    pub fn owner(&self) -> Source {
        self.owner
    }

    pub fn programs(&mut self) -> &mut Programs {
        &mut self.programs
    }

    pub fn tables(&self) -> Arc<Mutex<Tables>> {
        Arc::clone(&self.tables)
    }

    /// Waits until there is something to follow.
    pub async fn changed(&mut self) -> Change {
        let network = async {
            match &mut self.pod {
                Some(pod) => pod.changed().await,
                None => pending().await,
            }
        };
        let settled = async {
            match self.watch.deadline() {
                Some(deadline) => sleep_until(deadline.into()).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = network => Change::Network,
            () = self.events.arrived() => Change::Listeners,
            () = settled => Change::Listeners,
        }
    }

    pub async fn follow(&mut self, change: Change) {
        match change {
            Change::Network => self.refresh().await,
            Change::Listeners => self.follow_listeners(),
        }
    }

    /// Follows the pod's addresses and routes. A failure leaves everything attached, and is tried
    /// again by [`Redirect::catch_up`]: detaching would let everything pass.
    pub async fn refresh(&mut self) {
        if let Err(error) = self.try_refresh().await {
            log::warn!("following the pod's addresses: {error:#}");
        }
    }

    /// Does what may have been missed: a refresh that failed, listeners that are not registered.
    pub async fn catch_up(&mut self) {
        self.follow_listeners();
        let Some(pod) = &self.pod else { return };
        if self.is_stale || pod.has_other_dns_servers(&self.config, &self.cgroups.pod) {
            self.refresh().await;
        }
        if let Err(error) = self.look_for_listeners() {
            log::warn!("{error:#}");
        }
    }

    /// Detaches everything and removes the routes. The programs stay loaded, and can be attached
    /// again.
    pub async fn detach(&mut self) -> Result<()> {
        self.programs.detach();
        self.watch.turn_off();
        self.release_listeners();
        match self.pod.take() {
            Some(pod) => pod.leave().await,
            None => Ok(()),
        }
    }

    async fn enter(&mut self, netns: Netns) -> Result<()> {
        self.look_all_listeners_up()?;
        self.pod = Some(Pod::enter(netns, &self.cgroups.pod)?);
        self.try_refresh().await
    }

    /// Mirrors the pod as it is now, and writes the policy for it.
    async fn try_refresh(&mut self) -> Result<()> {
        self.is_stale = true;
        let Some(pod) = &mut self.pod else {
            return Ok(());
        };
        let seen = pod.look(&self.config, &self.cgroups.pod).await?;
        lock(&self.tables).set_locals(seen.locals)?;
        lock(&self.tables).set_routes(seen.routes)?;
        self.set_dns_servers(&seen.dns)?;
        self.set_policy(seen.surroundings, seen.settings)?;
        self.is_stale = false;
        Ok(())
    }

    /// Before the policy that asks for them. While it does not, they may stay what they were: so no
    /// query is let past between the two.
    fn set_dns_servers(&self, capture: &Capture) -> Result<()> {
        match capture {
            Capture::Servers(servers) => lock(&self.tables).set_dns_servers(servers),
            Capture::Off | Capture::All => Ok(()),
        }
    }

    fn set_policy(&self, mut pod: Surroundings, mut settings: Settings) -> Result<()> {
        if let Some(proxy) = self.proxy_cgroup {
            pod.proxy_cgroup = proxy;
            settings.switches = settings.switches.with(Switches::PROXY_CGROUP);
        }
        if !self.features.has(settings.switches) {
            bail!(
                "the programs were loaded for {:?}, and the policy has {:?}: please report this",
                self.features,
                settings.switches
            );
        }
        lock(&self.tables).set_policy(&Policy::new(pod, settings))
    }

    fn attach_all(&mut self, hooks: &[Hook], side: Side) -> Result<()> {
        let cgroup = match side {
            Side::Pod => &self.cgroups.pod,
            Side::Proxy => self.cgroups.proxy(),
        };
        hooks
            .iter()
            .try_for_each(|&hook| self.programs.attach_to_cgroup(hook, cgroup))
    }

    /// Where the proxy is outside the pod's cgroup.
    fn attach_also_to_proxy(&mut self, hooks: &[Hook]) -> Result<()> {
        let Some(proxy) = self.cgroups.proxy_outside_pod() else {
            return Ok(());
        };
        hooks
            .iter()
            .try_for_each(|&hook| self.programs.attach_also(hook, proxy))
    }

    fn capture_inbound(&mut self) -> Result<()> {
        match &self.pod {
            Some(pod) => self.programs.attach_to_netns(&pod.netns),
            None => Ok(()),
        }
    }
}

/// To which cgroup a hook is attached.
#[derive(Clone, Copy)]
enum Side {
    Pod,
    Proxy,
}
