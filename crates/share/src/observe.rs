//! How the result of checking a name changes the state.

use std::time::Instant;

use super::identity::{FileIdentity, FileTimestamp, NameStat, is_recent};
use super::ledger::LedgerRow;
use super::left_out::LeftOutWhy;
use super::name_state::{FoundBy, Observation};
use super::order::DiscoveredBy;
use super::renamed::NewName;
use super::state::{ListingState, Recheck};
use super::tree::{DirectoryBody, FileBody, LeftOutBody, NodeBody, Slot, SymlinkBody};
use super::watch::Cause;

/// Result of checking a name.
#[derive(Clone, Debug)]
pub(super) enum ObservedName {
    Nothing,
    File(NameStat),
    Directory(NameStat),
    Symlink(NameStat, Box<[u8]>),
    LeftOut(LeftOutBody),
}

impl ObservedName {
    pub(super) fn is_nothing(&self) -> bool {
        matches!(self, Self::Nothing)
    }

    /// Returns (dev, ino) of the name, if it exists and was checked.
    pub(super) fn inode(&self) -> Option<(u64, u64)> {
        let identity = match self {
            Self::LeftOut(body) => body.identity,
            other => other.identity(),
        };
        Some((identity.dev, identity.ino)).filter(|inode| *inode != (0, 0))
    }

    /// Returns the identity of a file, directory or link; the default for any other result.
    fn identity(&self) -> FileIdentity {
        match self {
            Self::File(seen) | Self::Directory(seen) | Self::Symlink(seen, _) => seen.identity,
            Self::Nothing | Self::LeftOut(_) => FileIdentity::default(),
        }
    }
}

impl std::fmt::Debug for LeftOutBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LeftOut({:?})", self.why)
    }
}

impl ListingState {
    /// Applies the result of checking `name`. If `name` is a directory that is new, replaced or
    /// not watched, returns it, because it must be read.
    pub(super) fn observe(
        &mut self,
        parent: Slot,
        name: &[u8],
        found: ObservedName,
        cause: Cause,
        now: Instant,
    ) -> Option<Slot> {
        self.tree.directory(parent)?;
        self.order.set_seen(found.identity());
        let known = self.tree.child(parent, name);
        match found {
            ObservedName::Nothing => {
                known.inspect(|slot| self.remove_tree(*slot));
                None
            }
            ObservedName::LeftOut(body) => {
                self.leave_out(parent, name, known, body);
                None
            }
            ObservedName::File(seen) => {
                let slot = self.slot_for_file(parent, name, known, &seen);
                self.see_file(slot, &seen, cause, now);
                None
            }
            ObservedName::Directory(seen) => self.see_directory(parent, name, known, &seen),
            ObservedName::Symlink(seen, target) => {
                self.see_symlink(parent, name, known, &seen, target);
                None
            }
        }
    }

    fn leave_out(&mut self, parent: Slot, name: &[u8], known: Option<Slot>, body: LeftOutBody) {
        let body = NodeBody::LeftOut(body);
        let private = body.private_file();
        let is_kept_back = matches!(&body, NodeBody::LeftOut(it)
            if matches!(it.why, LeftOutWhy::Private | LeftOutWhy::Excluded));
        if let Some(slot) = known {
            let old = self.tree.get(slot).map(|node| &node.body);
            if let (Some(NodeBody::LeftOut(old)), NodeBody::LeftOut(new)) = (old, &body)
                && old.why == new.why
                && (private.is_none() || old.identity == new.identity)
            {
                return;
            }
            if is_kept_back {
                self.give_back(slot);
            }
            self.remove_tree(slot);
        }
        let slot = self.tree.insert(parent, name, body);
        self.count(slot, 1);
        self.warn_of_left_out(slot);
        // the private mode also holds for the other names of the file, for which the kernel reports
        // no change
        if let Some((dev, ino)) = private
            && let Some(row) = self.ledger.get(dev, ino)
        {
            self.recheck_links(row.identity.without_ctime(), &row.hash);
        }
    }

    /// Discards the kept content of a file. For any other name, discards all kept contents, because
    /// it is not known which of them were written below that name.
    fn give_back(&mut self, slot: Slot) {
        match self.tree.file(slot) {
            Some(file) => self.kept.forget(&file.hash),
            None => self.kept.clear(),
        }
    }

