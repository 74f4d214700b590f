//! The listing of the shares, and the events of its changes.
//!
//! Each change of an entry passes its event to the [`EventOrder`] in the same step. So the entries
//! that the log had at the start and all events since add up to the listing.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::config::{Known, ShareEvent};
use super::dependent_names::DependentNames;
use super::former::{FormerVersion, FormerVersions};
use super::identity::{FileIdentity, FileTimestamp, NameStat};
use super::kept::ReplacedContents;
use super::ledger::{LedgerRow, ShareLedger};
use super::left_out::{LeftOut, LeftOutWhy, remedy_of_excluded};
use super::order::EventOrder;
use super::place::SharePlace;
use super::renamed::{MovedContents, NewName};
use super::shares::OfferedShares;
use super::tree::{DirectoryBody, FileBody, NodeBody, Slot, SymlinkBody, Tree, TreeNode};
use super::watch::Cause;
use p2pfs_proto::wire::native::record::{Entry, Kind, ShareIndex};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::path::SharedPath;

/// Maximum names of one content that are searched for other names of a changed file. The rescan
/// finds the rest.
const LINKS_LOOKED_AT_MAX: usize = 256;

/// A name to check.
#[derive(Clone, Debug)]
pub(super) struct Recheck {
    pub(super) directory: Slot,
    pub(super) name: Box<[u8]>,
    pub(super) cause: Cause,
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
    /// Former versions of listed files.
    pub(super) former: FormerVersions,
    /// Names left out because of other names.
    pub(super) dependents: DependentNames,
    /// Names that the scanner should check.
    pub(super) rechecks: Vec<Recheck>,
    /// Watches of directories that are gone.
    pub(super) unwatched: Vec<(i32, Slot)>,
    pub(super) ledger: Arc<ShareLedger>,
}

impl ShareListing {
    pub(super) fn new(ledger: ShareLedger) -> Self {
        Self {
            tree: Tree::new(),
            shares: OfferedShares::default(),
            order: EventOrder::default(),
            kept: ReplacedContents::new(),
            moved: MovedContents::new(),
            former: FormerVersions::new(),
            dependents: DependentNames::default(),
            rechecks: Vec::new(),
            unwatched: Vec::new(),
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
        })
    }

    /// Announces the current entry of a name. Must be called after each change of a listed name.
    pub(super) fn announce_put(&mut self, slot: Slot) {
        let (Some(entry), Some((share, path))) = (self.entry(slot), self.name_in_listing(slot))
        else {
            return;
        };
        self.order.hold(ShareEvent::Put { share, path, entry });
    }

    fn announce_removed(&mut self, slot: Slot) {
        if let Some((share, path)) = self.name_in_listing(slot) {
            self.order.hold(ShareEvent::Removed { share, path });
        }
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

    /// Returns the number, the path and the inode of each share that has not vanished and is not
    /// being walked.
    pub(super) fn open_roots(&self) -> Vec<(u16, Arc<Path>, (u64, u64))> {
        let open = self.shares.by_index.iter().filter_map(|(index, share)| {
            let root = self.tree.directory(share.root)?;
            let is_open = !share.problems.vanished && !share.walk.is_running;
            is_open.then(|| (*index, share.dir.clone(), (root.dev, root.ino)))
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

    /// Lists a file with its hash, remembers the hash, and announces the file if its entry changed.
    /// `doubted` is remembered with the hash ([`LedgerRow::doubted`]).
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
            self.recheck_links(identity, &hash);
        }
    }

    /// Rechecks the names of a file that are listed with this content and with another identity.
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
        directory.version = mtime.seen_at(FileTimestamp::now());
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
            let identity = row.identity;
            self.moved.insert(row.hash, NewName { slot, identity });
        }
    }

    /// Queues a name for a check by the scanner.
    pub(super) fn recheck(&mut self, slot: Slot, cause: Cause) {
        if let Some(node) = self.tree.get(slot) {
            let (directory, name) = (node.parent, self.tree.name(slot).into());
            self.rechecks.push(Recheck {
                directory,
                name,
                cause,
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
