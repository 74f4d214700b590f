//! The extended attributes `user.p2pfs.*` of files: answered to who asks for one by name, and never
//! listed, so that no copy carries them to a disk, where they would be of another time.

use super::error::FsError;
use super::filesystem::Filesystem;
use super::inode::{Inode, Node};
use super::traits::FileVersion;
use p2pfs_catalogue::View;

const HASH: &[u8] = b"user.p2pfs.hash";
const HOLDERS: &[u8] = b"user.p2pfs.holders";
const CACHED: &[u8] = b"user.p2pfs.cached";
const VERIFIED: &[u8] = b"user.p2pfs.verified";
/// Who pushed the file to this node; only here, and only where somebody did.
const FROM: &[u8] = b"user.p2pfs.from";
const NAMES: [&[u8]; 5] = [HASH, HOLDERS, CACHED, VERIFIED, FROM];

/// How many digits of its key stand for a holder whose name is not known.
const NAMELESS_DIGITS: usize = 8;

impl Filesystem {
    /// The value of an attribute.
    ///
    /// # Errors
    /// [`FsError::NoAttribute`] for all but files; for other names as [`absence`] says.
    pub fn getxattr(&self, ino: u64, name: &[u8]) -> Result<Vec<u8>, FsError> {
        if let Some(error) = absence(name) {
            return Err(error);
        }
        let view = self.view();
        let inode = self.inode(ino)?;
        let file = match self.current(&view, ino, &inode) {
            Node::File(file) => file,
            Node::Legacy => return self.legacy_attribute(&inode, name),
            _ => return Err(FsError::NoAttribute),
        };
        Ok(match name {
            HASH => file.hash.to_string().into_bytes(),
            HOLDERS => holders(&view, &file).into_bytes(),
            CACHED => self.content.cached_bytes(&file).to_string().into_bytes(),
            FROM => {
                let sender = self.content.sender(&file).ok_or(FsError::NoAttribute)?;
                sender.into_bytes()
            }
            _ => b"blake3".to_vec(),
        })
    }

    /// What a legacy peer gives has no hash, so nothing of it is verified.
    fn legacy_attribute(&self, inode: &Inode, name: &[u8]) -> Result<Vec<u8>, FsError> {
        let known = self.legacy_file_of(&inode.name);
        match (name, known) {
            (VERIFIED, _) => Ok(b"none".to_vec()),
            (HOLDERS, Some(file)) => Ok(file.holder.into_bytes()),
            (CACHED, Some(file)) => Ok(file.cached_bytes.to_string().into_bytes()),
            _ => Err(FsError::NoAttribute),
        }
    }
}

/// The names of who has the content, sorted.
fn holders(view: &View, file: &FileVersion) -> String {
    let holders = view.holders(&file.hash);
    let name = |node| {
        view.label(node)
            .unwrap_or_else(|| node.short(NAMELESS_DIGITS))
    };
    let mut names: Vec<String> = holders.iter().map(name).collect();
    names.sort_unstable();
    names.dedup();
    names.join(",")
}

/// Why there is no attribute of this name on any file, if there is none: `user.` ones may exist
/// elsewhere, other kinds (ACLs, SELinux labels, capabilities) do not at all.
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
    fn other_kinds_of_attributes_are_not_supported_rather_than_absent() {
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
