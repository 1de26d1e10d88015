//! The proof that connections went the way their arm claims. Without it a run counts for nothing.

use std::fmt;

use anyhow::{Error, Result};

use super::{
    arm::Arm,
    crew::{Arrived, Slice},
    record::{Case, Direction, Proof},
};
use crate::conformance::Redirected;

/// An arm has not done what it claims, as far as anybody can tell: the run is worth nothing.
#[derive(Debug)]
pub(super) struct Unproven(pub(super) String);

impl fmt::Display for Unproven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unproven {}

/// What a slice adds to a [`Proof`].
pub(super) struct Counts {
    connections: u64,
    redirected: u64,
    counted_beyond: u64,
}

impl Proof {
    pub(super) fn of(arm: &Arm) -> Self {
        Self {
            connections: 0,
            redirected: 0,
            counted_beyond: 0,
            by: arm.counted_by(),
        }
    }

    pub(super) fn add(&mut self, counts: &Counts) {
        self.connections += counts.connections;
        self.redirected += counts.redirected;
        self.counted_beyond += counts.counted_beyond;
    }
}

/// Work, and the proof that its connections went where the arm says: every one of them was
/// redirected and is counted as such, or none at all.
pub(super) fn proved(
    arm: &mut Arm,
    case: Case,
    work: impl FnOnce(&mut Arm) -> Result<Slice>,
) -> Result<(Slice, Counts)> {
    let resent = arm.syns_resent()?;
    let made = work(arm);
    // Whatever became of the work, what redirects is asked first.
    let counted = arm.counted();
    let counted =
        counted.map_err(|error| error.context(unproven(arm, case, "it cannot be asked")))?;
    let made = made.map_err(|error| {
        let what = format!("a connection did not come about, {}", how_many(counted));
        error.context(unproven(arm, case, &what))
    })?;
    let claim = Claim {
        is_redirected: arm.is_redirected(),
        direction: case.direction,
        resent: arm.syns_resent()? - resent,
    };
    let counts = claim
        .check(&made, counted)
        .map_err(|what| Error::new(unproven(arm, case, &what)))?;
    Ok((made, counts))
}

fn unproven(arm: &Arm, case: Case, what: &str) -> Unproven {
    let claim = if arm.is_redirected() {
        "lost its redirect"
    } else {
        "is not without redirection"
    };
    Unproven(format!("{} {claim}: {what} ({})", arm.name, case.place()))
}

fn how_many(counted: Option<Redirected>) -> String {
    match counted {
        Some(Redirected { outbound, inbound }) => {
            format!("{outbound} outbound and {inbound} inbound ones are counted")
        }
        None => "and there are no counters".to_owned(),
    }
}

/// What should have become of the connections of a slice.
#[derive(Clone, Copy)]
struct Claim {
    is_redirected: bool,
    direction: Direction,
    /// How many SYNs were sent again. What redirects packets counts such a one like any other.
    resent: u64,
}

impl Claim {
    /// How many were redirected; an error where that is not what should have been.
    fn check(self, made: &Slice, counted: Option<Redirected>) -> Result<Counts, String> {
        let connections = made.connections;
        let wanted = if self.is_redirected { connections } else { 0 };
        if let Some(arrived) = made.arrived {
            check_arrived(arrived, connections, wanted, counted.is_some())?;
        }
        let proved = |counted_beyond| {
            Ok(Counts {
                connections,
                redirected: wanted,
                counted_beyond,
            })
        };
        let Some(Redirected { outbound, inbound }) = counted else {
            return match made.arrived {
                Some(_) => proved(0),
                None => Err("nothing tells where its connections went".to_owned()),
            };
        };
        let (redirected, other) = match self.direction {
            Direction::Outbound => (outbound, inbound),
            Direction::Inbound => (inbound, outbound),
        };
        // What is on its way when a connection is cut off finds no socket any more, and the search for one
        // takes it for a new connection from outside.
        let (most, most_other) = if self.is_redirected {
            (wanted + self.resent + made.cut_off, made.cut_off)
        } else {
            (0, 0)
        };
        if !(wanted..=most).contains(&redirected) || other > most_other {
            return Err(format!(
                "{connections} connections, {redirected} counted, {other} the other way, {} SYNs sent again",
                self.resent
            ));
        }
        proved(redirected - wanted)
    }
}

