//! The shared names and the events about their changes, both decided only here.
//!
//! Nothing here accesses a share on the disk. `walk` and `hasher` do, and report their findings.
//! Each change of the listing passes its event to the [`EventOrder`] in the same step, which holds
//! the event until all earlier changes are resolved. So the events always add up to the listing.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{Span, debug, debug_span};

use super::config::{Known, ShareEvent, ShareSpec};
use super::exclude::Exclude;
use super::former::FormerVersions;
use super::identity::{FileIdentity, FileTimestamp, NameStat};
use super::kept::ReplacedContents;
use super::ledger::Ledger;
use super::left_links::LeftLinks;
use super::name_state::Observation;
use super::offered::{OfferedShare, WARNINGS_PER_WALK_MAX};
use super::order::EventOrder;
use super::outcome::FinishedRead;
use super::place::SharePlace;
use super::queue::HashQueue;
use super::renamed::MovedContents;
use super::tree::{DirectoryBody, FileBody, NodeBody, Slot, SymlinkBody, Tree, TreeNode};
use super::watch::Cause;
use p2pfs_proto::wire::native::record::{Entry, Kind, ShareIndex};
use p2pfs_types::path::SharedPath;

/// Target of the trace events about scans.
const SCAN_TARGET: &str = "p2pfs::scan";

fn scan_span(share: u16) -> Span {
    debug_span!(target: SCAN_TARGET, "scan", share)
}

/// A name to check.
#[derive(Clone, Debug)]
pub(super) struct Recheck {
    pub(super) directory: Slot,
    pub(super) name: Box<[u8]>,
    pub(super) cause: Cause,
}

/// All shares, and their pending events.
pub(super) struct ListingState {
    pub(super) tree: Tree,
    pub(super) queue: HashQueue,
    pub(super) shares: BTreeMap<u16, OfferedShare>,
    pub(super) outbox: Vec<ShareEvent>,
    /// Events that wait for earlier unresolved changes.
    pub(super) order: EventOrder,
    /// Contents of small files, kept since they were written.
    pub(super) kept: ReplacedContents,
    /// Contents of files that were renamed and are not read yet under their new names.
    pub(super) moved: MovedContents,
    /// Former versions of listed files.
    pub(super) former: FormerVersions,
    /// Files that were read since the scanner last collected them.
    pub(super) read: Vec<FinishedRead>,
    /// Watches of directories that are gone.
    pub(super) unwatched: Vec<(i32, Slot)>,
    /// Names that the scanner should check.
    pub(super) rechecks: Vec<Recheck>,
    /// Directories left out because a directory above them appeared to be the same one.
    pub(super) loops: BTreeSet<Slot>,
    /// Links left out because of their targets.
    pub(super) left_links: LeftLinks,
    /// Shares to walk through.
    pub(super) scans: Vec<u16>,
    /// Entries that the log has of shares that are not added yet.
    absent: BTreeMap<u16, Vec<Known>>,
    /// Whether a configured share could not be added yet.
    pub(super) misses_shares: bool,
    pub(super) ledger: Arc<Ledger>,
    pub(super) quiet: Duration,
}

