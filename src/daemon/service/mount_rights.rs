//! Rights of a caller of the control socket to the files of the mount, as the kernel would judge a
//! program of the same user. Exceptions: the daemon's user may do everything, and a user ID that
//! several users share gets only the permissions that all classes have.
//!
//! All directories of the mount show one mode, owner and group. All files show one owner and group,
//! and the same permissions to read. One judgement therefore holds for every path. It is the same
//! while the folder is not mounted.

use crate::daemon::control::{Credentials, Policy, Right, is_one_user};
use p2pfs_fuse::MountOptions;

/// Permission to read, of one class of a mode.
const READ: u16 = 0o4;
/// Permission to change a directory.
const WRITE: u16 = 0o2;
/// Permission to search a directory.
const SEARCH: u16 = 0o1;
/// Mode of a directory of the mount before [`MountOptions::directory_mask`] is applied.
const DIRECTORY_MODE: u16 = 0o777;
/// Mode of a directory in a writable share, unless the configuration sets a mask.
const WRITABLE_MODE: u16 = 0o775;
/// Mode of a file of the mount before [`MountOptions::file_mask`] is applied. An executable file
/// also has the permissions to execute, which are not checked here.
const FILE_MODE: u16 = 0o666;

/// Modes, owner and group that the mount shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MountRights {
    uid: u32,
    gid: u32,
    directory_mode: u16,
    file_mode: u16,
    /// Whether the mount is for all users, or for the daemon's user alone.
    is_for_all: bool,
}

/// Rights of one caller to every path of the mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Access {
    /// Find a name that the caller knows: every directory on the way is searchable.
    pub find: bool,
    /// List a directory.
    pub list: bool,
    /// Read a file, and its extended attributes.
    pub read: bool,
    /// Change files, where this node has a writable share.
    pub write: bool,
}

impl Access {
    const ALL: Self = Self {
        find: true,
        list: true,
        read: true,
        write: true,
    };
    /// No rights: those of all other users to the mount of an ordinary user.
    pub(super) const NONE: Self = Self {
        find: false,
        list: false,
        read: false,
        write: false,
    };
}

impl MountRights {
    /// Returns the rights of a mount with these options.
    pub(super) fn of(options: &MountOptions) -> Self {
        Self {
            uid: options.uid,
            gid: options.gid,
            directory_mode: DIRECTORY_MODE & !options.directory_mask,
            file_mode: FILE_MODE & !options.file_mask,
            is_for_all: options.allow_other,
        }
    }

    /// Returns the rights of a caller. Root and the daemon's user have all rights, whatever the
    /// modes: root can read any file, and the daemon's user owns the cache.
    pub(super) fn access_of(&self, caller: &Credentials, policy: &Policy) -> Access {
        if policy.allows(caller, Right::Own) {
            return Access::ALL;
        }
        if !self.is_for_all {
            return Access::NONE;
        }
        self.judge(caller, is_one_user(caller.uid))
    }

    /// Returns the rights that the modes give to a caller. If `is_known` is false, several users
    /// share the user ID of the caller ([`is_one_user`]). Such a caller has only the permissions
    /// that owner, group and others all have.
    fn judge(&self, caller: &Credentials, is_known: bool) -> Access {
        let class = |mode| {
            if is_known {
                self.class_of(mode, caller)
            } else {
                mode & (mode >> 3) & (mode >> 6)
            }
        };
        let has = |mode, permission| class(mode) & permission != 0;
        let find = has(self.directory_mode, SEARCH);
        Access {
            find,
            list: find && has(self.directory_mode, READ),
            read: find && has(self.file_mode, READ),
            write: find && self.is_writer(caller, is_known),
        }
    }

    /// Returns whether a writable share gives the caller the permission to write: to the owner and
    /// the group, unless a mask of the configuration removes it. A group of the caller is known
    /// even if its user is not.
    fn is_writer(&self, caller: &Credentials, is_known: bool) -> bool {
        let default_mask = MountOptions::for_this_user().directory_mask;
        let mode = if self.directory_mode == DIRECTORY_MODE & !default_mask {
            WRITABLE_MODE
        } else {
            self.directory_mode
        };
        let class = if is_known {
            self.class_of(mode, caller)
        } else if caller.gids.contains(&self.gid) {
            mode >> 3
        } else {
            mode
        };
        class & WRITE != 0
    }

