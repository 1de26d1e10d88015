//! When `sock_ops` is attached. Every connection pays for that program, and all it is needed for is
//! the moment at which a socket of the proxy's starts to listen. So it is attached only while that
//! may happen: from when a socket binds to one of the proxy's ports until it listens, and as long as
//! the proxy does not listen at all.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use sidecar_ebpf_common::listen::{Event, News};

/// Nothing has happened for so long: then the proxy is taken to be done.
const SETTLED: Duration = Duration::from_millis(300);
/// The same after a refused connection, so that clients that come again and again do not attach
/// and detach at their pace.
const AFTER_REFUSAL: Duration = Duration::from_secs(1);
/// A socket that has not listened by then is given up: most likely it is closed. If it listens
/// after all while no other does, the first connection is refused, and has it looked for.
const PATIENCE: Duration = Duration::from_secs(60);
/// More sockets than this are not remembered one by one.
const MOST: usize = 4096;

/// Decides; attaching and detaching is up to others.
#[derive(Debug)]
pub struct Watch {
    state: State,
    /// Sockets that have bound and do not listen yet, and since when.
    bound: BTreeMap<u64, Instant>,
    /// Some sockets are not remembered: whatever they are, they have time until then.
    crowd_until: Option<Instant>,
    /// Listening sockets have been missed as long as nobody has looked for them.
    is_unsearched: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Nothing is attached at all.
    Off,
    Asleep,
    /// Not before `until` may it fall asleep; `is_due` until it has been tried then.
    Awake {
        until: Instant,
        is_due: bool,
    },
}

impl Watch {
    pub const fn new() -> Self {
        Self {
            state: State::Off,
            bound: BTreeMap::new(),
            crowd_until: None,
            is_unsearched: false,
        }
    }

    pub const fn is_asleep(&self) -> bool {
        matches!(self.state, State::Asleep)
    }

    pub const fn is_awake(&self) -> bool {
        matches!(self.state, State::Awake { .. })
    }

    /// Something has been told since it fell asleep.
    pub fn must_wake(&self) -> bool {
        self.is_asleep()
            && (!self.bound.is_empty() || self.crowd_until.is_some() || self.is_unsearched)
    }

    pub const fn is_unsearched(&self) -> bool {
        self.is_unsearched
    }

    /// `sock_ops` is attached. What has begun to listen before must be looked for.
    pub fn wake(&mut self, now: Instant) {
        let by_refusal = self.is_asleep() && self.is_unsearched;
        self.is_unsearched = true;
        self.state = State::Awake {
            until: now + if by_refusal { AFTER_REFUSAL } else { SETTLED },
            is_due: true,
        };
    }

    /// Whoever listens by now is registered.
    pub const fn searched(&mut self) {
        self.is_unsearched = false;
    }

    /// Takes note of what the programs have told. Asleep, it must be woken.
    pub fn note(&mut self, events: &[Event], now: Instant) {
        for event in events {
            match event.news() {
                News::Bound(cookie) if self.bound.len() < MOST => {
                    self.bound.insert(cookie, now);
                    self.stay(now + SETTLED);
                }
                News::Bound(_) => self.crowd_until = Some(now + PATIENCE),
                News::Listens(cookie) => {
                    self.bound.remove(&cookie);
                }
                News::NoListener => {
                    self.is_unsearched = true;
                    self.stay(now + AFTER_REFUSAL);
                }
            }
        }
        // There may have been more than the ring buffer holds.
        if events.len() >= Event::MOST {
            self.crowd_until = Some(now + PATIENCE);
        }
    }

    /// When to ask [`Watch::is_settled`]; without that, whenever there is an opportunity.
    pub const fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Awake {
                until,
                is_due: true,
            } => Some(until),
            State::Off | State::Asleep | State::Awake { .. } => None,
        }
    }

    /// Whether nothing has happened for a while. That is asked once, then the deadline is over.
    pub fn is_settled(&mut self, now: Instant) -> bool {
        match &mut self.state {
            State::Awake { until, is_due } if now >= *until => {
                *is_due = false;
                true
            }
            State::Off | State::Asleep | State::Awake { .. } => false,
        }
    }

    /// Whether all that have bound listen, as far as these cookies of registered sockets tell.
    pub fn may_sleep(&mut self, registered: &BTreeSet<u64>, now: Instant) -> bool {
        self.crowd_until = self.crowd_until.filter(|until| now < *until);
        self.bound.retain(|cookie, since| {
            !registered.contains(cookie) && now.duration_since(*since) < PATIENCE
        });
        self.bound.is_empty() && self.crowd_until.is_none() && !self.is_unsearched
    }

    /// `sock_ops` is detached.
    pub const fn sleep(&mut self) {
        self.state = State::Asleep;
    }

    /// Everything is detached.
    pub fn turn_off(&mut self) {
        *self = Self::new();
    }

    fn stay(&mut self, at_least: Instant) {
        if let State::Awake { until, is_due } = &mut self.state {
            *until = at_least.max(*until);
            *is_due = true;
        }
    }
}

