//! The steps before and after hashing a file: [`ListingState::await_hash`] and its neighbours queue
//! the file or let it rest, [`ListingState::hashed`] applies the result of the read.

use std::time::{Duration, Instant};

use super::extension::ListedVersion;
use super::former::FormerVersion;
use super::identity::{FileIdentity, FileTimestamp, NameStat};
use super::ledger::LedgerRow;
use super::order::{DiscoveredBy, LARGE_WAIT};
use super::outcome::{FinishedRead, HashOutcome, HashTrust};
use super::queue::{DequeuedFile, HashStage, PROMISED_MAX_BYTES, Rest};
use super::state::ListingState;
use super::tree::{FileBody, NodeBody, Slot};
use super::watch::Cause;
use p2pfs_types::digest::ContentHash;

/// Maximum names of one content that are searched for other names of a changed file. The rescan
/// finds the rest.
const LINKS_LOOKED_AT_MAX: usize = 256;

/// Rate that determines how long a file that only grew must be at rest before it is read whole: as
/// long as reading it at this rate takes. So a log that gets a line now and then is read at this
/// rate at most, a sixteenth of the rate for a file that changes all the time
/// ([`REREAD_BYTES_PER_S`](super::pace::REREAD_BYTES_PER_S)).
const WHOLE_READ_BYTES_PER_S: u64 = 4 << 20;

/// Length of the list of rechecks at which requests add no more files that they found changed. The
/// next request, or the rescan, finds these files again.
const UNREPORTED_MAX: usize = 1024;

/// First wait for a file that is open for writing although its close was reported. The kernel
/// reports a close some microseconds before it decrements the writer count, or milliseconds if the
/// closing thread has to wait in between.
const CLOSING_WAIT: Duration = Duration::from_millis(20);
/// How long a listed file that programs write all the time keeps its listed version. After that, it
/// is read between two writes. However, a file over [`PROMISED_MAX_BYTES`] is read only if it has
/// grown, because a file that is written in place would change again before its end is read.
pub(super) const BUSY_READ_AFTER: Duration = Duration::from_secs(10);

impl ListingState {
    /// Queues a file to be hashed in the current turn. `sure` says that its writer is known to be
    /// done.
    pub(super) fn await_hash(&mut self, slot: Slot, size_bytes: u64, sure: bool, now: Instant) {
        self.await_again(slot, size_bytes, now);
        self.enqueue(slot, size_bytes, sure, now);
    }

    /// Queues a file, or lets it rest if it was read a short time ago. Later turns that wait for
    /// the file do so in both cases, so that a pointer is never announced before the file that it
    /// names.
    fn enqueue(&mut self, slot: Slot, size_bytes: u64, sure: bool, now: Instant) {
        match self.queue.paced_until(slot, now) {
            Some(until) => {
                let why = Rest::Paced { sure };
                self.queue.rest(slot, size_bytes, until, why);
            }
            None => self.queue.enqueue(slot, size_bytes, sure),
        }
    }

    /// Makes the current turn and all later ones wait until a file is hashed. If the file already
    /// waits in another turn, it moves to the current one.
    pub(super) fn await_again(&mut self, slot: Slot, size_bytes: u64, now: Instant) {
        let large = (size_bytes > PROMISED_MAX_BYTES).then(|| now + LARGE_WAIT);
        self.order.await_file(slot, large);
    }

    /// Queues a file that was not written lately. Files found by a walk, and files of a new tree
    /// that is too large to wait for, go behind the files that were just written, and later turns
    /// do not wait for them.
    pub(super) fn await_at_rest(&mut self, slot: Slot, seen: &NameStat, now: Instant) {
        let FileIdentity {
            size_bytes, ctime, ..
        } = seen.identity;
        let is_waited_for = match self.order.discovered_by() {
            DiscoveredBy::Reported => true,
            DiscoveredBy::New => self.order.record_discovered(size_bytes),
            DiscoveredBy::Walked => false,
        };
        if is_waited_for {
            self.await_hash(slot, size_bytes, true, now);
        } else {
            self.order.forget_file(slot);
            self.queue.enqueue_found(slot, size_bytes, ctime);
        }
    }

    /// Leaves a file unread for the quiet period. A listed file that is written all the time is
    /// left unread for at most [`BUSY_READ_AFTER`]. Later turns do not wait for the file.
    pub(super) fn rest(&mut self, slot: Slot, size_bytes: u64, now: Instant, why: Rest) {
        self.order.forget_file(slot);
        let mut until = now + self.quiet;
        if why == Rest::Written {
            if self.tree.file(slot).is_some_and(|file| file.listed) {
                self.queue.record_written(slot, size_bytes, now);
            }
            let since = self.queue.written_since(slot);
            until = since.map_or(until, |since| until.min(since + BUSY_READ_AFTER));
        }
        self.queue.rest(slot, size_bytes, until, why);
    }

