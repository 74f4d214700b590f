//! What becomes of a name when it was looked at, and when it was hashed.

use std::time::Instant;

use super::identity::{Identity, Seen, Stamp, is_recent};
use super::ledger::Row;
use super::left_out::LeftOutWhy;
use super::queue::Stage;
use super::state::{Recheck, State};
use super::tree::{Body, DirectoryBody, FileBody, LeftOutBody, Slot, SymlinkBody};
use super::watch::Cause;
use crate::digest::ContentHash;

/// Names of one content that are searched for other names of a changed file; the rescan finds the
/// rest.
const LINKS_LOOKED_AT_MAX: usize = 256;

/// What a look at a name found.
#[derive(Clone, Debug)]
pub(super) enum Found {
    Nothing,
    File(Seen),
    Directory(Seen),
    Symlink(Seen, Box<[u8]>),
    LeftOut(LeftOutBody),
}

impl std::fmt::Debug for LeftOutBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LeftOut({:?})", self.why)
    }
}

/// How the reading of a file ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outcome {
    /// It was at rest while it was read.
    Hashed {
        seen: Seen,
        hash: ContentHash,
        racy: bool,
    },
    /// It changed while it was read, or reading it was called off.
    Changed,
    /// Someone has it open for writing.
    BeingWritten,
    /// It is not there, not a file or not ours to share any more: a look will tell.
    Elsewhere,
    /// It cannot be read.
    Unreadable(Identity),
    /// It could not be read for want of memory or descriptors.
    Want,
}

impl State {
    /// Takes in what a look at `name` found. Gives the directory that must be read because of it.
    pub(super) fn observe(
        &mut self,
        parent: Slot,
        name: &[u8],
        found: Found,
        cause: Cause,
        now: Instant,
    ) -> Option<Slot> {
        self.tree.directory(parent)?;
        let known = self.tree.child(parent, name);
        match found {
            Found::Nothing => {
                known.inspect(|slot| self.remove_tree(*slot));
                None
            }
            Found::LeftOut(body) => {
                self.leave_out(parent, name, known, body);
                None
            }
            Found::File(seen) => {
                let slot = self.slot_for_file(parent, name, known, &seen);
                self.see_file(slot, &seen, cause, now);
                None
            }
            Found::Directory(seen) => self.see_directory(parent, name, known, &seen),
            Found::Symlink(seen, target) => {
                self.see_symlink(parent, name, known, &seen, target);
                None
            }
        }
    }

    fn leave_out(&mut self, parent: Slot, name: &[u8], known: Option<Slot>, body: LeftOutBody) {
        let body = Body::LeftOut(body);
        let private = body.private_file();
        if let Some(slot) = known {
            let old = self.tree.get(slot).map(|node| &node.body);
            if let (Some(Body::LeftOut(old)), Body::LeftOut(new)) = (old, &body)
                && old.why == new.why
                && (private.is_none() || old.identity == new.identity)
            {
                return;
            }
            self.remove_tree(slot);
        }
        let slot = self.tree.insert(parent, name, body);
        self.count(slot, 1);
        self.warn_of_left_out(slot);
        // who may not read it by this name may not by the others, which are told of nothing
        if let Some((dev, ino)) = private
            && let Some(row) = self.ledger.get(dev, ino)
        {
            self.recheck_links(row.identity.without_ctime(), &row.hash);
        }
    }

    /// The name's place as a file; a file that could not be read stays left out until it can.
    fn slot_for_file(
        &mut self,
        parent: Slot,
        name: &[u8],
        known: Option<Slot>,
        seen: &Seen,
    ) -> Slot {
        if let Some(slot) = known {
            match self.tree.get(slot).map(|node| &node.body) {
                Some(Body::File(_)) => return slot,
                Some(Body::LeftOut(old))
                    if old.why == LeftOutWhy::Unreadable && old.identity == seen.identity =>
                {
                    return slot;
                }
                _ => self.remove_tree(slot),
            }
        }
        self.tree
            .insert(parent, name, Body::File(FileBody::unlisted()))
    }

