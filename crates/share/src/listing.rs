//! The listing of the shares, and the events of its changes.
//!
//! Each change of an entry passes its event to the [`EventOrder`] in the same step. So the entries
//! that the log had at the start and all events since add up to the listing.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::config::{Known, ShareEvent};
use super::dependent_names::DependentNames;
use super::former::{FormerVersion, FormerVersions};
use super::identity::{FileIdentity, FileTimestamp, NameStat};
use super::kept::ReplacedContents;
use super::ledger::{LedgerRow, ShareLedger};
use super::left_out::{LeftOut, LeftOutWhy, remedy_of_excluded};
use super::order::{DiscoveredBy, EventOrder, NameInShare, name_of};
use super::place::SharePlace;
use super::proof::{HashProof, KnownFile, Told};
use super::renamed::{DepartedFiles, LeavingNames, MovedContents};
use super::shares::OfferedShares;
use super::tree::{DirectoryBody, FileBody, NodeBody, Slot, SymlinkBody, Tree, TreeNode};
use super::version_clock::{AHEAD_MAX, ClockChange, ClockStep, VersionClock};
use super::watch::Cause;
use super::writable::WriteAccess;
use p2pfs_proto::wire::native::record::{Entry, Kind, ShareIndex};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::files::written::{MarkTime, WrittenMark};
use p2pfs_types::path::SharedPath;

/// Maximum names of one content that are searched for other names of a changed file. The rescan
/// finds the rest.
pub(super) const LINKS_LOOKED_AT_MAX: usize = 256;

/// A name to check.
#[derive(Clone, Debug)]
pub(super) struct Recheck {
    pub(super) directory: Slot,
    pub(super) name: Box<[u8]>,
    pub(super) cause: Cause,
    pub(super) told: Told,
}

/// How a file is listed.
#[derive(Clone, Debug)]
pub(super) struct HashedFile {
    pub(super) hash: ContentHash,
    /// Mark of a file that was written through the mount.
    pub(super) mark: Option<Arc<WrittenMark>>,
    /// Proof that the file has the hash.
    pub(super) proof: HashProof,
}

/// Returns a version time that is not in the future. That of a marked file may be as far ahead as
/// other nodes accept, because the version that it replaces may be by a clock that is ahead.
fn shown_at(version: FileTimestamp, hashed: &HashedFile, now: FileTimestamp) -> FileTimestamp {
    match &hashed.mark {
        Some(_) => version.seen_at(now.later_by(AHEAD_MAX)),
        None => version.seen_at(now),
    }
}

/// Returns the first time after that of a mark.
fn just_after(time: MarkTime) -> FileTimestamp {
    FileTimestamp::new(time.seconds, time.nanoseconds).later_by(Duration::from_nanos(1))
}

/// The own directory of a share, as it was when it was walked.
pub(super) struct OpenRoot {
    pub(super) index: u16,
    pub(super) dir: Arc<Path>,
    pub(super) inode: (u64, u64),
    pub(super) access: WriteAccess,
}

/// The names of all shares, the contents that are served for them, and the order of their events.
pub(super) struct ShareListing {
    pub(super) tree: Tree,
    pub(super) shares: OfferedShares,
    /// Events that wait for earlier unresolved changes.
    pub(super) order: EventOrder,
    /// Contents of small files, kept since they were written.
    pub(super) kept: ReplacedContents,
    /// Contents of files that were renamed and are not read yet under their new names.
    pub(super) moved: MovedContents,
    /// Names that were removed here and are still announced.
    pub(super) leaving: LeavingNames,
    /// Files whose directory was moved or removed.
    pub(super) departed: DepartedFiles,
    /// Former versions of listed files.
    pub(super) former: FormerVersions,
    /// Names left out because of other names.
    pub(super) dependents: DependentNames,
    /// Names that the scanner should check.
    pub(super) rechecks: Vec<Recheck>,
    /// Watches of directories that are gone.
    pub(super) unwatched: Vec<(i32, Slot)>,
    pub(super) ledger: Arc<ShareLedger>,
    pub(super) clock: VersionClock,
}

