//! Many connections, many destinations, and a table of them that is too small. Needs root; leaves
//! nothing behind.
#![expect(clippy::unwrap_used, reason = "in a test it is a failure of the test")]

mod stage;

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, Map, MapData, MapInfo};
use sidecar_ebpf_common::{
    addr::{OrigDst, Port},
    maps::DEALT,
    number::{Dealt, NUMBER_BITS, V4_RANGE},
};
use sidecar_lab::{Agent, Conn, Errno, Level, Listener, LoadPlan, LoadReport, Pod, pod::POD_IP};
use stage::{Stage, addr};

/// The servers of a load run answer a connection before they have written it into the report.
const PATIENCE: Duration = Duration::from_secs(5);

fn plan(base: &str, addresses: u32, ports: u16, connections: u32) -> LoadPlan {
    LoadPlan {
        threads: 64,
        connections,
        base: base.parse().unwrap(),
        addresses,
        first_port: 80,
        ports,
        timeout: Duration::from_secs(20),
    }
}

/// The report once so many connections more than before are in it, or what it has when that takes
/// too long.
fn judged(proxy: &Agent, before: &LoadReport, more: u64) -> Result<LoadReport> {
    let count = |report: &LoadReport| report.right + report.wrong + report.missing + report.silent;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let report = proxy.load_report()?;
        if count(&report) - count(before) == more || Instant::now() > deadline {
            return Ok(report);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Runs the plan; every connection must succeed and every original destination be right.
fn every_answer_is_right(stage: &Stage, proxy: &Agent, hook: &str, plan: LoadPlan) -> Result<()> {
    let all = u64::from(plan.connections);
    let before = proxy.load_report()?;
    let outcome = stage.counted(&[(hook, "9", all)], || Ok(stage.app.load_connect(plan)?))?;
    assert_eq!(
        (outcome.ok, outcome.failed.len()),
        (all, 0),
        "{:?}",
        outcome.failed
    );
    let report = judged(proxy, &before, all)?;
    assert_eq!(report.right - before.right, all, "{report:?}");
    assert_eq!(
        (report.wrong, report.missing, report.silent),
        (0, 0, 0),
        "{report:?}"
    );
    Ok(())
}

#[test]
fn two_hundred_thousand_connections_to_five_thousand_destinations() -> Result<()> {
    let stage = Stage::start(Pod::new("load")?, &["--dual-stack"])?;
    let proxy = Agent::spawn(&stage.pod.proxy())?;
    proxy.load_serve("0.0.0.0:15001", 4)?;
    proxy.load_serve("[::]:15001", 4)?;
    every_answer_is_right(
        &stage,
        &proxy,
        "connect4",
        plan("10.96.0.0", 1000, 5, 200_000),
    )?;
    every_answer_is_right(
        &stage,
        &proxy,
        "connect6",
        plan("fd00:96::", 500, 4, 20_000),
    )
}

/// As many new destinations as never can be refused, again and again, from many threads at once.
#[test]
fn half_a_table_at_once_is_never_refused() -> Result<()> {
    let arguments = ["--destinations", "1024", "--destination-hold", "1"];
    let stage = Stage::start(Pod::new("half")?, &arguments)?;
    let proxy = Agent::spawn(&stage.pod.proxy())?;
    proxy.load_serve("0.0.0.0:15001", 4)?;
    for round in 0..6_u8 {
        if round > 0 {
            held_time_passes();
        }
        // 512 destinations, each of them five times.
        let base = format!("10.{}.0.0", 96 + round);
        every_answer_is_right(&stage, &proxy, "connect4", plan(&base, 512, 1, 5 * 512))?;
    }
    Ok(())
}

/// A hold of one second is one tick of 1.07 s, and a number may go when more than that has passed
/// on a clock that ticks so.
fn held_time_passes() {
    thread::sleep(Duration::from_millis(2200));
}

/// Far more new destinations than there is room for, from many threads at once: refusals, but no
/// wrong answer.
#[test]
fn a_crowded_table_refuses_but_never_confuses() -> Result<()> {
    let arguments = ["--destinations", "64", "--destination-hold", "1"];
    let stage = Stage::start(Pod::new("crowd")?, &arguments)?;
    let proxy = Agent::spawn(&stage.pod.proxy())?;
    proxy.load_serve("0.0.0.0:15001", 4)?;
    let all = 200_000;
    let before = stage.loader.counters()?;
    let outcome = stage.app.load_connect(plan("10.96.0.0", 5000, 1, all))?;
    let refused = outcome.failed.get("connect EPERM").copied().unwrap_or(0);
    assert_eq!(outcome.ok + refused, u64::from(all), "{:?}", outcome.failed);
    assert!(outcome.ok > 0 && refused > 0, "{outcome:?}");
    let moved = [
        ("connect4", "9", u64::from(all)),
        ("connect4", "refusal:table-full", refused),
    ];
    stage.loader.counters()?.expect_delta(&before, &moved)?;
    let report = judged(&proxy, &LoadReport::default(), outcome.ok)?;
    assert_eq!(
        (report.right, report.wrong, report.missing),
        (outcome.ok, 0, 0),
        "{report:?}"
    );
    Ok(())
}

struct Few {
    stage: Stage,
    outbound: Listener,
}

/// A loader with few slots for destinations, and a proxy.
fn few(hint: &str, slots: &str, hold: &str) -> Result<Few> {
    let arguments = ["--destinations", slots, "--destination-hold", hold];
    let stage = Stage::start(Pod::new(hint)?, &arguments)?;
    let outbound = Agent::spawn(&stage.pod.proxy())?.listen("0.0.0.0:15001")?;
    Ok(Few { stage, outbound })
}

fn service(number: u16) -> SocketAddr {
    let [high, low] = number.to_be_bytes();
    ([10, 96, high, low], 80).into()
}

impl Few {
    /// A connection to that destination: both ends.
    fn open(&self, to: SocketAddr) -> Result<(Conn, Conn)> {
        self.stage.counted(&[("connect4", "9", 1)], || {
            let conn = self.stage.app.connect(to)?;
            let got = self.outbound.accept()?;
            assert_eq!((conn.peer, got.peer), (to, conn.local));
            assert_eq!(got.peer.ip(), POD_IP);
            Ok((conn, got))
        })
    }

    /// The same, and the proxy is told where it was going.
    fn is_answered(&self, to: SocketAddr) -> Result<SocketAddr> {
        let (_conn, got) = self.open(to)?;
        let answer = self
            .stage
            .counted(&[], || Ok(got.original_dst(Level::Ip, 16)?))?;
        assert_eq!(answer, to, "at {}", got.local);
        Ok(got.local)
    }

    fn is_refused(&self, to: SocketAddr) -> Result<()> {
        let moved = [("connect4", "9", 1), ("connect4", "refusal:table-full", 1)];
        self.stage.counted(&moved, || {
            assert_eq!(
                self.stage.app.connect(to).unwrap_err().errno(),
                Errno::EPERM
            );
            Ok(())
        })
    }
}

#[test]
fn a_full_table_refuses_what_is_new_and_serves_what_is_known() -> Result<()> {
    let few = few("full", "64", "60")?;
    let known: u16 = 64;
    (0..known).try_for_each(|number| few.is_answered(service(number)).map(drop))?;
    for round in 1..=3 {
        for number in known..known + 20 {
            few.is_refused(service(round * 1000 + number))?;
        }
        // Also those whose number is old and who would get a new one.
        (0..known).try_for_each(|number| few.is_answered(service(number)).map(drop))?;
    }
    // The application and the proxy may still do what needs no number.
    let own = few.stage.app.listen("127.0.0.1:8080")?;
    let conn = few.stage.counted(&[("connect4", "3", 1)], || {
        Ok(few.stage.app.connect(own.addr)?)
    })?;
    assert_eq!(own.accept()?.peer, conn.local);
    Ok(())
}

#[test]
fn numbers_turn_over_and_no_answer_is_wrong() -> Result<()> {
    let few = few("laps", "64", "1")?;
    let hot = addr("203.0.113.9:443");
    let victim = addr("203.0.113.10:443");
    let (waiting, held_back) = few.open(victim)?;
    let mut next = 0;
    // Four laps of the ring.
    for round in 0..9 {
        if round > 0 {
            held_time_passes();
        }
        // With the hot one, and in the first round the victim, no more than half a ring.
        for _ in 0..30 {
            few.is_answered(service(next))?;
            if next % 5 == 0 {
                few.is_answered(hot)?;
            }
            next += 1;
        }
        if round == 0 {
            // Within the hold time its number is as good as new, although half a ring has gone.
            let again = few
                .stage
                .counted(&[], || Ok(held_back.original_dst(Level::Ip, 16)?))?;
            assert_eq!(again, victim);
            assert_eq!(waiting.peer_name()?, victim);
        }
    }
    // The proxy was so slow that the number means somebody else now: no answer, never a wrong one.
    few.stage
        .counted(&[("getsockopt", "refusal:stale-number", 2)], || {
            for length in [16, 128] {
                let error = held_back.original_dst(Level::Ip, length).unwrap_err();
                assert_ne!(error.code, 0, "an answer that is no address: {error}");
            }
            Ok(())
        })?;
    few.stage
        .counted(&[("getpeername4", "refusal:stale-number", 1)], || {
            assert_eq!(waiting.peer_name()?, held_back.local);
            Ok(())
        })?;
    // The connection itself is as good as ever, and the next one to the same place is a new start.
    waiting.send(b"late")?;
    assert_eq!(held_back.echo()?, b"late");
    assert_eq!(waiting.recv(9)?, b"late");
    assert_ne!(few.is_answered(victim)?, held_back.local);
    Ok(())
}

/// The bits of a number.
const ALL_BITS: u32 = (1 << NUMBER_BITS) - 1;

fn carried(local: SocketAddr) -> u32 {
    assert_eq!(local.port(), 15001);
    let IpAddr::V4(ip) = local.ip() else {
        panic!("{local} carries no number")
    };
    assert_eq!(
        ip.to_bits() & !ALL_BITS,
        V4_RANGE,
        "{local} carries no number"
    );
    ip.to_bits() & ALL_BITS
}

/// After the last number comes the first, and the count behind them has 64 bits.
#[test]
fn numbers_begin_again_after_the_last() -> Result<()> {
    for first in [
        u64::from(ALL_BITS) - 9,
        u64::from(u32::MAX) - 9,
        u64::MAX - 9,
    ] {
        let few = few("last", "64", "60")?;
        set_handed_out(few.stage.loader.pid(), first)?;
        let locals: Vec<SocketAddr> = (0..30)
            .map(|number| few.is_answered(service(number)))
            .collect::<Result<_>>()?;
        let carried: Vec<u32> = locals.iter().map(|&local| carried(local)).collect();
        let numbers = (0..30).map(|number| first.wrapping_add(number) as u32 & ALL_BITS);
        assert!(numbers.eq(carried.iter().copied()), "{carried:x?}");
        // Known ones keep their number on both sides of the seam.
        for (number, local) in (0..).zip(&locals) {
            assert_eq!(few.is_answered(service(number))?, *local);
        }
    }
    Ok(())
}

/// Four million numbers later the same number means another destination. Who had it before is not
/// taken for its owner, although what was last known of both looks alike.
#[test]
fn a_number_that_came_round_is_another_ones() -> Result<()> {
    let (first, second) = (addr("203.0.113.9:443"), addr("203.0.113.10:443"));
    let [one, other] =
        [first, second].map(|to| OrigDst::new(to.ip().into(), Port(to.port())).hash());
    assert_ne!(one, other, "the second displaces the first: no test");
    let few = few("round", "64", "1")?;
    let number = few.is_answered(first)?;
    held_time_passes();
    set_handed_out(few.stage.loader.pid(), u64::from(ALL_BITS) + 1)?;
    assert_eq!(few.is_answered(second)?, number);
    assert_ne!(few.is_answered(first)?, number);
    Ok(())
}

/// Writes the loader's count of numbers, as if so many had been handed out.
fn set_handed_out(loader: u32, count: u64) -> Result<()> {
    let id = maps_of(loader)?
        .into_iter()
        .find(|&id| MapInfo::from_id(id).is_ok_and(|info| info.name_as_str() == Some(DEALT)))
        .with_context(|| format!("process {loader} holds no map {DEALT}"))?;
    let mut map: Array<MapData, Dealt> = Map::Array(MapData::from_id(id)?).try_into()?;
    let mut dealt = map.get(&0, 0)?;
    dealt.handed_out = count;
    map.set(0, dealt, 0)?;
    ensure!(
        map.get(&0, 0)?.handed_out == count,
        "the count was not written"
    );
    Ok(())
}

fn maps_of(process: u32) -> Result<Vec<u32>> {
    let directory = format!("/proc/{process}/fdinfo");
    let mut ids = Vec::new();
    for entry in fs::read_dir(&directory).with_context(|| format!("reading {directory}"))? {
        // One that has been closed meanwhile is no map of interest.
        let Ok(info) = fs::read_to_string(entry?.path()) else {
            continue;
        };
        let id = info.lines().find_map(|line| line.strip_prefix("map_id:"));
        ids.extend(id.map(|id| id.trim().parse::<u32>()).transpose()?);
    }
    Ok(ids)
}