    fn see_file(&mut self, slot: Slot, seen: &Seen, cause: Cause, now: Instant) {
        let listed = self.tree.file(slot).filter(|file| file.listed);
        if listed.is_some_and(|file| file.identity == seen.identity) {
            // written again within a tick of the clock: the hash was racy, and now we know
            let verify = matches!(
                self.queue.stage(slot),
                Some(Stage::Resting { verify: true, .. })
            );
            if verify && cause == Cause::Closed {
                self.queue
                    .enqueue(slot, false, seen.identity.size_bytes, true);
            }
            return;
        }
        if let Some(row) = self.ledger.get(seen.identity.dev, seen.identity.ino)
            && row.identity == seen.identity
            && !row.racy
        {
            self.queue.withdraw(slot);
            self.list_file(slot, seen, row.hash, false);
            return;
        }
        self.schedule(slot, seen, cause, now);
    }

    fn schedule(&mut self, slot: Slot, seen: &Seen, cause: Cause, now: Instant) {
        let recent = is_recent(seen.identity.mtime, Stamp::now(), self.quiet);
        // setting the mtime alone is reported as a write, but a write would have dated it now
        let cause = if cause == Cause::Modified && !recent {
            Cause::Walk
        } else {
            cause
        };
        if self.queue.note_change(slot, cause) {
            return;
        }
        let size_bytes = seen.identity.size_bytes;
        let second_link = cause == Cause::Created && seen.linked_again;
        match cause {
            Cause::Closed => self.queue.enqueue(slot, false, size_bytes, true),
            Cause::Modified => self.queue.rest(slot, now + self.quiet, false),
            Cause::Created if !second_link => self.queue.rest(slot, now + self.quiet, false),
            Cause::Created | Cause::Walk => {
                let waits = matches!(
                    self.queue.stage(slot),
                    Some(Stage::Queued { .. } | Stage::Resting { verify: false, .. })
                );
                if !waits {
                    self.queue.enqueue(slot, !recent, size_bytes, !recent);
                }
            }
        }
    }