impl ShareListing {
    pub(super) fn new(ledger: ShareLedger) -> Self {
        Self {
            tree: Tree::new(),
            shares: OfferedShares::default(),
            order: EventOrder::default(),
            kept: ReplacedContents::new(),
            moved: MovedContents::new(),
            leaving: LeavingNames::default(),
            departed: DepartedFiles::new(),
            former: FormerVersions::new(),
            dependents: DependentNames::default(),
            rechecks: Vec::new(),
            unwatched: Vec::new(),
            clock: VersionClock::new(ledger.latest_time()),
            ledger: Arc::new(ledger),
        }
    }

    /// Returns the entry of a name if it is listed.
    pub(super) fn entry(&self, slot: Slot) -> Option<Entry> {
        let (kind, mtime, version) = match &self.tree.get(slot)?.body {
            NodeBody::File(file) if file.listed => {
                let file = self.tree.file(slot)?;
                let kind = Kind::File {
                    hash: file.hash,
                    size_bytes: file.identity.size_bytes,
                    executable: file.executable,
                };
                (kind, file.identity.mtime, self.tree.version(slot, &file))
            }
            NodeBody::Directory(directory) if directory.listed => {
                (Kind::Directory, directory.mtime, directory.version)
            }
            NodeBody::Symlink => {
                let link = self.tree.symlink(slot)?;
                let target = bytes::Bytes::copy_from_slice(&link.target);
                (Kind::Symlink { target }, link.mtime, link.version)
            }
            _ => return None,
        };
        Some(Entry {
            kind,
            mtime: mtime.into(),
            version_time: version.into(),
            sent_by: None,
            replaces: self.replaces(slot),
        })
    }

    /// Returns the contents that a listed file replaces at its path, without its own.
    fn replaces(&self, slot: Slot) -> Vec<ContentHash> {
        let (file, mark) = (self.tree.file(slot), self.tree.mark(slot));
        let Some((file, mark)) = file.zip(mark) else {
            return Vec::new();
        };
        let mut met = HashSet::from([file.hash]);
        let others = mark.replaces.iter().copied();
        others.filter(|hash| met.insert(*hash)).collect()
    }

    /// Announces the current entry of a name. Must be called after each change of a listed name.
    pub(super) fn announce_put(&mut self, slot: Slot) {
        let (Some(entry), Some((share, path))) = (self.entry(slot), self.name_in_listing(slot))
        else {
            return;
        };
        self.leaving.forget(&(share, path.clone()));
        self.order.hold(ShareEvent::Put { share, path, entry });
    }

    fn announce_removed(&mut self, slot: Slot) {
        if let Some((share, path)) = self.name_in_listing(slot) {
            if let Some(file) = self.tree.file(slot) {
                let is_by_walk = self.order.discovered_by() == DiscoveredBy::Walked;
                let name = (share, path.clone());
                self.leaving.insert(name, &file, is_by_walk);
            }
            self.order.hold(ShareEvent::Removed { share, path });
        }
    }

    /// Appends the events that no earlier change blocks to `out`. The removal of a name is not
    /// announced while its file has another name that is not listed yet, or while the walk that
    /// missed the name may still find the file.
    pub(super) fn release(&mut self, now: Instant, out: &mut Vec<ShareEvent>) {
        let mut events = Vec::new();
        self.order.release(now, &mut events);
        let is_removal = |event: &ShareEvent| matches!(event, ShareEvent::Removed { .. });
        if !self.leaving.is_empty() && events.iter().any(is_removal) {
            let mut later = HashSet::new();
            let mut kept: Vec<ShareEvent> = events.into_iter().rev().collect();
            kept.retain(|event| {
                let Some(name) = name_of(event) else {
                    return true;
                };
                let is_last = !self.order.holds(&name) && later.insert(name.clone());
                !(is_removal(event) && is_last && self.is_kept(&name))
            });
            kept.reverse();
            events = kept;
        }
        out.append(&mut events);
        let mut names = self.leaving.kept_for_ended(&mut self.moved);
        for index in std::mem::take(&mut self.shares.walked) {
            names.extend(self.leaving.kept_by_walk(ShareIndex(index)));
        }
        for name in names {
            if !self.is_kept(&name) {
                let (share, path) = name;
                out.push(ShareEvent::Removed { share, path });
            }
        }
    }

