//! How the result of checking a name changes the state.

use std::time::Instant;

use super::identity::{FileIdentity, FileTimestamp, NameStat, is_recent};
use super::left_out::LeftOutWhy;
use super::listing::{HashedFile, ShareListing};
use super::name_state::{FoundBy, Observation};
use super::order::DiscoveredBy;
use super::proof::{HashProof, Told, Verdict, is_fresh, judge};
use super::state::ListingState;
use super::tree::{LeftOutBody, NodeBody, Slot, SymlinkBody};
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
    pub(super) fn identity(&self) -> FileIdentity {
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

/// The update of one name in the state by the result of its check.
pub(super) struct NameUpdate<'a> {
    state: &'a mut ListingState,
    parent: Slot,
    name: &'a [u8],
    /// Slot that the name has before the update. It is stale once the update has called
    /// [`ListingState::remove_tree`].
    known: Option<Slot>,
}

impl<'a> NameUpdate<'a> {
    /// Prepares the update of `name` in the directory `parent`.
    pub(super) fn of(state: &'a mut ListingState, parent: Slot, name: &'a [u8]) -> Self {
        let known = state.listing.tree.child(parent, name);
        Self {
            state,
            parent,
            name,
            known,
        }
    }

    /// Applies the result. If the name is a directory that is new, replaced, not watched, or left
    /// out as unreadable, returns it, because it must be read.
    pub(super) fn apply(
        &mut self,
        found: ObservedName,
        cause: Cause,
        told: Told,
        now: Instant,
    ) -> Option<Slot> {
        match found {
            ObservedName::Nothing => {
                if let Some(slot) = self.known {
                    let file = self.state.listing.tree.file(slot);
                    self.state.remove_tree(slot);
                    if let Some(file) = file.filter(|file| file.listed && told == Told::Removed) {
                        self.state.listing.recheck_links_of_removed(&file);
                    }
                }
            }
            ObservedName::LeftOut(body) => self.leave_out(body),
            ObservedName::File(seen) => self.see_file(&seen, cause, told, now),
            ObservedName::Directory(seen) => return self.see_directory(&seen),
            ObservedName::Symlink(seen, target) => self.see_symlink(&seen, target),
        }
        None
    }

    /// Leaves the name out.
    pub(super) fn leave_out(&mut self, body: LeftOutBody) {
        let body = NodeBody::LeftOut(body);
        let private = body.private_file();
        let is_kept_back = matches!(&body, NodeBody::LeftOut(it)
            if matches!(it.why, LeftOutWhy::Private | LeftOutWhy::Excluded));
        if let Some(slot) = self.known {
            let old = self.state.listing.tree.get(slot).map(|node| &node.body);
            if let (Some(NodeBody::LeftOut(old)), NodeBody::LeftOut(new)) = (old, &body)
                && old.why == new.why
                && (private.is_none() || old.identity == new.identity)
            {
                return;
            }
            if is_kept_back {
                give_back(&mut self.state.listing, slot);
            }
            self.state.remove_tree(slot);
        }
        let slot = self.state.listing.tree.insert(self.parent, self.name, body);
        self.state.listing.count(slot, 1);
        self.state.listing.warn_of_left_out(slot);
        // the private mode also holds for the other names of the file, for which the kernel reports
        // no change
        if let Some((dev, ino)) = private
            && let Some(row) = self.state.listing.ledger.get(dev, ino)
        {
            let listing = &mut self.state.listing;
            listing.recheck_links(row.identity.without_ctime(), &row.hash);
        }
    }

    /// Returns the slot of the name, for a file. If the name was anything else before, it is
    /// removed and inserted again as an unlisted file. However, a file that is left out as
    /// unreadable and has not changed since stays left out until it was read.
    fn slot_for_file(&mut self, seen: &NameStat) -> Slot {
        if let Some(slot) = self.known {
            match self.state.listing.tree.get(slot).map(|node| &node.body) {
                Some(NodeBody::File(_)) => return slot,
                Some(NodeBody::LeftOut(old))
                    if old.why == LeftOutWhy::Unreadable && old.identity == seen.identity =>
                {
                    return slot;
                }
                _ => self.state.remove_tree(slot),
            }
        }
        self.state
            .listing
            .tree
            .insert(self.parent, self.name, NodeBody::unlisted())
    }

    fn see_file(&mut self, seen: &NameStat, cause: Cause, told: Told, now: Instant) {
        let slot = self.slot_for_file(seen);
        let verdict = judge(&self.state.listing, slot, seen, cause, told);
        match verdict {
            Verdict::Listed { is_closed } => self.see_listed(slot, seen, told, is_closed, now),
            Verdict::Known { hash, is_proven } => {
                let remembered = Observation::Remembered {
                    doubted: !is_proven,
                };
                self.state.apply(slot, remembered, seen.identity, now);
                self.state.listing.list_known(slot, seen, hash, is_proven);
            }
            Verdict::Dated(known) => {
                if self.state.listing.witnessed(slot).is_none() {
                    let then = NameStat {
                        identity: known.identity,
                        ..*seen
                    };
                    self.state
                        .listing
                        .list_known(slot, &then, known.hash, false);
                }
                self.see_changed(slot, seen, cause, now);
            }
            Verdict::Unknown => {
                self.state.listing.tree.forget_witness(slot);
                let is_listed = self.state.listing.tree.file(slot).is_some_and(|f| f.listed);
                if !is_listed {
                    self.state.listing.note_moved(slot, &seen.identity);
                }
                self.see_changed(slot, seen, cause, now);
            }
        }
    }

