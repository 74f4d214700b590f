//! Paths from callers.

use super::Services;
use crate::daemon::control::{Failure, FailureKind, Named};
use p2pfs_types::path::{SharedPath, escape};

/// Returns the bytes of the path without slashes at either end.
pub(super) fn trimmed(named: &Named) -> &[u8] {
    let mut bytes = named.as_bytes();
    while let [b'/', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b'/'] = bytes {
        bytes = rest;
    }
    bytes
}

/// Returns the failure for a path below `.p2pfs` that does not exist.
pub(super) fn nothing_hidden(path: &[u8]) -> Failure {
    let message = format!("{}: no such name", escape(path));
    Failure::new(FailureKind::NotFound, message)
        .with_remedy("below .p2pfs are peers/NAME/PATH and by-hash/HASH")
}

/// Returns the failure for a path that exists only in the mount.
pub(super) fn refuse_mount_file(path: &[u8]) -> Failure {
    let message = format!("{} is made by the mount", escape(path));
    Failure::new(FailureKind::Invalid, message)
        .with_remedy("read it there; p2pfs status --json tells the same")
}

/// Converts the caller's path to a path of the mount; ignores slashes at either end.
pub(super) fn shared_path(named: &Named) -> Result<SharedPath, Failure> {
    let bytes = trimmed(named);
    SharedPath::new(bytes).map_err(|error| {
        let message = format!("{}: {error}", escape(named.as_bytes()));
        Failure::new(FailureKind::Invalid, message)
            .with_remedy("name a path as p2pfs ls shows it, from the root of the mount")
    })
}

/// Converts the caller's path to the path of the name that the mount shows there: links among its
/// directories are resolved.
pub(super) fn mount_path(services: &Services, named: &Named) -> Result<SharedPath, Failure> {
    Ok(services.node.names().through_links(&shared_path(named)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slash_at_either_end_is_tolerated_and_nothing_else() {
        let path = |text: &str| shared_path(&Named::new(text)).map(|p| p.as_bytes().to_vec());
        assert_eq!(path("/a/b/").unwrap(), b"a/b");
        assert_eq!(path("").unwrap(), b"");
        assert_eq!(path("/").unwrap(), b"");
        assert_eq!(path("a/../b").unwrap_err().kind, FailureKind::Invalid);
        assert_eq!(path(".p2pfs/peers").unwrap_err().kind, FailureKind::Invalid);
    }
}
