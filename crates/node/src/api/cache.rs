//! The cache of other nodes' files: its size, the room in it, eviction and verification.

use std::ops::ControlFlow;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::contents::Contents;
use p2pfs_catalogue::View;
use p2pfs_content::ContentStore;
use p2pfs_content::cache::{
    CacheUsage, CachedFile, Cleared, Lack, Room, VerifyProgress, cost_bytes,
};
use p2pfs_transfer::Fetcher;
use p2pfs_transfer::batches::Batches;
use p2pfs_types::digest::{ContentHash, ContentKey};

/// The cache of a node, and the room in it. [`Node::cache`](crate::Node::cache) returns it. Clones
/// share their state.
#[derive(Clone)]
pub struct NodeCache {
    pub(crate) store: ContentStore,
    pub(crate) batches: Batches,
    pub(crate) fetcher: Fetcher,
    pub(crate) view: Arc<ArcSwap<View>>,
}

impl NodeCache {
    /// Returns the space that the cache takes and may take.
    pub fn usage(&self) -> CacheUsage {
        self.store.cache().usage()
    }

    /// Returns every content that has an entry in the cache (cached bytes or an open file), the
    /// least recently used first. Open files count as used now, so this first closes the files that
    /// no reader uses. Blocks on the disk.
    pub fn list(&self) -> Vec<CachedFile> {
        self.idle_closer()();
        self.store.cache().list()
    }

    /// Returns how many bytes of a content this node can read without another node.
    pub fn here_bytes(&self, hash: &ContentHash, size_bytes: u64) -> u64 {
        self.store.here(&ContentKey::new(*hash, size_bytes)).bytes
    }

    /// Closes the files that no reader uses, then removes the contents that are neither pinned nor
    /// open. Stops if the disk refuses a removal. Blocks on the disk.
    pub fn clear(&self) -> Cleared {
        self.idle_closer()();
        self.store.cache().clear()
    }

    /// Sets the budget of the cache in bytes and evicts the excess as far as possible. Blocks on
    /// the disk.
    pub fn resize(&self, budget_bytes: u64) -> CacheUsage {
        self.idle_closer()();
        self.store.cache().resize(budget_bytes)
    }

    /// Writes the maps of the cached files and marks the stop as clean, unless the disk refuses
    /// changes. A file that is stored to after this call is in doubt at the next start. Blocks on
    /// the disk.
    pub fn flush(&self) {
        self.store.cache().flush_at_end();
    }

    /// Verifies the complete chunks of all cached files that can be opened, and drops damaged
    /// chunks. Calls `progress` about once per MiB, and ends early if `progress` breaks. Blocks on
    /// the disk.
    pub fn verify(
        &self,
        progress: impl FnMut(&VerifyProgress) -> ControlFlow<()>,
    ) -> VerifyProgress {
        self.store.cache().verify(progress)
    }

    /// Returns whether [`NodeCache::lack_of_room`] finds room for this many bytes. The answer is
    /// not a reservation. Blocks on the disk.
    pub fn has_room_for(&self, bytes: u64) -> bool {
        self.lack_of_room(bytes).is_none()
    }

    /// Returns why the cache could not hold this many additional bytes, even if everything
    /// evictable were evicted. Returns `None` if it could. A pinned content counts as complete,
    /// unless the cache has no entry for it and no live node has it. [`NodeCache::room_needed`]
    /// calculates `bytes` for given contents. Blocks on the disk.
    pub fn lack_of_room(&self, bytes: u64) -> Option<Lack> {
        self.room()(bytes)
    }

    /// Returns the check of [`NodeCache::lack_of_room`] as a function for a blocking thread.
    pub(super) fn room(&self) -> impl Fn(u64) -> Option<Lack> + Send + 'static {
        let (cache, close_idle) = (self.store.cache().clone(), self.idle_closer());
        let pins_to_begin_bytes = self.pins_to_begin_bytes();
        let lack = move |bytes| {
            let mut room = Room::for_files(&cache);
            room.take(pins_to_begin_bytes);
            room.lack(bytes)
        };
        move |bytes| {
            lack(bytes).filter(|_| bytes > 0).and_then(|_| {
                // Open files are not evictable. Those without a reader are closed soon anyway.
                close_idle();
                lack(bytes)
            })
        }
    }

    /// Returns how many additional bytes of room the cache needs to hold all of these contents,
    /// including the hash trees that prove their bytes. An evictable content counts in full. An
    /// open content counts without the room that it takes already. A pinned content counts nothing,
    /// because [`NodeCache::lack_of_room`] counts it. A content in a share of this node counts
    /// nothing.
    pub fn room_needed(&self, contents: &Contents) -> u64 {
        let has_room = |hash: &ContentHash| {
            self.store.shares().holds(hash) || self.store.cache().is_pinned(hash)
        };
        let others = contents.iter().filter(|(hash, _)| !has_room(hash));
        let needed = others
            .map(|(hash, (size_bytes, _))| self.store.cache().bytes_to_come(hash, *size_bytes));
        needed.sum()
    }

    /// Returns a function that closes the files that are kept open although no reader uses them.
    /// Call the function on a thread that may block on the disk.
    pub(super) fn idle_closer(&self) -> impl Fn() + Send + 'static {
        let (fetcher, batches) = (self.fetcher.clone(), self.batches.clone());
        move || {
            fetcher.close_idle();
            batches.close_idle();
        }
    }

    /// Returns the pinned contents that are not complete on this node and that a live node has.
    pub(super) fn unfinished_pins(&self) -> Contents {
        let (here, view) = (&self.store, self.view.load_full());
        let pins = self.store.cache().pins().into_iter();
        let unfinished = pins.filter(|hash| !here.is_whole(hash));
        unfinished
            .filter_map(|hash| {
                let content = view.contents().get(&hash)?;
                let path = view.contents().names_of(&hash, 1).pop()?;
                Some((hash, (content.size_bytes, path)))
            })
            .collect()
    }

    /// Returns how many bytes of the budget the [unfinished pins](Self::unfinished_pins) without an
    /// entry in the cache will take.
    pub(super) fn pins_to_begin_bytes(&self) -> u64 {
        let mut unfinished = self.unfinished_pins();
        unfinished.retain(|hash, _| self.store.cache().size_bytes(hash).is_none());
        unfinished
            .values()
            .map(|(size_bytes, _)| cost_bytes(*size_bytes))
            .sum()
    }
}