    /// Returns the slot of the name, for a file. If the name was anything else before, it is
    /// removed and inserted again as an unlisted file. However, a file that is left out as
    /// unreadable and has not changed since stays left out until it was read.
    fn slot_for_file(
        &mut self,
        parent: Slot,
        name: &[u8],
        known: Option<Slot>,
        seen: &NameStat,
    ) -> Slot {
        if let Some(slot) = known {
            match self.tree.get(slot).map(|node| &node.body) {
                Some(NodeBody::File(_)) => return slot,
                Some(NodeBody::LeftOut(old))
                    if old.why == LeftOutWhy::Unreadable && old.identity == seen.identity =>
                {
                    return slot;
                }
                _ => self.remove_tree(slot),
            }
        }
        self.tree.insert(parent, name, NodeBody::unlisted())
    }

    fn see_file(&mut self, slot: Slot, seen: &NameStat, cause: Cause, now: Instant) {
        let listed = self.tree.file(slot).filter(|file| file.listed);
        if let Some(file) = listed.filter(|file| file.identity == seen.identity) {
            let version = self.tree.version(slot, &file);
            if version != version.seen_at(FileTimestamp::now()) {
                // the version time is in the future because the clock was set back
                self.list_file(slot, seen, file.hash, self.is_doubted(seen));
            }
            let doubted = cause == Cause::Closed && self.is_doubted(seen);
            let unchanged = Observation::Unchanged { cause, doubted };
            self.apply(slot, unchanged, seen.identity, now);
            return;
        }
        if let Some(row) = self.ledger.get(seen.identity.dev, seen.identity.ino)
            && is_of(&row, seen, listed.as_ref())
            && (!row.doubted || cause == Cause::Walk && seen.linked_again)
        {
            let doubted = row.doubted;
            self.apply(
                slot,
                Observation::Remembered { doubted },
                seen.identity,
                now,
            );
            self.list_file(slot, seen, row.hash, doubted);
            return;
        }
        if listed.is_none() {
            self.note_moved(slot, &seen.identity);
        }
        let found = match self.order.discovered_by() {
            DiscoveredBy::Reported => FoundBy::Report,
            DiscoveredBy::New => {
                let is_awaited = self.order.awaits_discovered(seen.identity.size_bytes);
                FoundBy::NewTree { is_awaited }
            }
            DiscoveredBy::Walked => FoundBy::Walk,
        };
        let changed = Observation::Changed {
            cause,
            recent: is_recent(seen.identity.mtime, FileTimestamp::now(), self.quiet),
            found,
        };
        self.apply(slot, changed, seen.identity, now);
    }

    /// If the file was hashed under another name and only its ctime changed since, records it as a
    /// source of that hash. Until the file is hashed under this name, it serves that content, which
    /// is verified on each read.
    fn note_moved(&mut self, slot: Slot, seen: &FileIdentity) {
        if let Some(row) = self.ledger.get(seen.dev, seen.ino)
            && row.identity.same_but_ctime(seen)
        {
            let identity = row.identity;
            self.moved.insert(row.hash, NewName { slot, identity });
        }
    }

    /// Returns whether the remembered hash of the file is in doubt ([`LedgerRow::doubted`]).
    fn is_doubted(&self, seen: &NameStat) -> bool {
        let FileIdentity { dev, ino, .. } = seen.identity;
        self.ledger.get(dev, ino).is_some_and(|row| row.doubted)
    }

    fn see_directory(
        &mut self,
        parent: Slot,
        name: &[u8],
        known: Option<Slot>,
        seen: &NameStat,
    ) -> Option<Slot> {
        let FileIdentity { dev, ino, .. } = seen.identity;
        if self.tree.is_within_itself(parent, dev, ino) {
            let why = LeftOutWhy::Loop;
            let body = LeftOutBody {
                why,
                directory: true,
                identity: seen.identity,
            };
            self.leave_out(parent, name, known, body);
            self.loops.extend(self.tree.child(parent, name));
            return None;
        }
        let slot = match known {
            Some(slot) if self.tree.directory(slot).is_some() => slot,
            Some(slot) if self.is_unreadable_directory(slot) => return Some(slot),
            other => {
                other.inspect(|slot| self.remove_tree(*slot));
                let body = NodeBody::Directory(self.tree.new_directory());
                self.tree.insert(parent, name, body)
            }
        };
        let replaced = self
            .tree
            .directory(slot)
            .is_some_and(|known| (known.dev, known.ino) != (dev, ino));
        if replaced {
            self.replace_directory(slot, dev, ino);
        }
        self.list_directory(slot, seen.identity.mtime);
        // a new directory may get the inode number of a deleted one, but not its watch
        let unwatched = self.tree.directory(slot).is_some_and(|d| d.watch.is_none());
        (replaced || unwatched).then_some(slot)
    }

