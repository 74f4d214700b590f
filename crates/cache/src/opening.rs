//! Opening of cached files.
//!
//! A hash is busy while its files are being opened or removed, so two threads never open, evict or
//! begin the same file at once. A file whose last handle is gone stays open in the index until its
//! map is written.

use std::sync::Arc;
use std::time::SystemTime;

use super::budget::cost_bytes;
use super::content_files::{ContentFiles, Descriptors};
use super::core::{CacheCore, OpenFileHandle};
use super::file::OpenFileState;
use super::flush::MapState;
use super::index::{IndexEntry, Presence};
use super::layout;
use super::{CacheError, CacheEvent};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::extent::ByteRange;

/// Outcome of a claim.
#[must_use = "a claimed hash stays busy until `release` or `publish`"]
pub(super) enum ClaimOutcome<'a> {
    /// The file is open. Its hash is not claimed.
    Open(Arc<OpenFileHandle>),
    Closed(ClaimedHash<'a>, IndexEntry<OpenFileHandle>),
    /// The cache has no entry for the hash.
    Absent(ClaimedHash<'a>),
}

/// A hash that the caller has marked as busy, in order to open or begin its file. Each claim must
/// end with [`Self::release`] or [`Self::publish`]. Otherwise the hash stays busy, and every thread
/// that needs its file waits forever.
#[must_use = "a claimed hash stays busy until `release` or `publish`"]
pub(super) struct ClaimedHash<'a> {
    core: &'a Arc<CacheCore>,
    hash: ContentHash,
}

