//! The directory with the persistent state of a node: its key, secret, catalogue and share state.
//!
//! Owns the creation of the directory and its lock. One node at a time uses it.

use std::path::{Path, PathBuf};

use super::NodeError;
use p2pfs_types::files::{HeldLock, Whereabouts, locked, make_private_dir};

/// Name of the lock file.
const LOCK_FILE: &str = "lock";

/// A locked state directory.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    lock: HeldLock,
}

impl StateDir {
    /// Creates the directory (mode 0700) if it is missing, and locks it.
    ///
    /// # Errors
    /// [`NodeError::StateLocked`] if a running daemon has the lock, [`NodeError::StateDir`].
    pub(crate) fn open(dir: &Path) -> Result<Self, NodeError> {
        let failed = |source| NodeError::StateDir {
            dir: dir.to_owned(),
            source,
        };
        make_private_dir(dir).map_err(failed)?;
        let path = dir.to_owned();
        match locked(&dir.join(LOCK_FILE)).map_err(failed)? {
            Some(lock) => Ok(Self { path, lock }),
            None => Err(NodeError::StateLocked { dir: path }),
        }
    }

    /// Returns whether the directory is still in its place. If it was removed or moved while the
    /// node runs, the next start does not find the state.
    pub(crate) fn whereabouts(&self) -> Whereabouts {
        self.lock.whereabouts()
    }

    /// Returns its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Returns whether a running daemon has locked the state directory. Creates nothing. A directory
/// that this user may not read counts as unused.
pub fn state_is_in_use(dir: &Path) -> bool {
    let lock = dir.join(LOCK_FILE);
    lock.exists() && matches!(locked(&lock), Ok(None))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_second_daemon_is_refused_with_the_holder_and_a_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("state");
        let first = StateDir::open(&dir).unwrap();
        let refused = StateDir::open(&dir).unwrap_err().to_string();
        assert!(
            refused.contains(dir.to_str().unwrap()) && refused.contains("--state"),
            "{refused}"
        );
        assert!(state_is_in_use(&dir));
        drop(first);
        assert!(!state_is_in_use(&dir) && !state_is_in_use(folder.path()));
        assert!(StateDir::open(&dir).is_ok());
    }

    #[test]
    fn a_directory_that_was_emptied_or_replaced_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("state");
        let state = StateDir::open(&dir).unwrap();
        assert_eq!(state.whereabouts(), Whereabouts::InPlace);
        fs::rename(&dir, folder.path().join("moved")).unwrap();
        assert_eq!(state.whereabouts(), Whereabouts::Lost);
        let _other = StateDir::open(&dir).unwrap();
        assert_eq!(state.whereabouts(), Whereabouts::Lost, "that is another's");
    }

    #[test]
    fn only_the_owner_can_look_inside() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("deep/state");
        let state = StateDir::open(&dir).unwrap();
        assert_eq!(
            fs::metadata(state.path()).unwrap().permissions().mode() & 0o777,
            0o700
        );
    }

    #[test]
    fn a_file_in_place_of_the_directory_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state");
        fs::write(&file, "").unwrap();
        let refused = StateDir::open(&file).unwrap_err().to_string();
        assert!(refused.contains(file.to_str().unwrap()), "{refused}");
        assert!(refused.contains("is a file; move that away"), "{refused}");
        assert_eq!(fs::read(&file).unwrap(), b"");
    }
}