    /// Shifts a mode so that its lowest three bits are the permissions of the caller's class:
    /// owner, group or others. Only that class counts. For example, the owner does not get a
    /// permission that only the group has (path_resolution(7)).
    fn class_of(&self, mode: u16, caller: &Credentials) -> u16 {
        if caller.uid == self.uid {
            mode >> 6
        } else if caller.gids.contains(&self.gid) {
            mode >> 3
        } else {
            mode
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy {
        owner_uid: 100,
        group_gid: Some(500),
    };

    fn caller(uid: u32, gids: &[u32]) -> Credentials {
        Credentials {
            uid,
            gids: gids.to_vec(),
        }
    }

    fn rights(directory_mask: u16, file_mask: u16) -> MountRights {
        MountRights::of(&MountOptions {
            uid: 1000,
            gid: 2000,
            file_mask,
            directory_mask,
            allow_other: true,
            ..MountOptions::for_this_user()
        })
    }

    fn letters(rights: MountRights, caller: &Credentials) -> String {
        let access = rights.access_of(caller, &POLICY);
        let letter = |has, letter| if has { letter } else { '-' };
        [
            letter(access.find, 'f'),
            letter(access.list, 'l'),
            letter(access.read, 'r'),
            letter(access.write, 'w'),
        ]
        .iter()
        .collect()
    }

    #[test]
    fn owner_group_and_others_are_judged_by_their_own_digit() {
        let owner = caller(1000, &[1000]);
        let member = caller(1001, &[1001, 2000]);
        let other = caller(1002, &[1002]);
        for (masks, of_owner, of_member, of_other) in [
            // The default lets the group of a writable share write.
            ((0o022, 0o022), "flrw", "flrw", "flr-"),
            ((0o077, 0o077), "flrw", "----", "----"),
            ((0o027, 0o027), "flrw", "flr-", "----"),
            ((0o000, 0o077), "flrw", "fl-w", "fl-w"),
            // A name can be found and read, but no directory can be listed.
            ((0o066, 0o000), "flrw", "f-r-", "f-r-"),
            // A readable file in a directory that cannot be searched is not readable.
            ((0o011, 0o000), "flrw", "----", "----"),
            // The owner's digit applies to the owner, even if other users have more permissions.
            ((0o700, 0o700), "----", "flrw", "flrw"),
            ((0o070, 0o070), "flrw", "----", "flrw"),
        ] {
            let rights = rights(masks.0, masks.1);
            let of = |caller| letters(rights, caller);
            assert_eq!(of(&owner), of_owner, "{masks:?}");
            assert_eq!(of(&member), of_member, "{masks:?}");
            assert_eq!(of(&other), of_other, "{masks:?}");
        }
    }

    #[test]
    fn root_and_the_daemons_user_are_exempt_and_the_cache_group_is_not() {
        let closed = rights(0o777, 0o777);
        assert_eq!(letters(closed, &caller(0, &[])), "flrw");
        assert_eq!(letters(closed, &caller(100, &[])), "flrw");
        assert_eq!(letters(closed, &caller(1002, &[500])), "----");
    }

    #[test]
    fn a_users_mount_is_accessible_to_that_user_and_root_only() {
        let own = MountRights {
            is_for_all: false,
            uid: 100,
            ..rights(0o000, 0o000)
        };
        assert_eq!(letters(own, &caller(100, &[])), "flrw");
        assert_eq!(letters(own, &caller(0, &[])), "flrw");
        assert_eq!(letters(own, &caller(1002, &[2000])), "----");
    }

    #[test]
    fn a_shared_user_number_has_the_common_rights_of_its_users() {
        let unknown = caller(1000, &[2000]);
        let of = |masks: (u16, u16)| rights(masks.0, masks.1).judge(&unknown, false);
        assert_eq!(of((0o022, 0o022)), Access::ALL);
        let other = rights(0o022, 0o022).judge(&caller(1000, &[]), false);
        assert!(other.read && !other.write);
        assert_eq!(of((0o077, 0o077)), Access::NONE);
        assert_eq!(of((0o070, 0o070)), Access::NONE);
        assert_eq!(of((0o700, 0o700)), Access::NONE);
    }
}
