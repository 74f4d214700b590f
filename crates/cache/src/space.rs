//! Room for pages that are about to be written: charged to the budget.

use std::ops::Range;

use super::budget::charge_bytes;
use super::core::CacheCore;
use super::file::{OpenFileState, PageState};
use super::pages::Counts;

impl OpenFileState {
    /// Charges the budget for pages that will be written. Returns `None` if they do not fit.
    pub(super) fn charge(&self, core: &CacheCore, pages: &Range<u64>) -> Option<Counts> {
        let mut in_flight = self.charge.room.lock();
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
        let mut in_flight = self.charge.room.lock();
        let mut state = self.state.lock();
        change(&mut state);
        *in_flight = *in_flight - growth;
        let counts = state.counts() + *in_flight;
        drop(state);
        let (old_bytes, new_bytes) = (self.charged_bytes(), charge_bytes(self.size_bytes, counts));
        if new_bytes != old_bytes {
            core.index.lock().recharge(old_bytes, new_bytes);
            self.set_charged_bytes(new_bytes);
        }
    }
}
