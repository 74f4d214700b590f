//! What leaves this machine, and what of its shares does not.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::Node;
use p2pfs_proto::wire::native::record::{Kind, ShareIndex, Timestamp};
use p2pfs_share::{Known, LeftOut};
use p2pfs_types::path::SharedPath;

/// A name that this node gives to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenName {
    /// The folder that it is shared from.
    pub share: PathBuf,
    /// As the others see it, unless another version has the name.
    pub path: SharedPath,
    /// What it is.
    pub kind: Kind,
    /// Its modification time.
    pub mtime: Timestamp,
}

impl Node {
    /// Some of what this node gives to others, at most `limit` names, those after a place that an
    /// earlier call gave, in no order; and the place to go on from, if there is more.
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

    /// Why this node does not share what it has under a name, or the directory that it is in; one
    /// for each share where it has it.
    pub fn left_out(&self, path: &SharedPath) -> Vec<LeftOut> {
        self.shares.left_out_at(path)
    }
}
