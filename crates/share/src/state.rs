//! The shared names and the events about their changes, both decided only here.
//!
//! Nothing here accesses a share on the disk. `walk` and `hasher` do, and report their findings.
//! The observations pass through the table of the states (`name_state`). Its effects change the
//! listing here (`listing`), the queue of the hashers (`queue`), and the order of events (`order`).

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::absent::AbsentShares;
use super::config::{Known, ShareEvent, ShareSpec};
use super::exclude::Exclude;
use super::identity::{FileIdentity, NameStat};
use super::ledger::ShareLedger;
use super::left_out::LeftOutWhy;
use super::listing::{HashedFile, LINKS_LOOKED_AT_MAX, ShareListing};
use super::name_state::{ListingChange, NameFacts, NameState, Observation};
use super::observe::{NameUpdate, ObservedName};
use super::offered::OfferedShare;
use super::outboards::SMALL_FILE_MAX_BYTES;
use super::outcome::{FinishedRead, HashOutcome};
use super::proof::{KnownFile, Told};
use super::queue::{DequeuedFile, HashQueue};
use super::tree::{DirectoryBody, LeftOutBody, NodeBody, Slot};
use super::watch::Cause;
use super::writable::WriteAccess;
use p2pfs_proto::wire::native::record::ShareIndex;
use p2pfs_types::digest::ContentHash;

/// Length of the list of rechecks at which requests add no more files that they found changed. The
/// next request, or the rescan, finds these files again.
const UNREPORTED_MAX: usize = 1024;

/// The listing, and the files on their way into it.
pub(super) struct ListingState {
    pub(super) listing: ShareListing,
    pub(super) queue: HashQueue,
    /// Files that were read since the scanner last collected them.
    pub(super) read: Vec<FinishedRead>,
    pub(super) absent: AbsentShares,
    pub(super) quiet: Duration,
}

impl ListingState {
    pub(super) fn new(ledger: ShareLedger, quiet: Duration, known: Vec<Known>) -> Self {
        Self {
            listing: ShareListing::new(ledger),
            queue: HashQueue::default(),
            read: Vec::new(),
            absent: AbsentShares::new(known),
            quiet,
        }
    }

    /// Adds a share and restores its entries from the log, or gives new settings to a share that
    /// was added before. Schedules a walk; the caller must wake the scanner.
    pub(super) fn add_share(
        &mut self,
        index: u16,
        dir: &Path,
        spec: &ShareSpec,
        exclude: Arc<Exclude>,
        access: WriteAccess,
    ) {
        // before any later event of this share
        self.listing.shares.outbox.push(ShareEvent::Readers {
            share: ShareIndex(index),
            readers: spec.readers.clone(),
        });
        self.listing.shares.outbox.push(ShareEvent::Terms {
            share: ShareIndex(index),
            open: spec.open,
        });
        if let Some(share) = self.listing.shares.by_index.get(&index) {
            let moved = (share.spec.place != spec.place).then_some(share.root);
            self.listing.shares.change(index, |share| {
                // `move_share` sets the place.
                let place = share.spec.place.clone();
                share.spec = ShareSpec {
                    place,
                    ..spec.clone()
                };
                share.exclude = exclude;
                share.access = access;
            });
            if let Some(root) = moved {
                self.listing.move_share(index, root, &spec.place);
            }
        } else {
            let root = self.listing.tree.insert_root(index);
            let share = OfferedShare::new(dir, spec, exclude, root);
            self.listing.shares.by_index.insert(index, share);
            let shares = &mut self.listing.shares;
            shares.change(index, |share| share.access = access);
            self.listing.order.step();
            let known = self.absent.take(index);
            self.listing.restore(root, &spec.place, known);
        }
        self.listing.shares.scans.push(index);
    }

    /// Removes a share with all its entries, or the log's entries of a share that is not added.
    /// Returns false if there is neither.
    pub(super) fn remove_share(&mut self, index: u16) -> bool {
        let Some(share) = self.listing.shares.by_index.get(&index) else {
            return self.absent.forget(index, &mut self.listing.order);
        };
        let (dir, root, wrong) = (share.dir.to_path_buf(), share.root, share.own_warning());
        self.listing.shares.settle(index, dir, wrong);
        self.listing.order.step();
        self.clear(root);
        self.listing.drop_watch(root);
        self.listing.tree.remove(root);
        self.listing.kept.clear();
        self.listing.shares.by_index.remove(&index);
        let removed_by = self.listing.order.last_turn();
        self.absent.retired.insert(index, removed_by);
        true
    }

