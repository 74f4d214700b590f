//! Opening and closing of cached files.
//!
//! A hash is busy while its files are being opened or removed, so two threads never open, evict or
//! begin the same file at once. A file whose last handle is gone stays open in the index until its
//! map is written.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use super::budget::cost_bytes;
use super::cached_file::CacheFile;
use super::core::{CacheCore, OpenFileHandle};
use super::file::{Files, MapState, OpenFileState};
use super::index::{CacheIndex, IndexEntry, Presence};
use super::layout;
use super::{CacheError, CacheEvent, FILE_MAX_BYTES};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::extent::ByteRange;

/// State of a claimed hash in the index.
enum ClaimedEntry {
    Open(Arc<OpenFileHandle>),
    /// The caller has marked the hash as busy.
    Closed(IndexEntry<OpenFileHandle>),
    /// The caller has marked the hash as busy.
    Absent,
}

impl CacheCore {
    pub(super) fn file(
        self: &Arc<Self>,
        hash: ContentHash,
        size_bytes: u64,
    ) -> Result<CacheFile, CacheError> {
        let empty_of_another = size_bytes == 0 && hash != ContentHash::of(b"");
        if size_bytes > FILE_MAX_BYTES || empty_of_another {
            return Err(CacheError::ImpossibleSize { hash, size_bytes });
        }
        let handle = match self.claim(&hash) {
            ClaimedEntry::Open(handle) => handle,
            ClaimedEntry::Closed(entry) => self.reopen(hash, entry, Some(size_bytes))?,
            ClaimedEntry::Absent => self.begin(hash, size_bytes)?,
        };
        let have_bytes = handle.shared.size_bytes;
        if have_bytes != size_bytes {
            return Err(CacheError::SizeConflict {
                hash,
                have_bytes,
                asked_bytes: size_bytes,
            });
        }
        Ok(CacheFile::used(handle))
    }

    pub(super) fn existing(
        self: &Arc<Self>,
        hash: &ContentHash,
    ) -> Result<Option<CacheFile>, CacheError> {
        let file = self.existing_unused(hash)?;
        Ok(file.map(|file| CacheFile::used(file.handle)))
    }

    /// Opens an existing file for maintenance. This does not count as a use of the file, which
    /// keeps its position in the order of eviction.
    pub(super) fn existing_unused(
        self: &Arc<Self>,
        hash: &ContentHash,
    ) -> Result<Option<CacheFile>, CacheError> {
        if self.index.lock().get(hash).is_none() {
            return Ok(None);
        }
        let handle = match self.claim(hash) {
            ClaimedEntry::Open(handle) => handle,
            ClaimedEntry::Closed(entry) => self.reopen(*hash, entry, None)?,
            ClaimedEntry::Absent => {
                self.release(hash, None);
                return Ok(None);
            }
        };
        Ok(Some(CacheFile { handle }))
    }

    /// Returns the file if it is open. Otherwise waits until the hash is not busy and its file is
    /// not being closed, and marks the hash as busy.
    fn claim(&self, hash: &ContentHash) -> ClaimedEntry {
        let mut index = self.index.lock();
        loop {
            let busy = index.busy.contains(hash);
            match index.get(hash).map(|entry| (&entry.presence, entry)) {
                Some((Presence::Open(handle, _), _)) => {
                    if let Some(handle) = handle.upgrade() {
                        return ClaimedEntry::Open(handle);
                    }
                }
                _ if busy => {}
                Some((Presence::Closed, entry)) => {
                    let entry = entry.as_closed();
                    index.take_from_evictable(hash);
                    index.busy.insert(*hash);
                    return ClaimedEntry::Closed(entry);
                }
                None => {
                    index.busy.insert(*hash);
                    return ClaimedEntry::Absent;
                }
            }
            self.settled.wait(&mut index);
        }
    }

    /// Ends the claim and stores the new entry of the hash, if any.
    fn release(&self, hash: &ContentHash, entry: Option<IndexEntry<OpenFileHandle>>) {
        let mut index = self.index.lock();
        index.busy.remove(hash);
        match entry {
            Some(entry) => index.put_back(*hash, entry),
            None => {
                index.take(hash);
            }
        }
        drop(index);
        self.settled.notify_all();
    }

    /// Opens a closed file. If its map is unusable, or if another size is requested and its own
    /// size was never verified, the file is replaced by an empty one.
    fn reopen(
        self: &Arc<Self>,
        hash: ContentHash,
        entry: IndexEntry<OpenFileHandle>,
        size_bytes: Option<u64>,
    ) -> Result<Arc<OpenFileHandle>, CacheError> {
        let old_bytes = entry.summary.charge_bytes();
        let paths = self.context.layout.paths(&hash);
        let loaded = match layout::load(&paths, &hash, self.context.boot) {
            Ok(loaded) => loaded,
            Err(source) => {
                self.release(&hash, Some(entry));
                return Err(CacheError::io("read", paths.map, source));
            }
        };
        let size_bytes = size_bytes.unwrap_or(entry.summary.size_bytes);
        let usable = loaded.filter(|map| map.size_bytes == size_bytes || map.size_is_proven());
        let Some(mut loaded) = usable else {
            let gone = self
                .context
                .record_result(layout::remove(&self.context.disk, &paths));
            if let Err(source) = gone {
                self.release(&hash, Some(entry));
                return Err(CacheError::io("remove", paths.data, source));
            }
            self.index.lock().recharge(old_bytes, 0);
            if entry.summary.is_complete() {
                self.report_loss(hash, entry.summary.size_bytes);
            }
            return self.begin(hash, size_bytes);
        };
        let summary = loaded.summary();
        if entry.summary.is_complete() && !summary.is_complete() {
            self.report_loss(hash, summary.size_bytes);
        }
        let new_bytes = summary.charge_bytes();
        self.index.lock().recharge(old_bytes, new_bytes);
        let files = match Files::open(&self.context, &paths, summary.size_bytes) {
            Ok(files) => files,
            Err(source) => {
                self.release(&hash, Some(IndexEntry { summary, ..entry }));
                return Err(CacheError::io("open", paths.data, source));
            }
        };
        // A check of a small file is as cheap as opening it.
        let checks_now = entry.unchecked && loaded.in_attribute;
        if checks_now {
            loaded = loaded.in_doubt();
        }
        let map = MapState::of(&loaded);
        let shared = OpenFileState::new(hash, paths, Some(files), loaded, map, new_bytes);
        if checks_now {
            let whole = ByteRange::new(0, shared.size_bytes);
            if shared.settle(&self.context, whole) > 0 {
                // Nodes that know the file as complete on this node must learn that it is missing.
                self.report_loss(hash, shared.size_bytes);
            }
        }
        let unchecked = entry.unchecked && !checks_now;
        Ok(self.publish_open(shared, IndexEntry { unchecked, ..entry }))
    }