    /// Returns whether a removed name must stay announced for now.
    fn is_kept(&mut self, name: &NameInShare) -> bool {
        let share = self.shares.by_index.get(&name.0.0);
        let Some(share) = share else {
            self.leaving.forget(name);
            return false;
        };
        let is_walked = share.walk.is_running;
        self.leaving.keeps(name, &self.moved, is_walked)
    }

    /// Returns the path of a name in the listing: the place of its share, and its path in the
    /// share.
    pub(super) fn listed_path(&self, slot: Slot) -> Option<SharedPath> {
        let share = self.shares.by_index.get(&self.tree.get(slot)?.share)?;
        share.spec.place.listed(&self.tree.path(slot)?)
    }

    pub(super) fn name_in_listing(&self, slot: Slot) -> Option<(ShareIndex, SharedPath)> {
        let share = self.tree.get(slot)?.share;
        Some((ShareIndex(share), self.listed_path(slot)?))
    }

    /// Adds a listed or left-out name to the counters (1) or subtracts it (-1).
    pub(super) fn count(&mut self, slot: Slot, change: i64) {
        let Some(TreeNode { share, body, .. }) = self.tree.get(slot) else {
            return;
        };
        self.dependents.record(slot, body, change > 0);
        let size_bytes = self.tree.file(slot).map(|file| file.identity.size_bytes);
        let Some(share) = self.shares.by_index.get_mut(share) else {
            return;
        };
        let add = |total: &mut u64, amount: i64| *total = total.saturating_add_signed(amount);
        match body {
            NodeBody::File(_) => {
                let size_bytes = size_bytes.unwrap_or_default();
                add(&mut share.totals.files, change);
                add(&mut share.totals.bytes, change * size_bytes.cast_signed());
            }
            NodeBody::Directory(_) => add(&mut share.totals.directories, change),
            NodeBody::Symlink => add(&mut share.totals.symlinks, change),
            NodeBody::LeftOut(body) => share.count_left_out(slot, body.why, change > 0),
        }
    }

    /// Removes a name from the listing, or from the left-out names, and announces that. The name
    /// stays in the tree.
    pub(super) fn unlist(&mut self, slot: Slot) {
        let Some(node) = self.tree.get(slot) else {
            return;
        };
        let listed = match &node.body {
            NodeBody::File(file) => file.listed,
            NodeBody::Directory(directory) => directory.listed,
            NodeBody::Symlink => true,
            NodeBody::LeftOut(_) => {
                self.settle_left_out(slot);
                self.count(slot, -1);
                return;
            }
        };
        if !listed {
            return;
        }
        self.announce_removed(slot);
        self.count(slot, -1);
        if let Some(file) = self.tree.file(slot) {
            self.drop_content(slot, &file.hash);
            self.former.forget_at(slot);
            // the kernel may have reported a write under this name only, so recheck the others
            self.recheck_links(file.identity.without_ctime(), &file.hash);
        }
        match self.tree.get_mut(slot).map(|node| &mut node.body) {
            Some(NodeBody::File(file)) => file.listed = false,
            Some(NodeBody::Directory(directory)) => directory.listed = false,
            _ => {}
        }
    }

