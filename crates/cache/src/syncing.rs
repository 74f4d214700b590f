//! Syncs a file to the disk while other threads use it, close it, or need its room.
//!
//! A disk may take seconds to sync the bytes. No handle and no lock is held during that wait, so
//! the sync alone does not keep a file open. Only the map that marks the bytes as durable is
//! written with the file open. A thread that finds no room meanwhile waits until that write ends.

use std::sync::Arc;

use super::content_files::Descriptors;
use super::core::CacheCore;
use super::file::OpenFileState;
use super::index::Presence;
use p2pfs_types::digest::ContentHash;

/// The files to sync: those of an open cached file, shared with its users, or files that were
/// opened only for the sync.
enum FilesToSync {
    Open(Arc<OpenFileState>),
    Closed(Descriptors),
}

/// Syncs a file and marks its records as durable. After a failure they stay marked with the
/// current boot, and the failure is counted.
pub(super) fn sync_to_disk(core: &Arc<CacheCore>, hash: &ContentHash) {
    let synced = match files_to_sync(core, hash) {
        None => return,
        Some(FilesToSync::Open(shared)) => shared.files.sync(&core.context),
        Some(FilesToSync::Closed(files)) => Some(files.sync(&core.context)),
    };
    if synced.is_some_and(|synced| core.context.record_result(synced).is_err()) {
        return;
    }
    core.index.lock().is_open_for_map = true;
    if let Ok(Some(file)) = core.existing_unused(hash) {
        let synced = file.shared().sync(&core.context);
        if synced.is_err() {
            // Otherwise the close would queue the same sync again and again.
            file.shared().pages.lock().unsynced = false;
        }
    }
    core.index.lock().is_open_for_map = false;
    core.index.notify_settled();
}

/// Returns the current files of a content. They may be removed during the sync.
fn files_to_sync(core: &CacheCore, hash: &ContentHash) -> Option<FilesToSync> {
    let size_bytes = {
        let index = core.index.lock();
        let entry = index.get(hash)?;
        match &entry.presence {
            Presence::Open(_, shared) => return Some(FilesToSync::Open(shared.clone())),
            Presence::Closed => entry.summary.size_bytes,
        }
    };
    let files = Descriptors::open(&core.context, &core.context.layout.paths(hash), size_bytes);
    files.ok().map(FilesToSync::Closed)
}
