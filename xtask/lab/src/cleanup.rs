//! Actions that must happen before this process ends, whether by `Drop`, a panic or a signal.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, Once, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
    low_level::emulate_default_handler,
};

type Action = Box<dyn FnOnce() + Send>;

static PENDING: Mutex<BTreeMap<u64, Action>> = Mutex::new(BTreeMap::new());
static NEXT: AtomicU64 = AtomicU64::new(0);
static SIGNALS: Once = Once::new();

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
        pending().insert(id, Box::new(action));
        Self { id }
    }
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        // Taken out before it runs: an action may drop other guards.
        let action = pending().remove(&self.id);
        if let Some(action) = action {
            action();
        }
    }
}

fn pending() -> std::sync::MutexGuard<'static, BTreeMap<u64, Action>> {
    PENDING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn watch_signals() {
    // Without a watcher the signal ends the process at once and the next run sweeps.
    let Ok(mut signals) = Signals::new([SIGINT, SIGTERM]) else {
        return;
    };
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            loop {
                let last = pending().pop_last();
                let Some((_, action)) = last else { break };
                action();
            }
            // Cannot fail for these two signals; if it did, the process would simply go on.
            let _ = emulate_default_handler(signal);
        }
    });
}
