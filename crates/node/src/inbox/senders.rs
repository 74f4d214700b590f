//! The senders of the files that this node shares.

use super::attributes::sender_of;
use super::opening::InboxHandle;
use p2pfs_proto::wire::native::record::{Entry, Kind, ShareIndex};
use p2pfs_share::ShareSet;
use p2pfs_types::path::SharedPath;

/// Finds the sender of files in the own shares that were pushed to this node.
#[derive(Clone)]
pub(crate) struct SenderLookup {
    inboxes: Vec<InboxHandle>,
    shares: ShareSet,
}

impl SenderLookup {
    pub(crate) fn new(inboxes: Vec<InboxHandle>, shares: ShareSet) -> Self {
        Self { inboxes, shares }
    }

    /// Returns the entry, with its sender if the file was pushed and its sender is recorded. If an
    /// inbox remembers the name of the file, opens the file, which may block.
    pub(crate) fn add_sender(
        &self,
        share: ShareIndex,
        path: &SharedPath,
        mut entry: Entry,
    ) -> Entry {
        let name = path.file_name();
        let may_be = matches!(entry.kind, Kind::File { .. })
            && self
                .inboxes
                .iter()
                .filter_map(InboxHandle::get)
                .any(|it| it.may_have_taken(name));
        if may_be && let Ok(file) = self.shares.own(share, path) {
            entry.sent_by = sender_of(&file);
        }
        entry
    }
}
