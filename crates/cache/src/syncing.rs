//! Bringing a file to the disk while others use it, close it, or want its room.
//!
//! A disk may take seconds for the bytes. They are waited for with nothing held, so that a file
//! that nobody else has open is not in use for that; only the map that says that they are durable
//! is written with the file open, and whoever finds no room meanwhile waits for the end of that.

use std::sync::Arc;

use parking_lot::MutexGuard;

use super::core::{Core, Handle};
use super::file::{Files, Shared};
use super::index::{Index, Presence};
use p2pfs_types::digest::ContentHash;

/// What there is of a file to be brought to the disk.
enum Bytes {
    Open(Arc<Shared>),
    Closed(Files),
}

impl Core {
    /// Brings a file to the disk and marks it as durable. What cannot be brought there stays
    /// marked with this boot, and was counted.
    pub(super) fn bring_to_disk(self: &Arc<Self>, hash: &ContentHash) {
        let synced = match self.bytes_of(hash) {
            None => return,
            Some(Bytes::Open(shared)) => shared.files().map(|files| files.sync(&self.context)),
            Some(Bytes::Closed(files)) => Some(files.sync(&self.context)),
        };
        if synced.is_some_and(|synced| self.context.noted(synced).is_err()) {
            return;
        }
        self.index.lock().held_for_a_moment = true;
        if let Ok(Some(file)) = self.existing_unused(hash) {
            let synced = file.shared().sync(&self.context);
            if synced.is_err() {
                // its end would ask for the same again, and again
                file.shared().state.lock().unsynced = false;
            }
        }
        self.index.lock().held_for_a_moment = false;
        self.settled.notify_all();
    }

    /// The files of a content as they are now; they may be removed while they are synced.
    fn bytes_of(&self, hash: &ContentHash) -> Option<Bytes> {
        let size_bytes = {
            let index = self.index.lock();
            let entry = index.get(hash)?;
            match &entry.presence {
                Presence::Open(_, shared) => return Some(Bytes::Open(shared.clone())),
                Presence::Closed => entry.summary.size_bytes,
            }
        };
        let files = Files::open(&self.context, &self.context.layout.paths(hash), size_bytes);
        files.ok().map(Bytes::Closed)
    }

    /// The index, once no file is held only for its map to be written.
    pub(super) fn index_at_rest(&self) -> MutexGuard<'_, Index<Handle>> {
        let mut index = self.index.lock();
        while index.held_for_a_moment {
            self.settled.wait(&mut index);
        }
        index
    }
}