fn check_arrived(
    arrived: Arrived,
    connections: u64,
    redirected: u64,
    has_counters: bool,
) -> Result<(), String> {
    if arrived.connections != connections {
        return Err(format!(
            "{connections} connections, {} arrived",
            arrived.connections
        ));
    }
    // What has no counter may have no SO_ORIGINAL_DST either.
    if has_counters && arrived.with_original_dst != redirected {
        return Err(format!(
            "{connections} connections, {} of them with an original destination",
            arrived.with_original_dst
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::record::Round;

    const COUNTED: u64 = 5;
    const OUTBOUND: Claim = Claim {
        is_redirected: true,
        direction: Direction::Outbound,
        resent: 0,
    };
    const DIRECT: Claim = Claim {
        is_redirected: false,
        ..OUTBOUND
    };

    fn slice(connections: u64, with_original_dst: u64) -> Slice {
        Slice {
            round: Round {
                operations: 1,
                elapsed: 1,
                cpu: 1,
                p50: 1,
                p99: 1,
                p999: 1,
            },
            connections,
            cut_off: 0,
            arrived: Some(Arrived {
                connections,
                with_original_dst,
                original_dst: None,
            }),
        }
    }

    impl Claim {
        /// How many were redirected, and how many counted twice.
        fn proves(self, made: &Slice, counted: Option<(u64, u64)>) -> Result<(u64, u64), String> {
            let counted = counted.map(|(outbound, inbound)| Redirected { outbound, inbound });
            let counts = self.check(made, counted)?;
            Ok((counts.redirected, counts.counted_beyond))
        }
    }

    #[test]
    fn every_connection_is_redirected_or_none() {
        let made = slice(COUNTED, COUNTED);
        assert_eq!(OUTBOUND.proves(&made, Some((COUNTED, 0))), Ok((COUNTED, 0)));
        for wrong in [
            (COUNTED - 1, 0),
            (COUNTED + 1, 0),
            (0, COUNTED),
            (COUNTED, 1),
        ] {
            OUTBOUND.proves(&made, Some(wrong)).unwrap_err();
        }
        let direct = slice(COUNTED, 0);
        assert_eq!(DIRECT.proves(&direct, Some((0, 0))), Ok((0, 0)));
        DIRECT.proves(&direct, Some((0, 1))).unwrap_err();
    }

    #[test]
    fn a_syn_that_was_sent_again_may_be_counted_beyond() {
        let made = slice(COUNTED, COUNTED);
        let claim = Claim {
            resent: 1,
            ..OUTBOUND
        };
        assert_eq!(claim.proves(&made, Some((COUNTED, 0))), Ok((COUNTED, 0)));
        assert_eq!(
            claim.proves(&made, Some((COUNTED + 1, 0))),
            Ok((COUNTED, 1))
        );
        for wrong in [(COUNTED - 1, 0), (COUNTED + 2, 0), (COUNTED, 1)] {
            claim.proves(&made, Some(wrong)).unwrap_err();
        }
        let direct = Claim {
            resent: 1,
            ..DIRECT
        };
        direct.proves(&slice(COUNTED, 0), Some((1, 0))).unwrap_err();
    }

    #[test]
    fn what_was_cut_off_may_be_counted() {
        let mut made = slice(COUNTED, COUNTED);
        made.cut_off = 2;
        assert_eq!(
            OUTBOUND.proves(&made, Some((COUNTED + 2, 0))),
            Ok((COUNTED, 2))
        );
        assert_eq!(OUTBOUND.proves(&made, Some((COUNTED, 2))), Ok((COUNTED, 0)));
        for wrong in [(COUNTED + 3, 0), (COUNTED, 3)] {
            OUTBOUND.proves(&made, Some(wrong)).unwrap_err();
        }
        for wrong in [(1, 0), (0, 1)] {
            DIRECT.proves(&made, Some(wrong)).unwrap_err();
        }
    }

    #[test]
    fn the_proxy_sees_every_connection_and_its_destination() {
        for (original, claim) in [(COUNTED - 1, OUTBOUND), (1, DIRECT)] {
            let made = slice(COUNTED, original);
            let count = if claim.is_redirected { COUNTED } else { 0 };
            claim.proves(&made, Some((count, 0))).unwrap_err();
        }
        let mut made = slice(COUNTED, COUNTED);
        made.connections += 1;
        OUTBOUND.proves(&made, Some((COUNTED + 1, 0))).unwrap_err();
    }

    #[test]
    fn without_counters_the_proxy_must_have_seen_them() {
        let mut made = slice(COUNTED, 0);
        assert_eq!(OUTBOUND.proves(&made, None), Ok((COUNTED, 0)));
        made.arrived = None;
        OUTBOUND.proves(&made, None).unwrap_err();
    }
}
