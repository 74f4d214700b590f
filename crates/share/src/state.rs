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
use super::listing::ShareListing;
use super::name_state::Observation;
use super::offered::OfferedShare;
use super::outcome::FinishedRead;
use super::queue::HashQueue;
use super::tree::{DirectoryBody, Slot};
use p2pfs_proto::wire::native::record::ShareIndex;

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
    ) {
        // before any later event of this share
        self.listing.shares.outbox.push(ShareEvent::Readers {
            share: ShareIndex(index),
            readers: spec.readers.clone(),
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
            });
            if let Some(root) = moved {
                self.listing.move_share(index, root, &spec.place);
            }
        } else {
            let root = self.listing.tree.insert_root(index);
            self.listing
                .shares
                .by_index
                .insert(index, OfferedShare::new(dir, spec, exclude, root));
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
            });
        }
        self.listing.order.step();
        self.clear(root);
        self.listing.drop_watch(root);
    }

    /// Records that the share's own directory was opened. Returns false if others may not enter it,
    /// so that nothing in it is shared.
    pub(super) fn enter_share(&mut self, index: u16, seen: &NameStat) -> bool {
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
        });
        if private {
            self.listing.order.step();
            self.clear(root);
            self.listing.kept.clear();
        }
        !private
    }
}
