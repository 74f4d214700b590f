//! Whole files that are wanted.

use std::time::{Duration, Instant};

use super::{FillId, Owner, Session};
use crate::digest::ContentKey;
use crate::transfer::TransferError;

impl<O: Owner> Session<O> {
    /// A whole content is wanted in the cache, given up after `patience` without progress.
    /// `is_complete` says whether the cache has all of it.
    pub fn fill(
        &mut self,
        now: Instant,
        content: ContentKey,
        (id, filler): (FillId, O::Filler),
        patience: Duration,
        is_complete: bool,
    ) {
        let refused = match self.files.get_mut(&content) {
            None => Some(TransferError::Stopped),
            Some(file) if file.cache.is_none() => Some(TransferError::CacheFull),
            Some(_) => None,
        };
        if let Some(why) = refused {
            return self.actions.fills.push((filler, Err(why)));
        }
        if let Some(file) = self.files.get_mut(&content) {
            file.is_complete = is_complete;
            file.fillers.push((id, filler));
        }
        self.plan.fill(now, content, patience);
    }

    /// Somebody does not want a whole content any more; another may.
    pub fn cancel_fill(&mut self, content: &ContentKey, id: FillId) {
        let Some(file) = self.files.get_mut(content) else {
            return;
        };
        file.fillers.retain(|(other, _)| *other != id);
        if file.fillers.is_empty() {
            self.plan.cancel_fill(content);
        }
    }

    pub(super) fn end_fills_if_stored(&mut self, content: &ContentKey) {
        let Some(file) = self.files.get(content).filter(|file| file.filled) else {
            return;
        };
        if self.window.is_storing(content) {
            return;
        }
        let outcome = match file.is_complete {
            true => Ok(()),
            false => Err(TransferError::CacheFull),
        };
        self.end_fills(content, &outcome);
    }

    pub(super) fn end_fills(&mut self, content: &ContentKey, outcome: &Result<(), TransferError>) {
        let Some(file) = self.files.get_mut(content) else {
            return;
        };
        file.filled = false;
        let fillers = std::mem::take(&mut file.fillers).into_iter();
        let ended = fillers.map(|(_, filler)| (filler, outcome.clone()));
        self.actions.fills.extend(ended);
        self.plan.cancel_fill(content);
    }
}
