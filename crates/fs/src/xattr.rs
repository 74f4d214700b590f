//! The extended attributes `user.p2pfs.*` of files. They can be read by name, but are not listed.
//! If they were listed, copies would carry them to a disk, where they would soon be outdated.

use super::error::FsError;
use super::traits::{Content, FileVersion, ForeignFile};
use p2pfs_catalogue::View;

const HASH: &[u8] = b"user.p2pfs.hash";
const HOLDERS: &[u8] = b"user.p2pfs.holders";
/// The number of live nodes that have all of the file, each byte proven.
const COPIES: &[u8] = b"user.p2pfs.copies";
const CACHED: &[u8] = b"user.p2pfs.cached";
const VERIFIED: &[u8] = b"user.p2pfs.verified";
/// The sender that pushed the file into the inbox of the node that shares it, as that node states
/// it. It exists only for pushed files.
const FROM: &[u8] = b"user.p2pfs.from";
const NAMES: [&[u8]; 6] = [HASH, HOLDERS, COPIES, CACHED, VERIFIED, FROM];

/// Digits of the key that stand for a holder without a known name.
const NAMELESS_DIGITS: usize = 8;

/// Returns an attribute of a file with a hash.
///
/// # Errors
/// [`FsError::NoAttribute`] if the file does not have it.
pub(super) fn of_file(
    content: &dyn Content,
    view: &View,
    file: &FileVersion,
    name: &[u8],
) -> Result<Vec<u8>, FsError> {
    Ok(match name {
        HASH => file.hash.to_string().into_bytes(),
        HOLDERS => holders(view, file).into_bytes(),
        COPIES => view
            .contents()
            .holders(&file.hash)
            .len()
            .to_string()
            .into_bytes(),
        CACHED => content.cached_bytes(file).to_string().into_bytes(),
        FROM => {
            let sender = content.sender(file).ok_or(FsError::NoAttribute)?;
            sender.into_bytes()
        }
        _ => b"blake3".to_vec(),
    })
}

/// Returns an attribute of a foreign file. It has no hash, so none of it is verified.
///
/// # Errors
/// [`FsError::NoAttribute`] if the file is not known or does not have the attribute.
pub(super) fn of_foreign(known: Option<ForeignFile>, name: &[u8]) -> Result<Vec<u8>, FsError> {
    match (name, known) {
        (VERIFIED, _) => Ok(b"none".to_vec()),
        (COPIES, _) => Ok(b"0".to_vec()),
        (HOLDERS, Some(file)) => Ok(file.holder.into_bytes()),
        (CACHED, Some(file)) => Ok(file.cached_bytes.to_string().into_bytes()),
        _ => Err(FsError::NoAttribute),
    }
}

/// Returns the names of the holders of the content, sorted and separated by commas.
fn holders(view: &View, file: &FileVersion) -> String {
    let holders = view.contents().holders(&file.hash);
    let name = |node| {
        view.label(node)
            .unwrap_or_else(|| node.short(NAMELESS_DIGITS))
    };
    let mut names: Vec<String> = holders.iter().map(name).collect();
    names.sort_unstable();
    names.dedup();
    names.join(",")
}

/// Returns the error for an attribute that exists on no file, or `None` if the name is supported.
/// Other `user.` attributes may exist elsewhere. Other kinds (ACLs, SELinux labels, capabilities)
/// do not exist at all.
pub fn absence(name: &[u8]) -> Option<FsError> {
    match name {
        _ if NAMES.contains(&name) => None,
        _ if name.starts_with(b"user.") => Some(FsError::NoAttribute),
        _ => Some(FsError::NoAttributeKind),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_of_other_namespaces_are_unsupported_rather_than_absent() {
        assert_eq!(absence(b"user.p2pfs.hash"), None);
        assert_eq!(absence(b"user.p2pfs"), Some(FsError::NoAttribute));
        assert_eq!(absence(b"security.selinux"), Some(FsError::NoAttributeKind));
        assert_eq!(
            absence(b"system.posix_acl_access"),
            Some(FsError::NoAttributeKind)
        );
        assert_eq!(absence(b""), Some(FsError::NoAttributeKind));
    }
}