    /// Rechecks each directory left out as a loop, once no directory above it in the tree has the
    /// same inode. Such a loop was only apparent: the directory above had been moved away, but its
    /// old name was not checked yet and still was in the tree.
    pub(super) fn recheck_loops(&mut self) {
        for slot in std::mem::take(&mut self.loops) {
            let Some(node) = self.tree.get(slot) else {
                continue;
            };
            let NodeBody::LeftOut(LeftOutBody {
                why: LeftOutWhy::Loop,
                directory: true,
                identity,
            }) = &node.body
            else {
                continue;
            };
            if self
                .tree
                .is_within_itself(node.parent, identity.dev, identity.ino)
            {
                self.loops.insert(slot);
            } else {
                self.recheck(slot, Cause::Closed);
            }
        }
    }

    /// Rechecks links left out because of their targets, if another link was removed or changed its
    /// target. The left-out links may lead through that link.
    pub(super) fn recheck_left_links(&mut self) {
        for slot in self.left_links.take_due() {
            self.recheck(slot, Cause::Closed);
        }
    }

    /// Returns whether a name is left out because it leads back to itself.
    pub(super) fn is_loop(&self, slot: Slot) -> bool {
        let body = self.tree.get(slot).map(|node| &node.body);
        matches!(body, Some(NodeBody::LeftOut(body)) if body.why == LeftOutWhy::Loop)
    }

    fn is_unreadable_directory(&self, slot: Slot) -> bool {
        let body = self.tree.get(slot).map(|node| &node.body);
        matches!(
            body,
            Some(NodeBody::LeftOut(LeftOutBody {
                why: LeftOutWhy::Unreadable,
                directory: true,
                ..
            }))
        )
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

    fn see_symlink(
        &mut self,
        parent: Slot,
        name: &[u8],
        known: Option<Slot>,
        seen: &NameStat,
        target: Box<[u8]>,
    ) {
        let mtime = seen.identity.mtime;
        if let Some(slot) = known {
            match self.tree.symlink(slot) {
                Some(link) if (&link.target, link.mtime) == (&target, mtime) => return,
                Some(_) => self.left_links.record_change(),
                None => self.remove_tree(slot),
            }
        }
        let slot = self.tree.child(parent, name).unwrap_or_else(|| {
            let slot = self.tree.insert(parent, name, NodeBody::Symlink);
            self.count(slot, 1);
            slot
        });
        let body = SymlinkBody {
            target,
            mtime,
            version: mtime.seen_at(FileTimestamp::now()),
        };
        self.tree.set_symlink(slot, body);
        self.announce_put(slot);
    }

    /// Restores a directory that was left out as unreadable. Returns its number.
    pub(super) fn become_directory(&mut self, slot: Slot, seen: &NameStat) -> Option<u32> {
        self.unlist(slot);
        let (dev, ino) = (seen.identity.dev, seen.identity.ino);
        let body = DirectoryBody {
            dev,
            ino,
            ..self.tree.new_directory()
        };
        self.tree.get_mut(slot)?.body = NodeBody::Directory(body);
        self.list_directory(slot, seen.identity.mtime);
        Some(body.number)
    }

    /// Leaves out a name that could not be read, until it can be read.
    pub(super) fn become_unreadable(
        &mut self,
        slot: Slot,
        identity: FileIdentity,
        directory: bool,
    ) {
        let Some(parent) = self.tree.get(slot).map(|n| n.parent) else {
            return;
        };
        let name: Box<[u8]> = self.tree.name(slot).into();
        let body = LeftOutBody {
            why: LeftOutWhy::Unreadable,
            directory,
            identity,
        };
        self.leave_out(parent, &name, Some(slot), body);
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
}

/// Returns whether a remembered row belongs to this file: the identities must be the same. If the
/// name is listed with this size and mtime, the listed hash must also be that of the row, because
/// another file may have had the same inode number and attributes. On a filesystem that invents
/// inode numbers, a row is used only for a name that is listed in this way.
fn is_of(row: &LedgerRow, seen: &NameStat, listed: Option<&FileBody>) -> bool {
    let dated = |identity: &FileIdentity| (identity.size_bytes, identity.mtime);
    let unchanged = listed.filter(|file| dated(&file.identity) == dated(&seen.identity));
    let agrees = unchanged.map_or(!seen.made_up, |file| file.hash == row.hash);
    agrees && row.identity == seen.identity
}
