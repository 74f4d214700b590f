//! A [`Content`] with names and without bytes, for tests that read no file.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use parking_lot::Mutex;

use super::FileVersion;
use super::error::FsError;
use super::traits::{Content, LiveAttributes, LiveLook, Opened, Space};
use p2pfs_catalogue::{Catalogue, View};
use p2pfs_proto::wire::native::record::{Entry, Kind, ShareIndex, Timestamp};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::{NodeId, NodeName};
use p2pfs_types::path::SharedPath;

/// Size that marks files as not on the disk.
const GONE: u64 = u64::MAX;

/// Names of a node, and the size of all their files on the disk.
pub struct Names(Mutex<Catalogue>, pub(crate) Arc<AtomicU64>);

impl Names {
    /// Creates a stand-in without names, and without files on the disk.
    pub fn none() -> Self {
        let name = NodeName::new("near").unwrap();
        let catalogue = Catalogue::new(NodeId::new([7; 32]), name);
        Self(catalogue.into(), Arc::new(GONE.into()))
    }

    /// Adds a file with this content to the share 0.
    pub fn put(&self, name: &str, content: &[u8]) {
        let kind = Kind::File {
            hash: ContentHash::of(content),
            size_bytes: content.len() as u64,
            executable: false,
        };
        let entry = Entry {
            kind,
            mtime: Timestamp::default(),
            version_time: Timestamp::default(),
            sent_by: None,
            replaces: Vec::new(),
        };
        let path = SharedPath::new(name.as_bytes()).unwrap();
        self.0
            .lock()
            .own_mut()
            .put(ShareIndex(0), &path, entry)
            .unwrap();
    }
}

fn look(size: &AtomicU64) -> Option<LiveAttributes> {
    let size_bytes = Some(size.load(Relaxed)).filter(|size| *size != GONE)?;
    let (mtime, executable) = (Timestamp::default(), false);
    Some(LiveAttributes {
        size_bytes,
        mtime,
        executable,
    })
}

impl Content for Names {
    fn view(&self) -> Arc<View> {
        self.0.lock().view()
    }

    fn open(self: Arc<Self>, _: &FileVersion) -> Result<Opened, FsError> {
        Err(FsError::Gone)
    }

    fn cached_bytes(&self, _: &FileVersion) -> u64 {
        0
    }

    fn live(&self, _: &FileVersion) -> Option<LiveAttributes> {
        look(&self.1)
    }

    fn live_in(&self, _: ShareIndex, _: &SharedPath) -> Option<LiveLook> {
        let size = self.1.clone();
        Some(Box::new(move |_| look(&size)))
    }

    fn space(&self) -> Space {
        Space::default()
    }

    fn status_json(&self) -> Vec<u8> {
        Vec::new()
    }
}