    /// Reports that a file that was complete is missing as a whole.
    fn report_loss(&self, hash: ContentHash, size_bytes: u64) {
        self.context.send_event(CacheEvent::Dropped {
            hash,
            range: ByteRange::new(0, size_bytes),
            was_complete: true,
        });
    }

    /// Begins a file without any bytes. Nothing is created on disk before the first bytes are
    /// stored, except for a content of size 0, which is complete at once.
    fn begin(
        self: &Arc<Self>,
        hash: ContentHash,
        size_bytes: u64,
    ) -> Result<Arc<OpenFileHandle>, CacheError> {
        let paths = self.context.layout.paths(&hash);
        let loaded = layout::empty_map(size_bytes);
        let map = MapState {
            on_disk: false,
            ..MapState::of(&loaded)
        };
        if size_bytes > 0 {
            let shared = OpenFileState::new(hash, paths, None, loaded, map, 0);
            return Ok(self.publish_new(shared));
        }
        let files = match self.context.record_result(Files::make(
            &self.context,
            &paths,
            0,
            ByteRange::new(0, 0),
        )) {
            Ok(files) => files,
            Err(source) => {
                self.release(&hash, None);
                return Err(CacheError::io("make", paths.data, source));
            }
        };
        let cost_bytes = cost_bytes(size_bytes);
        let charged_bytes = if self.reserve(cost_bytes) {
            cost_bytes
        } else {
            0
        };
        let shared = OpenFileState::new(hash, paths, Some(files), loaded, map, charged_bytes);
        let handle = self.publish_new(shared);
        if charged_bytes > 0 {
            handle
                .shared
                .rewrite(&self.context, &mut handle.shared.map.lock());
            self.context
                .send_event(CacheEvent::Completed { hash, size_bytes });
        }
        Ok(handle)
    }

    fn publish_new(self: &Arc<Self>, shared: OpenFileState) -> Arc<OpenFileHandle> {
        let entry = IndexEntry::closed(shared.summary(), SystemTime::now(), false);
        self.publish_open(shared, entry)
    }

    /// Ends the claim and publishes the file as open.
    pub(super) fn publish_open(
        self: &Arc<Self>,
        shared: OpenFileState,
        entry: IndexEntry<OpenFileHandle>,
    ) -> Arc<OpenFileHandle> {
        let shared = Arc::new(shared);
        let handle = Arc::new(OpenFileHandle {
            core: self.clone(),
            shared: shared.clone(),
        });
        let summary = shared.summary();
        let hash = shared.hash;
        let open = IndexEntry {
            summary,
            presence: Presence::Open(Arc::downgrade(&handle), shared),
            ..entry
        };
        self.release(&hash, Some(open));
        handle
    }

    /// Writes the map and makes the file evictable, after the last handle is gone. A file of which
    /// nothing remains on disk is removed from the index.
    pub(super) fn close(&self, shared: &Arc<OpenFileState>) {
        let is_used = shared.is_used.load(Ordering::Relaxed);
        let used_before =
            |index: &CacheIndex<OpenFileHandle>| Some(index.get(&shared.hash)?.last_use);
        let last_use = if is_used {
            None
        } else {
            used_before(&self.index.lock())
        };
        let last_use = last_use.unwrap_or_else(SystemTime::now);
        let (kept, is_to_sync) = shared.retire(&self.context, last_use);
        if shared.is_complete() && !kept.is_some_and(|summary| summary.is_complete()) {
            // The disk refused the map. Nodes that were told of the complete file must learn of the
            // loss.
            self.report_loss(shared.hash, shared.size_bytes);
        }
        let charged_bytes = shared.charged_bytes();
        let mut index = self.index.lock();
        let Some(summary) = kept else {
            index.recharge(charged_bytes, 0);
            index.take(&shared.hash);
            drop(index);
            self.settled.notify_all();
            return;
        };
        let new_bytes = summary.charge_bytes();
        index.recharge(charged_bytes, new_bytes);
        if let Some(entry) = index.take(&shared.hash) {
            let closed = IndexEntry {
                summary,
                last_use,
                presence: Presence::Closed,
                ..entry
            };
            if is_used {
                index.insert(shared.hash, closed)
            } else {
                index.put_back(shared.hash, closed)
            }
        }
        drop(index);
        self.settled.notify_all();
        if is_to_sync {
            shared.sync_later(&self.context);
        }
        self.shrink();
    }
}
