//! How long it takes until a redirect works, and until it is gone.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::times;
use crate::{
    Agent, Loader, Pod,
    bench::{
        Bench, Kind,
        options::Only,
        record::{Plan, Quantity},
    },
    conformance::{Backend, Installed},
};

const SERVICE: &str = "10.96.0.1:80";
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn run(plan: &Plan, bench: &mut Bench) -> Result<()> {
    if !bench.wants(Only::Attach) {
        return Ok(());
    }
    let times = times(plan, 5, 20);
    bench.expect_steps(u64::from(times));
    for _ in 0..times {
        bench.step();
        for kind in bench.kinds() {
            bench.say(&format!("attaching {}", kind.name()));
            let found = match &kind {
                Kind::Ours => ours()?,
                Kind::Rules(backend) => rules(*backend)?,
                Kind::None
                | Kind::Path
                | Kind::EmptyPrograms
                | Kind::NeededCalls
                | Kind::Further(_) => continue,
            };
            bench.mention(&kind);
            for (what, took) in found {
                let nanos = took.as_secs_f64() * 1e9;
                bench.find(&what, kind.name(), None, nanos);
            }
        }
    }
    Ok(())
}

type Found = Vec<(Quantity, Duration)>;

/// A loader of its own for each time. It says itself how long it loaded and how long it attached;
/// the first attach is what somebody sees who starts it.
fn ours() -> Result<Found> {
    let pod = Pod::new("attach")?;
    let app = Agent::spawn(&pod.app())?;
    let listener = app.listen("0.0.0.0:15001")?;
    let start = Instant::now();
    let loader = Loader::start(&pod, &[])?;
    let first = start.elapsed();
    let connection = app.connect(SERVICE)?;
    listener.accept()?;
    drop(connection);
    ensure!(
        loader.counters()?.get("connect4", "9") == 1,
        "the loader was ready, and the connection to {SERVICE} is not counted"
    );
    let ready = loader.wait_for_event("ready", PATIENCE)?;
    loader.stop()?;
    let detached = loader.wait_for_event("detached", PATIENCE)?;
    Ok(vec![
        (Quantity::FirstAttach, first),
        (Quantity::Attach, seconds(&ready, "attach_seconds")?),
        (Quantity::Detach, seconds(&detached, "seconds")?),
    ])
}

fn seconds(event: &Value, field: &str) -> Result<Duration> {
    let seconds = event.get(field).and_then(Value::as_f64);
    let seconds =
        seconds.with_context(|| format!("no {field} in {event}: is the loader older?"))?;
    Ok(Duration::try_from_secs_f64(seconds)?)
}

/// The command alone, in a namespace that never had rules.
fn rules(backend: Backend) -> Result<Found> {
    let pod = Pod::new("attach")?;
    let installed = Installed::new(&pod, backend, &[])?;
    let removed = installed.remove()?;
    Ok(vec![
        (Quantity::Attach, installed.took),
        (Quantity::Detach, removed),
    ])
}