impl<'a> ClaimedHash<'a> {
    /// Returns the file if it is open. Otherwise waits until the hash is not busy and its file is
    /// not being closed, and marks the hash as busy.
    pub(super) fn claim(core: &'a Arc<CacheCore>, hash: ContentHash) -> ClaimOutcome<'a> {
        let mut index = core.index.lock();
        loop {
            let busy = index.busy.contains(&hash);
            match index.get(&hash).map(|entry| (&entry.presence, entry)) {
                Some((Presence::Open(handle, _), _)) => {
                    if let Some(handle) = handle.upgrade() {
                        return ClaimOutcome::Open(handle);
                    }
                }
                _ if busy => {}
                Some((Presence::Closed, entry)) => {
                    let entry = entry.as_closed();
                    index.take_from_evictable(&hash);
                    index.busy.insert(hash);
                    return ClaimOutcome::Closed(Self { core, hash }, entry);
                }
                None => {
                    index.busy.insert(hash);
                    return ClaimOutcome::Absent(Self { core, hash });
                }
            }
            core.index.wait(&mut index);
        }
    }

    /// Ends the claim and stores the new entry of the hash, if any.
    pub(super) fn release(self, entry: Option<IndexEntry<OpenFileHandle>>) {
        let mut index = self.core.index.lock();
        index.busy.remove(&self.hash);
        match entry {
            Some(entry) => index.put_back(self.hash, entry),
            None => {
                index.take(&self.hash);
            }
        }
        drop(index);
        self.core.index.notify_settled();
    }

    /// Opens a closed file. If its map is unusable, or if another size is requested and its own
    /// size was never verified, the file is replaced by an empty one.
    pub(super) fn reopen(
        self,
        entry: IndexEntry<OpenFileHandle>,
        size_bytes: Option<u64>,
    ) -> Result<Arc<OpenFileHandle>, CacheError> {
        let (core, hash) = (self.core, self.hash);
        let context = &core.context;
        let old_bytes = entry.summary.charge_bytes();
        let paths = context.layout.paths(&hash);
        let loaded = match layout::load(&paths, &hash, context.boot) {
            Ok(loaded) => loaded,
            Err(source) => {
                self.release(Some(entry));
                return Err(CacheError::io("read", paths.map, source));
            }
        };
        let size_bytes = size_bytes.unwrap_or(entry.summary.size_bytes);
        let usable = loaded.filter(|map| map.size_bytes == size_bytes || map.size_is_proven());
        let Some(mut loaded) = usable else {
            let gone = context.record_result(layout::remove(&context.disk, &paths));
            if let Err(source) = gone {
                self.release(Some(entry));
                return Err(CacheError::io("remove", paths.data, source));
            }
            core.index.lock().recharge(old_bytes, 0);
            if entry.summary.is_complete() {
                context.report_loss(hash, entry.summary.size_bytes);
            }
            return self.begin(size_bytes);
        };
        let summary = loaded.summary();
        if entry.summary.is_complete() && !summary.is_complete() {
            context.report_loss(hash, summary.size_bytes);
        }
        let new_bytes = summary.charge_bytes();
        core.index.lock().recharge(old_bytes, new_bytes);
        let descriptors = match Descriptors::open(context, &paths, summary.size_bytes) {
            Ok(descriptors) => descriptors,
            Err(source) => {
                self.release(Some(IndexEntry { summary, ..entry }));
                return Err(CacheError::io("open", paths.data, source));
            }
        };
        // A check of a small file is as cheap as opening it.
        let checks_now = entry.unchecked && loaded.in_attribute;
        if checks_now {
            loaded = loaded.in_doubt();
        }
        let map = MapState::of(&loaded);
        let files = ContentFiles::new(hash, summary.size_bytes, paths, Some(descriptors));
        let shared = OpenFileState::new(files, loaded, map, new_bytes);
        if checks_now {
            let whole = ByteRange::new(0, shared.files.size_bytes);
            if shared.settle(context, whole) > 0 {
                // Nodes that know the file as complete on this node must learn that it is missing.
                context.report_loss(hash, shared.files.size_bytes);
            }
        }
        let unchecked = entry.unchecked && !checks_now;
        Ok(self.publish(shared, IndexEntry { unchecked, ..entry }))
    }

    /// Begins a file without any bytes. Nothing is created on disk before the first bytes are
    /// stored, except for a content of size 0, which is complete at once.
    pub(super) fn begin(self, size_bytes: u64) -> Result<Arc<OpenFileHandle>, CacheError> {
        let (core, hash) = (self.core, self.hash);
        let context = &core.context;
        let paths = context.layout.paths(&hash);
        let loaded = layout::empty_map(size_bytes);
        let map = MapState {
            on_disk: false,
            ..MapState::of(&loaded)
        };
        if size_bytes > 0 {
            let files = ContentFiles::new(hash, size_bytes, paths, None);
            let shared = OpenFileState::new(files, loaded, map, 0);
            return Ok(self.publish_new(shared));
        }
        let made = Descriptors::make(context, &paths, 0, ByteRange::new(0, 0));
        let descriptors = match context.record_result(made) {
            Ok(descriptors) => descriptors,
            Err(source) => {
                self.release(None);
                return Err(CacheError::io("make", paths.data, source));
            }
        };
        let cost_bytes = cost_bytes(size_bytes);
        let charged_bytes = if core.reserve(cost_bytes) {
            cost_bytes
        } else {
            0
        };
        let files = ContentFiles::new(hash, size_bytes, paths, Some(descriptors));
        let shared = OpenFileState::new(files, loaded, map, charged_bytes);
        let handle = self.publish_new(shared);
        if charged_bytes > 0 {
            handle
                .shared
                .rewrite(context, &mut handle.shared.map.lock());
            context.send_event(CacheEvent::Completed { hash, size_bytes });
        }
        Ok(handle)
    }

    fn publish_new(self, shared: OpenFileState) -> Arc<OpenFileHandle> {
        let entry = IndexEntry::closed(shared.pages.summary(), SystemTime::now(), false);
        self.publish(shared, entry)
    }

    /// Ends the claim and publishes the file as open.
    pub(super) fn publish(
        self,
        shared: OpenFileState,
        entry: IndexEntry<OpenFileHandle>,
    ) -> Arc<OpenFileHandle> {
        let shared = Arc::new(shared);
        let handle = Arc::new(OpenFileHandle {
            core: self.core.clone(),
            shared: shared.clone(),
        });
        let summary = shared.pages.summary();
        let open = IndexEntry {
            summary,
            presence: Presence::Open(Arc::downgrade(&handle), shared),
            ..entry
        };
        self.release(Some(open));
        handle
    }
}
