//! The table of destinations: from a destination to its number and back.
//! `sidecar_ebpf_common::number` says what it guarantees.

use core::hint::cold_path;

use sidecar_ebpf_common::{
    addr::OrigDst,
    counter::Reason,
    number::{Destination, Number, Rewritten, Tenant, Tick},
    policy::Policy,
    usual::usually,
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
    let recent = Slot::recent(dst.hash());
    match handed_out_now(&recent, dst, now) {
        Some(number) => Ok(number),
        None => hand_out(policy, dst, &recent, now),
    }
}

/// The number of a destination that has been asked for in this tick.
#[inline(always)]
fn handed_out_now(recent: &Slot, dst: OrigDst, now: Tick) -> Option<Number> {
    let tenant = recent.tenant();
    let is_it = usually(tenant.last_used == now)
        && recent.holds(dst)
        && usually(recent.tenant().eq(&tenant));
    if is_it { tenant.number() } else { None }
}

/// The same for a destination that has not been asked for in this tick, or not of late. Its copy, so that
/// only here it lies in memory.
#[inline(always)]
fn hand_out(policy: &Policy, dst: OrigDst, recent: &Slot, now: Tick) -> Result<Number, Reason> {
    cold_path();
    let asked = dst;
    let number = match recently(policy, asked, recent) {
        Some(number) if reserve(policy, number, now) => number,
        Some(_) | None => search(policy, &asked, now)?,
    };
    let tenant = recent.tenant();
    if !tenant.is_claimed() && recent.claim(tenant) {
        recent.write(&Destination {
            tenant: Tenant::new(number, now),
            dst: asked,
        });
    }
    Ok(number)
}

/// The number that the destination had in an earlier tick, unless it should get a new one.
#[inline(always)]
fn recently(policy: &Policy, dst: OrigDst, recent: &Slot) -> Option<Number> {
    let tenant = recent.tenant();
    let number = tenant.number()?;
    let is_it = recent.holds(dst) && recent.tenant() == tenant;
    (is_it && !number.is_old(maps::handed_out(), policy.ring_mask)).then_some(number)
}

/// Reserves a number anew if it still is in its slot.
#[inline(always)]
fn reserve(policy: &Policy, number: Number, now: Tick) -> bool {
    let Some(slot) = Slot::at(number.slot(policy.ring_mask)) else {
        return false;
    };
    let tenant = slot.tenant();
    tenant.is(number)
        && Known {
            number,
            slot,
            last_used: tenant.last_used,
        }
        .reserve(now)
}

#[inline(always)]
fn search(policy: &Policy, dst: &OrigDst, now: Tick) -> Result<Number, Reason> {
    let known = known(policy, dst);
    if let Some(known) = &known
        && !known.number.is_old(maps::handed_out(), policy.ring_mask)
        && known.reserve(now)
    {
        return Ok(known.number);
    }
    match (allocate(policy, dst, now), known) {
        (Ok(number), _) => Ok(number),
        // An old number is as good as a new one until its slot is reused, and using it defers that.
        (Err(_), Some(known)) if known.reserve(now) => Ok(known.number),
        (Err(reason), _) => Err(reason),
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
    /// Reserves the number anew; fails if another destination has got the slot meanwhile. Afterwards
    /// nobody gets it: whoever has seen an earlier use cannot claim it any more. The clock ticks once a
    /// second, so a busy destination's slot is rarely written and stays shared between CPUs.
    #[inline(always)]
    fn reserve(&self, now: Tick) -> bool {
        if self.last_used == now {
            return true;
        }
        self.slot.touch(now);
        self.slot.tenant().is(self.number)
    }
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
