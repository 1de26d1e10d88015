//! The workers of one arm: the proxy, the application and somebody elsewhere in the cluster. They
//! work through one case for a while, and say what they did.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::OwnedFd,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sched::{CpuSet, sched_getaffinity},
    sys::eventfd::{EfdFlags, EventFd},
    unistd::Pid,
};
use sidecar_ebpf_common::number::V4_RANGE;

use super::{
    arm::OUTBOUND_PORT,
    record::{Case, Cpus, Direction, Round, Work},
    work::order::{Accepted, Drive, Drove, Job, Order, Serve, Served},
    worker::Worker,
};
use crate::pod::{POD_IP, Pod};

/// Where the application connects to, in turn: nobody listens there.
pub(super) const SERVICES: [SocketAddr; 8] = services();
const SERVICE_PORT: u16 = 80;
/// Where the cluster connects to; nobody listens there where inbound connections are redirected.
pub(super) const APP_ADDR: SocketAddr = SocketAddr::new(IpAddr::V4(POD_IP), 8080);

/// What an arm did with one case in one round.
#[derive(Clone, Copy, Debug)]
pub struct Slice {
    pub round: Round,
    /// That the client's end made.
    pub connections: u64,
    /// How many more may have begun when the time was over, and were given up before anybody had
    /// accepted them: counters may have these too.
    pub cut_off: u64,
    /// What the proxy's end says of them, if it can be asked.
    pub arrived: Option<Arrived>,
}

/// What the proxy saw of the connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrived {
    pub connections: u64,
    /// How many of them have an original destination by `SO_ORIGINAL_DST`.
    pub with_original_dst: u64,
    /// One of these destinations.
    pub original_dst: Option<SocketAddr>,
}

/// Where a redirected connection of ours goes in truth, for as many destinations.
pub(super) const NUMBERED: [SocketAddr; 8] = numbered();

/// What connects outbound, in truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// The application, to the proxy itself: the plainest and fastest way there is.
    Loopback,
    /// The application, to the proxy at [`NUMBERED`].
    Numbered,
    /// To [`SERVICES`], which something redirects.
    Redirected,
}

/// Where connections go and where they arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ways {
    pub(super) way: Way,
    pub(super) outbound_port: u16,
    pub(super) inbound_port: u16,
}

impl Ways {
    fn listener(self, direction: Direction) -> u16 {
        match direction {
            Direction::Outbound => self.outbound_port,
            Direction::Inbound => self.inbound_port,
        }
    }

    fn targets(self, direction: Direction) -> Vec<SocketAddr> {
        match (direction, self.way) {
            (Direction::Outbound, Way::Redirected) => SERVICES.to_vec(),
            (Direction::Outbound, Way::Numbered) => NUMBERED.to_vec(),
            (Direction::Outbound, Way::Loopback) => {
                vec![(Ipv4Addr::LOCALHOST, self.outbound_port).into()]
            }
            (Direction::Inbound, _) => vec![APP_ADDR],
        }
    }
}

#[derive(Debug)]
pub(super) struct Crew {
    ways: Ways,
    app: Worker,
    remote: Worker,
    proxy: Worker,
    /// Of the proxy's listener for what the pod connects to.
    pub(super) outbound: OwnedFd,
}

impl Crew {
    pub(super) fn start(pod: &Pod, ways: Ways) -> Result<Self> {
        let ports = [ways.outbound_port, ways.inbound_port];
        let mut proxy = Worker::start("the worker in the proxy's container", &pod.proxy())?;
        let mut app = Worker::start("the worker in the application's container", &pod.app())?;
        let mut remote = Worker::start("the worker elsewhere in the cluster", &pod.remote())?;
        let listeners = proxy.listen(&ports)?;
        let signal = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).context("making an eventfd")?;
        proxy.take(&[], &[], &signal)?;
        app.take(&ports, &listeners, &signal)?;
        remote.take(&ports, &listeners, &signal)?;
        let outbound = listeners.into_iter().next();
        Ok(Self {
            ways,
            app,
            remote,
            proxy,
            outbound: outbound.context("the proxy has no listener")?,
        })
    }

    pub(super) fn slice(&mut self, case: Case, time: Duration) -> Result<Slice> {
        let (client_cpu, server_cpu) = processors(case.cpus)?;
        let job = match case.work {
            Work::Connect => Job::Connect,
            Work::RoundTrip { bytes } => Job::RoundTrip { bytes },
            Work::Bulk => Job::Bulk,
            Work::Http | Work::HttpClose => bail!("HTTP is not these workers' work"),
        };
        let drive = Drive {
            job,
            targets: self.ways.targets(case.direction),
            time,
            cpu: client_cpu,
        };
        let listener = self.ways.listener(case.direction);
        let client = match case.direction {
            Direction::Outbound => &mut self.app,
            Direction::Inbound => &mut self.remote,
        };
        if (case.work, case.cpus) == (Work::Connect, Cpus::One) {
            let drove: Drove = client.ask(&Order::BothEnds { listener, drive })?;
            return Ok(slice(&drove, 0, drove.accepted));
        }
        let serve = Serve {
            job,
            listener,
            cpu: server_cpu,
        };
        self.proxy.ask::<()>(&Order::Serve(serve))?;
        let drove: Drove = client.ask(&Order::Drive(drive))?;
        self.proxy.tell(&Order::Stop)?;
        let served: Served = self.proxy.hear(Duration::ZERO)?;
        Ok(slice(&drove, served.cpu, served.accepted))
    }
}

fn slice(drove: &Drove, served_cpu: u64, accepted: Accepted) -> Slice {
    Slice {
        round: Round {
            operations: drove.operations,
            elapsed: drove.elapsed,
            cpu: drove.cpu + served_cpu,
            p50: drove.p50,
            p99: drove.p99,
            p999: drove.p999,
        },
        connections: drove.connections,
        cut_off: 0,
        arrived: Some(Arrived {
            connections: accepted.connections,
            with_original_dst: accepted.redirected,
            original_dst: accepted.example,
        }),
    }
}

/// The client's and the server's.
pub fn processors(cpus: Cpus) -> Result<(usize, usize)> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).context("asking for our processors")?;
    let mut ours = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false));
    let first = ours.next().context("no processor is ours")?;
    let second = match cpus {
        Cpus::One => Some(first),
        Cpus::Two => ours.next(),
    };
    ensure!(
        second.is_some(),
        "work across two processors takes two, and this process may use one only (see taskset)"
    );
    Ok((first, second.unwrap_or(first)))
}

const fn services() -> [SocketAddr; 8] {
    eight(Ipv4Addr::new(10, 96, 0, 1), SERVICE_PORT)
}

const fn numbered() -> [SocketAddr; 8] {
    eight(Ipv4Addr::from_bits(V4_RANGE), OUTBOUND_PORT)
}

/// This address and the next ones.
const fn eight(first: Ipv4Addr, port: u16) -> [SocketAddr; 8] {
    let mut all = [SocketAddr::new(IpAddr::V4(first), port); 8];
    let mut at = 0;
    while at < all.len() {
        let ip = Ipv4Addr::from_bits(first.to_bits() + at as u32);
        all[at] = SocketAddr::new(IpAddr::V4(ip), port);
        at += 1;
    }
    all
}
