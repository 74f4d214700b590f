//! The writable shares of this node, as its mount sees them.

use std::sync::Arc;

use parking_lot::Mutex;

use super::deletions::{DeletionError, Deletions};
use super::namespace::NodeNamespace;
use p2pfs_content::{ContentStore, WritableFolder as SharedFolder};
use p2pfs_fs::{FsError, UpperFolder, WritableFolder, WriteLimits, WriteRoom, Writing};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::path::SharedPath;

/// The folders of the writable shares, and what the log says of deletions.
pub(super) struct MountWriting {
    pub deletions: Deletions,
    room: WriteRoom,
    folders: Mutex<KnownFolders>,
}

/// The folders as the shares last gave them, and the same for the mount.
#[derive(Default)]
struct KnownFolders {
    shared: Option<Arc<[SharedFolder]>>,
    mounted: Arc<[Arc<WritableFolder>]>,
}

impl MountWriting {
    pub(super) fn new(deletions: Deletions, limits: WriteLimits) -> Self {
        Self {
            deletions,
            room: WriteRoom::new(limits),
            folders: Mutex::default(),
        }
    }

    /// Returns the folders of the present writable shares.
    fn folders(&self, store: &ContentStore) -> Arc<[Arc<WritableFolder>]> {
        let shared = store.writable_folders();
        let mut known = self.folders.lock();
        let is_known = (known.shared.as_ref()).is_some_and(|known| Arc::ptr_eq(known, &shared));
        if !is_known {
            let kept_time = self.room.limits().kept_time;
            let mounted = |folder: &SharedFolder| {
                Arc::new(WritableFolder {
                    share: folder.share,
                    place: folder.place.path().clone(),
                    upper: UpperFolder::keeping(folder.folder.clone(), kept_time),
                })
            };
            known.mounted = shared.iter().map(mounted).collect();
            known.shared = Some(shared);
        }
        known.mounted.clone()
    }
}

impl Writing for NodeNamespace {
    fn folders(&self) -> Arc<[Arc<WritableFolder>]> {
        self.writing.folders(&self.store)
    }

    fn room(&self) -> &WriteRoom {
        &self.writing.room
    }

    fn delete(&self, path: &SharedPath, contents: Vec<ContentHash>) -> Result<(), FsError> {
        let deleted = self.writing.deletions.delete(path.clone(), contents);
        deleted.map_err(of_deletion)
    }

    fn withdraw_deletion(&self, path: &SharedPath, content: ContentHash) -> Result<(), FsError> {
        let deletions = &self.writing.deletions;
        let withdrawn = deletions.withdraw(path.clone(), vec![content]);
        withdrawn.map_err(of_deletion)
    }
}

fn of_deletion(error: DeletionError) -> FsError {
    match error {
        DeletionError::Full => FsError::TooManyDeletions,
        DeletionError::BadPath => FsError::Invalid,
        DeletionError::Late => FsError::DeadlinePassed,
        DeletionError::Stopping => FsError::Stopping,
    }
}
