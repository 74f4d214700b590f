//! Shares of which the log has entries, or had them until lately, and that are not offered.

use std::collections::{BTreeMap, BTreeSet};

use super::config::{Known, ShareEvent};
use super::former_numbers::RetiredNumbers;
use super::order::EventOrder;

/// The shares that are not added yet, and the numbers of removed ones.
pub(super) struct AbsentShares {
    /// Entries that the log has of shares that are not added yet.
    pub(super) known: BTreeMap<u16, Vec<Known>>,
    /// Numbers of removed shares that are not free yet.
    pub(super) retired: RetiredNumbers,
    /// Whether a configured share could not be added yet.
    pub(super) misses_configured: bool,
}

impl AbsentShares {
    /// Creates the set of the shares with these entries in the log.
    pub(super) fn new(known: Vec<Known>) -> Self {
        let mut of_shares: BTreeMap<u16, Vec<Known>> = BTreeMap::new();
        for entry in known {
            of_shares.entry(entry.share.0).or_default().push(entry);
        }
        Self {
            known: of_shares,
            retired: RetiredNumbers::default(),
            misses_configured: false,
        }
    }

    /// Returns whether the log has entries of a share that was not added.
    pub(super) fn has_entries(&self) -> bool {
        !self.known.is_empty()
    }

    /// Returns whether a share may still be added whose files are not listed now.
    pub(super) fn is_any_expected(&self) -> bool {
        self.has_entries() || self.misses_configured
    }

    /// Returns the numbers that no other share may get: those of entries that the log has, and
    /// those of removed shares whose entries the stored log may still have.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u16> + '_ {
        self.known.keys().copied().chain(self.retired.indices())
    }

    /// Removes a share that is added now, and returns the entries that the log has of it. If its
    /// number was retired, cancels that.
    pub(super) fn take(&mut self, index: u16) -> Vec<Known> {
        self.retired.cancel(index);
        self.known.remove(&index).unwrap_or_default()
    }

    /// Announces all of the log's entries of a share as removed, and retires its number. Returns
    /// false if there are no entries.
    pub(super) fn forget(&mut self, index: u16, order: &mut EventOrder) -> bool {
        order.step();
        let Some(known) = self.known.remove(&index) else {
            return false;
        };
        for Known { share, path, .. } in known {
            order.hold(ShareEvent::Removed { share, path });
        }
        self.retired.insert(index, order.last_turn());
        true
    }

    /// Announces the entries of every share that is not awaited as removed, and retires the numbers
    /// of these shares.
    pub(super) fn forget_unless_awaited(&mut self, awaited: &[u16], order: &mut EventOrder) {
        self.forget_if(|index| !awaited.contains(&index), order);
    }

    /// Announces the entries that the log has under numbers of no directory as removed, and retires
    /// these numbers. The ledger that knew the directories is lost. `numbers` are those of all
    /// directories.
    pub(super) fn forget_unnumbered(&mut self, numbers: &BTreeSet<u16>, order: &mut EventOrder) {
        self.forget_if(|index| !numbers.contains(&index), order);
    }

    fn forget_if(&mut self, is_gone: impl Fn(u16) -> bool, order: &mut EventOrder) {
        let known = self.known.keys().copied();
        let gone: Vec<u16> = known.filter(|index| is_gone(*index)).collect();
        for index in gone {
            self.forget(index, order);
        }
    }
}
