//! How much of this node a caller is shown.

use super::Service;
use crate::daemon::control::{
    Credentials, Failure, FailureKind, Named, Policy, Right, is_one_user,
};
use crate::daemon::mount_rights::{Access, MountRights};
use p2pfs_types::path::escape;

/// How much of this machine a caller is shown: what belongs to the cluster is everybody's, what its
/// users do and keep to themselves is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::daemon) enum Sight {
    /// Root, or the daemon's user.
    All,
    /// Another user, by number: its own, and counts of the rest.
    Own(u32),
}

/// A caller, as the answers judge it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Viewer {
    /// How much of this machine it sees.
    pub(super) sight: Sight,
    /// What the mount lets it do.
    pub(super) access: Access,
    /// Whether it is told which files all users' reads fetch: it may list the cache anyway.
    sees_transfers: bool,
    /// Its number, which other users may have too ([`Self::one_user`]).
    pub(super) uid: u32,
}

impl Viewer {
    pub(super) fn new(policy: &Policy, rights: &MountRights, caller: &Credentials) -> Self {
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

    /// Whether it is told the names of files that any user's reads and transfers move.
    pub(super) fn sees_transfers(&self) -> bool {
        self.access.list && self.sees_transfers
    }

    /// Whether it is root or the daemon's user.
    pub(super) fn is_owner(&self) -> bool {
        self.sight == Sight::All
    }

    /// Whether it is told what this user does.
    pub(super) fn sees_user(&self, uid: u32) -> bool {
        self.is_owner() || self.one_user() == Some(uid)
    }

    /// Its number, where that is one user's alone.
    pub(super) fn one_user(&self) -> Option<u32> {
        is_one_user(self.uid).then_some(self.uid)
    }

    /// Refuses a caller that cannot find names in the mount.
    ///
    /// # Errors
    /// [`FailureKind::Denied`], whether or not there is such a name.
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

    /// Refuses a caller that cannot read files of the mount.
    ///
    /// # Errors
    /// [`FailureKind::Denied`], whether or not there is such a file.
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

impl Service {
    pub(super) fn viewer(&self, caller: &Credentials) -> Viewer {
        Viewer::new(&self.policy, &self.mount_rights, caller)
    }
}
