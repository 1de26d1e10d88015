//! Actions that must happen before this process ends, whether by `Drop`, a panic or a signal.

use std::{
    collections::BTreeMap,
    sync::{
        Condvar, Mutex, MutexGuard, Once, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, ThreadId},
    time::Duration,
};

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
    low_level::emulate_default_handler,
};

type Action = Box<dyn FnOnce() + Send>;

struct Actions {
    pending: BTreeMap<u64, Action>,
    /// Taken out by a thread that drops its guard, and not done yet.
    running: usize,
}

static ACTIONS: Mutex<Actions> = Mutex::new(Actions {
    pending: BTreeMap::new(),
    running: 0,
});
static DONE: Condvar = Condvar::new();
static NEXT: AtomicU64 = AtomicU64::new(0);
static SIGNALS: Once = Once::new();

/// The thread that ends the process after a signal.
static ENDING: OnceLock<ThreadId> = OnceLock::new();

/// An action that hangs must not keep a signal from ending the process.
const PATIENCE: Duration = Duration::from_secs(10);

/// An action that runs once: when this guard is dropped, or when SIGINT or SIGTERM ends the
/// process, then the latest first.
#[derive(Debug)]
pub struct Cleanup {
    id: u64,
}

impl Cleanup {
    pub fn register(action: impl FnOnce() + Send + 'static) -> Self {
        SIGNALS.call_once(watch_signals);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        actions().pending.insert(id, Box::new(action));
        Self { id }
    }
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        wait_for_the_end();
        let action = {
            let mut actions = actions();
            let action = actions.pending.remove(&self.id);
            actions.running += usize::from(action.is_some());
            action
        };
        // Outside the lock: an action may drop other guards.
        if let Some(action) = action {
            action();
            actions().running -= 1;
            DONE.notify_all();
        }
    }
}

/// After a signal the process belongs to one thread. Another that comes here would leave main()
/// and so end the process before that thread is done.
fn wait_for_the_end() {
    while ENDING
        .get()
        .is_some_and(|&ending| ending != thread::current().id())
    {
        thread::park();
    }
}

fn actions() -> MutexGuard<'static, Actions> {
    ACTIONS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn watch_signals() {
    // Without a watcher the signal ends the process at once and the next run sweeps.
    let Ok(mut signals) = Signals::new([SIGINT, SIGTERM]) else {
        return;
    };
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            ENDING.get_or_init(|| thread::current().id());
            run_all();
            // Cannot fail for these two signals; if it did, the process would simply go on.
            let _ = emulate_default_handler(signal);
        }
    });
}

/// Runs what is pending, and waits for what another thread has begun.
fn run_all() {
    loop {
        let last = actions().pending.pop_last();
        let Some((_, action)) = last else { break };
        action();
    }
    let busy = |actions: &mut Actions| actions.running > 0;
    drop(DONE.wait_timeout_while(actions(), PATIENCE, busy));
}
