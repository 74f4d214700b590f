//! `[mount]`: the mounted folder.

use std::path::PathBuf;
use std::time::Duration;

use super::super::account::{group, user};
use super::super::fields::{absolute, lossy};
use super::super::mask::ModeMask;
use super::super::setting::{Setting, SettingKind, settings};
use super::super::units;
use p2pfs_node::api::defaults;

settings! {
    /// `[mount]`: the mounted folder.
    #[serde(default, deny_unknown_fields)]
    pub struct MountSettings in "mount" {
        /// Whether the folder is mounted.
        pub enabled: bool = true,
            Setting::new("mount.enabled", SettingKind::Switch, "off");

        /// The mount point.
        ///
        /// For the service of the whole machine, set it in a file: its mount broker mounts nowhere
        /// else, and does not see the variables and flags of the daemon. A symbolic link on its
        /// path counts only if no other user could have put it.
        #[serde(deserialize_with = "absolute", serialize_with = "lossy")]
        pub dir: PathBuf = PathBuf::from("/mnt/p2p"),
            Setting::new("mount.dir", SettingKind::Path, "/m")
                .by_default("_`/mnt/p2p`_, for a user _`~/p2p`_");

        /// The owner of the files in the mount, by name or by number: `"alice"`, 1000.
        #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "user")]
        pub uid: Option<u32> = None,
            Setting::new("mount.uid", SettingKind::Text, "5")
                .by_default("the user that mounts")
                .shown_as("0");

        /// The group of the files in the mount, by name or by number.
        #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "group")]
        pub gid: Option<u32> = None,
            Setting::new("mount.gid", SettingKind::Text, "6")
                .by_default("the group of the user that mounts")
                .shown_as("0");

        /// Permissions to remove from all files and directories in the mount, in octal digits and
        /// quotes, as `umask(2)` removes them.
        ///
        /// They are removed from 0666, or from 0777 for an executable file and a directory. So
        /// with the default files are 0644 or 0755 and directories 0755. No value makes the mount
        /// writable (`p2pfs write`). They also apply to requests of other users on the control socket
        /// (`p2pfs(1)`, PERMISSIONS).
        pub umask: ModeMask = ModeMask(0o022),
            Setting::new("mount.umask", SettingKind::Text, "027").refuses("999");

        /// Permissions to remove from files only, instead of `umask`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub fmask: Option<ModeMask> = None,
            Setting::new("mount.fmask", SettingKind::Text, "0137")
                .refuses("999")
                .by_default("`umask`")
                .shown_as("\"022\"");

        /// Permissions to remove from directories only, instead of `umask`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub dmask: Option<ModeMask> = None,
            Setting::new("mount.dmask", SettingKind::Text, "0")
                .refuses("999")
                .by_default("`umask`")
                .shown_as("\"022\"");

        /// How long a read waits without progress before it fails.
        ///
        /// Bytes of the file that arrive are progress, however few: a slow node does not cause an
        /// error. A node that has the file also makes progress if it works for other readers of
        /// this mount, reports that it is busy, or answers in the handshake of a new connection.
        /// The read waits for such a node up to six times as long. If the limits of this node
        /// delay its requests, the read waits as long as they do.
        ///
        /// A connection that brings nothing is given up after four fifths of this time, at least
        /// after 2 s and at most after 8 s, so that the read can use another holder. With a
        /// deadline below 2.5 s, a read from a holder that falls silent fails.
        #[serde(with = "units::positive_duration")]
        pub read_deadline: Duration = defaults::READ_DEADLINE,
            Setting::new("mount.read_deadline", SettingKind::Duration, "7s").refuses("0s");
    }
}
