//! The numbers of shares that were removed and may still have entries in the stored log.
//!
//! If another folder got such a number, the entries of the removed share would count as its own,
//! and its readers could see them. So a number is free again only after two steps: the removals of
//! all its entries were sent as events ([`ShareEvent::Vacated`]), and the receiver of the events
//! has stored them ([`FormerNumbers::release`]).

use std::collections::BTreeMap;
use std::sync::Weak;

use super::config::ShareEvent;
use super::order::EventSeq;
use super::shared::SharedState;
use p2pfs_proto::wire::native::record::ShareIndex;

/// Numbers of removed shares that are not free yet.
#[derive(Default)]
pub(super) struct RetiredNumbers(BTreeMap<u16, Retirement>);

struct Retirement {
    /// Turn after which all entries of the share are removed.
    turn: EventSeq,
    is_announced: bool,
}

impl RetiredNumbers {
    /// Retires the number of a share whose entries are removed in this turn or an earlier one.
    pub(super) fn insert(&mut self, index: u16, turn: EventSeq) {
        let is_announced = false;
        self.0.insert(index, Retirement { turn, is_announced });
    }

    /// Cancels the retirement of a number, because its folder is shared again.
    pub(super) fn cancel(&mut self, index: u16) {
        self.0.remove(&index);
    }

    /// Frees a number, unless its share was added or removed again since that announcement.
    fn release(&mut self, index: u16, removal: u64) {
        let announced = self.0.get(&index).filter(|it| it.is_announced);
        if announced.is_some_and(|it| it.turn.number() == removal) {
            self.0.remove(&index);
        }
    }

    /// Returns the retired numbers.
    pub(super) fn indices(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.keys().copied()
    }

    /// Announces each number whose removals have been sent: those up to its turn.
    pub(super) fn announce(
        &mut self,
        is_sent: impl Fn(EventSeq) -> bool,
    ) -> impl Iterator<Item = ShareEvent> {
        let pending = self.0.iter_mut().filter(|(_, it)| !it.is_announced);
        pending.filter_map(move |(index, it)| {
            it.is_announced = is_sent(it.turn);
            it.is_announced.then(|| ShareEvent::Vacated {
                share: ShareIndex(*index),
                removal: it.turn.number(),
            })
        })
    }
}

/// A handle through which the receiver of the events frees the numbers of removed shares. It does
/// not keep the set alive.
#[derive(Clone)]
pub struct FormerNumbers(pub(super) Weak<SharedState>);

impl FormerNumbers {
    /// Frees the number of a removed share. The caller must have stored every event up to the
    /// [`ShareEvent::Vacated`] with this `removal`.
    pub fn release(&self, share: ShareIndex, removal: u64) {
        if let Some(shared) = self.0.upgrade() {
            shared.lock().absent.retired.release(share.0, removal);
        }
    }
}