    fn see_directory(
        &mut self,
        parent: Slot,
        name: &[u8],
        known: Option<Slot>,
        seen: &Seen,
    ) -> Option<Slot> {
        let Identity { dev, ino, .. } = seen.identity;
        if self.tree.is_within_itself(parent, dev, ino) {
            let why = LeftOutWhy::Loop;
            let body = LeftOutBody {
                why,
                directory: true,
                identity: seen.identity,
            };
            self.leave_out(parent, name, known, body);
            return None;
        }
        let slot = match known {
            Some(slot) if self.tree.directory(slot).is_some() => slot,
            Some(slot) if self.is_unreadable_directory(slot) => return Some(slot),
            other => {
                other.inspect(|slot| self.remove_tree(*slot));
                let body = Body::Directory(self.tree.new_directory());
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
        // one made anew may get the number of the inode that was deleted, but not its watch
        let unwatched = self.tree.directory(slot).is_some_and(|d| d.watch.is_none());
        (replaced || unwatched).then_some(slot)
    }

    fn is_unreadable_directory(&self, slot: Slot) -> bool {
        let body = self.tree.get(slot).map(|node| &node.body);
        matches!(
            body,
            Some(Body::LeftOut(LeftOutBody {
                why: LeftOutWhy::Unreadable,
                directory: true,
                ..
            }))
        )
    }

    /// Lists a directory, or its new modification time.
    pub(super) fn list_directory(&mut self, slot: Slot, mtime: Stamp) {
        let Some(directory) = self.tree.directory_mut(slot) else {
            return;
        };
        let fresh = !directory.listed;
        if !fresh && directory.mtime == mtime {
            return;
        }
        directory.listed = true;
        directory.mtime = mtime;
        directory.version = mtime.min(Stamp::now());
        if fresh {
            self.count(slot, 1);
        }
        self.tell_put(slot);
    }

    fn see_symlink(
        &mut self,
        parent: Slot,
        name: &[u8],
        known: Option<Slot>,
        seen: &Seen,
        target: Box<[u8]>,
    ) {
        let mtime = seen.identity.mtime;
        if let Some(slot) = known {
            if let Some(Body::Symlink(link)) = self.tree.get(slot).map(|node| &node.body)
                && (&link.target, link.mtime) == (&target, mtime)
            {
                return;
            }
            let link = matches!(self.tree.get(slot).map(|n| &n.body), Some(Body::Symlink(_)));
            if !link {
                self.remove_tree(slot);
            }
        }
        let body = Body::Symlink(SymlinkBody {
            target,
            mtime,
            version: mtime.min(Stamp::now()),
        });
        match self.tree.child(parent, name) {
            Some(slot) => {
                if let Some(node) = self.tree.get_mut(slot) {
                    node.body = body;
                }
                self.tell_put(slot);
            }
            None => {
                let slot = self.tree.insert(parent, name, body);
                self.count(slot, 1);
                self.tell_put(slot);
            }
        }
    }

    /// Takes in how the reading `number` of a file ended.
    pub(super) fn hashed(&mut self, slot: Slot, number: u64, outcome: Outcome, now: Instant) {
        let Some(again) = self.queue.finish(slot, number) else {
            return;
        };
        match outcome {
            Outcome::Hashed { seen, hash, racy } => {
                self.become_file(slot);
                self.list_file(slot, &seen, hash, racy);
                let written_to = matches!(again, Some(Cause::Created | Cause::Modified));
                if written_to || racy {
                    self.queue.rest(slot, now + self.quiet, !written_to);
                }
                again.inspect(|cause| self.recheck(slot, *cause));
            }
            Outcome::Changed if matches!(again, Some(Cause::Created | Cause::Modified)) => {
                self.queue.rest(slot, now + self.quiet, false);
            }
            // a chmod after the close, for one: what is unsure is asked for its writers
            Outcome::Changed => {
                let size_bytes = self
                    .tree
                    .file(slot)
                    .map_or(0, |file| file.identity.size_bytes);
                self.queue
                    .enqueue(slot, false, size_bytes, again == Some(Cause::Closed));
            }
            Outcome::BeingWritten | Outcome::Want => {
                self.queue.rest(slot, now + self.quiet, false);
            }
            Outcome::Elsewhere => self.recheck(slot, Cause::Walk),
            Outcome::Unreadable(identity) => self.become_unreadable(slot, identity, false),
        }
    }

    fn become_file(&mut self, slot: Slot) {
        let left_out = matches!(self.tree.get(slot).map(|n| &n.body), Some(Body::LeftOut(_)));
        if left_out {
            self.unlist(slot);
            if let Some(node) = self.tree.get_mut(slot) {
                node.body = Body::File(FileBody::unlisted());
            }
        }
    }

    /// A directory that was left out as unreadable is one again; gives its number.
    pub(super) fn become_directory(&mut self, slot: Slot, seen: &Seen) -> Option<u32> {
        self.unlist(slot);
        let (dev, ino) = (seen.identity.dev, seen.identity.ino);
        let body = DirectoryBody {
            dev,
            ino,
            ..self.tree.new_directory()
        };
        self.tree.get_mut(slot)?.body = Body::Directory(body);
        self.list_directory(slot, seen.identity.mtime);
        Some(body.number)
    }

    /// A name that could not be read is left out until it can.
    pub(super) fn become_unreadable(&mut self, slot: Slot, identity: Identity, directory: bool) {
        let Some((parent, name)) = self.tree.get(slot).map(|n| (n.parent, n.name.clone())) else {
            return;
        };
        let body = LeftOutBody {
            why: LeftOutWhy::Unreadable,
            directory,
            identity,
        };
        self.leave_out(parent, &name, Some(slot), body);
    }

    /// Asks the keeper to look at a name.
    pub(super) fn recheck(&mut self, slot: Slot, cause: Cause) {
        if let Some(node) = self.tree.get(slot) {
            let (directory, name) = (node.parent, node.name.clone());
            self.rechecks.push(Recheck {
                directory,
                name,
                cause,
            });
        }
    }

    /// Lists a file with its hash, remembers it, and says so where anything changed.
    fn list_file(&mut self, slot: Slot, seen: &Seen, hash: ContentHash, racy: bool) {
        let before = self.entry(slot);
        let version = self.version_of(slot, &seen.identity, &hash);
        let Some(old) = self.tree.file(slot).copied() else {
            return;
        };
        if old.listed {
            self.count(slot, -1);
            self.tree.drop_content(slot, &old.hash);
        }
        let executable = seen.executable();
        let file = FileBody {
            identity: seen.identity,
            hash,
            version,
            executable,
            listed: true,
        };
        if let Some(node) = self.tree.get_mut(slot) {
            node.body = Body::File(file);
        }
        self.count(slot, 1);
        self.tree.note_content(slot, &hash);
        let row = Row {
            identity: seen.identity,
            hash,
            first_seen: version,
            racy,
        };
        if self.ledger.get(row.identity.dev, row.identity.ino) != Some(row) {
            self.ledger.put(row);
        }
        if before != self.entry(slot) {
            self.tell_put(slot);
        }
        if seen.linked_again {
            if old.listed && old.hash != hash {
                self.recheck_links(file.identity, &old.hash);
            }
            self.recheck_links(file.identity, &hash);
        }
        let Identity { dev, ino, .. } = file.identity;
        let left_out = self.tree.private_names(dev, ino).take(LINKS_LOOKED_AT_MAX);
        let left_out: Vec<Slot> = left_out.collect();
        left_out
            .into_iter()
            .for_each(|slot| self.recheck(slot, Cause::Walk));
    }

    /// The kernel reports a change under the one name that it was made by: other names of the same
    /// file, which had this content, must be looked at where they are thought to be otherwise.
    pub(super) fn recheck_links(&mut self, identity: Identity, hash: &ContentHash) {
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

    /// min(mtime, when this version was first seen). A version is its bytes and its mtime, under
    /// this name or another that the same file had.
    fn version_of(&self, slot: Slot, identity: &Identity, hash: &ContentHash) -> Stamp {
        let mtime = identity.mtime;
        if let Some(file) = self.tree.file(slot)
            && file.listed
            && file.hash == *hash
            && file.identity.mtime == mtime
        {
            return file.version;
        }
        match self.ledger.get(identity.dev, identity.ino) {
            Some(row) if row.hash == *hash && row.identity.mtime == mtime => row.first_seen,
            _ => mtime.min(Stamp::now()),
        }
    }

    /// The bytes of a content were found changed: every entry with it goes until it was read again.
    pub(super) fn suspect(&mut self, hash: &ContentHash) {
        let slots: Vec<Slot> = self.tree.with_content(hash).collect();
        for slot in slots {
            let Some(file) = self.tree.file(slot).copied() else {
                continue;
            };
            self.unlist(slot);
            self.ledger.forget(&file.identity);
            self.queue
                .enqueue(slot, false, file.identity.size_bytes, false);
        }
    }

    /// Files at rest long enough are read. Where nobody would have told us of a writer, we ask.
    pub(super) fn wake_rested(&mut self, now: Instant) {
        for slot in self.queue.rested(now) {
            let Some(node) = self.tree.get(slot) else {
                self.queue.withdraw(slot);
                continue;
            };
            let watched = self
                .tree
                .directory(node.parent)
                .is_some_and(|d| d.watch.is_some());
            let size_bytes = self
                .tree
                .file(slot)
                .map_or(0, |file| file.identity.size_bytes);
            self.queue.enqueue(slot, false, size_bytes, watched);
        }
    }
}
