//! `[inbox]`: files that other nodes push to this node.

use std::path::PathBuf;

use super::super::fields::{absolute, lossy};
use super::super::setting::{Setting, SettingKind, settings};
use super::super::units;
use p2pfs_node::api::defaults;

settings! {
    /// `[inbox]`: files that other nodes push to this node.
    ///
    /// Files that others send to this node. They are stored in a folder that is shared like any
    /// other, so that they are listed on every node.
    #[serde(default, deny_unknown_fields)]
    pub struct InboxSettings in "inbox" {
        /// The folder; it is created if it is missing.
        ///
        /// It may not overlap the mount, the cache or the state directory. A symbolic link on its
        /// path counts only if no other user could have put it. Incomplete files are
        /// kept in its folder _`.p2pfs-arriving`_, which is never listed. The sender of each file
        /// is in its extended attribute `user.p2pfs.from` and, for a node of the cluster,
        /// `user.p2pfs.from_node` (its key). For a sender that is known only by its address,
        /// `user.p2pfs.from_address` has that address.
        #[serde(deserialize_with = "absolute", serialize_with = "lossy")]
        pub dir: PathBuf = PathBuf::from("/var/lib/p2pfs-inbox"),
            Setting::new("inbox.dir", SettingKind::Path, "/i")
                .by_default("_`/var/lib/p2pfs-inbox`_ for root, otherwise _`~/p2p-inbox`_");

        /// Nodes of the cluster whose files are accepted, by key or name; `"*"` stands for all of
        /// them. By default no files are accepted.
        ///
        /// A name counts only if exactly one member's certificate has it (`p2pfs trust`): the name
        /// that a node gives itself has no effect. In a cluster with a secret file, where nodes
        /// have no certificates, list a node by its key.
        pub from: Vec<String> = Vec::new(),
            Setting::new("inbox.from", SettingKind::List, "a, b");

        /// Maximum size of all files in the folder together; it accepts at most 10,000 files.
        ///
        /// The files of one sender may use half of both limits, so that one sender cannot fill the
        /// folder for the others. A member is identified by its certificate. A mesh peer, or a
        /// node in a cluster with a secret file, is identified by its address, since it can choose
        /// its key.
        #[serde(rename = "budget", with = "units::positive_size")]
        pub budget_bytes: u64 = defaults::INBOX_BYTES,
            Setting::new("inbox.budget", SettingKind::Size, "7MB").refuses("0B");

        /// Space to leave free on the filesystem of the folder.
        #[serde(rename = "floor", with = "units::size")]
        pub floor_bytes: u64 = defaults::FLOOR_BYTES,
            Setting::new("inbox.floor", SettingKind::Size, "0B");
    }
}
