//! `[[share]]`: one folder that this node shares.

use std::path::PathBuf;

use super::super::fields::{absolute, lossy, patterns, share_place, share_place_text, yes};
use super::super::group::readers;
use super::super::setting::{Setting, SettingKind, settings};
use p2pfs_node::api::SharePlace;

settings! {
    /// `[[share]]`: one folder that this node shares.
    ///
    /// One such section for each folder to share. `p2pfs share add` shares a folder without a
    /// section.
    #[serde(deny_unknown_fields)]
    pub struct ShareSettings in "share" {
        /// The folder.
        ///
        /// It may not overlap the mount, the cache or the state directory. A symbolic link on its
        /// path counts only if no other user could have put it.
        #[serde(deserialize_with = "absolute", serialize_with = "lossy")]
        pub dir: PathBuf = PathBuf::new(),
            Setting::new("share.dir", SettingKind::Path, "/d").shown_as("\"/srv/share\"").live();

        /// The place of the folder: the path, from the top of the mount, below which its files
        /// appear on every node.
        ///
        /// Without it they appear at the top, together with the files of all other shares. With
        /// `as = "photos/2026"` the file _`a.jpg`_ of the folder is _`photos/2026/a.jpg`_ on every
        /// node, so that equal names in two folders do not meet. Several shares, of one node or of
        /// several, may have the same place or one below another; their files then merge as they
        /// do at the top. A change renames the files on all nodes, and none of them is read again.
        /// At most 1024 bytes in 32 components; `.`, `..`, _`.p2pfs`_ at the top and
        /// _`.p2pfs-arriving`_ are refused.
        #[serde(
            default,
            rename = "as",
            skip_serializing_if = "SharePlace::is_root",
            deserialize_with = "share_place",
            serialize_with = "share_place_text"
        )]
        pub place: SharePlace = SharePlace::default(),
            Setting::new("share.as", SettingKind::Text, "photos/2026")
                .refuses("../x")
                .by_default("the top")
                .shown_as("\"photos/2026\"")
                .live();

        /// Whether files that others on this machine may not read are shared as well.
        #[serde(default)]
        pub include_private: bool = false,
            Setting::new("share.include_private", SettingKind::Switch, "true").live();

        /// Whether its files are offered to legacy peers.
        #[serde(default)]
        pub legacy: bool = false,
            Setting::new("share.legacy", SettingKind::Switch, "true").live();

        /// The only nodes that may read the folder: a list of names and keys of nodes, and of
        /// groups after an `@`, such as `["alice", "@office"]`.
        ///
        /// With an empty list, no node may read it. `p2pfs(7)`, Readers, describes the meaning of a
        /// name and what other nodes can see. It cannot be combined with `legacy`. All nodes need
        /// a p2pfs that supports readers. An older one accepts nothing from a node that has such a
        /// share, not even its other shares, and blames any node that passes it on.
        #[serde(
            default,
            skip_serializing_if = "Option::is_none",
            deserialize_with = "readers"
        )]
        pub readers: Option<Vec<String>> = None,
            Setting::new("share.readers", SettingKind::List, "alice, @office")
                .by_default("every member")
                .shown_as("[\"alice\", \"@office\"]")
                .live();

        /// A list of patterns: names that match one are not shared, and a directory that matches
        /// is not searched.
        ///
        /// A pattern has the same meaning as in a `gitignore(5)` at the top of the folder. Without
        /// a slash it matches a name at any depth, `/build/` matches a directory at the top, and
        /// one that begins with `!` includes names that an earlier one excluded. At most 1000
        /// patterns, of up to 4096 bytes each. A file that was listed and is excluded by a reload
        /// disappears from all nodes; copies that others have made remain.
        #[serde(default, deserialize_with = "patterns")]
        pub exclude: Vec<String> = Vec::new(),
            Setting::new("share.exclude", SettingKind::List, "*.log,/build/")
                .refuses("[z-a]")
                .shown_as("[\"*.log\", \"/build/\"]")
                .live();

        /// Whether the default patterns precede those of `exclude`: keys, _`.env`_ and similar
        /// files, and files that editors leave behind.
        ///
        /// They exclude files that hold secrets (_`.ssh/`_, _`.gnupg/`_, _`.aws/`_, _`.kube/`_,
        /// _`.password-store/`_, _`.netrc`_, _`.pgpass`_, _`.git-credentials`_, _`.npmrc`_,
        /// _`.pypirc`_, _`.htpasswd`_, _`.env`_ and _`.env.*`_ except _`.env.example`_,
        /// _`id_rsa`_, _`id_dsa`_, _`id_ecdsa`_, _`id_ecdsa_sk`_, _`id_ed25519`_,
        /// _`id_ed25519_sk`_, _`*.key`_, _`*.pem`_, _`*.p12`_, _`*.pfx`_, _`*.kdbx`_) and files
        /// that editors leave behind (_`*~`_, _`.*.sw[a-p]`_, _`.#*`_, _`#*#`_, _`.~lock.*#`_,
        /// _`~$*`_, _`.goutputstream-*`_).
        #[serde(default = "yes")]
        pub default_excludes: bool = true,
            Setting::new("share.default_excludes", SettingKind::Switch, "false").live();

        /// Whether programs can write at and below its place in the mount. The files go into the
        /// folder, which shares them.
        ///
        /// If several shares contain a path, the one with the longest place takes it, so two
        /// writable shares cannot have the same place. The daemon's user must be able to write the
        /// folder, and its file system must have extended attributes of users, as ext4, xfs and
        /// btrfs have. `p2pfs write on` makes a folder at the top of the mount writable without a
        /// section.
        #[serde(default)]
        pub writable: bool = false,
            Setting::new("share.writable", SettingKind::Switch, "true").live();

        /// Whether versions and deletions of other nodes replace the files of the share on every
        /// node.
        ///
        /// The files in the folder never change by that, and _`.p2pfs/peers`_ still shows them. In
        /// a share that is not open, a file that another node writes anew stays in the mount beside
        /// that version, as `name~node`, and no other node can delete it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub open: Option<bool> = None,
            Setting::new("share.open", SettingKind::Switch, "true")
                .by_default("the value of `writable`")
                .shown_as("false")
                .live();
    }
}

impl ShareSettings {
    /// Creates a share with defaults for all settings except its folder.
    pub fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            ..Self::default()
        }
    }

    /// Returns whether versions and deletions of other nodes count in the share.
    pub fn is_open(&self) -> bool {
        self.open.unwrap_or(self.writable)
    }
}
