//! Connections that stay.

use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::Socket;

use super::connect;
use crate::{
    crowd::{Held, HoldPlan},
    wire::{During as _, OpError, OpResult},
};

/// What was connected is in the queue already.
const ACCEPT_PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn hold(listener: &Socket, plan: &HoldPlan, held: &mut Vec<Socket>) -> OpResult<Held> {
    allow_many_files()?;
    listener
        .set_read_timeout(Some(ACCEPT_PATIENCE))
        .during(|| "SO_RCVTIMEO".to_owned())?;
    if plan.targets.is_empty() {
        return Err(OpError::new("hold", "a plan without destinations"));
    }
    let mut done = Held::default();
    let mut in_a_row = 0;
    for &to in plan.targets.iter().cycle() {
        if done.opened >= plan.connections || in_a_row >= plan.give_up_after {
            break;
        }
        let Some(client) = connect(to, plan.patience)? else {
            done.failed += 1;
            in_a_row += 1;
            continue;
        };
        let accepted = listener.accept();
        let (server, _) = accepted.during(|| format!("accept what went to {to}"))?;
        server
            .set_linger(Some(Duration::ZERO))
            .during(|| "SO_LINGER".to_owned())?;
        held.extend([client, server]);
        done.opened += 1;
        in_a_row = 0;
    }
    Ok(done)
}

/// As many as this process may have.
fn allow_many_files() -> OpResult<()> {
    let name = || "RLIMIT_NOFILE".to_owned();
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).during(name)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).during(name)
}
