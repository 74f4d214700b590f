//! The shared folders and the names in them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::spawn_blocking;

use crate::NodeError;
use p2pfs_content::WritableFolder;
use p2pfs_content::shares::{Known, MissingShare, ShareError, ShareSet, ShareSpec, ShareStatus};
use p2pfs_proto::trust::TrustReader;
use p2pfs_proto::wire::native::record::{Kind, ShareIndex, Timestamp};
use p2pfs_transfer::Server;
use p2pfs_types::id::NodeId;
use p2pfs_types::path::SharedPath;

/// A name that this node shares with others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenName {
    /// The shared folder.
    pub share: PathBuf,
    /// The path in the namespace. It shows this version unless another version wins the name.
    pub path: SharedPath,
    /// A file, a directory or a link.
    pub kind: Kind,
    /// Modification time.
    pub mtime: Timestamp,
}

/// The shared folders of a node. [`Node::shares`](crate::Node::shares) returns it. Clones share
/// their state.
#[derive(Clone)]
pub struct NodeShares {
    pub(crate) set: ShareSet,
    pub(crate) server: Server,
    pub(crate) trust: TrustReader,
}

impl NodeShares {
    /// Shares a folder from now on, for as long as this node runs. Its files are listed as they are
    /// hashed.
    ///
    /// # Errors
    /// [`NodeError::Share`], which names the folder and the problem.
    pub async fn share(&self, dir: impl Into<PathBuf>) -> Result<(), NodeError> {
        let spec = ShareSpec::new(dir);
        let shares = self.set.clone();
        let added = spawn_blocking(move || shares.add(spec)).await;
        added.map_err(|_| NodeError::Stopping)??;
        Ok(())
    }

    /// Shares a folder with the options of `spec`. Blocks on the disk.
    ///
    /// # Errors
    /// [`ShareError`], which names the folder and the problem.
    pub fn add(&self, spec: ShareSpec) -> Result<(), ShareError> {
        self.set.add(spec).map(drop)
    }

    /// Tries whether programs could write into the folder of `spec` through the mount. Blocks on the
    /// disk.
    ///
    /// # Errors
    /// [`ShareError`], which names the folder, the problem and the remedy.
    pub fn try_to_write(&self, spec: &ShareSpec) -> Result<(), ShareError> {
        self.set.try_to_write(spec)
    }

    /// Returns the folders that the mount writes into, the one with the deepest place first.
    pub fn writable(&self) -> Arc<[WritableFolder]> {
        self.set.writable_folders()
    }

    /// Returns a receiver of the folders that the mount writes into, and of each change.
    pub fn watch_writable(&self) -> watch::Receiver<Arc<[WritableFolder]>> {
        self.set.watch_writable()
    }

    /// Stops sharing a folder. Blocks on the disk.
    ///
    /// # Errors
    /// [`ShareError`] if the folder is not shared.
    pub fn remove(&self, dir: &Path) -> Result<(), ShareError> {
        self.set.remove(dir)
    }

    /// Declares that every configured share has been added or is missing for now. Before this call,
    /// but for at most 10 s after the start, a node that requests a content that this node does not
    /// find gets the answer to retry.
    pub fn all_added(&self) {
        self.set.all_added();
    }

    /// Removes the stored listings of folders that an earlier run shared and that were not added
    /// since the start. Keeps the listings of the folders in `missing` with
    /// [`MissingShare::is_awaited`].
    pub fn forget_absent(&self, missing: &[MissingShare]) {
        self.set.forget_absent(missing);
    }

    /// Returns the shared folders and their progress.
    pub fn list(&self) -> Vec<ShareStatus> {
        self.set.list()
    }

    /// Returns the shares whose disks do not answer.
    pub fn standing(&self) -> BTreeSet<PathBuf> {
        let shares = self.list();
        let mut standing = self.server.standing_shares();
        let looked_at = shares.into_iter().filter(|share| share.stands_still);
        standing.extend(looked_at.map(|share| share.dir));
        standing
    }

    /// Returns by how much the clock of this machine is behind the time that it showed before, if that
    /// is more than a minute.
    pub fn clock_behind(&self) -> Option<Duration> {
        self.set.clock_behind()
    }

    /// Returns how many bytes were read for hashing since the start.
    pub fn hashed_bytes(&self) -> u64 {
        self.set.read_bytes()
    }

    /// Returns at most `limit` names that this node shares, in no order. The second value is the
    /// position for the next call, or `None` after the last names. `after` is the position that the
    /// previous call returned, or `None` for the first call.
    pub fn given(&self, after: Option<u32>, limit: usize) -> (Vec<GivenName>, Option<u32>) {
        let shares = self.set.list().into_iter();
        let dirs: BTreeMap<ShareIndex, PathBuf> =
            shares.map(|share| (share.index, share.dir)).collect();
        let (listed, next) = self.set.listed(after, limit);
        let given = |known: Known| {
            Some(GivenName {
                share: dirs.get(&known.share)?.clone(),
                path: known.path,
                kind: known.entry.kind,
                mtime: known.entry.mtime,
            })
        };
        (listed.into_iter().filter_map(given).collect(), next)
    }

    /// Returns the member to which an entry in the list of readers of a share refers: the member
    /// with that key, else the only member with that name in its certificate, else the only member
    /// with that name and that start of its key (`name-12ab`). Returns `None` for a name given in
    /// an earlier cluster until it is confirmed.
    pub fn member_meant(&self, reader: &str) -> Option<NodeId> {
        crate::names::member_meant(&self.trust.load(), reader)
    }
}
