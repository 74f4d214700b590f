//! The information about this node that a caller may see.

use crate::daemon::control::{
    Credentials, Failure, FailureKind, Named, Policy, Right, is_one_user,
};
use crate::daemon::service::mount_rights::{Access, MountRights};
use p2pfs_node::Audience;
use p2pfs_types::path::escape;

/// How much of this machine a caller may see. Data of the cluster is visible to all users; the
/// activity and private data of local users is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::daemon::service) enum Sight {
    /// Root, or the daemon's user: everything.
    All,
    /// Another user, by user ID: the user's own data, and only the number of other entries.
    Own(u32),
}

impl Sight {
    /// Returns the group of users to which the caller belongs.
    pub(in crate::daemon::service) fn audience(self) -> Audience {
        match self {
            Self::All => Audience::Owner,
            Self::Own(_) => Audience::Everybody,
        }
    }
}

/// A caller and its rights.
#[derive(Clone, Copy, Debug)]
pub(in crate::daemon::service) struct Viewer {
    /// How much of this machine the caller may see.
    pub(super) sight: Sight,
    /// The caller's rights in the mount.
    pub(super) access: Access,
    /// Whether the caller may manage the cache. If so, the caller may see the files that any user's
    /// reads fetch, because it may list the cache anyway.
    sees_transfers: bool,
    /// The caller's user ID, which other users may share ([`Self::one_user`]).
    pub(super) uid: u32,
}

impl Viewer {
    pub(in crate::daemon::service) fn new(
        policy: &Policy,
        rights: &MountRights,
        caller: &Credentials,
    ) -> Self {
        let sight = if policy.allows(caller, Right::Own) {
            Sight::All
        } else {
            Sight::Own(caller.uid)
        };
        Self {
            sight,
            access: rights.access_of(caller, policy),
            sees_transfers: policy.allows(caller, Right::Cache),
            uid: caller.uid,
        }
    }

    /// Returns whether the caller may see the names of files that any user's reads and transfers
    /// move.
    pub(super) fn sees_transfers(&self) -> bool {
        self.access.list && self.sees_transfers
    }

    /// Returns the group of users to which the caller belongs.
    pub(super) fn audience(&self) -> Audience {
        self.sight.audience()
    }

    /// Returns whether the caller is root or the daemon's user.
    pub(super) fn is_owner(&self) -> bool {
        self.sight == Sight::All
    }

    /// Returns whether the caller may see the activity of this user.
    pub(super) fn sees_user(&self, uid: u32) -> bool {
        self.is_owner() || self.one_user() == Some(uid)
    }

    /// Returns the caller's user ID if that stands for one user only.
    pub(super) fn one_user(&self) -> Option<u32> {
        is_one_user(self.uid).then_some(self.uid)
    }

    /// Refuses a caller that cannot find names in the mount.
    ///
    /// # Errors
    /// [`FailureKind::Denied`], whether or not the name exists.
    pub(super) fn check_find(&self, path: &Named) -> Result<(), Failure> {
        allowed(self.access.find, path)
    }

    /// Refuses a caller that cannot list directories of the mount.
    ///
    /// # Errors
    /// [`FailureKind::Denied`].
    pub(super) fn check_list(&self, path: &Named) -> Result<(), Failure> {
        allowed(self.access.list, path)
    }

    /// Refuses a caller that cannot write into the mount.
    ///
    /// # Errors
    /// [`FailureKind::Denied`].
    pub(super) fn check_write(&self) -> Result<(), Failure> {
        if self.access.write {
            return Ok(());
        }
        let message = "permission denied: it needs the right to write into the mount";
        let remedy = "ask as root, or as a member of the group of the mount ([write] group)";
        Err(Failure::new(FailureKind::Denied, message).with_remedy(remedy))
    }

    /// Refuses a caller that cannot read files of the mount.
    ///
    /// # Errors
    /// [`FailureKind::Denied`], whether or not the file exists.
    pub(super) fn check_read(&self, path: &Named) -> Result<(), Failure> {
        allowed(self.access.read, path)
    }
}

fn allowed(is_allowed: bool, path: &Named) -> Result<(), Failure> {
    if is_allowed {
        return Ok(());
    }
    let shown = match path.as_bytes() {
        b"" => "/".to_owned(),
        bytes => escape(bytes),
    };
    let message = format!("{shown}: permission denied by the modes of the mount");
    Err(Failure::new(FailureKind::Denied, message)
        .with_remedy("ask as root, or change umask, fmask, dmask, uid or gid of the mount"))
}
