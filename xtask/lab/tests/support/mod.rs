//! A pod with its loader, and listeners wherever a connection could arrive: every test says which
//! counters a connection moves, so that every other one is asserted to stand still.

use std::{fmt::Debug, net::SocketAddr};

use anyhow::{Context, Result};
use sidecar_lab::{
    Agent, Conn, ConnectOptions, Counters, FastOpen, IntoAddr, Level, ListenOptions, Listener,
    Loader, Pod,
};

/// A counter that moves: hook, rule (or `bypass:REASON`, `refusal:REASON`), by how much.
pub(crate) type Moved<'a> = (&'a str, &'a str, u64);

/// One connection that this rule counts at `connect()` on an IPv4 socket.
pub(crate) const fn connect4(rule: &str) -> Moved<'_> {
    ("connect4", rule, 1)
}

/// The same on an IPv6 socket.
pub(crate) const fn connect6(rule: &str) -> Moved<'_> {
    ("connect6", rule, 1)
}

/// One connection from outside that this rule counts.
pub(crate) const fn sk_lookup(rule: &str) -> Moved<'_> {
    ("sk_lookup", rule, 1)
}

pub(crate) struct Rig {
    pub(crate) loader: Option<Loader>,
    /// Port 15001 of the proxy.
    pub(crate) outbound: Front,
    /// Port 15006 of the proxy.
    pub(crate) inbound: Front,
    /// Port 8080 of the application.
    pub(crate) application: Front,
    /// Port 80 of everything that is not the pod.
    pub(crate) service: Front,
    pub(crate) app: Agent,
    pub(crate) proxy: Agent,
    pub(crate) remote: Agent,
    pub(crate) pod: Pod,
}

impl Rig {
    /// Nothing is attached yet.
    pub(crate) fn new(hint: &str) -> Result<Self> {
        Self::on(Pod::new(hint)?)
    }

    pub(crate) fn on(pod: Pod) -> Result<Self> {
        let app = Agent::spawn(&pod.app())?;
        let proxy = Agent::spawn(&pod.proxy())?;
        let remote = Agent::spawn(&pod.remote())?;
        Ok(Self {
            loader: None,
            outbound: Front::open(&proxy, 15001)?,
            inbound: Front::open(&proxy, 15006)?,
            application: Front::open(&app, 8080)?,
            service: Front::outside(&remote, 80)?,
            app,
            proxy,
            remote,
            pod,
        })
    }

    /// Attaches with these arguments, in place of what was attached before.
    pub(crate) fn load(&mut self, args: &[&str]) -> Result<()> {
        self.loader = None;
        self.loader = Some(Loader::start(&self.pod, args)?);
        Ok(())
    }

    /// Does it, and asserts that exactly these counters moved.
    #[track_caller]
    pub(crate) fn expect<T: Debug>(&self, moved: &[Moved<'_>], act: impl FnOnce() -> T) -> T {
        let look = || self.counters().unwrap_or_else(|error| panic!("{error:#}"));
        let before = look();
        let done = act();
        if let Err(error) = look().expect_delta(&before, moved) {
            panic!("{error}it came to: {done:?}");
        }
        done
    }

    pub(crate) fn counters(&self) -> Result<Counters> {
        self.loader
            .as_ref()
            .context("no loader was started")?
            .counters()
    }

    /// Connects, and asserts which counter that moved, where the connection arrived, and that both
    /// ends are told what they would be told without a redirect.
    #[track_caller]
    pub(crate) fn delivered(
        &self,
        moved: Moved<'_>,
        by: &Agent,
        options: ConnectOptions,
        at: &Front,
    ) -> Ends {
        let to = options.to;
        let connected = self.expect(&[moved], || by.connect_with(options.clone()));
        let client = connected.unwrap_or_else(|error| panic!("{error}"));
        let server = at.accept(&client);
        assert_eq!(canonical(client.peer), to, "the client's getpeername");
        if at.in_pod {
            let (level, length) = if to.is_ipv4() {
                (Level::Ip, 16)
            } else {
                (Level::Ipv6, 28)
            };
            let told = server.original_dst(level, length);
            assert_eq!(told.map(|told| told.addr), Ok(to), "SO_ORIGINAL_DST");
        }
        if options.fast_open != FastOpen::No {
            assert_eq!(server.recv(99), Ok(options.first_bytes));
        }
        let ends = Ends { client, server };
        ends.talk();
        ends
    }
}

/// A port at which somebody listens, for IPv4 and for IPv6.
#[derive(Debug)]
pub(crate) struct Front {
    pub(crate) listeners: Vec<Listener>,
    in_pod: bool,
}

impl Front {
    pub(crate) fn open(agent: &Agent, port: u16) -> Result<Self> {
        Self::on(agent, ["0.0.0.0", "[::]"], port)
    }

    /// At one address of each family.
    pub(crate) fn on(agent: &Agent, ips: [&str; 2], port: u16) -> Result<Self> {
        let listeners = ips
            .map(|ip| {
                let mut options = ListenOptions::at(format!("{ip}:{port}").as_str().into_addr());
                options.fast_open = true;
                agent.listen_with(options)
            })
            .into_iter()
            .collect::<Result<_, _>>()?;
        Ok(Self {
            listeners,
            in_pod: true,
        })
    }

    /// The same elsewhere in the cluster, where nobody answers for original destinations.
    pub(crate) fn outside(agent: &Agent, port: u16) -> Result<Self> {
        Ok(Self {
            in_pod: false,
            ..Self::open(agent, port)?
        })
    }

    /// The other end of that connection, which is the next one to be accepted here.
    #[track_caller]
    pub(crate) fn accept(&self, client: &Conn) -> Conn {
        let from = canonical(client.local);
        let listener = self
            .listeners
            .iter()
            .find(|listener| listener.addr.is_ipv4() == from.is_ipv4())
            .unwrap_or_else(|| panic!("nobody listens for {from}"));
        let server = listener
            .accept()
            .unwrap_or_else(|error| panic!("{from} has not arrived at {}: {error}", listener.addr));
        assert_eq!(
            server.peer, from,
            "another connection arrived at {}",
            listener.addr
        );
        server
    }
}

/// Both ends of one connection.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) client: Conn,
    pub(crate) server: Conn,
}

impl Ends {
    /// Sends a few bytes each way.
    #[track_caller]
    pub(crate) fn talk(&self) {
        let talk = || {
            self.client.send(b"there")?;
            assert_eq!(self.server.recv(99)?, b"there");
            self.server.send(b"and back")?;
            self.client.recv(99)
        };
        assert_eq!(talk(), Ok(b"and back".to_vec()));
    }
}

pub(crate) fn to(addr: impl IntoAddr) -> ConnectOptions {
    ConnectOptions::to(addr.into_addr())
}

/// An IPv4-mapped address as the IPv4 address that it stands for.
pub(crate) fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}