    /// Leaves a file unread that was hashed without being read whole, until it has been at rest for
    /// the time that follows from [`WHOLE_READ_BYTES_PER_S`].
    fn rest_extended(&mut self, slot: Slot, size_bytes: u64, now: Instant) {
        self.order.forget_file(slot);
        let wait = Duration::from_secs(size_bytes / WHOLE_READ_BYTES_PER_S);
        let until = now + wait.max(self.quiet);
        self.queue.rest(slot, size_bytes, until, Rest::Verify);
    }

    /// Returns the listed version of a large file, so that the new hash can be made from the
    /// outboard of that version. Returns `None` if the file must be read whole: to verify its hash,
    /// or because its listed bytes were found changed.
    pub(super) fn extendable(&self, taken: &DequeuedFile) -> Option<ListedVersion> {
        let slot = taken.held.slot;
        let is_large = taken.size_bytes > PROMISED_MAX_BYTES;
        let file = self.tree.file(slot).filter(|file| file.listed && is_large);
        let file = file.filter(|_| !taken.verifies && !self.suspected.contains(&slot))?;
        let (identity, hash) = (file.identity, file.hash);
        Some(ListedVersion { identity, hash })
    }

    /// Leaves a file unread that was closed and is still open for writing. The wait is `age`, the
    /// time since the last write, but at least [`CLOSING_WAIT`] and at most half of the quiet
    /// period. Later turns wait for the file only if the wait is [`CLOSING_WAIT`]: the kernel is
    /// then probably about to finish the close.
    pub(super) fn rest_closing(
        &mut self,
        slot: Slot,
        size_bytes: u64,
        now: Instant,
        age: Duration,
    ) {
        let wait = age.min(self.quiet / 2).max(CLOSING_WAIT);
        if wait > CLOSING_WAIT {
            self.order.forget_file(slot);
        }
        self.queue.rest(slot, size_bytes, now + wait, Rest::Closing);
    }

    /// Cancels reading a file.
    pub(super) fn withdraw(&mut self, slot: Slot) {
        self.order.forget_file(slot);
        self.queue.withdraw(slot);
        self.moved.forget_at(slot);
    }

    /// Applies the result of reading a file. Must be called once every report from before the end
    /// of the read has its turn.
    pub(super) fn hashed(&mut self, read: FinishedRead, now: Instant) {
        let slot = read.held.slot;
        self.note_cost(&read, now);
        let Some((again, size_bytes)) = self.queue.finish(slot, read.held.number) else {
            return;
        };
        match self.order.turn_of(slot) {
            Some(turn) if !read.overtaken => self.order.set_turn(turn),
            _ => drop(self.order.step()),
        }
        let written_to = matches!(again, Some(Cause::Created | Cause::Modified));
        let closed = again == Some(Cause::Closed);
        let reopened = again == Some(Cause::Reopened);
        match read.settled(again) {
            HashOutcome::Hashed {
                seen, hash, trust, ..
            } => {
                if !read.overtaken {
                    self.order.record_hashed(slot, seen.identity);
                }
                self.order.set_seen(seen.identity);
                self.queue.forget_closed(slot);
                self.queue.forget_written(slot);
                self.become_file(slot);
                if trust == HashTrust::Extended {
                    self.queue.note_extended(slot, now);
                } else {
                    self.queue.forget_extended(slot);
                }
                if let Some(bytes) = read.bytes {
                    self.kept.put(hash, bytes);
                }
                self.list_file(slot, &seen, hash, trust != HashTrust::Sure);
                let size_bytes = seen.identity.size_bytes;
                match trust {
                    _ if closed => {}
                    _ if written_to => self.rest(slot, size_bytes, now, Rest::Written),
                    HashTrust::Racy => self.rest(slot, size_bytes, now, Rest::Verify),
                    HashTrust::Extended => self.rest_extended(slot, size_bytes, now),
                    HashTrust::Sure | HashTrust::UntilClosed => {}
                }
                again.inspect(|cause| self.recheck(slot, *cause));
            }
            // for example a chmod during the read; unless a close was reported meanwhile, the next
            // read looks for open writers again
            HashOutcome::Changed if !written_to => {
                return self.enqueue(slot, size_bytes, closed, now);
            }
            // A close and then another change were reported during this read. The writer may have
            // ended, and only set the time stamp last: read the file again as a closed one.
            HashOutcome::BeingWritten(_) if reopened => {
                self.queue.record_closed(slot, now);
                return self.enqueue(slot, size_bytes, false, now);
            }
            _ if closed => {}
            HashOutcome::BeingWritten(age) if read.held.sure && !written_to => {
                return self.rest_closing(slot, size_bytes, now, age);
            }
            HashOutcome::BeingWritten(_) | HashOutcome::Changed if self.queue.is_closed(slot) => {
                self.order.forget_file(slot);
                return self.rest_closing(slot, size_bytes, now, Duration::ZERO);
            }
            HashOutcome::Changed | HashOutcome::BeingWritten(_) | HashOutcome::Want => {
                self.rest(slot, size_bytes, now, Rest::Written);
            }
            HashOutcome::Elsewhere => self.recheck(slot, Cause::Walk),
            HashOutcome::Unreadable(identity) => self.become_unreadable(slot, identity, false),
        }
        if closed {
            // a file closed in the meantime is read in the turn of its close
            self.queue.record_closed(slot, now);
            self.enqueue(slot, size_bytes, true, now);
        } else {
            self.order.forget_file(slot)
        }
    }

