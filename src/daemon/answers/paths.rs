//! The paths that callers name.

use crate::daemon::control::{Failure, FailureKind, Named};
use p2pfs_types::path::{SharedPath, escape};

/// What a user named, without slashes at either end.
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

/// What is said of a path below `.p2pfs` that names nothing.
pub(super) fn nothing_hidden(path: &[u8]) -> Failure {
    let message = format!("{}: there is no such name", escape(path));
    Failure::new(FailureKind::NotFound, message)
        .with_remedy("below .p2pfs are peers/NAME/PATH and by-hash/HASH")
}

/// What is said of one that the mount alone makes.
pub(super) fn made_by_mount(path: &[u8]) -> Failure {
    let message = format!("{} is made by the mount", escape(path));
    Failure::new(FailureKind::Invalid, message)
        .with_remedy("read it there; p2pfs status --json tells the same")
}

/// The path that a user named, as in the mount; a slash at either end is forgiven.
pub(super) fn shared_path(named: &Named) -> Result<SharedPath, Failure> {
    let bytes = trimmed(named);
    SharedPath::new(bytes).map_err(|error| {
        let message = format!("{}: {error}", escape(named.as_bytes()));
        Failure::new(FailureKind::Invalid, message)
            .with_remedy("name a path as p2pfs ls shows it, from the root of the mount")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slash_at_either_end_is_forgiven_and_nothing_else() {
        let path = |text: &str| shared_path(&Named::new(text)).map(|p| p.as_bytes().to_vec());
        assert_eq!(path("/a/b/").unwrap(), b"a/b");
        assert_eq!(path("").unwrap(), b"");
        assert_eq!(path("/").unwrap(), b"");
        assert_eq!(path("a/../b").unwrap_err().kind, FailureKind::Invalid);
        assert_eq!(path(".p2pfs/peers").unwrap_err().kind, FailureKind::Invalid);
    }
}