    /// Returns each share that has not vanished and is not being walked.
    pub(super) fn open_roots(&self) -> Vec<OpenRoot> {
        let open = self.shares.by_index.iter().filter_map(|(index, share)| {
            let root = self.tree.directory(share.root)?;
            let is_open = !share.problems.vanished && !share.walk.is_running;
            is_open.then(|| OpenRoot {
                index: *index,
                dir: share.dir.clone(),
                inode: (root.dev, root.ino),
                access: share.access.clone(),
            })
        });
        open.collect()
    }

    pub(super) fn drop_watch(&mut self, slot: Slot) {
        let directory = self.tree.directory_mut(slot);
        if let Some(watch) = directory.and_then(|directory| directory.watch.take()) {
            self.unwatched.push((watch, slot));
        }
    }

    /// Records that another directory has the name now. It must be read and watched again.
    pub(super) fn replace_directory(&mut self, slot: Slot, dev: u64, ino: u64) {
        self.drop_watch(slot);
        let number = self.tree.new_directory().number;
        let Some(directory) = self.tree.directory_mut(slot) else {
            return;
        };
        (directory.dev, directory.ino, directory.number) = (dev, ino, number);
    }

    /// Lists a file with its hash, remembers the hash and its proof, and announces the file if its
    /// entry changed. `is_witnessed` says that no report since the hash was made said that the file
    /// was written or that the name leads to another file.
    pub(super) fn list_file(
        &mut self,
        slot: Slot,
        seen: &NameStat,
        hashed: HashedFile,
        is_witnessed: bool,
    ) {
        let before = self.entry(slot);
        let now = self.clock.now();
        let first_seen = self.first_seen(slot, &seen.identity, &hashed, now);
        let version = shown_at(first_seen, &hashed, now);
        let HashedFile { hash, mark, proof } = hashed;
        let Some(old) = self.tree.file(slot) else {
            return;
        };
        if old.listed {
            self.count(slot, -1);
            self.drop_content(slot, &old.hash);
            self.note_former(slot, &old, &seen.identity, &hash);
        }
        let file = FileBody {
            identity: seen.identity,
            hash,
            executable: seen.executable(),
            listed: true,
            witnessed: is_witnessed && self.sees_writes(slot),
        };
        self.tree.set_file(slot, file, version);
        self.tree.set_mark(slot, mark.clone());
        self.count(slot, 1);
        self.tree.record_content(slot, &hash);
        self.kept.record_shown(&hash, true, Instant::now());
        let row = LedgerRow {
            identity: seen.identity,
            hash,
            first_seen,
            proof,
            mark,
        };
        let known = self.ledger.get(row.identity.dev, row.identity.ino);
        let known_hash = known.as_ref().map(|row| row.hash);
        if known.as_ref() != Some(&row) {
            self.ledger.put(row);
        }
        if before != self.entry(slot) {
            self.announce_put(slot);
        }
        self.moved.forget_at(slot);
        for name in self.leaving.kept_for_ended(&mut self.moved) {
            if !self.is_kept(&name) {
                let (share, path) = name;
                self.order.hold(ShareEvent::Removed { share, path });
            }
        }
        if seen.links > 1 {
            // the file's former content under this name, and its last content under any name
            let before = old.listed.then_some(old.hash);
            let before = before.into_iter().chain(known_hash);
            self.recheck_other_names(file.identity, before.chain([hash]));
        }
        self.recheck_private_names(slot, &file.identity);
    }

    /// Lists a file with a hash that was not read under this name and these attributes. If it
    /// `is_proven`, the proof that the ledger has stays.
    pub(super) fn list_known(
        &mut self,
        slot: Slot,
        seen: &NameStat,
        hash: ContentHash,
        is_proven: bool,
    ) {
        let row = self.ledger.get(seen.identity.dev, seen.identity.ino);
        let proof = row.as_ref().filter(|_| is_proven).map(|row| row.proof);
        let file = HashedFile {
            hash,
            mark: row.filter(|row| row.hash == hash).and_then(|row| row.mark),
            proof: proof.unwrap_or(HashProof::Missing),
        };
        self.list_file(slot, seen, file, true);
    }

