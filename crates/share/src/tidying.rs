//! Removes the rows of files that are gone from the ledger.

use super::offered::OfferedShare;
use super::shared::SharedState;

/// The ledger is tidied once it has more rows than two for each listed file, plus this number.
pub(super) const LEDGER_SLACK_ROWS: u64 = 10_000;

/// Whether the ledger was tidied lately.
#[derive(Default)]
pub(super) struct LedgerTidying {
    is_done: bool,
}

impl LedgerTidying {
    /// Lets the next [`Self::run`] look at the ledger again.
    pub(super) fn allow(&mut self) {
        self.is_done = false;
    }

    /// Removes the rows of files that are not listed from the ledger, if there are many. Does so at
    /// most once after each [`Self::allow`], and only while no configured share is missing or lists
    /// less than it has ([`OfferedShare::lists_less`]).
    pub(super) fn run(&mut self, shared: &SharedState) {
        let state = shared.lock();
        let shares = &state.listing.shares.by_index;
        let lists_less = shares.values().any(OfferedShare::lists_less);
        let is_whole = !state.absent.is_any_expected() && !lists_less;
        if self.is_done || !is_whole || shares.is_empty() {
            return;
        }
        self.is_done = true;
        let files = state.listing.tree.listed_files().count() as u64;
        let ledger = state.listing.ledger.clone();
        drop(state);
        // the list of live files is large, so build it only if there is much to remove
        if ledger.len() > 2 * files + LEDGER_SLACK_ROWS {
            let live: Vec<(u64, u64)> = shared.lock().listing.tree.listed_files().collect();
            ledger.retain(live);
        }
    }
}
