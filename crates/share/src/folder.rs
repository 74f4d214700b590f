//! Checks whether a folder may be shared.

use std::io;
use std::path::{Path, PathBuf};

use super::beneath::Beneath;
use super::config::ShareSpec;
use super::error::ShareError;
use super::left_out::closed_directory;
use p2pfs_types::files::trusted_way::{WayError, reach};

/// Returns the canonical path of a directory that may be shared. Follows no link that another user
/// could have put on the way, because that user would choose what this node shares. First compares the path as given
/// with the protected paths, so that a path in this node's own mount is not accessed.
pub(super) fn check(beneath: &Beneath, spec: &ShareSpec) -> Result<PathBuf, ShareError> {
    let dir = &spec.dir;
    let owned = || dir.to_owned();
    let absolute = std::path::absolute(dir)?;
    if let Some(refused) = beneath.refusal(&absolute) {
        return Err(ShareError::Refused {
            dir: owned(),
            refused,
        });
    }
    let reached = reach(dir).map_err(|error| match error {
        WayError::Planted(link) => ShareError::Planted { dir: owned(), link },
        WayError::System(error) => match error.kind() {
            io::ErrorKind::NotFound => ShareError::NotFound { dir: owned() },
            io::ErrorKind::NotADirectory => ShareError::NotDirectory { dir: owned() },
            _ => unreadable(beneath, spec, &absolute, error),
        },
    })?;
    let canonical = reached.path().to_owned();
    if spec.is_resolved && canonical != absolute {
        return Err(ShareError::LeadsElsewhere {
            dir: owned(),
            to: canonical,
        });
    }
    if let Some(refused) = beneath.refusal(&canonical) {
        return Err(ShareError::Refused {
            dir: owned(),
            refused,
        });
    }
    match beneath.open_share(&canonical) {
        Ok(_) => Ok(canonical),
        Err(error) => Err(unreadable(beneath, spec, &canonical, error.into())),
    }
}

/// Returns the error of a folder that cannot be opened. If this process may not pass a directory
/// above the folder, the error names that directory.
fn unreadable(beneath: &Beneath, spec: &ShareSpec, path: &Path, error: io::Error) -> ShareError {
    let dir = spec.dir.clone();
    let is_denied = error.kind() == io::ErrorKind::PermissionDenied;
    match is_denied.then(|| beneath.closed_above(path)).flatten() {
        Some(above) => ShareError::Closed {
            dir,
            why: closed_directory(&above),
        },
        None => ShareError::Unreadable { dir, error },
    }
}
