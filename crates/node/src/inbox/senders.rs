//! Who sent what this node shares.

use super::attributes::sender_of;
use super::opening::Opening;
use p2pfs_proto::wire::native::record::{Entry, Kind, ShareIndex};
use p2pfs_share::ShareSet;
use p2pfs_types::path::SharedPath;

/// Looks at the files of this node's shares that were pushed to it.
#[derive(Clone)]
pub(crate) struct Senders {
    inboxes: Vec<Opening>,
    shares: ShareSet,
}

impl Senders {
    pub(crate) fn new(inboxes: Vec<Opening>, shares: ShareSet) -> Self {
        Self { inboxes, shares }
    }

    /// An entry with who sent it, where somebody did. Blocking, for the time of an open: only names
    /// of files that were pushed are looked at.
    pub(crate) fn tell(&self, share: ShareIndex, path: &SharedPath, mut entry: Entry) -> Entry {
        let name = path.file_name();
        let may_be = matches!(entry.kind, Kind::File { .. })
            && self
                .inboxes
                .iter()
                .filter_map(Opening::get)
                .any(|it| it.may_have_taken(name));
        if may_be && let Ok(file) = self.shares.own(share, path) {
            entry.sent_by = sender_of(&file);
        }
        entry
    }
}
