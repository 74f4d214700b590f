//! The node as a mounted filesystem sees it: its names, and the contents behind them.

use std::sync::Arc;

use super::foreign::ForeignPeers;
use super::names::Names;
use super::published::Published;
use super::writable::MountWriting;
use p2pfs_catalogue::View;
use p2pfs_content::{ContentOpener, ContentStore};
use p2pfs_fs::{
    Content, FileVersion, ForeignFiles, FsError, LiveAttributes, LiveLook, Opened, PageDropper,
    Space, WholeFile, Writing,
};
use p2pfs_proto::wire::native::record::ShareIndex;
use p2pfs_transfer::Fetcher;
use p2pfs_transfer::batches::{Batches, SmallFile};
use p2pfs_types::digest::ContentKey;
use p2pfs_types::path::SharedPath;

/// The names and contents of the node, for a mounted filesystem. Each call uses the state that the
/// event loop published last. Nothing here blocks on the network.
pub struct NodeNamespace {
    pub(super) names: Names,
    pub(super) published: Published,
    pub(super) store: ContentStore,
    pub(super) opener: ContentOpener,
    pub(super) fetcher: Fetcher,
    pub(super) batches: Batches,
    pub(super) foreign: Option<Arc<dyn ForeignPeers>>,
    pub(super) writing: MountWriting,
}

impl Content for NodeNamespace {
    fn view(&self) -> Arc<View> {
        self.published.view.load_full()
    }

    fn open(self: Arc<Self>, file: &FileVersion) -> Result<Opened, FsError> {
        self.opener.open(file)
    }

    fn ask_ahead(&self, files: &[WholeFile]) {
        if !self.fetcher.is_metered() {
            let small = |file: &WholeFile| SmallFile::new(file.hash, file.size_bytes);
            let files: Vec<SmallFile> = files.iter().map(small).collect();
            self.batches.ask(&files);
        }
    }

    fn cached_bytes(&self, file: &FileVersion) -> u64 {
        if file.own.is_some() {
            return file.size_bytes;
        }
        let content = ContentKey::new(file.hash, file.size_bytes);
        self.store.here(&content).bytes
    }

    fn sender(&self, file: &FileVersion) -> Option<String> {
        let sent_by = self.view().sent_by(&file.path, &file.hash)?;
        Some(self.names.of_sender(&sent_by))
    }

    fn live(&self, file: &FileVersion) -> Option<LiveAttributes> {
        self.store.own_attributes(file.own.as_ref()?)
    }

    fn live_in(&self, share: ShareIndex, directory: &SharedPath) -> Option<LiveLook> {
        self.store.own_attributes_in(share, directory)
    }

    fn space(&self) -> Space {
        let usage = self.store.cache().usage();
        Space {
            budget_bytes: usage.budget_bytes,
            used_bytes: usage.used_bytes,
        }
    }

    fn status_json(&self) -> Vec<u8> {
        self.published.status.load().as_ref().clone()
    }

    fn watch_damage(&self, drop_pages: PageDropper) {
        self.store.cache().add_damage_listener(drop_pages);
    }

    fn foreign(&self) -> Option<&dyn ForeignFiles> {
        self.foreign.as_ref()?.files()
    }

    fn writing(&self) -> Option<&dyn Writing> {
        Some(self)
    }
}
