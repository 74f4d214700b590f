//! `[write]`: writing into the mount.

use super::super::account::group;
use super::super::setting::{Setting, SettingKind, settings};

settings! {
    /// `[write]`: writing into the mount.
    ///
    /// Programs can write where this node has a writable share: `p2pfs write on`, or `writable` of
    /// a `[[share]]`.
    #[serde(default, deny_unknown_fields)]
    pub struct WriteSettings in "write" {
        /// The group of the files in the mount, by name or by number, whose members may write there.
        #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "group")]
        pub group: Option<u32> = None,
            Setting::new("write.group", SettingKind::Text, "6")
                .by_default("`gid` of `[mount]`")
                .shown_as("0");
    }
}
