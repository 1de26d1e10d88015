//! The table of destinations: from a destination to its number and back.
//! `sidecar_ebpf_common::number` says what it guarantees.

use core::hint::cold_path;

use sidecar_ebpf_common::{
    addr::OrigDst,
    counter::Reason,
    number::{Destination, Number, Rewritten, Tenant, Tick},
    policy::Policy,
};

use crate::{
    clock,
    maps::{self, Slot},
};

/// The number under which `dst` travels: the one it has, or a new one. By value, so that a destination
/// that is found at once need not lie in memory.
#[inline(always)]
pub(crate) fn number_for(policy: &Policy, dst: OrigDst) -> Result<Number, Reason> {
    let now = clock::now();
    let handed_out = maps::handed_out();
    let hash = dst.hash();
    if let Some(recent) = recent(policy, dst, hash)
        && !recent.number.is_old(handed_out, policy.ring_mask)
    {
        return Ok(recent.hand_out(now));
    }
    let number = search(policy, &dst, now, handed_out)?;
    maps::set_recent(hash, number);
    Ok(number)
}

/// The same for a destination that has not been asked for of late.
#[inline(always)]
fn search(policy: &Policy, dst: &OrigDst, now: Tick, handed_out: u64) -> Result<Number, Reason> {
    cold_path();
    let known = known(policy, dst);
    if let Some(known) = &known
        && !known.number.is_old(handed_out, policy.ring_mask)
    {
        return Ok(known.hand_out(now));
    }
    match (allocate(policy, dst, now), known) {
        (Ok(number), _) => Ok(number),
        // An old number is as good as a new one until its slot is reused, and using it defers that.
        (Err(_), Some(known)) => Ok(known.hand_out(now)),
        (Err(reason), None) => Err(reason),
    }
}

/// Where a rewritten address leads.
#[inline(always)]
pub(crate) fn destination_of(policy: &Policy, rewritten: Rewritten) -> Result<OrigDst, Reason> {
    let number = rewritten.number().ok_or(Reason::StaleNumber)?;
    let slot = Slot::at(number.slot(policy.ring_mask)).ok_or(Reason::StaleNumber)?;
    let before = slot.tenant();
    let dst = slot.dst();
    if before.is(number) && slot.tenant().is(number) {
        Ok(dst)
    } else {
        Err(Reason::StaleNumber)
    }
}

/// A number that a destination has already, with its slot.
struct Known {
    number: Number,
    slot: Slot,
    last_used: Tick,
}

impl Known {
    /// Reserves the number anew. The clock ticks once a second, so a busy destination's slot is
    /// rarely written and stays shared between CPUs.
    #[inline(always)]
    fn hand_out(&self, now: Tick) -> Number {
        if self.last_used != now {
            self.slot.touch(now);
        }
        self.number
    }
}

/// What the destinations that were asked for last say. Only a guess until the slot has confirmed it.
#[inline(always)]
fn recent(policy: &Policy, dst: OrigDst, hash: usize) -> Option<Known> {
    let number = maps::recent(hash);
    let slot = Slot::at(number.slot(policy.ring_mask))?;
    let before = slot.tenant();
    let is_it = before.is(number) && slot.holds(dst) && slot.tenant().is(number);
    is_it.then_some(Known {
        number,
        slot,
        last_used: before.last_used,
    })
}

#[inline(always)]
fn known(policy: &Policy, dst: &OrigDst) -> Option<Known> {
    let number = maps::number_of(dst)?;
    let slot = Slot::at(number.slot(policy.ring_mask))?;
    let tenant = slot.tenant();
    tenant.is(number).then_some(Known {
        number,
        slot,
        last_used: tenant.last_used,
    })
}

#[inline(always)]
fn allocate(policy: &Policy, dst: &OrigDst, now: Tick) -> Result<Number, Reason> {
    let number = next_number().ok_or(Reason::HelperFailed)?;
    let slot = Slot::at(number.slot(policy.ring_mask)).ok_or(Reason::HelperFailed)?;
    let previous = slot.tenant();
    if !previous.may_go(now, policy.hold) || !slot.claim(previous) {
        return Err(Reason::TableFull);
    }
    if let Some(old) = previous.number() {
        let old_dst = slot.dst();
        if maps::number_of(&old_dst) == Some(old) {
            maps::forget(&old_dst);
        }
    }
    slot.write(&Destination {
        tenant: Tenant::new(number, now),
        dst: *dst,
    });
    maps::remember(dst, number);
    Ok(number)
}

/// The count after one that stands for no number has one, unless four million were taken in between.
#[inline(always)]
fn next_number() -> Option<Number> {
    Number::from_count(maps::take_next()).or_else(|| Number::from_count(maps::take_next()))
}