    /// Records a file that looks as it is listed.
    fn see_listed(
        &mut self,
        slot: Slot,
        seen: &NameStat,
        told: Told,
        is_closed: bool,
        now: Instant,
    ) {
        let listing = &mut self.state.listing;
        let Some(mut file) = listing.tree.file(slot) else {
            return;
        };
        let row = listing.ledger.get(seen.identity.dev, seen.identity.ino);
        let proof = row.map_or(HashProof::Missing, |row| row.proof);
        let version = listing.tree.version(slot, &file);
        let clock = listing.clock.now();
        let hashed = HashedFile {
            hash: file.hash,
            mark: listing.tree.mark(slot).cloned(),
            proof,
        };
        if version != listing.version_of(slot, &seen.identity, &hashed, clock) {
            // it lay in the future while the clock was set back by more than a day
            listing.list_file(slot, seen, hashed, file.witnessed);
        } else if !file.witnessed && told.keeps_file() && proof == HashProof::Times {
            file.witnessed = listing.sees_writes(slot);
            listing.tree.set_file(slot, file, version);
        }
        let unchanged = Observation::Unchanged { is_closed };
        self.state.apply(slot, unchanged, seen.identity, now);
    }

    /// Has a file read.
    fn see_changed(&mut self, slot: Slot, seen: &NameStat, cause: Cause, now: Instant) {
        let order = &self.state.listing.order;
        let found = match order.discovered_by() {
            DiscoveredBy::Reported => FoundBy::Report,
            DiscoveredBy::New => {
                let is_awaited = order.awaits_discovered(seen.identity.size_bytes);
                FoundBy::NewTree { is_awaited }
            }
            DiscoveredBy::Walked => FoundBy::Walk,
        };
        let (clock, quiet) = (FileTimestamp::now(), self.state.quiet);
        // the kernel also reports a write when only the mtime is set, but a real write sets the
        // mtime to now
        let is_dated = !is_recent(seen.identity.mtime, clock, quiet);
        let cause = if cause == Cause::Modified && is_dated {
            Cause::Walk
        } else {
            cause
        };
        let changed = Observation::Changed {
            cause,
            recent: is_fresh(&seen.identity, clock, quiet),
            found,
        };
        self.state.apply(slot, changed, seen.identity, now);
    }

    fn see_directory(&mut self, seen: &NameStat) -> Option<Slot> {
        let FileIdentity { dev, ino, .. } = seen.identity;
        let tree = &self.state.listing.tree;
        if tree.is_within_itself(self.parent, dev, ino) {
            let why = LeftOutWhy::Loop;
            let body = LeftOutBody {
                why,
                directory: true,
                identity: seen.identity,
            };
            self.leave_out(body);
            if let Some(slot) = self.state.listing.tree.child(self.parent, self.name) {
                self.state.listing.dependents.record_loop(slot);
            }
            return None;
        }
        let is_unreadable =
            |body: &LeftOutBody| body.directory && body.why == LeftOutWhy::Unreadable;
        let slot = match self.known {
            Some(slot) if tree.directory(slot).is_some() => slot,
            Some(slot) if tree.left_out(slot).is_some_and(is_unreadable) => {
                return Some(slot);
            }
            other => {
                other.inspect(|slot| self.state.remove_tree(*slot));
                let tree = &mut self.state.listing.tree;
                let body = NodeBody::Directory(tree.new_directory());
                tree.insert(self.parent, self.name, body)
            }
        };
        let listing = &mut self.state.listing;
        let known = listing.tree.directory(slot);
        let replaced = known.is_some_and(|known| (known.dev, known.ino) != (dev, ino));
        if replaced {
            listing.replace_directory(slot, dev, ino);
        }
        listing.list_directory(slot, seen.identity.mtime);
        // a new directory may get the inode number of a deleted one, but not its watch
        let directory = listing.tree.directory(slot);
        let unwatched = directory.is_some_and(|directory| directory.watch.is_none());
        (replaced || unwatched).then_some(slot)
    }

    fn see_symlink(&mut self, seen: &NameStat, target: Box<[u8]>) {
        let mtime = seen.identity.mtime;
        if let Some(slot) = self.known {
            match self.state.listing.tree.symlink(slot) {
                Some(link) if (&link.target, link.mtime) == (&target, mtime) => return,
                Some(_) => self.state.listing.dependents.record_change(),
                None => self.state.remove_tree(slot),
            }
        }
        let listing = &mut self.state.listing;
        let child = listing.tree.child(self.parent, self.name);
        let slot = child.unwrap_or_else(|| {
            let (parent, name) = (self.parent, self.name);
            let slot = listing.tree.insert(parent, name, NodeBody::Symlink);
            listing.count(slot, 1);
            slot
        });
        let body = SymlinkBody {
            target,
            mtime,
            version: mtime.seen_at(listing.clock.now()),
        };
        listing.tree.set_symlink(slot, body);
        listing.announce_put(slot);
    }
}

/// Discards the kept content of a file. For any other name, discards all kept contents, because
/// it is not known which of them were written below that name.
fn give_back(listing: &mut ShareListing, slot: Slot) {
    match listing.tree.file(slot) {
        Some(file) => listing.kept.forget(&file.hash),
        None => listing.kept.clear(),
    }
}
