//! How the result of checking a name changes the state.

use std::time::Instant;

use super::identity::{FileIdentity, FileTimestamp, NameStat, is_recent};
use super::ledger::LedgerRow;
use super::left_out::LeftOutWhy;
use super::name_state::{FoundBy, Observation};
use super::order::DiscoveredBy;
use super::state::ListingState;
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
    /// Applies the result of checking `name`. If `name` is a directory that is new, replaced, not
    /// watched, or left out as unreadable, returns it, because it must be read.
    pub(super) fn observe(
        &mut self,
        parent: Slot,
        name: &[u8],
        found: ObservedName,
        cause: Cause,
        now: Instant,
    ) -> Option<Slot> {
        self.listing.tree.directory(parent)?;
        self.listing.order.set_seen(found.identity());
        let known = self.listing.tree.child(parent, name);
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
            let old = self.listing.tree.get(slot).map(|node| &node.body);
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
        let slot = self.listing.tree.insert(parent, name, body);
        self.listing.count(slot, 1);
        self.listing.warn_of_left_out(slot);
        // the private mode also holds for the other names of the file, for which the kernel reports
        // no change
        if let Some((dev, ino)) = private
            && let Some(row) = self.listing.ledger.get(dev, ino)
        {
            self.listing
                .recheck_links(row.identity.without_ctime(), &row.hash);
        }
    }

    /// Discards the kept content of a file. For any other name, discards all kept contents, because
    /// it is not known which of them were written below that name.
    fn give_back(&mut self, slot: Slot) {
        match self.listing.tree.file(slot) {
            Some(file) => self.listing.kept.forget(&file.hash),
            None => self.listing.kept.clear(),
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
            match self.listing.tree.get(slot).map(|node| &node.body) {
                Some(NodeBody::File(_)) => return slot,
                Some(NodeBody::LeftOut(old))
                    if old.why == LeftOutWhy::Unreadable && old.identity == seen.identity =>
                {
                    return slot;
                }
                _ => self.remove_tree(slot),
            }
        }
        self.listing.tree.insert(parent, name, NodeBody::unlisted())
    }

    fn see_file(&mut self, slot: Slot, seen: &NameStat, cause: Cause, now: Instant) {
        let FileIdentity { dev, ino, .. } = seen.identity;
        let listed = self.listing.tree.file(slot).filter(|file| file.listed);
        if let Some(file) = listed.filter(|file| file.identity == seen.identity) {
            let version = self.listing.tree.version(slot, &file);
            if version != version.seen_at(FileTimestamp::now()) {
                // the version time is in the future because the clock was set back
                let doubted = self.listing.ledger.is_doubted(dev, ino);
                self.listing.list_file(slot, seen, file.hash, doubted);
            }
            let doubted = cause == Cause::Closed && self.listing.ledger.is_doubted(dev, ino);
            let unchanged = Observation::Unchanged { cause, doubted };
            self.apply(slot, unchanged, seen.identity, now);
            return;
        }
        if let Some(row) = self.listing.ledger.get(dev, ino)
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
            self.listing.list_file(slot, seen, row.hash, doubted);
            return;
        }
        if listed.is_none() {
            self.listing.note_moved(slot, &seen.identity);
        }
        let found = match self.listing.order.discovered_by() {
            DiscoveredBy::Reported => FoundBy::Report,
            DiscoveredBy::New => {
                let is_awaited = self
                    .listing
                    .order
                    .awaits_discovered(seen.identity.size_bytes);
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

    fn see_directory(
        &mut self,
        parent: Slot,
        name: &[u8],
        known: Option<Slot>,
        seen: &NameStat,
    ) -> Option<Slot> {
        let FileIdentity { dev, ino, .. } = seen.identity;
        if self.listing.tree.is_within_itself(parent, dev, ino) {
            let why = LeftOutWhy::Loop;
            let body = LeftOutBody {
                why,
                directory: true,
                identity: seen.identity,
            };
            self.leave_out(parent, name, known, body);
            if let Some(slot) = self.listing.tree.child(parent, name) {
                self.listing.dependents.record_loop(slot);
            }
            return None;
        }
        let is_unreadable =
            |body: &LeftOutBody| body.directory && body.why == LeftOutWhy::Unreadable;
        let slot = match known {
            Some(slot) if self.listing.tree.directory(slot).is_some() => slot,
            Some(slot) if self.listing.tree.left_out(slot).is_some_and(is_unreadable) => {
                return Some(slot);
            }
            other => {
                other.inspect(|slot| self.remove_tree(*slot));
                let body = NodeBody::Directory(self.listing.tree.new_directory());
                self.listing.tree.insert(parent, name, body)
            }
        };
        let replaced = self
            .listing
            .tree
            .directory(slot)
            .is_some_and(|known| (known.dev, known.ino) != (dev, ino));
        if replaced {
            self.listing.replace_directory(slot, dev, ino);
        }
        self.listing.list_directory(slot, seen.identity.mtime);
        // a new directory may get the inode number of a deleted one, but not its watch
        let unwatched = self
            .listing
            .tree
            .directory(slot)
            .is_some_and(|d| d.watch.is_none());
        (replaced || unwatched).then_some(slot)
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
            match self.listing.tree.symlink(slot) {
                Some(link) if (&link.target, link.mtime) == (&target, mtime) => return,
                Some(_) => self.listing.dependents.record_change(),
                None => self.remove_tree(slot),
            }
        }
        let slot = self.listing.tree.child(parent, name).unwrap_or_else(|| {
            let slot = self.listing.tree.insert(parent, name, NodeBody::Symlink);
            self.listing.count(slot, 1);
            slot
        });
        let body = SymlinkBody {
            target,
            mtime,
            version: mtime.seen_at(FileTimestamp::now()),
        };
        self.listing.tree.set_symlink(slot, body);
        self.listing.announce_put(slot);
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
        self.leave_out(parent, &name, Some(slot), body);
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
