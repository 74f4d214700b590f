//! Which names of a folder a share offers, by their path, rights, type and size. Links, and names
//! that only a running node can judge, are not part of the rule (`walk`).

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use rustix::fs::FileType;

use super::exclude::Exclude;
use super::identity::{FileIdentity, NameStat};
use super::left_out::{FILE_MAX_BYTES, LeftOutWhy};
use p2pfs_types::path::{ARRIVING, PathError, SharedPath};

/// The rule of one share.
pub(super) struct OfferRule<'a> {
    pub(super) exclude: &'a Exclude,
    pub(super) include_private: bool,
}

impl OfferRule<'_> {
    /// Returns why a share leaves out the name at `path`, if it does. A name in a directory that is
    /// left out must not be asked about.
    pub(super) fn left_out(&self, path: &SharedPath, seen: &NameStat) -> Option<LeftOutWhy> {
        let kind = seen.file_type();
        if self.exclude.keeps_back(path, kind == FileType::Directory) {
            return Some(LeftOutWhy::Excluded);
        }
        let is_open = self.include_private || seen.others_may_read();
        match kind {
            FileType::RegularFile | FileType::Directory if !is_open => Some(LeftOutWhy::Private),
            FileType::RegularFile if seen.identity.size_bytes > FILE_MAX_BYTES => {
                Some(LeftOutWhy::TooLarge)
            }
            FileType::RegularFile | FileType::Directory | FileType::Symlink => None,
            _ => Some(LeftOutWhy::Special),
        }
    }
}

/// The rule of a share with default settings, for folders that are not shared.
pub struct DefaultOfferRule {
    exclude: Exclude,
}

impl DefaultOfferRule {
    /// Compiles the default patterns.
    ///
    /// # Panics
    /// Never: the patterns are constant, and every share compiles them.
    pub fn compile() -> Self {
        let exclude = Exclude::new(&[], true);
        Self {
            exclude: exclude.expect("the default patterns are valid"),
        }
    }

    /// Returns the path of a name in a directory of the folder.
    ///
    /// # Errors
    /// Why such a share would leave the name out. Links are not judged.
    pub fn check(
        &self,
        directory: &SharedPath,
        name: &[u8],
        found: &Metadata,
    ) -> Result<SharedPath, LeftOutWhy> {
        let path = directory.join(name).map_err(|error| match error {
            PathError::Hidden => LeftOutWhy::Hidden,
            // a name read from the disk is never malformed, so it is too long
            _ => LeftOutWhy::TooLong,
        })?;
        if name == ARRIVING.as_bytes() {
            return Err(LeftOutWhy::Arriving);
        }
        let rule = OfferRule {
            exclude: &self.exclude,
            include_private: false,
        };
        let seen = NameStat {
            identity: FileIdentity {
                size_bytes: found.size(),
                ..FileIdentity::default()
            },
            mode: found.mode(),
            links: 1,
            made_up: false,
        };
        rule.left_out(&path, &seen).map_or(Ok(path), Err)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_default_rule_leaves_out_what_a_share_without_settings_does() {
        let folder = tempfile::tempdir().unwrap();
        let rule = DefaultOfferRule::compile();
        let check = |name: &str, mode: u32| {
            let path = folder.path().join(name);
            if name.ends_with(".d") {
                std::fs::create_dir(&path).unwrap();
            } else {
                std::fs::write(&path, b"").unwrap();
            }
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            let found = std::fs::symlink_metadata(&path).unwrap();
            rule.check(&SharedPath::root(), name.as_bytes(), &found)
                .err()
        };
        assert_eq!(check("plain", 0o644), None);
        assert_eq!(check(".hidden", 0o644), None);
        assert_eq!(check("open.d", 0o755), None);
        assert_eq!(check("notes~", 0o644), Some(LeftOutWhy::Excluded));
        assert_eq!(check(".env", 0o600), Some(LeftOutWhy::Excluded));
        assert_eq!(check("private", 0o640), Some(LeftOutWhy::Private));
        assert_eq!(check("closed.d", 0o754), Some(LeftOutWhy::Private));
        assert_eq!(check(ARRIVING, 0o644), Some(LeftOutWhy::Arriving));
        assert_eq!(check(".p2pfs", 0o644), Some(LeftOutWhy::Hidden));
    }
}
