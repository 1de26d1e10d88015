//! HTTP through a real proxy: wrk, the proxy and a server, each where it would be.
//!
//! The proxy has the same configuration in every arm: it asks for the original destination, and
//! passes everything on to one fixed address, for without redirection there is no other. It is
//! Envoy if `SIDECAR_ENVOY` names one, else haproxy; either has one thread, and passes bytes on
//! without reading HTTP, so that as little as possible beside the redirect is measured.

use std::{collections::BTreeMap, env, net::SocketAddr, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};

use super::times;
use crate::{
    Agent,
    bench::{
        Arm, Bench, Kind, Settings, Slice,
        arm::{APP_PORT, INBOUND_PORT, OUTBOUND_PORT},
        kernel::processor_time,
        options::Only,
        record::{Case, Cpus, Direction, Plan, Round, Work},
        session::Schedule,
        wrk::{CONNECTIONS, TRIALS, Wrk},
    },
    pod::POD_IP,
    proxy,
    real::{Envoy, EnvoyOptions, Haproxy, HaproxyOptions, Upstreams},
};

/// A proxy that accepts nothing for so long has nothing to accept.
const SETTLE: Duration = Duration::from_millis(50);
const SERVICE: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 1)),
    80,
);

pub(super) fn run(plan: &Plan, bench: &mut Bench) -> Result<()> {
    if !bench.wants(Only::Http) {
        return Ok(());
    }
    let works: &[Work] = if plan.quick {
        &[Work::Http]
    } else {
        &[Work::Http, Work::HttpClose]
    };
    let schedule = Schedule {
        warm_up_rounds: u32::from(!plan.quick),
        rounds: times(plan, 1, 8),
        // wrk knows no less.
        slice: Duration::from_secs(1),
    };
    let cases: Vec<Case> = works
        .iter()
        .flat_map(|&work| {
            [Direction::Outbound, Direction::Inbound].map(|direction| Case {
                work,
                direction,
                cpus: Cpus::Two,
                at: None,
            })
        })
        .collect();
    // Where inbound connections are redirected, the application has its port for itself.
    let kinds = bench.kinds().into_iter();
    let kinds = kinds.filter(|kind| !matches!(kind, Kind::Further(_)));
    let mut arms = kinds
        .map(|kind| bench.start(&kind, &Settings::default()))
        .collect::<Result<Vec<_>>>()?;
    let stages = arms
        .iter()
        .map(|arm| Ok((arm.name.clone(), Stage::set(arm)?)))
        .collect::<Result<BTreeMap<_, _>>>()?;
    bench.interleave_with(schedule, &cases, &mut arms, &mut |arm, case, time| {
        let stage = stages.get(&arm.name).context("an arm without a stage")?;
        stage.slice(arm, case, time)
    })
}

/// Everybody who takes part in one arm. What is first here ends first.
struct Stage {
    app_load: Wrk,
    cluster_load: Wrk,
    proxy: Proxy,
    _servers: [Agent; 2],
}

enum Proxy {
    Envoy(Envoy),
    Haproxy(Haproxy),
}

impl Stage {
    fn set(arm: &Arm) -> Result<Self> {
        let cluster = Agent::spawn(&arm.pod.remote())?;
        cluster.serve_http(([0; 4], SERVICE.port()))?;
        let app = Agent::spawn(&arm.pod.app())?;
        app.serve_http(([0; 4], APP_PORT))?;
        let upstreams = Upstreams {
            outbound: SERVICE,
            inbound: (POD_IP, APP_PORT).into(),
        };
        Ok(Self {
            app_load: Wrk::new(arm.pod.app())?,
            cluster_load: Wrk::new(arm.pod.remote())?,
            proxy: Proxy::start(arm, upstreams)?,
            _servers: [cluster, app],
        })
    }

    fn slice(&self, arm: &Arm, case: Case, time: Duration) -> Result<Slice> {
        let is_redirected = arm.is_redirected();
        let (load, way, to) = match case.direction {
            Direction::Outbound if is_redirected => {
                (&self.app_load, proxy::Direction::Outbound, SERVICE)
            }
            Direction::Outbound => (
                &self.app_load,
                proxy::Direction::Outbound,
                ([127, 0, 0, 1], OUTBOUND_PORT).into(),
            ),
            Direction::Inbound => {
                let port = if is_redirected {
                    APP_PORT
                } else {
                    INBOUND_PORT
                };
                let to = (POD_IP, port).into();
                (&self.cluster_load, proxy::Direction::Inbound, to)
            }
        };
        let is_close = case.work == Work::HttpClose;
        let cgroups = [arm.pod.cgroup(), arm.pod.remote_cgroup()];
        let cpu = || -> Result<u64> { cgroups.iter().map(|it| processor_time(it)).sum() };
        let (accepted, before) = (self.proxy.accepted(way)?, cpu()?);
        let said = load.run(to, time, is_close)?;
        let cpu = cpu()? - before;
        let connections = self.proxy.accepted_at_last(way)? - accepted;
        // Of the proxy's count, and with it the redirect's, wrk's has to tell the same.
        let least = TRIALS + if is_close { said.requests } else { CONNECTIONS };
        let cut_off = if is_close { CONNECTIONS } else { 0 };
        let most = least + cut_off;
        ensure!(
            (least..=most).contains(&connections),
            "{connections} connections arrived at the proxy; by wrk's count it is {least} to {most}"
        );
        Ok(Slice {
            round: Round {
                operations: said.requests,
                elapsed: said.duration * 1_000,
                cpu,
                p50: said.p50 * 1_000,
                p99: said.p99 * 1_000,
                p999: said.p999 * 1_000,
            },
            connections,
            cut_off,
            arrived: None,
        })
    }
}

impl Proxy {
    fn start(arm: &Arm, upstreams: Upstreams) -> Result<Self> {
        let place = arm.pod.proxy();
        if env::var_os("SIDECAR_ENVOY").is_some() {
            let options = EnvoyOptions {
                workers: 1,
                upstreams: Some(upstreams),
                ..EnvoyOptions::ipv4()
            };
            return Ok(Self::Envoy(Envoy::start(&place, &options)?));
        }
        let options = HaproxyOptions {
            workers: 1,
            upstreams: Some(upstreams),
        };
        Ok(Self::Haproxy(Haproxy::start(&place, &options)?))
    }

    /// When it has no more to accept: what was connected at the end of a load may still be in its queue.
    fn accepted_at_last(&self, way: proxy::Direction) -> Result<u64> {
        let mut before = self.accepted(way)?;
        loop {
            thread::sleep(SETTLE);
            let now = self.accepted(way)?;
            if now == before {
                return Ok(now);
            }
            before = now;
        }
    }

    fn accepted(&self, way: proxy::Direction) -> Result<u64> {
        match self {
            Self::Envoy(envoy) => envoy.accepted(way),
            Self::Haproxy(haproxy) => haproxy.accepted(way),
        }
    }
}
