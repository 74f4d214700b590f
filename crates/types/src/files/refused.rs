//! Paths that the system refuses, and whether the refusal may end by itself.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::geteuid;

/// Returns whether an error of a path lasts until a person changes something. Otherwise it may end
/// when a disk is mounted or a device works again.
pub fn stays_refused(place: &Path, said: &io::Error) -> bool {
    match said.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            !awaits_a_disk(place, geteuid().as_raw())
        }
        ErrorKind::AlreadyExists | ErrorKind::NotADirectory => !leads_nowhere(place),
        ErrorKind::IsADirectory | ErrorKind::InvalidInput => true,
        _ => false,
    }
}

/// Returns whether a disk may still be mounted on the path or above it. That is assumed if the
/// existing part of the path ends in an empty directory of a user other than `user`.
fn awaits_a_disk(place: &Path, user: u32) -> bool {
    let mut way = place.ancestors();
    let last = way.find_map(|dir| Some((dir, fs::symlink_metadata(dir).ok()?)));
    last.is_some_and(|(dir, found)| {
        let is_empty = fs::read_dir(dir).is_ok_and(|mut names| names.next().is_none());
        is_empty && found.uid() != user
    })
}

/// Returns whether the path has a dangling symlink. Its target may be on a disk that is not mounted
/// yet.
fn leads_nowhere(place: &Path) -> bool {
    let mut way = place.ancestors();
    way.any(|step| step.is_symlink() && !step.exists())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn may_pass(place: &Path, kind: ErrorKind) -> bool {
        !stays_refused(place, &kind.into())
    }

    #[test]
    fn a_permanent_refusal_is_cached_and_a_passing_failure_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let lock = folder.path().join("lock");
        for refused in [ErrorKind::PermissionDenied, ErrorKind::ReadOnlyFilesystem] {
            assert!(!may_pass(&lock, refused), "{refused}: it is its own");
        }
        assert!(!may_pass(&lock, ErrorKind::NotADirectory));
        for passing in [
            ErrorKind::NotFound,
            ErrorKind::StorageFull,
            ErrorKind::Other,
        ] {
            assert!(may_pass(&lock, passing), "{passing}");
        }
        symlink("/nonexistent/disk", &lock).unwrap();
        assert!(may_pass(&lock, ErrorKind::AlreadyExists));
    }

    #[test]
    fn an_empty_directory_of_another_user_may_become_a_mount_point() {
        let folder = tempfile::tempdir().unwrap();
        let point = folder.path().join("disk");
        fs::create_dir(&point).unwrap();
        let cache = point.join("p2pfs/cache");
        let me = geteuid().as_raw();
        assert!(awaits_a_disk(&cache, me + 1) && !awaits_a_disk(&cache, me));
        fs::write(point.join("of a disk that is there"), b"").unwrap();
        assert!(!awaits_a_disk(&cache, me + 1));
    }
}
