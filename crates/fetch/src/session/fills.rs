//! Fills: whole files that are wanted in the cache.

use std::time::{Duration, Instant};

use super::{FillId, Owner, Session};
use crate::TransferError;
use crate::plan::FillEnd;
use p2pfs_types::digest::ContentKey;
use p2pfs_types::extent::ExtentSet;

impl<O: Owner> Session<O> {
    /// Starts a fill of a whole content, which fails after `patience` without progress. `present`
    /// returns the ranges that the cache surely has now. Other ranges are fetched again, even if
    /// they arrived before or were on disk.
    pub fn fill(
        &mut self,
        now: Instant,
        content: ContentKey,
        (id, fill): (FillId, O::FillHandle),
        patience: Duration,
        present: impl FnOnce() -> ExtentSet,
    ) {
        let refused = match self.files.get_mut(&content) {
            None => Some(TransferError::Stopped),
            Some(file) if file.cache.is_none() => Some(TransferError::CacheFull),
            Some(_) => None,
        };
        if let Some(why) = refused {
            return self.actions.fills.push((fill, Err(why)));
        }
        let missing = self
            .plan
            .presence(&content)
            .map(|it| it.begin_fill(present(), self.refused.of(&content)));
        for range in missing.into_iter().flatten() {
            self.plan.lost(&content, range);
        }
        if let Some(file) = self.files.get_mut(&content) {
            file.fills.push((id, fill));
        }
        self.plan.fill(now, content, patience);
    }

    /// Ends one fill of a content. Other fills of it go on.
    pub fn cancel_fill(&mut self, content: &ContentKey, id: FillId) {
        let Some(file) = self.files.get_mut(content) else {
            return;
        };
        file.fills.retain(|(other, _)| *other != id);
        if file.fills.is_empty() {
            self.plan.end_fill(content, FillEnd::Abandoned);
        }
    }

    pub(super) fn end_fills_if_stored(&mut self, content: &ContentKey) {
        if self.files.get(content).is_none_or(|file| !file.filled) {
            return;
        }
        match self.plan.files().outcome_of_stores(content) {
            None => {}
            Some(true) => self.end_fills(content, &Ok(())),
            Some(false) => self.end_fills(content, &Err(TransferError::CacheFull)),
        }
    }

    pub(super) fn end_fills(&mut self, content: &ContentKey, outcome: &Result<(), TransferError>) {
        let Some(file) = self.files.get_mut(content) else {
            return;
        };
        file.filled = false;
        let fills = std::mem::take(&mut file.fills).into_iter();
        let ended = fills.map(|(_, fill)| (fill, outcome.clone()));
        self.actions.fills.extend(ended);
        self.plan.end_fill(content, FillEnd::Stored);
    }
}

#[cfg(test)]
mod tests;