    /// Returns the numbers of the shares, of the entries that the log has of other shares, and of
    /// removed shares whose entries the stored log may still have.
    pub(super) fn numbers_in_use(&self) -> BTreeSet<u16> {
        let offered = self.listing.shares.by_index.keys().copied();
        offered.chain(self.absent.numbers()).collect()
    }

    /// Removes everything beneath a directory, deepest first.
    pub(super) fn clear(&mut self, directory: Slot) {
        let children: Vec<Slot> = self.listing.tree.children(directory).collect();
        children
            .into_iter()
            .for_each(|child| self.remove_tree(child));
    }

    /// Removes a name and everything beneath it.
    pub(super) fn remove_tree(&mut self, top: Slot) {
        let mut above = vec![top];
        let mut order = Vec::new();
        while let Some(slot) = above.pop() {
            order.push(slot);
            above.extend(self.listing.tree.children(slot));
        }
        for slot in order.into_iter().rev() {
            let (gone, now) = (Observation::Gone, Instant::now());
            self.apply(slot, gone, FileIdentity::default(), now);
            if let Some(known) = self.listing.witnessed(slot) {
                self.listing.departed.insert(known);
            }
            self.listing.unlist(slot);
            self.listing.moved.forget_at(slot);
            self.listing.drop_watch(slot);
            self.listing.tree.remove(slot);
        }
    }

    /// Empties a share because its own directory cannot be opened. The share keeps its number.
    pub(super) fn vanish(&mut self, index: u16, why: &str) {
        let Some(share) = self.listing.shares.by_index.get(&index) else {
            return;
        };
        let root = share.root;
        if !share.problems.vanished {
            self.listing.shares.change(index, |share| {
                share.problems.vanished = true;
                share.problems.private = false;
                share.problems.warning = Some(why.to_owned());
                share.access = WriteAccess::Off;
            });
        }
        self.listing.order.step();
        self.clear(root);
        self.listing.drop_watch(root);
    }

    /// Records that the share's own directory was opened, and whether the mount may write into it
    /// if that was checked. Returns false if others may not enter it, so that nothing in it is
    /// shared.
    pub(super) fn enter_share(
        &mut self,
        index: u16,
        seen: &NameStat,
        access: Option<WriteAccess>,
    ) -> bool {
        let Some(share) = self.listing.shares.by_index.get(&index) else {
            return false;
        };
        let root = share.root;
        let private = !share.spec.include_private && !seen.others_may_read();
        let FileIdentity { dev, ino, .. } = seen.identity;
        let other = |known: &DirectoryBody| (known.dev, known.ino) != (dev, ino);
        if self.listing.tree.directory(root).is_some_and(other) {
            self.listing.replace_directory(root, dev, ino);
        }
        self.listing.shares.change(index, |share| {
            share.problems.vanished = false;
            share.problems.warning = None;
            share.problems.private = private;
            if let Some(access) = access.filter(|_| share.spec.writable) {
                share.access = access;
            }
        });
        if private {
            self.listing.order.step();
            self.clear(root);
            self.listing.kept.clear();
        }
        !private
    }

    /// Applies the result of checking `name`. If `name` is a directory that is new, replaced, not
    /// watched, or left out as unreadable, returns it, because it must be read.
    pub(super) fn observe(
        &mut self,
        parent: Slot,
        name: &[u8],
        found: ObservedName,
        cause: Cause,
        told: Told,
        now: Instant,
    ) -> Option<Slot> {
        self.listing.tree.directory(parent)?;
        self.listing.order.set_seen(found.identity());
        NameUpdate::of(self, parent, name).apply(found, cause, told, now)
    }

    /// Restores a directory that was left out as unreadable. Returns its number.
    pub(super) fn become_directory(&mut self, slot: Slot, seen: &NameStat) -> Option<u32> {
        self.listing.unlist(slot);
        let (dev, ino) = (seen.identity.dev, seen.identity.ino);
        let body = DirectoryBody {
            dev,
            ino,
            ..self.listing.tree.new_directory()
        };
        self.listing.tree.get_mut(slot)?.body = NodeBody::Directory(body);
        self.listing.list_directory(slot, seen.identity.mtime);
        Some(body.number)
    }

