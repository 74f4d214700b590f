//! The names that this node shares, and the ones in its shares that it leaves out.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::Node;
use p2pfs_proto::wire::native::record::{Kind, ShareIndex, Timestamp};
use p2pfs_share::{Known, LeftOut};
use p2pfs_types::path::SharedPath;

/// A name that this node shares with others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenName {
    /// The shared folder.
    pub share: PathBuf,
    /// The path in the namespace, which shows it unless another version wins the name.
    pub path: SharedPath,
    /// A file, a directory or a link.
    pub kind: Kind,
    /// Modification time.
    pub mtime: Timestamp,
}

impl Node {
    /// Returns at most `limit` names that this node shares, in no order, beginning after the
    /// position that an earlier call returned. The second value is the position to continue from,
    /// if there are more names.
    pub fn given(&self, after: Option<u32>, limit: usize) -> (Vec<GivenName>, Option<u32>) {
        let shares = self.shares.list().into_iter();
        let dirs: BTreeMap<ShareIndex, PathBuf> =
            shares.map(|share| (share.index, share.dir)).collect();
        let (listed, next) = self.shares.listed(after, limit);
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

    /// Returns why this node does not share what it has under a name, or the directory around it.
    /// There is one reason for each share that contains the name.
    pub fn left_out(&self, path: &SharedPath) -> Vec<LeftOut> {
        self.shares.left_out_at(path)
    }
}