impl Default for Watch {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: u64 = 7;
    const B: u64 = 8;

    /// Asks at that moment, as the owner of a watch does.
    fn sleeps(watch: &mut Watch, registered: &[u64], now: Instant) -> bool {
        let registered = registered.iter().copied().collect();
        watch.is_settled(now) && watch.may_sleep(&registered, now)
    }

    fn awake(now: Instant) -> Watch {
        let mut watch = Watch::new();
        watch.wake(now);
        watch.searched();
        watch
    }

    fn asleep() -> Watch {
        let mut watch = awake(Instant::now());
        watch.sleep();
        watch
    }

    #[test]
    fn falls_asleep_after_a_while() {
        let start = Instant::now();
        let mut watch = awake(start);
        assert_eq!(watch.deadline(), Some(start + SETTLED));
        assert!(!sleeps(&mut watch, &[], start + SETTLED / 2));
        assert!(sleeps(&mut watch, &[], start + SETTLED));
        assert_eq!(watch.deadline(), None, "asks once");
    }

    #[test]
    fn waits_for_each_socket_that_has_bound() {
        let start = Instant::now();
        let mut watch = awake(start);
        watch.note(&[Event::bound(A), Event::bound(B)], start);
        let later = start + PATIENCE / 2;
        assert!(!sleeps(&mut watch, &[], later));
        assert!(!sleeps(&mut watch, &[A, 9], later));
        assert!(sleeps(&mut watch, &[B], later), "A is remembered");
    }

    #[test]
    fn does_not_wait_for_a_socket_that_has_listened_and_closed() {
        let start = Instant::now();
        let mut watch = awake(start);
        watch.note(&[Event::bound(A), Event::bound(B)], start);
        watch.note(&[Event::listens(A)], start);
        assert!(!sleeps(&mut watch, &[], start + SETTLED));
        watch.note(&[Event::listens(B)], start + SETTLED);
        assert!(sleeps(&mut watch, &[], start + SETTLED * 2));
    }

    #[test]
    fn gives_up_sockets_that_never_listen() {
        let start = Instant::now();
        let mut watch = awake(start);
        watch.note(&[Event::bound(A)], start);
        watch.note(&[Event::bound(B)], start + PATIENCE / 2);
        assert!(!sleeps(&mut watch, &[], start + PATIENCE));
        assert!(sleeps(&mut watch, &[], start + PATIENCE * 3 / 2));
    }

    #[test]
    fn a_full_ring_buffer_may_hide_some() {
        let start = Instant::now();
        let mut watch = awake(start);
        watch.note(&vec![Event::bound(A); Event::MOST], start);
        assert!(!sleeps(&mut watch, &[A], start + PATIENCE / 2));
        assert!(sleeps(&mut watch, &[A], start + PATIENCE));
    }

    #[test]
    fn a_crowd_is_waited_for_as_a_whole() {
        let start = Instant::now();
        let mut watch = awake(start);
        for cookie in 1..=MOST as u64 + 1 {
            watch.note(&[Event::bound(cookie)], start);
        }
        let all: Vec<_> = (1..=MOST as u64 + 1).collect();
        assert!(!sleeps(&mut watch, &all, start + PATIENCE / 2));
        assert!(sleeps(&mut watch, &all, start + PATIENCE));
    }

    #[test]
    fn is_woken_by_a_bind_and_by_a_refusal() {
        for (event, pause) in [
            (Event::bound(A), SETTLED),
            (Event::NO_LISTENER, AFTER_REFUSAL),
        ] {
            let mut watch = asleep();
            assert!(!watch.must_wake());
            let now = Instant::now();
            watch.note(&[event], now);
            assert!(watch.must_wake() && watch.is_asleep());
            watch.wake(now);
            watch.searched();
            assert_eq!(watch.deadline(), Some(now + pause));
        }
    }

    #[test]
    fn does_not_sleep_before_a_search() {
        let start = Instant::now();
        let mut watch = Watch::new();
        watch.wake(start);
        assert!(!sleeps(&mut watch, &[], start + SETTLED));
        watch.searched();
        assert!(sleeps(&mut watch, &[], start + SETTLED));
    }

    #[test]
    fn off_it_does_nothing() {
        let mut watch = awake(Instant::now());
        watch.turn_off();
        watch.note(&[Event::bound(A)], Instant::now());
        assert_eq!((watch.deadline(), watch.must_wake()), (None, false));
        assert!(!sleeps(&mut watch, &[], Instant::now() + PATIENCE));
    }
}
