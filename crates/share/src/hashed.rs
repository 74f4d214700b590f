//! The steps before and after hashing a file: [`ListingState::apply`] passes an observation through
//! the table of the states, [`ListingState::hashed`] applies the result of a read.

use std::time::Instant;

use super::extension::ListedVersion;
use super::identity::FileIdentity;
use super::name_state::{ListingChange, NameFacts, NameState, Observation};
use super::outboards::SMALL_FILE_MAX_BYTES;
use super::outcome::{FinishedRead, HashOutcome};
use super::queue::DequeuedFile;
use super::state::ListingState;
use super::tree::{NodeBody, Slot};
use super::watch::Cause;
use p2pfs_types::digest::ContentHash;

/// Length of the list of rechecks at which requests add no more files that they found changed. The
/// next request, or the rescan, finds these files again.
const UNREPORTED_MAX: usize = 1024;

impl ListingState {
    /// Passes an observation of a file through the table of its states. Applies the effects on the
    /// queue and on the order, and returns the effect on the listing. `seen` is the identity with
    /// which the file was observed.
    pub(super) fn apply(
        &mut self,
        slot: Slot,
        observation: Observation,
        seen: FileIdentity,
        now: Instant,
    ) -> ListingChange {
        let node = self.listing.tree.get(slot);
        let facts = NameFacts {
            now,
            quiet: self.quiet,
            size_bytes: seen.size_bytes,
            changed: seen.ctime,
            shown: node.map_or(NameState::Absent, |node| node.body.shown()),
            // `HashQueue::observe` sets it
            paced_until: None,
        };
        let effects = self.queue.observe(slot, observation, facts);
        self.listing
            .order
            .apply(slot, &effects, seen.size_bytes, now);
        if let Some(cause) = effects.recheck {
            self.listing.recheck(slot, cause);
        }
        effects.listing
    }

    /// Returns the listed version of a file, if the new hash may be made from its outboard. Returns
    /// `None` if the file has no stored outboard or is not listed, is read to verify its hash, is
    /// suspected to have lost its listed bytes, or is to be read whole
    /// ([`HashQueue::may_extend`](super::queue::HashQueue::may_extend)).
    pub(super) fn extendable(&self, taken: &DequeuedFile, now: Instant) -> Option<ListedVersion> {
        let slot = taken.held.slot;
        let has_outboard = taken.size_bytes > SMALL_FILE_MAX_BYTES;
        if !has_outboard || !self.queue.may_extend(taken, now) {
            return None;
        }
        let file = self.listing.tree.file(slot).filter(|file| file.listed);
        let file = file.filter(|_| !taken.verifies && !self.queue.notes(slot).is_suspected)?;
        let (identity, hash) = (file.identity, file.hash);
        Some(ListedVersion { identity, hash })
    }

    /// Applies the result of reading a file. Must be called once every report from before the end
    /// of the read has its turn.
    pub(super) fn hashed(&mut self, read: FinishedRead, now: Instant) {
        let slot = read.held.slot;
        let Some((again, size_bytes)) = self.queue.end_read(&read, now) else {
            return;
        };
        match self.listing.order.turn_of(slot) {
            Some(turn) if !read.overtaken => self.listing.order.set_turn(turn),
            _ => drop(self.listing.order.step()),
        }
        let outcome = read.settled(again);
        let HashOutcome::Hashed { seen, hash, .. } = outcome else {
            let expected = FileIdentity {
                size_bytes,
                ..FileIdentity::default()
            };
            let change = self.apply(slot, Observation::Read(outcome), expected, now);
            if let ListingChange::LeaveOut(identity) = change {
                self.become_unreadable(slot, identity, false);
            }
            return;
        };
        if !read.overtaken {
            self.listing.order.record_hashed(slot, seen.identity);
        }
        self.listing.order.set_seen(seen.identity);
        let change = self.apply(slot, Observation::Read(outcome), seen.identity, now);
        if let ListingChange::List { doubted } = change {
            self.become_file(slot);
            if let Some(bytes) = read.bytes {
                self.listing.kept.put(hash, bytes);
            }
            self.listing.list_file(slot, &seen, hash, doubted);
        }
    }

    fn become_file(&mut self, slot: Slot) {
        if self.listing.tree.left_out(slot).is_some() {
            self.listing.unlist(slot);
            if let Some(node) = self.listing.tree.get_mut(slot) {
                node.body = NodeBody::unlisted();
            }
        }
    }

    /// Has every listed file with a content hashed again after changed bytes were found. The files
    /// stay listed until then, but are no longer sources of the content.
    pub(super) fn suspect(&mut self, hash: &ContentHash) {
        self.listing.order.step();
        self.listing.moved.forget(hash);
        // if a file grew from this content and was not read whole, its hash assumes the old bytes
        // too
        let former = self.listing.former.get(hash).map(|it| it.slot);
        let former = former.filter(|slot| self.queue.notes(*slot).is_extended);
        self.listing.former.forget(hash);
        let slots: Vec<Slot> = self.listing.tree.with_content(hash).chain(former).collect();
        for slot in slots {
            let Some(file) = self.listing.tree.file(slot) else {
                continue;
            };
            self.listing.ledger.forget(&file.identity);
            self.apply(slot, Observation::Suspected, file.identity, Instant::now());
        }
    }

    /// Requests a check of files that were found with another date or size than when they were
    /// hashed, unless they already wait to be read. The kernel does not report all writes, for
    /// example those of a loop device.
    pub(super) fn record_written(&mut self, slots: &[Slot]) {
        for slot in slots {
            let waits = self
                .queue
                .state(*slot)
                .is_some_and(NameState::waits_for_read);
            if !waits && self.listing.rechecks.len() < UNREPORTED_MAX {
                self.listing.recheck(*slot, Cause::Walk);
            }
        }
    }

    /// Applies [`Observation::Rested`] to each file that has rested long enough.
    pub(super) fn wake_rested(&mut self, now: Instant) {
        for slot in self.queue.rested(now) {
            let parent = self.listing.tree.get(slot).map(|node| node.parent);
            let directory = parent.and_then(|parent| self.listing.tree.directory(parent));
            let watched = directory.is_some_and(|directory| directory.watch.is_some());
            let seen = FileIdentity {
                size_bytes: self.queue.size_bytes(slot),
                ..FileIdentity::default()
            };
            self.apply(slot, Observation::Rested { watched }, seen, now);
        }
    }
}
