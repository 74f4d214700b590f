//! Folder of the demo: a new one, or an empty one of the user.
//!
//! In folders such as `/tmp`, other users can create a folder or a link with a predictable name. An
//! existing folder is therefore used only if it is empty, belongs to the user, and other users may
//! not write in it. The demo does not change its mode.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::DemoError;
use p2pfs_types::files::{PRIVATE_DIR_MODE, make_temporary_dir, open_own_dir, path_of};

/// Prefix of the folder that is created if the user names none.
const TEMPORARY_PREFIX: &str = "p2pfs-demo-";

/// Creates the named folder. If the folder exists, uses it unless [`fault_of`] objects. Without a
/// name, creates a temporary folder.
pub(super) fn make_folder(named: Option<&Path>) -> Result<PathBuf, DemoError> {
    let Some(named) = named else {
        return make_temporary_dir(TEMPORARY_PREFIX).map_err(|source| DemoError::Folder {
            action: "create a folder in",
            path: std::env::temp_dir(),
            source,
        });
    };
    // Removes a trailing slash, because the system follows a link before a slash.
    let folder: PathBuf = std::path::absolute(named)
        .unwrap_or_else(|_| named.to_owned())
        .components()
        .collect();
    let failed_to = |action| {
        let path = folder.clone();
        move |source| DemoError::Folder {
            action,
            path,
            source,
        }
    };
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent).map_err(failed_to("create"))?;
    }
    match DirBuilder::new().mode(PRIVATE_DIR_MODE).create(&folder) {
        Ok(()) => Ok(folder),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            match fault_of(&folder).map_err(failed_to("read"))? {
                None => Ok(folder),
                Some(cause) => Err(DemoError::FolderRefused { dir: folder, cause }),
            }
        }
        Err(error) => Err(failed_to("create")(error)),
    }
}

/// Returns why an existing folder must not be used. Returns `None` for an empty folder that only
/// the user may change.
fn fault_of(folder: &Path) -> io::Result<Option<&'static str>> {
    let opened = match open_own_dir(folder)? {
        Ok(opened) => opened,
        Err(fault) => return Ok(Some(fault)),
    };
    let is_empty = fs::read_dir(path_of(&opened))?.next().is_none();
    Ok((!is_empty).then_some("it is not empty"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn refusal(folder: &Path) -> &'static str {
        match make_folder(Some(folder)) {
            Err(DemoError::FolderRefused { cause, .. }) => cause,
            made => panic!("{}: {made:?}", folder.display()),
        }
    }

    #[test]
    fn a_demo_uses_no_planted_folder_and_changes_no_mode() {
        let parent = tempfile::tempdir().unwrap();
        let planted = parent.path().join("planted");
        fs::create_dir(&planted).unwrap();
        set_mode(&planted, 0o777);
        assert_eq!(refusal(&planted), "other users may write in it");
        set_mode(&planted, 0o700);
        let link = parent.path().join("link");
        symlink(&planted, &link).unwrap();
        assert_eq!(refusal(&link), "it is not a folder");
        assert_eq!(refusal(&link.join("")), "it is not a folder");
        symlink(
            parent.path().join("nothing"),
            parent.path().join("dangling"),
        )
        .unwrap();
        assert_eq!(
            refusal(&parent.path().join("dangling")),
            "it is not a folder"
        );
        fs::write(planted.join("file"), "x").unwrap();
        assert_eq!(refusal(&planted), "it is not empty");
        assert_eq!(mode(&planted), 0o700);
        if rustix::process::geteuid().is_root() {
            let other = parent.path().join("other");
            fs::create_dir(&other).unwrap();
            chown(&other, Some(1), None).unwrap();
            assert_eq!(refusal(&other), "it belongs to another user");
            assert_eq!(mode(&other), 0o755);
        }
    }

    #[test]
    fn a_demo_creates_a_private_folder_or_uses_an_empty_one_unchanged() {
        let parent = tempfile::tempdir().unwrap();
        let new = make_folder(Some(&parent.path().join("some/new"))).unwrap();
        assert_eq!(mode(&new), 0o700);
        let own = parent.path().join("own");
        fs::create_dir(&own).unwrap();
        set_mode(&own, 0o750);
        assert_eq!(make_folder(Some(&own)).unwrap(), own);
        assert_eq!(mode(&own), 0o750);
    }

    #[test]
    fn a_temporary_folder_is_new_and_private_each_time() {
        let [first, second] = [(); 2].map(|()| make_folder(None).unwrap());
        assert_ne!(first, second);
        let predictable = format!("{TEMPORARY_PREFIX}{}", std::process::id());
        for folder in [&first, &second] {
            assert_eq!(mode(folder), 0o700);
            assert!(!folder.ends_with(&predictable), "{}", folder.display());
            fs::remove_dir(folder).unwrap();
        }
    }
}