    /// Returns whether the kernel reports every write to a file that is made through this name.
    pub(super) fn sees_writes(&self, slot: Slot) -> bool {
        let parent = self.tree.get(slot).map(|node| node.parent);
        let directory = parent.and_then(|parent| self.tree.directory(parent));
        directory.is_some_and(|directory| directory.is_local && directory.watch.is_some())
    }

    /// Returns whether the mount writes into the share of a name.
    pub(super) fn is_writable(&self, slot: Slot) -> bool {
        let share = self.tree.get(slot).map(|node| node.share);
        let share = share.and_then(|share| self.shares.by_index.get(&share));
        share.is_some_and(|share| share.spec.writable)
    }

    /// Returns the bytes of a listed name, if no report since it was listed said that they may have
    /// changed.
    pub(super) fn witnessed(&self, slot: Slot) -> Option<KnownFile> {
        let file = self.tree.file(slot)?;
        let (identity, hash) = (file.identity, file.hash);
        (file.listed && file.witnessed).then_some(KnownFile { identity, hash })
    }

    /// Returns the other names of a file that are witnessed and have the content of `known`.
    pub(super) fn witnesses_of(
        &self,
        slot: Slot,
        known: &KnownFile,
    ) -> impl Iterator<Item = KnownFile> + '_ {
        let names = self.tree.with_content(&known.hash);
        let others = names.filter(move |other| *other != slot);
        let inode = known.identity.inode();
        let files = others.take(LINKS_LOOKED_AT_MAX);
        let files = files.filter_map(|other| self.witnessed(other));
        files.filter(move |file| file.identity.inode() == inode)
    }

    /// Records that the reports of the kernel prove the hash of a file.
    pub(super) fn confirm(&mut self, slot: Slot) {
        let file = self.tree.file(slot).filter(|file| file.listed);
        let Some(file) = file else { return };
        if let Some(row) = self.ledger.get(file.identity.dev, file.identity.ino)
            && (row.identity, row.hash) == (file.identity, file.hash)
        {
            let proof = HashProof::Reports;
            self.ledger.put(LedgerRow { proof, ..row });
        }
    }

    /// Records the version that a name was listed with until now, if the file may still begin with
    /// its bytes. If the file was replaced, or changed without growing, forgets all former versions
    /// of the name.
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

    /// Records that a name no longer has a content.
    fn drop_content(&mut self, slot: Slot, hash: &ContentHash) {
        self.tree.drop_content(slot, hash);
        if self.tree.with_content(hash).next().is_none() {
            self.kept.record_shown(hash, false, Instant::now());
        }
    }

    /// Returns the version time of a file: its mtime, or the time when this version was first seen
    /// if that is earlier. That of a marked file is when it was written, but later than the versions
    /// that it replaces. If the result would be in the future because the clock was set back by more
    /// than a day, it is the present until then.
    pub(super) fn version_of(
        &self,
        slot: Slot,
        identity: &FileIdentity,
        hashed: &HashedFile,
        now: FileTimestamp,
    ) -> FileTimestamp {
        shown_at(self.first_seen(slot, identity, hashed, now), hashed, now)
    }

    /// Returns the mtime of a version, or the time when it was first seen if that is earlier; for a
    /// marked file the time of its last change. A version is the bytes, the mtime and the mark,
    /// under this or another name of the same file.
    fn first_seen(
        &self,
        slot: Slot,
        identity: &FileIdentity,
        HashedFile { hash, mark, .. }: &HashedFile,
        now: FileTimestamp,
    ) -> FileTimestamp {
        let mtime = identity.mtime;
        let row = self.ledger.get(identity.dev, identity.ino);
        let row = row.filter(|row| (row.hash, row.identity.mtime) == (*hash, mtime));
        let row = row.filter(|row| row.mark == *mark);
        let listed = || {
            let file = self.tree.file(slot)?;
            let is_it = file.listed && file.hash == *hash && file.identity.mtime == mtime;
            let is_it = is_it && self.tree.mark(slot) == mark.as_ref();
            is_it.then(|| self.tree.version(slot, &file))
        };
        let known = row.map(|row| row.first_seen).or_else(listed);
        known.unwrap_or_else(|| match mark {
            Some(mark) => identity.ctime.seen_at(now).max(just_after(mark.after)),
            None => mtime.seen_at(now),
        })
    }

    /// Reads the system clock, and corrects the versions that a wrong clock has dated.
    pub(super) fn check_clock(&mut self) {
        if let Some(change) = self.clock.check() {
            if let ClockChange::Late(step) = change {
                self.correct_versions(&step);
            }
            self.shares.scan_all();
        }
        self.ledger.record_time(self.clock.now());
    }

    /// Corrects the times of the versions that were first seen while the clock was wrong, after a
    /// step of the clock to a later time.
    pub(super) fn correct_versions(&mut self, step: &ClockStep) {
        self.order.step();
        let is_wrong = |version: FileTimestamp| step.from <= version && version <= step.until;
        for slot in self.tree.dated_otherwise(is_wrong) {
            let Some(file) = self.tree.file(slot) else {
                continue;
            };
            let seen = step.corrected(self.tree.version(slot, &file));
            let version = match self.tree.mark(slot) {
                Some(_) => seen,
                None => file.identity.mtime.min(seen),
            };
            self.tree.set_file(slot, file, version);
            let row = self.ledger.get(file.identity.dev, file.identity.ino);
            if let Some(row) = row.filter(|row| row.hash == file.hash) {
                self.ledger.put(LedgerRow {
                    first_seen: version,
                    ..row
                });
            }
            self.announce_put(slot);
        }
    }

    /// Returns the hash and the size of the listed version of a file that had this content before.
    pub(super) fn newer_version(&self, hash: &ContentHash) -> Option<(ContentHash, u64)> {
        let former = self.former.get(hash)?;
        let file = self.tree.file(former.slot).filter(|file| file.listed)?;
        Some((file.hash, file.identity.size_bytes))
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
            for slot in self.links_to_recheck(identity, &hash) {
                self.recheck_told(slot, Cause::Walk, Told::Linked);
            }
        }
    }

    /// Rechecks the names of a file that are listed with this content and with another identity.
    /// The kernel reports a change only under the name through which it was made.
    pub(super) fn recheck_links(&mut self, identity: FileIdentity, hash: &ContentHash) {
        for slot in self.links_to_recheck(identity, hash) {
            self.recheck(slot, Cause::Walk);
        }
    }

    fn links_to_recheck(&self, identity: FileIdentity, hash: &ContentHash) -> Vec<Slot> {
        let others = self.tree.with_content(hash).take(LINKS_LOOKED_AT_MAX);
        let is_stale = |slot: &Slot| {
            let file = self.tree.file(*slot).map(|file| file.identity);
            file.is_some_and(|file| file.is_inode_of(&identity) && file != identity)
        };
        others.filter(is_stale).collect()
    }

    /// Lists a directory, or updates its modification time.
    pub(super) fn list_directory(&mut self, slot: Slot, mtime: FileTimestamp) {
        let Some(directory) = self.tree.directory_mut(slot) else {
            return;
        };
        let fresh = !directory.listed;
        if !fresh && directory.mtime == mtime {
            return;
        }
        directory.listed = true;
        directory.mtime = mtime;
        directory.version = mtime.seen_at(self.clock.now());
        if fresh {
            self.count(slot, 1);
        }
        self.announce_put(slot);
    }

    /// If the ledger has a hash of the file and at most the ctime of the file changed since,
    /// records `slot` as a source of that content until the file is hashed.
    pub(super) fn note_moved(&mut self, slot: Slot, seen: &FileIdentity) {
        if let Some(row) = self.ledger.get(seen.dev, seen.ino)
            && row.identity.same_but_ctime(seen)
        {
            self.moved.insert(slot, row.known());
        }
    }

    /// Queues a name for a check by the scanner.
    pub(super) fn recheck(&mut self, slot: Slot, cause: Cause) {
        self.recheck_told(slot, cause, Told::Nothing);
    }

    /// Rechecks the other names of a file after one of its names was removed, which changed the
    /// ctime and no byte.
    pub(super) fn recheck_links_of_removed(&mut self, file: &FileBody) {
        for slot in self.links_to_recheck(file.identity.without_ctime(), &file.hash) {
            self.recheck_told(slot, Cause::Walk, Told::Attributes);
        }
    }

    fn recheck_told(&mut self, slot: Slot, cause: Cause, told: Told) {
        if let Some(node) = self.tree.get(slot) {
            let (directory, name) = (node.parent, self.tree.name(slot).into());
            self.rechecks.push(Recheck {
                directory,
                name,
                cause,
                told,
            });
        }
    }

    /// Rechecks the names that are left out because of other names, if these changed. A directory
    /// left out as a loop is rechecked once no directory above it in the tree has the same inode.
    /// Such a loop was only apparent: the directory above had been moved away, but its old name was
    /// not checked yet and still was in the tree.
    pub(super) fn recheck_dependents(&mut self) {
        let tree = &self.tree;
        let is_within_itself = |slot: &Slot| {
            let parent = tree.get(*slot).map(|node| node.parent);
            let identity = tree.left_out(*slot).map(|body| body.identity);
            let inode = identity.map(|identity| (identity.dev, identity.ino));
            let both = parent.zip(inode);
            both.is_some_and(|(parent, (dev, ino))| tree.is_within_itself(parent, dev, ino))
        };
        let due = self.dependents.take_due(is_within_itself);
        for slot in due {
            self.recheck(slot, Cause::Closed);
        }
    }

    /// Announces that a name is no longer left out, if the owner was warned of its reason.
    fn settle_left_out(&mut self, slot: Slot) {
        let index = self.tree.get(slot).map(|node| node.share);
        let left_out = self.left_out(slot).filter(|l| l.why.warns());
        if let (Some(index), Some(left_out)) = (index, left_out) {
            let why = left_out.warning();
            self.shares.settle(index, left_out.path, Some(why));
        }
    }

    /// Warns about a name that was just left out, while the walk's budget lasts.
    pub(super) fn warn_of_left_out(&mut self, slot: Slot) {
        let Some(left_out) = self.left_out(slot).filter(|l| l.why.warns()) else {
            return;
        };
        let Some(index) = self.tree.get(slot).map(|node| node.share) else {
            return;
        };
        let Some(share) = self.shares.by_index.get_mut(&index) else {
            return;
        };
        if share.problems.warnings_left == 0 {
            return;
        }
        share.problems.warnings_left -= 1;
        let why = left_out.warning();
        self.shares.warn(index, left_out.path, &why);
    }

    /// Lists everything in a share below another place. Announces the names, and reads no file.
    pub(super) fn move_share(&mut self, index: u16, root: Slot, place: &SharePlace) {
        let before = self.listed_in(root);
        if let Some(share) = self.shares.by_index.get_mut(&index) {
            share.spec.place.clone_from(place);
        }
        self.order.step();
        let now = self.listed_in(root);
        let share = ShareIndex(index);
        let names: HashSet<&SharedPath> = now.iter().map(|(_, path)| path).collect();
        // new paths before removals, so that a moved content is always listed under one of its
        // paths
        for (slot, _) in &now {
            self.announce_put(*slot);
        }
        for (_, path) in before.into_iter().rev() {
            if !names.contains(&path) {
                self.order.hold(ShareEvent::Removed { share, path });
            }
        }
    }

    /// Returns the listed names of a share with their paths, directories before their contents.
    fn listed_in(&self, root: Slot) -> Vec<(Slot, SharedPath)> {
        let (mut found, mut left) = (Vec::new(), vec![root]);
        while let Some(slot) = left.pop() {
            left.extend(self.tree.children(slot));
            if self.entry(slot).is_some() {
                found.extend(self.listed_path(slot).map(|path| (slot, path)));
            }
        }
        found
    }

    /// Restores the listing of a share from the entries of the log. The next walk finds the
    /// changes.
    pub(super) fn restore(&mut self, root: Slot, place: &SharePlace, mut known: Vec<Known>) {
        known.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        for Known { share, path, entry } in known {
            // the share had another place when the entry was announced
            let local = place.local(&path).filter(|local| !local.is_root());
            let Some(local) = local else {
                self.order.hold(ShareEvent::Removed { share, path });
                continue;
            };
            let mut at = root;
            for name in local.components() {
                at = self.tree.child(at, name).unwrap_or_else(|| {
                    let body = NodeBody::Directory(self.tree.new_directory());
                    self.tree.insert(at, name, body)
                });
            }
            if at != root && self.tree.children(at).next().is_none() {
                self.restore_entry(at, &entry);
            }
        }
    }

    fn restore_entry(&mut self, slot: Slot, entry: &Entry) {
        let (mtime, version) = (
            FileTimestamp::from(entry.mtime),
            FileTimestamp::from(entry.version_time),
        );
        let body = match &entry.kind {
            Kind::File {
                hash,
                size_bytes,
                executable,
            } => {
                let mut file = FileBody {
                    listed: true,
                    hash: *hash,
                    executable: *executable,
                    ..FileBody::unlisted()
                };
                file.identity.size_bytes = *size_bytes;
                file.identity.mtime = mtime;
                self.tree.set_file(slot, file, version);
                // the walk finds the rest of the mark
                let mark = (!entry.replaces.is_empty()).then(|| WrittenMark {
                    replaces: entry.replaces.clone(),
                    ..WrittenMark::default()
                });
                self.tree.set_mark(slot, mark.map(Arc::new));
                self.tree.record_content(slot, hash);
                return self.count(slot, 1);
            }
            Kind::Directory => {
                let directory = self.tree.new_directory();
                NodeBody::Directory(DirectoryBody {
                    mtime,
                    version,
                    listed: true,
                    ..directory
                })
            }
            Kind::Symlink { target } => {
                let target = target[..].into();
                let body = SymlinkBody {
                    target,
                    mtime,
                    version,
                };
                self.tree.set_symlink(slot, body);
                return self.count(slot, 1);
            }
        };
        if let Some(node) = self.tree.get_mut(slot) {
            node.body = body;
            self.count(slot, 1);
        }
    }

    /// Returns the report about a left-out name for the owner.
    pub(super) fn left_out(&self, slot: Slot) -> Option<LeftOut> {
        let (node, body) = (self.tree.get(slot)?, self.tree.left_out(slot)?);
        let share = self.shares.by_index.get(&node.share)?;
        // the name may be left out because it makes no valid path, so join it to the parent's path
        let parent = self.tree.path(node.parent)?;
        let last = self.tree.name(slot);
        let name = std::os::unix::ffi::OsStrExt::from_bytes(last);
        let path = share
            .dir
            .join(parent.as_local())
            .join::<&std::ffi::OsStr>(name);
        let by = || {
            let name = parent.join(last).ok()?;
            share.exclude.pattern_of(&name, body.directory)
        };
        let remedy = match body.why {
            LeftOutWhy::Excluded => {
                by().map_or_else(String::new, |by| remedy_of_excluded(&by, share))
            }
            why => why.remedy(&path, body.directory, share),
        };
        Some(LeftOut {
            path,
            why: body.why,
            remedy,
        })
    }
}
