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
    if let Some(tenant) = copied(&recent, dst)
        && usually(tenant.last_used == now)
        && let Some(number) = tenant.number()
    {
        return Ok(number);
    }
    hand_out(policy, dst, &recent, now)
}

/// What the copy of its slot says of a destination, if it is there.
#[inline(always)]
fn copied(recent: &Slot, dst: OrigDst) -> Option<Tenant> {
    let tenant = recent.tenant();
    let is_it = recent.holds(dst) && usually(recent.tenant() == tenant);
    is_it.then_some(tenant)
}

/// The number of a destination that has not been asked for in this tick. Of the destination a copy, so that
/// only here it lies in memory.
#[inline(always)]
fn hand_out(policy: &Policy, dst: OrigDst, recent: &Slot, now: Tick) -> Result<Number, Reason> {
    cold_path();
    let asked = dst;
    let number = copied(recent, asked).and_then(|tenant| tenant.number());
    let number = match number.and_then(|number| in_slot(policy, number, &asked)) {
        Some(known) if known.reserve_young(policy, now) => known.number,
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

#[inline(always)]
fn search(policy: &Policy, dst: &OrigDst, now: Tick) -> Result<Number, Reason> {
    let known = known(policy, dst);
    if let Some(known) = &known
        && known.reserve_young(policy, now)
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
    /// Reserves the number anew unless it is so old that it should be replaced.
    #[inline(always)]
    fn reserve_young(&self, policy: &Policy, now: Tick) -> bool {
        !self.number.is_old(maps::handed_out(), policy.ring_mask) && self.reserve(now)
    }

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
    in_slot(policy, maps::number_of(dst)?, dst)
}

/// A number that is in its slot, for this destination: numbers come round again.
#[inline(always)]
fn in_slot(policy: &Policy, number: Number, dst: &OrigDst) -> Option<Known> {
    let slot = Slot::at(number.slot(policy.ring_mask))?;
    let tenant = slot.tenant();
    (tenant.is(number) && slot.holds(*dst)).then_some(Known {
        number,
        slot,
        last_used: tenant.last_used,
    })
}

#[inline(always)]
fn allocate(policy: &Policy, dst: &OrigDst, now: Tick) -> Result<Number, Reason> {
    let number = Number::from_count(maps::take_next());
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