    /// Leaves out a name that could not be read, until it can be read.
    pub(super) fn become_unreadable(
        &mut self,
        slot: Slot,
        identity: FileIdentity,
        directory: bool,
    ) {
        let Some(parent) = self.listing.tree.get(slot).map(|n| n.parent) else {
            return;
        };
        let name: Box<[u8]> = self.listing.tree.name(slot).into();
        let body = LeftOutBody {
            why: LeftOutWhy::Unreadable,
            directory,
            identity,
        };
        NameUpdate::of(self, parent, &name).leave_out(body);
    }

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
    /// ([`HashQueue::may_extend`]).
    pub(super) fn extendable(&self, taken: &DequeuedFile, now: Instant) -> Option<KnownFile> {
        let slot = taken.held.slot;
        let has_outboard = taken.size_bytes > SMALL_FILE_MAX_BYTES;
        if !has_outboard || !self.queue.may_extend(taken, now) {
            return None;
        }
        let file = self.listing.tree.file(slot).filter(|file| file.listed);
        let file = file.filter(|_| !taken.verifies && !self.queue.notes(slot).is_suspected)?;
        let (identity, hash) = (file.identity, file.hash);
        Some(KnownFile { identity, hash })
    }

    /// Returns the bytes of a file that is read because of a new mtime and was not reported as
    /// written. The file has them if no process has it open for writing.
    pub(super) fn witnessed(&self, taken: &DequeuedFile) -> Option<KnownFile> {
        let slot = taken.held.slot;
        let is_changed = !taken.verifies && !self.queue.notes(slot).is_suspected;
        let witnessed = self.listing.witnessed(slot).filter(|_| is_changed);
        witnessed.filter(|_| self.listing.sees_writes(slot))
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
            self.listing.order.record_hashed(slot, seen.identity);
        }
        self.listing.order.set_seen(seen.identity);
        let change = self.apply(slot, Observation::Read(outcome), seen.identity, now);
        if change == ListingChange::List {
            let is_quiet = !read.overtaken && again.is_none_or(|cause| cause == Cause::Walk);
            let contradicted = self.contradicted(slot, &seen, &hash);
            let is_witnessed = is_quiet && trust.begins_witness() && contradicted.is_empty();
            self.become_file(slot);
            if let Some(bytes) = read.bytes {
                self.listing.kept.put(hash, bytes);
            }
            let file = HashedFile {
                hash,
                mark: read.mark,
                proof: trust.proof(),
            };
            self.listing.list_file(slot, &seen, file, is_witnessed);
            self.suspect_names(contradicted);
        }
    }

    /// Returns the other names of a file that are listed with the same attributes and another hash
    /// than its latest read gave. The file was written within one clock tick, and the kernel
    /// reported that under one name alone, so either hash may be the outdated one. Returns nothing
    /// if the read gave the listed hash again: that change was handled when it was listed.
    fn contradicted(&self, slot: Slot, seen: &NameStat, hash: &ContentHash) -> Vec<Slot> {
        let listed = self.listing.tree.file(slot).filter(|file| file.listed);
        let row = self
            .listing
            .ledger
            .get(seen.identity.dev, seen.identity.ino);
        let row = row.filter(|row| seen.links > 1 && row.hash != *hash);
        let Some(row) = row.filter(|_| listed.is_none_or(|file| file.hash != *hash)) else {
            return Vec::new();
        };
        let names = self.listing.tree.with_content(&row.hash);
        let is_same = |slot: &Slot| {
            let file = self.listing.tree.file(*slot);
            file.is_some_and(|file| file.identity == seen.identity)
        };
        let others = names.take(LINKS_LOOKED_AT_MAX).filter(|it| *it != slot);
        others.filter(is_same).collect()
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
        self.listing.moved.forget(hash);
        // if a file grew from this content and was not read whole, its hash assumes the old bytes
        // too
        let former = self.listing.former.get(hash).map(|it| it.slot);
        let former = former.filter(|slot| self.queue.notes(*slot).is_extended);
        self.listing.former.forget(hash);
        let slots: Vec<Slot> = self.listing.tree.with_content(hash).chain(former).collect();
        self.suspect_names(slots);
    }

    /// Has listed files hashed again that may no longer have their listed contents.
    fn suspect_names(&mut self, slots: Vec<Slot>) {
        if !slots.is_empty() {
            self.listing.order.step();
        }
        for slot in slots {
            let Some(file) = self.listing.tree.file(slot) else {
                continue;
            };
            self.listing.ledger.forget(&file.identity);
            self.listing.tree.forget_witness(slot);
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
            let is_witnessed = self.listing.witnessed(slot).is_some();
            let witnessed = is_witnessed && self.listing.sees_writes(slot);
            let seen = FileIdentity {
                size_bytes: self.queue.size_bytes(slot),
                ..FileIdentity::default()
            };
            let rested = Observation::Rested { watched, witnessed };
            if self.apply(slot, rested, seen, now) == ListingChange::Confirm {
                self.listing.confirm(slot);
            }
        }
    }
}
