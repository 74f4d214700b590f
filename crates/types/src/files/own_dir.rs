//! Directories whose files this program trusts, so that no other user may put files into them.
//!
//! Another user that can create or replace files there could give a daemon a key, a secret or a
//! socket of its own choice. Every file is opened without following a link, but its content would
//! be that user's.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::getxattr;
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};

/// Extended attribute with the ACL of a directory.
const ACL: &str = "system.posix_acl_access";

/// Write permission of the group.
const GROUP_WRITE: u32 = 0o020;
/// Write permission of all other users.
const OTHERS_WRITE: u32 = 0o002;
/// In a directory with this bit, only the owner of an entry and the owner of the directory can
/// remove or rename the entry (inode(7)).
const STICKY: u32 = 0o1000;
/// Bits of a mode that chmod(1) sets.
const MODE_BITS: u32 = 0o7777;

/// The use of a directory, which decides what other users may do in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirUse {
    /// It has files that this program reads again.
    Files,
    /// It has a socket. A directory like `/tmp` is also safe, because other users cannot replace
    /// the socket there.
    Socket,
}

/// The user that can change a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenTo {
    /// Its owner, which is not root or this program's user.
    Owner(u32),
    /// The members of its group, with the mode of the directory.
    Group(u32),
    /// Every user, with the mode of the directory.
    Everyone(u32),
}

/// Opens a folder that only this process's user may change, without following a link in its place.
/// The inner error says why the folder is not private.
///
/// # Errors
/// The error of the system, `NotFound` among them.
pub fn open_own_dir(dir: &Path) -> io::Result<Result<File, &'static str>> {
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(dir);
    let opened = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Ok(Err("it is not a folder"));
        }
        opened => opened?,
    };
    let found = opened.metadata()?;
    if found.uid() != geteuid().as_raw() {
        return Ok(Err("it belongs to another user"));
    }
    if found.mode() & (GROUP_WRITE | OTHERS_WRITE) != 0 {
        return Ok(Err("other users may write in it"));
    }
    Ok(Ok(opened))
}

/// Returns the user that could put files into the directory `dir`, which has this metadata, other
/// than root and this program's user.
pub(super) fn opened_to(usage: DirUse, dir: &Path, found: &Metadata) -> Option<OpenTo> {
    let me = geteuid().as_raw();
    // In a user namespace, the machine's root may have no number of its own (user_namespaces(7)).
    let root = fs::metadata("/").map_or(0, |top| top.uid());
    let own = if found.uid() == root { root } else { me };
    opened_to_others(usage, found, own, || {
        is_private_group(found.gid(), me) && !has_acl(dir)
    })
}

/// Returns whether a directory has an ACL. The group's bits of its mode are then the most that any
/// entry of the ACL gives, and say nothing about the group (acl(5)). Without an answer, it may.
fn has_acl(dir: &Path) -> bool {
    !matches!(
        getxattr(dir, ACL, &mut [0u8; 0][..]),
        Err(Errno::NODATA | Errno::NOTSUP)
    )
}

/// Returns the user that can change a directory, other than root and the user `me`.
fn opened_to_others(
    usage: DirUse,
    found: &Metadata,
    me: u32,
    is_private_group: impl FnOnce() -> bool,
) -> Option<OpenTo> {
    let mode = found.mode() & MODE_BITS;
    if found.uid() != 0 && found.uid() != me {
        return Some(OpenTo::Owner(found.uid()));
    }
    if usage == DirUse::Socket && mode & STICKY != 0 {
        return None;
    }
    if mode & OTHERS_WRITE != 0 {
        return Some(OpenTo::Everyone(mode));
    }
    let is_for_group = mode & GROUP_WRITE != 0;
    (is_for_group && !is_private_group()).then_some(OpenTo::Group(mode))
}

/// Returns whether a group is the process's own, and has only the user `me` in it. Many systems
/// give each user such a group of the same name, and let new folders be writable by it.
fn is_private_group(group: u32, me: u32) -> bool {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let (users, groups) = (read("/etc/passwd"), read("/etc/group"));
    group == getegid().as_raw() && has_only(&users, &groups, group, me)
}

/// Returns whether these lists of users and groups (passwd(5), group(5)) show that the user is the
/// only one in the group: both have the same name, and the group has no other members.
fn has_only(users: &str, groups: &str, group: u32, user: u32) -> bool {
    let named = |list: &str, id: u32| {
        let mut lines = list.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let line = lines.find(|line| line.get(2) == Some(&&*id.to_string()))?;
        let members = line.get(3).copied().unwrap_or_default().to_owned();
        Some((line.first()?.to_string(), members))
    };
    let (Some((user, _)), Some((group, members))) = (named(users, user), named(groups, group))
    else {
        return false;
    };
    group == user && members.split(',').all(|it| it.is_empty() || it == user)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;

    fn with_mode(dir: &Path, mode: u32) {
        fs::create_dir_all(dir).unwrap();
        fs::set_permissions(dir, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn owner_is_root_or_the_programs_user() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("state");
        with_mode(&dir, 0o700);
        let (found, me) = (fs::metadata(&dir).unwrap(), geteuid().as_raw());
        let to = |user| opened_to_others(DirUse::Files, &found, user, || false);
        assert_eq!(to(me), None);
        let other = (me != 0).then_some(OpenTo::Owner(me));
        assert_eq!(to(me + 1), other, "root's directory is trusted by all");
        // Only root can give a directory away.
        if me == 0 {
            chown(&dir, Some(12_345), None).unwrap();
            let found = fs::metadata(&dir).unwrap();
            let open = opened_to(DirUse::Socket, &dir, &found);
            assert_eq!(open, Some(OpenTo::Owner(12_345)));
        }
    }

    #[test]
    fn directory_may_be_writable_by_a_group_of_its_user_alone() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("state");
        with_mode(&dir, 0o775);
        let found = fs::metadata(&dir).unwrap();
        let to = |usage, alone| opened_to_others(usage, &found, found.uid(), || alone);
        for usage in [DirUse::Files, DirUse::Socket] {
            assert_eq!(to(usage, false), Some(OpenTo::Group(0o775)));
            assert_eq!(to(usage, true), None);
        }
        let users = "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n\
                     bob:x:1001:100::/home/bob:/bin/sh\n";
        let groups = "root:x:0:\nusers:x:100:\nann:x:1000:\nteam:x:1002:ann\n";
        assert!(has_only(users, groups, 1000, 1000));
        assert!(has_only(users, "ann:x:1000:ann", 1000, 1000));
        assert!(!has_only(users, "ann:x:1000:ann,bob", 1000, 1000));
        for (group, user) in [
            (100, 1001),
            (1002, 1000),
            (1000, 1001),
            (9, 1000),
            (1000, 9),
        ] {
            assert!(!has_only(users, groups, group, user), "{group} {user}");
        }
    }
}
