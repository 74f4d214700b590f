//! The status of the shares as `p2pfs share` shows it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::config::{Known, ShareStatus};
use super::left_out::{LEFT_OUT_LIST_MAX, LeftOut};
use super::listing::ShareListing;
use super::offered::OfferedShare;
use super::queue::HashQueue;
use super::state::ListingState;
use super::tree::Slot;
use p2pfs_proto::wire::native::record::ShareIndex;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::path::SharedPath;

/// Maximum number of files reported as waiting to be hashed for one directory.
pub(super) const UNREAD_MAX: usize = 1000;
/// Maximum number of waiting files examined to find those of one directory. It bounds the time
/// under the lock to some milliseconds.
const UNREAD_LOOKED_AT_MAX: usize = 50_000;

/// Readers of a content, according to the current state of the shares. The log may not have it yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SharedFor {
    /// No share has the content.
    Nobody,
    /// A share without a reader list has the content.
    All,
    /// Only these shares have the content, and all of them have reader lists.
    ReadersOf(BTreeSet<ShareIndex>),
}

/// The parts of the state that the reports about the shares read.
pub(super) struct StatusView<'a> {
    listing: &'a ShareListing,
    queue: &'a HashQueue,
}

impl<'a> StatusView<'a> {
    pub(super) fn of(state: &'a ListingState) -> Self {
        Self {
            listing: &state.listing,
            queue: &state.queue,
        }
    }

    /// Returns the status of every share, as `p2pfs share` shows it.
    pub(super) fn list(&self) -> Vec<ShareStatus> {
        let mut left: BTreeMap<u16, (u64, u64)> = BTreeMap::new();
        let (mut busy, now) = (BTreeMap::new(), Instant::now());
        for slot in self.queue.left() {
            if let Some(node) = self.listing.tree.get(slot) {
                if self.queue.is_busy(slot, now) {
                    busy.entry(node.share).or_insert(slot);
                }
                let (files, bytes) = left.entry(node.share).or_default();
                *files += 1;
                *bytes += self.queue.size_bytes(slot);
            }
        }
        let of = |index: &u16| left.get(index).copied().unwrap_or_default();
        let status = |(index, share): (&u16, &OfferedShare)| ShareStatus {
            dir: share.dir.to_path_buf(),
            index: ShareIndex(*index),
            spec: share.spec.clone(),
            state: share.state(self.listing.shares.scans.contains(index), of(index).0),
            totals: share.totals,
            bytes_left: of(index).1,
            left_out: self.first_left_out(share),
            left_out_counts: share.left_out_counts(),
            stands_still: share.problems.stands_still,
            warning: share
                .current_warning()
                .or_else(|| self.warning_of_busy(*busy.get(index)?)),
        };
        self.listing.shares.by_index.iter().map(status).collect()
    }

    /// Returns the warning for a file that changes again and again.
    fn warning_of_busy(&self, slot: Slot) -> Option<String> {
        let path = self.listing.listed_path(slot)?;
        Some(format!(
            "{path} changes again and again, so other nodes see its changes late"
        ))
    }

    /// Returns the readers of a content. If a file that had the content was moved into a share and
    /// is not hashed there yet, the readers of that share count only if the share has a list of
    /// readers. Otherwise the move could open a content to every node before it is certain that the
    /// file has it.
    pub(super) fn shared_for(&self, hash: &ContentHash) -> SharedFor {
        let mut restricted = BTreeSet::new();
        let former = self.listing.former.get(hash).map(|it| it.slot);
        let slots = self.listing.tree.with_content(hash).chain(former);
        for (index, share) in self.shares_of(slots) {
            if share.spec.readers.is_none() {
                return SharedFor::All;
            }
            restricted.insert(ShareIndex(index));
        }
        let moved = self.listing.moved.get(hash).map(|(slot, _)| slot);
        // the old name of a moved file is still announced
        let leaving = moved.map(|_| self.listing.leaving.shares_with(hash));
        for index in leaving.into_iter().flatten() {
            match self.listing.shares.by_index.get(&index.0) {
                Some(share) if share.spec.readers.is_none() => return SharedFor::All,
                Some(_) => drop(restricted.insert(index)),
                None => {}
            }
        }
        let moved = self.shares_of(moved.into_iter());
        let moved = moved.filter(|(_, share)| share.spec.readers.is_some());
        restricted.extend(moved.map(|(index, _)| ShareIndex(index)));
        if restricted.is_empty() {
            SharedFor::Nobody
        } else {
            SharedFor::ReadersOf(restricted)
        }
    }

    fn shares_of(
        &self,
        slots: impl Iterator<Item = Slot>,
    ) -> impl Iterator<Item = (u16, &OfferedShare)> {
        let nodes = slots.filter_map(|slot| self.listing.tree.get(slot));
        nodes.filter_map(|node| Some((node.share, self.listing.shares.by_index.get(&node.share)?)))
    }

    /// Returns at most [`UNREAD_MAX`] files of a directory that wait to be hashed, sorted. A file
    /// may be listed with its former version meanwhile.
    pub(super) fn unread_in(&self, directory: &SharedPath) -> Vec<SharedPath> {
        let waiting = self.queue.left().take(UNREAD_LOOKED_AT_MAX);
        let paths = waiting.filter_map(|slot| self.listing.listed_path(slot));
        let here = paths.filter(|path| path.parent().as_ref() == Some(directory));
        let mut found: Vec<_> = here.take(UNREAD_MAX).collect();
        found.sort();
        found
    }

    /// Returns some listed names after a position, and the position to continue from.
    pub(super) fn listed(&self, after: Option<u32>, limit: usize) -> (Vec<Known>, Option<u32>) {
        let (mut found, mut last) = (Vec::new(), None);
        for slot in self.listing.tree.slots(after) {
            if found.len() == limit {
                return (found, last);
            }
            last = Some(slot.number());
            let known = || {
                let entry = self.listing.entry(slot)?;
                let (share, path) = self.listing.name_in_listing(slot)?;
                Some(Known { share, path, entry })
            };
            found.extend(known());
        }
        (found, None)
    }

    fn first_left_out(&self, share: &OfferedShare) -> Vec<LeftOut> {
        let itself = share.left_out_itself();
        let others = share
            .left_out
            .iter()
            .filter_map(|(_, slot)| self.listing.left_out(*slot));
        itself
            .into_iter()
            .chain(others)
            .take(LEFT_OUT_LIST_MAX)
            .collect()
    }

    /// Returns, for each share in which `path` or a directory above it is left out, the reason.
    pub(super) fn left_out_at(&self, path: &SharedPath) -> Vec<LeftOut> {
        let in_share = |share: &OfferedShare| {
            let mut at = share.root;
            let local = share.spec.place.local(path)?;
            if let Some(itself) = share.left_out_itself() {
                return Some(itself);
            }
            for name in local.components() {
                at = self.listing.tree.child(at, name)?;
                if let Some(left_out) = self.listing.left_out(at) {
                    return Some(left_out);
                }
            }
            None
        };
        self.listing
            .shares
            .by_index
            .values()
            .filter_map(in_share)
            .collect()
    }
}