    /// Records what a read cost, unless its file was withdrawn or queued again meanwhile.
    fn note_cost(&mut self, read: &FinishedRead, now: Instant) {
        let slot = read.held.slot;
        if let Some(HashStage::Hashing {
            number, size_bytes, ..
        }) = self.queue.stage(slot)
            && *number == read.held.number
        {
            let size_bytes = *size_bytes;
            self.queue
                .record_read(slot, size_bytes, read.read_bytes, now);
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
        self.suspected.remove(&slot);
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
    /// listed until then, but are no longer sources of the content. A file that already waits to be
    /// read because of a write is not read earlier, because its writer may still be at work.
    pub(super) fn suspect(&mut self, hash: &ContentHash) {
        self.order.step();
        self.moved.forget(hash);
        // if a file grew from this content and was not read whole, its hash assumes the old bytes
        // too
        let former = self.former.get(hash).map(|it| it.slot);
        let former = former.filter(|slot| self.queue.is_extended(*slot));
        self.former.forget(hash);
        let slots: Vec<Slot> = self.tree.with_content(hash).chain(former).collect();
        for slot in slots {
            let Some(file) = self.tree.file(slot) else {
                continue;
            };
            self.suspected.insert(slot);
            self.ledger.forget(&file.identity);
            if self.is_left_to_read(slot) {
                self.queue.record_change(slot, Cause::Walk);
            } else {
                self.await_hash(slot, file.identity.size_bytes, false, Instant::now());
            }
        }
    }

    /// Rechecks files that a request found with another date or size than when they were hashed,
    /// unless they already wait to be read. The kernel does not report all writes, for example
    /// those of a loop device.
    pub(super) fn record_written(&mut self, slots: &[Slot]) {
        for slot in slots {
            if !self.is_left_to_read(*slot) && self.rechecks.len() < UNREPORTED_MAX {
                self.recheck(*slot, Cause::Walk);
            }
        }
    }

    /// Returns whether a file is queued or being read, or rests because it changed.
    fn is_left_to_read(&self, slot: Slot) -> bool {
        match self.queue.stage(slot) {
            Some(HashStage::Resting { why, .. }) => *why != Rest::Verify,
            other => other.is_some(),
        }
    }

    /// Returns whether a resting file was first written so long ago that it is read between writes.
    fn is_busy(&self, slot: Slot, now: Instant) -> bool {
        let since = self.queue.written_since(slot);
        since.is_some_and(|since| since + BUSY_READ_AFTER <= now)
    }

    /// Queues the files that rested long enough. For a file in a directory without a watch, the
    /// read looks for open writers first.
    pub(super) fn wake_rested(&mut self, now: Instant) {
        for (slot, size_bytes) in self.queue.rested(now) {
            let Some(node) = self.tree.get(slot) else {
                self.withdraw(slot);
                continue;
            };
            let directory = self.tree.directory(node.parent);
            let watched = directory.is_some_and(|directory| directory.watch.is_some());
            let paced = self.queue.paced_until(slot, now);
            match (self.queue.why_resting(slot), paced) {
                (Some(Rest::Verify), Some(until)) => {
                    self.queue.rest(slot, size_bytes, until, Rest::Verify);
                }
                (Some(Rest::Verify), None) => {
                    self.queue.enqueue_verify(slot, size_bytes, watched);
                }
                (Some(Rest::Closing), _) => self.enqueue(slot, size_bytes, true, now),
                (Some(Rest::Paced { sure }), _) => self.enqueue(slot, size_bytes, sure, now),
                (Some(Rest::Written), Some(until)) => {
                    self.queue.rest(slot, size_bytes, until, Rest::Written);
                }
                (Some(Rest::Written), None) if self.is_busy(slot, now) => {
                    self.order.step();
                    self.queue.enqueue_busy(slot, size_bytes);
                }
                (Some(Rest::Written) | None, _) => {
                    self.order.step();
                    self.await_hash(slot, size_bytes, watched, now);
                    self.queue.record_unclosed(slot);
                }
            }
        }
    }
}