impl ListingState {
    pub(super) fn new(ledger: Ledger, quiet: Duration, known: Vec<Known>) -> Self {
        let mut absent: BTreeMap<u16, Vec<Known>> = BTreeMap::new();
        for entry in known {
            absent.entry(entry.share.0).or_default().push(entry);
        }
        Self {
            tree: Tree::new(),
            queue: HashQueue::default(),
            shares: BTreeMap::new(),
            outbox: Vec::new(),
            order: EventOrder::default(),
            kept: ReplacedContents::new(),
            moved: MovedContents::new(),
            former: FormerVersions::new(),
            read: Vec::new(),
            unwatched: Vec::new(),
            rechecks: Vec::new(),
            loops: BTreeSet::new(),
            left_links: LeftLinks::default(),
            scans: Vec::new(),
            absent,
            misses_shares: false,
            ledger: Arc::new(ledger),
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
    ) {
        // before any later event of this share
        self.outbox.push(ShareEvent::Readers {
            share: ShareIndex(index),
            readers: spec.readers.clone(),
        });
        if let Some(share) = self.shares.get_mut(&index) {
            let moved = (share.place != spec.place).then_some(share.root);
            let wrong_before = share.own_warning();
            share.given.clone_from(&spec.dir);
            share.readers.clone_from(&spec.readers);
            share.include_private = spec.include_private;
            share.foreign = spec.foreign;
            share.exclude = exclude;
            share.is_by_command = spec.is_by_command;
            let wrong = share.own_warning();
            if wrong != wrong_before {
                self.settle(index, dir.to_owned(), wrong_before);
                wrong
                    .iter()
                    .for_each(|why| self.warn(index, dir.to_owned(), why));
            }
            if let Some(root) = moved {
                self.move_share(index, root, &spec.place);
            }
        } else {
            let root = self.tree.insert_root(index);
            self.shares
                .insert(index, OfferedShare::new(dir, spec, exclude, root));
            self.order.step();
            let known = self.absent.remove(&index).unwrap_or_default();
            self.restore(root, &spec.place, known);
        }
        self.scans.push(index);
    }

    /// Lists everything in a share below another place. Announces the names, and reads no file.
    fn move_share(&mut self, index: u16, root: Slot, place: &SharePlace) {
        let before = self.listed_in(root);
        if let Some(share) = self.shares.get_mut(&index) {
            share.place.clone_from(place);
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

    /// Removes a share with all its entries, or the log's entries of a share that is not added.
    /// Returns false if there is neither.
    pub(super) fn remove_share(&mut self, index: u16) -> bool {
        let Some(share) = self.shares.get(&index) else {
            return self.forget_known(index);
        };
        let (dir, root, wrong) = (share.dir.to_path_buf(), share.root, share.own_warning());
        self.settle(index, dir, wrong);
        self.order.step();
        self.clear(root);
        self.drop_watch(root);
        self.tree.remove(root);
        self.kept.clear();
        self.shares.remove(&index);
        true
    }

    /// Removes the entries of every share that was not added and is not awaited.
    pub(super) fn forget_absent(&mut self, awaited: &[u16]) {
        let absent = self.absent.keys().copied();
        let absent: Vec<u16> = absent.filter(|index| !awaited.contains(index)).collect();
        for index in absent {
            self.forget_known(index);
        }
    }

    fn forget_known(&mut self, index: u16) -> bool {
        self.order.step();
        let known = self.absent.remove(&index);
        let found = known.is_some();
        for Known { share, path, .. } in known.unwrap_or_default() {
            self.order.hold(ShareEvent::Removed { share, path });
        }
        found
    }

    /// Returns whether the log has entries of a share that was not added.
    pub(super) fn has_absent(&self) -> bool {
        !self.absent.is_empty()
    }

    /// Restores the listing of a share from the entries of the log. The next walk finds the
    /// changes.
    fn restore(&mut self, root: Slot, place: &SharePlace, mut known: Vec<Known>) {
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

    pub(super) fn announce_removed(&mut self, slot: Slot) {
        if let Some((share, path)) = self.name_in_listing(slot) {
            self.order.hold(ShareEvent::Removed { share, path });
        }
    }

    /// Returns the path of a name in the listing: the place of its share, and its path in the
    /// share.
    pub(super) fn listed_path(&self, slot: Slot) -> Option<SharedPath> {
        let share = self.shares.get(&self.tree.get(slot)?.share)?;
        share.place.listed(&self.tree.path(slot)?)
    }

    pub(super) fn name_in_listing(&self, slot: Slot) -> Option<(ShareIndex, SharedPath)> {
        let share = self.tree.get(slot)?.share;
        Some((ShareIndex(share), self.listed_path(slot)?))
    }

    /// Adds a listed name to the counters (1) or subtracts it (-1).
    pub(super) fn count(&mut self, slot: Slot, change: i64) {
        let Some(TreeNode { share, body, .. }) = self.tree.get(slot) else {
            return;
        };
        self.left_links.record(slot, body, change > 0);
        let size_bytes = self.tree.file(slot).map(|file| file.identity.size_bytes);
        let Some(share) = self.shares.get_mut(share) else {
            return;
        };
        let add = |total: &mut u64, amount: i64| *total = total.saturating_add_signed(amount);
        match body {
            NodeBody::File(_) => {
                let size_bytes = size_bytes.unwrap_or_default();
                add(&mut share.files, change);
                add(&mut share.bytes, change * size_bytes.cast_signed());
            }
            NodeBody::Directory(_) => add(&mut share.directories, change),
            NodeBody::Symlink => add(&mut share.symlinks, change),
            NodeBody::LeftOut(body) => share.count_left_out(slot, body.why, change > 0),
        }
    }

    /// Removes everything beneath a directory, deepest first.
    pub(super) fn clear(&mut self, directory: Slot) {
        let children: Vec<Slot> = self.tree.children(directory).collect();
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
            above.extend(self.tree.children(slot));
        }
        for slot in order.into_iter().rev() {
            let (gone, now) = (Observation::Gone, Instant::now());
            self.apply(slot, gone, FileIdentity::default(), now);
            self.unlist(slot);
            self.moved.forget_at(slot);
            self.drop_watch(slot);
            self.tree.remove(slot);
        }
    }

    /// Removes a name from the listing and announces it. The name stays in the tree.
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

    fn drop_watch(&mut self, slot: Slot) {
        let directory = self.tree.directory_mut(slot);
        if let Some(watch) = directory.and_then(|directory| directory.watch.take()) {
            self.unwatched.push((watch, slot));
        }
    }

    /// Empties a share because its own directory cannot be opened. The share keeps its number.
    pub(super) fn vanish(&mut self, index: u16, why: &str) {
        let Some(share) = self.shares.get_mut(&index) else {
            return;
        };
        let (dir, root) = (share.dir.to_path_buf(), share.root);
        if !share.vanished {
            let wrong_before = share.own_warning();
            share.vanished = true;
            share.private = false;
            share.warning = Some(why.to_owned());
            self.settle(index, dir.clone(), wrong_before);
            self.warn(index, dir, why);
        }
        self.order.step();
        self.clear(root);
        self.drop_watch(root);
    }

    /// Records that the share's own directory was opened. Returns false if others may not enter it,
    /// so that nothing in it is shared.
    pub(super) fn enter_share(&mut self, index: u16, seen: &NameStat) -> bool {
        let Some(share) = self.shares.get_mut(&index) else {
            return false;
        };
        let (dir, root) = (share.dir.to_path_buf(), share.root);
        let wrong_before = share.own_warning();
        share.vanished = false;
        share.warning = None;
        let private = !share.include_private && !seen.others_may_read();
        share.private = private;
        let wrong = share.own_warning();
        let FileIdentity { dev, ino, .. } = seen.identity;
        let other = |known: &DirectoryBody| (known.dev, known.ino) != (dev, ino);
        if self.tree.directory(root).is_some_and(other) {
            self.replace_directory(root, dev, ino);
        }
        if wrong != wrong_before {
            self.settle(index, dir.clone(), wrong_before);
            wrong
                .iter()
                .for_each(|why| self.warn(index, dir.clone(), why));
        }
        if private {
            self.order.step();
            self.clear(root);
            self.kept.clear();
        }
        !private
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

    /// Sends a warning that does not count against the budget of a walk.
    pub(super) fn warn(&mut self, index: u16, path: PathBuf, why: &str) {
        let share = ShareIndex(index);
        self.outbox.push(ShareEvent::Warning {
            share,
            path,
            why: why.to_owned(),
        });
    }

    /// Announces that the cause of a warning is resolved, if there was a warning.
    pub(super) fn settle(&mut self, index: u16, path: PathBuf, why: Option<String>) {
        let share = ShareIndex(index);
        let event = why.map(|why| ShareEvent::Settled { share, path, why });
        self.outbox.extend(event);
    }

    /// Announces that a name is no longer left out, if the owner is warned at once of its reason.
    fn settle_left_out(&mut self, slot: Slot) {
        let index = self.tree.get(slot).map(|node| node.share);
        let left_out = self.left_out(slot).filter(|l| l.why.warns());
        if let (Some(index), Some(left_out)) = (index, left_out) {
            let why = left_out.warning();
            self.settle(index, left_out.path, Some(why));
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
        let Some(share) = self.shares.get_mut(&index) else {
            return;
        };
        if share.warnings_left == 0 {
            return;
        }
        share.warnings_left -= 1;
        let why = left_out.warning();
        self.warn(index, left_out.path, &why);
    }

    /// Begins a walk through a share and returns the root, from which to walk. If a walk is
    /// running, returns `None` and lets another walk follow it.
    pub(super) fn begin_scan(&mut self, index: u16) -> Option<Slot> {
        let share = self.shares.get_mut(&index)?;
        if share.scanning {
            share.scan_again = true;
            return None;
        }
        share.scanning = true;
        scan_span(index).in_scope(|| debug!(target: SCAN_TARGET, "the scan begins"));
        share.unwatched = false;
        share.warnings_left = WARNINGS_PER_WALK_MAX;
        Some(share.root)
    }

    /// Records that a directory of a share was read or could not be read. If it was the last one to
    /// read, ends the walk through the share.
    pub(super) fn end_walk(&mut self, index: u16) {
        let Some(share) = self.shares.get_mut(&index) else {
            return;
        };
        share.walks_left = share.walks_left.saturating_sub(1);
        if share.walks_left > 0 || !share.scanning {
            return;
        }
        share.scanning = false;
        scan_span(index).in_scope(|| debug!(target: SCAN_TARGET, "the scan ended"));
        if std::mem::take(&mut share.scan_again) {
            self.scans.push(index);
        }
        if !share.vanished {
            let share = ShareIndex(index);
            self.outbox.push(ShareEvent::Scanned { share });
        }
    }
}
