//! Room for pages that are about to be written: charged to the budget, and for a stream also
//! preallocated on disk.

use std::fs::File;
use std::ops::Range;

use super::budget::charge_bytes;
use super::core::CacheCore;
use super::file::{OpenFileState, PageState};
use super::pages::{Counts, bytes_of};
use super::prealloc::next_step;

impl OpenFileState {
    /// Charges the budget for pages that will be written. Returns `None` if they do not fit.
    pub(super) fn charge(&self, core: &CacheCore, pages: &Range<u64>) -> Option<Counts> {
        let mut in_flight = self.room.lock();
        let state = self.state.lock();
        let growth = state.present.growth(pages.clone());
        let counts = state.counts() + *in_flight + growth;
        drop(state);
        let (old_bytes, new_bytes) = (self.charged_bytes(), charge_bytes(self.size_bytes, counts));
        if !core.reserve(new_bytes.saturating_sub(old_bytes)) {
            return None;
        }
        *in_flight = *in_flight + growth;
        self.set_charged_bytes(old_bytes.max(new_bytes));
        Some(growth)
    }

    /// Changes the state and releases the unused part of the charge.
    pub(super) fn settle_room(
        &self,
        core: &CacheCore,
        growth: Counts,
        change: impl FnOnce(&mut PageState),
    ) {
        let mut in_flight = self.room.lock();
        let mut state = self.state.lock();
        let preallocated_pages = state.preallocated.counts().pages;
        change(&mut state);
        let preallocated = &core.context.preallocated;
        preallocated.changed(preallocated_pages, &state.preallocated);
        *in_flight = *in_flight - growth;
        let counts = state.counts() + *in_flight;
        drop(state);
        let (old_bytes, new_bytes) = (self.charged_bytes(), charge_bytes(self.size_bytes, counts));
        if new_bytes != old_bytes {
            core.index.lock().recharge(old_bytes, new_bytes);
            self.set_charged_bytes(new_bytes);
        }
    }

    /// Returns whether the disk has allocated space for pages that are about to be written. If they
    /// continue a stream, requests an allocation.
    pub(super) fn is_preallocated(
        &self,
        core: &CacheCore,
        data: &File,
        pages: &Range<u64>,
    ) -> bool {
        let step = {
            let state = self.state.lock();
            if state.preallocated.contains(pages.clone()) {
                return true;
            }
            next_step(&state.present, &state.preallocated, pages, self.size_bytes)
        };
        step.is_some_and(|step| self.preallocate(core, data, step))
    }

    fn preallocate(&self, core: &CacheCore, data: &File, step: Range<u64>) -> bool {
        let all = &core.context.preallocated;
        let range = bytes_of(&step, self.size_bytes);
        let budget_bytes = core.index.lock().budget_bytes;
        if !all.allows(range.len(), budget_bytes) {
            return false;
        }
        let Some(growth) = self.charge(core, &step) else {
            return false;
        };
        let disk = &core.context.disk;
        let given = disk.allocate(data, range.start, range.len());
        let may_be_given = all.may_be_given(&given);
        self.settle_room(core, growth, |state| {
            if may_be_given {
                state.add_preallocated(step);
            }
        });
        given.is_ok()
    }
}

impl PageState {
    /// Adds preallocated pages, except those that another thread has written or is writing.
    fn add_preallocated(&mut self, step: Range<u64>) {
        let known = [&self.present, &self.doubt, &self.stale];
        let known: Vec<_> = known
            .iter()
            .flat_map(|map| map.runs(step.clone()))
            .collect();
        self.preallocated.insert(step);
        known
            .into_iter()
            .for_each(|run| self.preallocated.remove(run));
    }
}
