//! The steps before and after hashing a file: [`ListingState::apply`] passes an observation through
//! the table of the states, [`ListingState::hashed`] applies the result of a read.

use std::time::Instant;

use super::extension::ListedVersion;
use super::former::FormerVersion;
use super::identity::{FileIdentity, FileTimestamp, NameStat};
use super::ledger::LedgerRow;
use super::name_state::{ListingChange, NameFacts, NameState, Observation};
use super::outcome::{FinishedRead, HashOutcome, HashTrust};
use super::queue::{DequeuedFile, PROMISED_MAX_BYTES};
use super::state::ListingState;
use super::tree::{FileBody, NodeBody, Slot};
use super::watch::Cause;
use p2pfs_types::digest::ContentHash;

/// Maximum names of one content that are searched for other names of a changed file. The rescan
/// finds the rest.
const LINKS_LOOKED_AT_MAX: usize = 256;

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
        let facts = NameFacts {
            now,
            quiet: self.quiet,
            size_bytes: seen.size_bytes,
            changed: seen.ctime,
            shown: self.tree.shown(slot),
            paced_until: None,
        };
        let effects = self.queue.observe(slot, observation, facts);
        self.order.apply(slot, &effects, seen.size_bytes, now);
        if let Some(cause) = effects.recheck {
            self.recheck(slot, cause);
        }
        effects.listing
    }

    /// Returns the listed version of a large file, so that the new hash can be made from the
    /// outboard of that version. Returns `None` if the file must be read whole: to verify its hash,
    /// or because its listed bytes were found changed.
    pub(super) fn extendable(&self, taken: &DequeuedFile) -> Option<ListedVersion> {
        let slot = taken.held.slot;
        let is_large = taken.size_bytes > PROMISED_MAX_BYTES;
        let file = self.tree.file(slot).filter(|file| file.listed && is_large);
        let file = file.filter(|_| !taken.verifies && !self.queue.notes(slot).is_suspected)?;
        let (identity, hash) = (file.identity, file.hash);
        Some(ListedVersion { identity, hash })
    }

    /// Applies the result of reading a file. Must be called once every report from before the end
    /// of the read has its turn.
    pub(super) fn hashed(&mut self, read: FinishedRead, now: Instant) {
        let slot = read.held.slot;
        let ended = self.queue.end_read(read.held, read.read_bytes, now);
        let Some((again, size_bytes)) = ended else {
            return;
        };
        match self.order.turn_of(slot) {
            Some(turn) if !read.overtaken => self.order.set_turn(turn),
            _ => drop(self.order.step()),
        }
        let outcome = read.settled(again);
        let HashOutcome::Hashed {
            seen, hash, trust, ..
        } = outcome
        else {
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
            self.order.record_hashed(slot, seen.identity);
        }
        self.order.set_seen(seen.identity);
        if trust == HashTrust::Extended {
            self.queue.note_extended(slot, now);
        }
        let change = self.apply(slot, Observation::Read(outcome), seen.identity, now);
        if let ListingChange::List { doubted } = change {
            self.become_file(slot);
            if let Some(bytes) = read.bytes {
                self.kept.put(hash, bytes);
            }
            self.list_file(slot, &seen, hash, doubted);
        }
    }

    fn become_file(&mut self, slot: Slot) {
        let left_out = matches!(
            self.tree.get(slot).map(|n| &n.body),
            Some(NodeBody::LeftOut(_))
        );
        if left_out {
            self.unlist(slot);
            if let Some(node) = self.tree.get_mut(slot) {
                node.body = NodeBody::unlisted();
            }
        }
    }

    /// Lists a file with its hash, remembers the hash, and announces the file if its entry changed.
    /// A `doubted` hash is valid until the file is closed or has been at rest, and is then
    /// replaced.
    pub(super) fn list_file(
        &mut self,
        slot: Slot,
        seen: &NameStat,
        hash: ContentHash,
        doubted: bool,
    ) {
        let before = self.entry(slot);
        let version = self.version_of(slot, &seen.identity, &hash, FileTimestamp::now());
        let Some(old) = self.tree.file(slot) else {
            return;
        };
        if old.listed {
            self.count(slot, -1);
            self.drop_content(slot, &old.hash);
            self.note_former(slot, &old, &seen.identity, &hash);
        }
        let executable = seen.executable();
        let file = FileBody {
            identity: seen.identity,
            hash,
            executable,
            listed: true,
        };
        self.tree.set_file(slot, file, version);
        self.count(slot, 1);
        self.tree.record_content(slot, &hash);
        self.kept.record_shown(&hash, true, Instant::now());
        self.moved.forget(&hash);
        self.moved.forget_at(slot);
        let row = LedgerRow {
            identity: seen.identity,
            hash,
            first_seen: version,
            doubted,
        };
        let known = self.ledger.get(row.identity.dev, row.identity.ino);
        if known != Some(row) {
            self.ledger.put(row);
        }
        if before != self.entry(slot) {
            self.announce_put(slot);
        }
        if seen.linked_again {
            // the file's former content under this name, and its last content under any name
            let before = old.listed.then_some(old.hash);
            let before = before.into_iter().chain(known.map(|row| row.hash));
            self.recheck_other_names(file.identity, before.chain([hash]));
        }
        self.recheck_private_names(slot, &file.identity);
    }

    /// Records the version that a name was listed with until now, if the file may still begin with
    /// its bytes.
    fn note_former(&mut self, slot: Slot, old: &FileBody, seen: &FileIdentity, hash: &ContentHash) {
        let identity = old.identity;
        let is_it = (identity.dev, identity.ino) == (seen.dev, seen.ino);
        let is_other = old.hash != *hash;
        let has_grown = seen.size_bytes > identity.size_bytes;
        if !is_it || (is_other && !has_grown) {
            self.former.forget_at(slot);
        } else if is_other {
            self.former
                .insert(old.hash, FormerVersion { slot, identity });
        }
        self.former.forget(hash);
    }

    /// Returns the hash and the size of the listed version of a file that had this content before.
    pub(super) fn newer_version(&self, hash: &ContentHash) -> Option<(ContentHash, u64)> {
        let former = self.former.get(hash)?;
        let file = self.tree.file(former.slot).filter(|file| file.listed)?;
        Some((file.hash, file.identity.size_bytes))
    }

    /// Records that a name no longer has a content.
    pub(super) fn drop_content(&mut self, slot: Slot, hash: &ContentHash) {
        self.tree.drop_content(slot, hash);
        if self.tree.with_content(hash).next().is_none() {
            self.kept.record_shown(hash, false, Instant::now());
        }
    }

    /// Rechecks the names of a listed file that are left out as private, and if there are any, also
    /// the listed name `slot`. All names of a file have the same mode, so one of the two is
    /// outdated.
    fn recheck_private_names(&mut self, slot: Slot, identity: &FileIdentity) {
        let left_out = self.tree.private_names(identity.dev, identity.ino);
        let mut doubtful: Vec<Slot> = left_out.take(LINKS_LOOKED_AT_MAX).collect();
        if !doubtful.is_empty() {
            doubtful.push(slot);
        }
        for slot in doubtful {
            self.recheck(slot, Cause::Walk);
        }
    }

    /// Rechecks other names of a file that had one of these contents.
    fn recheck_other_names(
        &mut self,
        identity: FileIdentity,
        contents: impl Iterator<Item = ContentHash>,
    ) {
        let mut contents: Vec<ContentHash> = contents.collect();
        contents.dedup();
        for hash in contents {
            self.recheck_links(identity, &hash);
        }
    }

    /// Rechecks other names of a file that had this content and are listed with another identity.
    /// The kernel reports a change only under the name through which it was made.
    pub(super) fn recheck_links(&mut self, identity: FileIdentity, hash: &ContentHash) {
        let others = self.tree.with_content(hash).take(LINKS_LOOKED_AT_MAX);
        let stale = others.filter(|slot| {
            self.tree.file(*slot).is_some_and(|file| {
                let same = (file.identity.dev, file.identity.ino) == (identity.dev, identity.ino);
                same && file.identity != identity
            })
        });
        for slot in stale.collect::<Vec<_>>() {
            self.recheck(slot, Cause::Walk);
        }
    }

    /// Returns the version time of a file: its mtime, or the time when this version was first seen
    /// if that is earlier. A version is the bytes and the mtime, under this or another name of the
    /// same file. If the result would be in the future because the clock was set back, it is `now`.
    pub(super) fn version_of(
        &self,
        slot: Slot,
        identity: &FileIdentity,
        hash: &ContentHash,
        now: FileTimestamp,
    ) -> FileTimestamp {
        let mtime = identity.mtime;
        let listed = self
            .tree
            .file(slot)
            .filter(|file| file.listed && file.hash == *hash && file.identity.mtime == mtime);
        let row = self.ledger.get(identity.dev, identity.ino);
        let row = row.filter(|row| row.hash == *hash && row.identity.mtime == mtime);
        let known = listed.map(|file| self.tree.version(slot, &file));
        let seen = known.or(row.map(|row| row.first_seen)).unwrap_or(mtime);
        seen.seen_at(now)
    }

    /// Has every file with a content hashed again after changed bytes were found. The files stay
    /// listed until then, but are no longer sources of the content.
    pub(super) fn suspect(&mut self, hash: &ContentHash) {
        self.order.step();
        self.moved.forget(hash);
        // if a file grew from this content and was not read whole, its hash assumes the old bytes
        // too
        let former = self.former.get(hash).map(|it| it.slot);
        let former = former.filter(|slot| self.queue.notes(*slot).is_extended);
        self.former.forget(hash);
        let slots: Vec<Slot> = self.tree.with_content(hash).chain(former).collect();
        for slot in slots {
            let Some(file) = self.tree.file(slot) else {
                continue;
            };
            self.ledger.forget(&file.identity);
            self.apply(slot, Observation::Suspected, file.identity, Instant::now());
        }
    }

    /// Rechecks files that a request found with another date or size than when they were hashed,
    /// unless they already wait to be read. The kernel does not report all writes, for example
    /// those of a loop device.
    pub(super) fn record_written(&mut self, slots: &[Slot]) {
        for slot in slots {
            let waits = self
                .queue
                .state(*slot)
                .is_some_and(NameState::waits_for_read);
            if !waits && self.rechecks.len() < UNREPORTED_MAX {
                self.recheck(*slot, Cause::Walk);
            }
        }
    }

    /// Passes on to the states of the files that they rested long enough.
    pub(super) fn wake_rested(&mut self, now: Instant) {
        for slot in self.queue.rested(now) {
            let parent = self.tree.get(slot).map(|node| node.parent);
            let directory = parent.and_then(|parent| self.tree.directory(parent));
            let watched = directory.is_some_and(|directory| directory.watch.is_some());
            let seen = FileIdentity {
                size_bytes: self.queue.size_bytes(slot),
                ..FileIdentity::default()
            };
            self.apply(slot, Observation::Rested { watched }, seen, now);
        }
    }
}
