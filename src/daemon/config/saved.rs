//! The settings from commands that outlive the daemon: shares added with `p2pfs share add`, and a
//! token that `p2pfs join` saves while no daemon runs. Both are files of mode 0600 in the state
//! directory. They are replaced as a whole by a rename, so that a crash leaves the old or the new
//! file.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER_PERMISSIVE;
use serde::{Deserialize, Serialize};

use super::sections::ShareSettings;
use p2pfs_node::api::SharePlace;
pub use p2pfs_node::state_is_in_use;
use p2pfs_proto::trust::KeyringFiles;
use p2pfs_types::files::{PRIVATE_MODE, create_anew, make_private_dir, open_own};
use p2pfs_types::id::{NodeId, to_hex};

/// File of the added shares, within the state directory.
pub const SHARES_FILE: &str = "shares.toml";
/// File of the token for the next start, within the state directory.
pub const TOKEN_FILE: &str = "join-token";
/// Maximum number of saved shares.
pub const SHARES_MAX: usize = 1024;
/// Maximum bytes read from a file.
const FILE_MAX_BYTES: u64 = 16 << 20;

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SharesFile {
    #[serde(default)]
    share: Vec<SavedShare>,
}

/// A [`ShareSettings`] on disk, which also stores paths that are not UTF-8 exactly.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedShare {
    dir: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dir_hex: Option<String>,
    #[serde(default, rename = "as", skip_serializing_if = "Option::is_none")]
    place: Option<String>,
    include_private: bool,
    legacy: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    readers: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    exclude: Vec<String>,
    #[serde(default)]
    no_default_excludes: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    writable: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    open: Option<bool>,
}

/// Loads the saved shares; returns an empty list if the file is missing.
///
/// # Errors
/// The error of the system, or `InvalidData` if the file is damaged. The file is left unchanged.
pub fn load_shares(state_dir: &Path) -> io::Result<Vec<ShareSettings>> {
    let Some(text) = read(&state_dir.join(SHARES_FILE))? else {
        return Ok(Vec::new());
    };
    // Only the one-line message is kept: a position in a file that the user did not write is
    // useless.
    let file: SharesFile = toml::from_str(&text).map_err(|error| invalid(error.message()))?;
    file.share.into_iter().map(SavedShare::restore).collect()
}

/// Replaces the saved shares.
///
/// # Errors
/// The error of the system, or `InvalidInput` above [`SHARES_MAX`].
pub fn save_shares(state_dir: &Path, shares: &[ShareSettings]) -> io::Result<()> {
    if shares.len() > SHARES_MAX {
        let message = format!(
            "{} shares are more than the {SHARES_MAX} that are kept",
            shares.len()
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let file = SharesFile {
        share: shares.iter().map(SavedShare::of).collect(),
    };
    let text = toml::to_string(&file).map_err(invalid)?;
    write(state_dir, SHARES_FILE, &text)
}

/// Returns the keys of the members of the cluster in a state directory that no daemon uses. Returns
/// none if the stored certificates cannot be read.
pub fn saved_members(state_dir: &Path) -> Vec<NodeId> {
    let members = KeyringFiles::certificates_in(state_dir).unwrap_or_default();
    members.into_iter().map(|member| member.node).collect()
}

/// Saves a token for the next start of the daemon, and returns the path of its file.
///
/// # Errors
/// The error of the system.
pub fn save_token(state_dir: &Path, token: &str) -> io::Result<PathBuf> {
    write(state_dir, TOKEN_FILE, &format!("{token}\n"))?;
    Ok(state_dir.join(TOKEN_FILE))
}

/// Returns the saved token, if there is one.
///
/// # Errors
/// The error of the system.
pub fn waiting_token(state_dir: &Path) -> io::Result<Option<String>> {
    Ok(read(&state_dir.join(TOKEN_FILE))?.map(|text| text.trim().to_owned()))
}

/// Removes the saved token, if there is one.
///
/// # Errors
/// The error of the system.
pub fn forget_token(state_dir: &Path) -> io::Result<()> {
    match fs::remove_file(state_dir.join(TOKEN_FILE)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
        Ok(()) => sync_names(state_dir),
    }
}

impl SavedShare {
    fn of(share: &ShareSettings) -> Self {
        let dir = share.dir.to_string_lossy().into_owned();
        let exact = share.dir.to_str().is_some();
        Self {
            dir,
            dir_hex: (!exact).then(|| to_hex(share.dir.as_os_str().as_bytes())),
            place: (!share.place.is_root()).then(|| share.place.to_string()),
            include_private: share.include_private,
            legacy: share.legacy,
            readers: share.readers.clone(),
            exclude: share.exclude.clone(),
            no_default_excludes: !share.default_excludes,
            writable: share.writable,
            open: share.open,
        }
    }

    fn restore(self) -> io::Result<ShareSettings> {
        let dir = match &self.dir_hex {
            None => PathBuf::from(self.dir),
            Some(hex) => {
                let bytes = HEXLOWER_PERMISSIVE.decode(hex.as_bytes());
                let bytes = bytes.map_err(|_| invalid("dir_hex is not hexadecimal"))?;
                PathBuf::from(std::ffi::OsStr::from_bytes(&bytes))
            }
        };
        let place = self.place.as_deref().unwrap_or_default();
        Ok(ShareSettings {
            dir,
            place: SharePlace::new(place).map_err(invalid)?,
            include_private: self.include_private,
            legacy: self.legacy,
            readers: self.readers,
            exclude: self.exclude,
            default_excludes: !self.no_default_excludes,
            writable: self.writable,
            open: self.open,
        })
    }
}

fn read(path: &Path) -> io::Result<Option<String>> {
    let file = match open_own(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut text = String::new();
    file.take(FILE_MAX_BYTES).read_to_string(&mut text)?;
    Ok(Some(text))
}

fn write(state_dir: &Path, name: &str, text: &str) -> io::Result<()> {
    make_private_dir(state_dir)?;
    let temporary = state_dir.join(format!(".{name}.new"));
    // If root writes here for the daemon of another user, that user may have planted a link under
    // this name, which must not be followed.
    let mut file = create_anew(&temporary, PRIVATE_MODE)?;
    if rustix::process::geteuid().is_root() {
        let owner = fs::metadata(state_dir)?;
        fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, state_dir.join(name))?;
    sync_names(state_dir)
}

/// Fsyncs the directory, so that a reported rename or removal survives a power failure.
fn sync_names(state_dir: &Path) -> io::Result<()> {
    File::open(state_dir)?.sync_all()
}

fn invalid(error: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn share(dir: &[u8]) -> ShareSettings {
        let dir = PathBuf::from(std::ffi::OsStr::from_bytes(dir));
        ShareSettings {
            place: SharePlace::new("photos/2026").unwrap(),
            include_private: true,
            readers: Some(vec!["alice".to_owned(), "@office".to_owned()]),
            exclude: vec!["/build/".to_owned()],
            default_excludes: false,
            writable: true,
            open: Some(false),
            ..ShareSettings::new(dir)
        }
    }

    #[test]
    fn shares_of_any_name_are_saved() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(load_shares(state.path()).unwrap(), []);
        let shares = [share(b"/srv/a b"), share(b"/srv/caf\xe9")];
        save_shares(state.path(), &shares).unwrap();
        assert_eq!(load_shares(state.path()).unwrap(), shares);
        save_shares(state.path(), &shares[..1]).unwrap();
        assert_eq!(load_shares(state.path()).unwrap(), shares[..1]);
    }

    #[test]
    fn shares_saved_without_a_place_are_at_the_top() {
        let state = tempfile::tempdir().unwrap();
        let text = "[[share]]\ndir = \"/srv/a\"\ninclude_private = false\nlegacy = false\n";
        fs::write(state.path().join(SHARES_FILE), text).unwrap();
        let plain = ShareSettings::new(PathBuf::from("/srv/a"));
        assert_eq!(
            load_shares(state.path()).unwrap(),
            std::slice::from_ref(&plain)
        );
        save_shares(state.path(), &[plain]).unwrap();
        let saved = fs::read_to_string(state.path().join(SHARES_FILE)).unwrap();
        assert!(!saved.contains("as ="), "{saved}");
    }

    #[test]
    fn a_damaged_file_of_shares_is_an_error_and_kept() {
        let state = tempfile::tempdir().unwrap();
        let file = state.path().join(SHARES_FILE);
        fs::write(&file, "share = 3").unwrap();
        assert_eq!(
            load_shares(state.path()).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
        assert_eq!(fs::read_to_string(&file).unwrap(), "share = 3");
    }

    #[test]
    fn too_many_shares_are_refused_and_the_previous_file_stays() {
        let state = tempfile::tempdir().unwrap();
        save_shares(state.path(), &[share(b"/a")]).unwrap();
        assert!(save_shares(state.path(), &vec![share(b"/b"); SHARES_MAX + 1]).is_err());
        assert_eq!(load_shares(state.path()).unwrap(), [share(b"/a")]);
    }

    #[test]
    fn files_saved_by_root_for_the_daemon_belong_to_its_user() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: only root can keep something for another user");
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let state = scratch.path().join("state");
        fs::create_dir(&state).unwrap();
        std::os::unix::fs::chown(&state, Some(65534), Some(65534)).unwrap();
        let file = save_token(&state, "p2pfs1-abc").unwrap();
        assert_eq!(fs::metadata(file).unwrap().uid(), 65534);
    }

    #[test]
    fn nothing_is_written_through_a_planted_link() {
        let scratch = tempfile::tempdir().unwrap();
        let (state, elsewhere) = (scratch.path().join("state"), scratch.path().join("other"));
        fs::create_dir(&state).unwrap();
        fs::write(&elsewhere, "what root alone may change").unwrap();
        let way = state.join(format!(".{TOKEN_FILE}.new"));
        std::os::unix::fs::symlink(&elsewhere, &way).unwrap();
        let file = save_token(&state, "p2pfs1-abc").unwrap();
        let left = fs::read_to_string(&elsewhere).unwrap();
        assert_eq!(left, "what root alone may change");
        assert!(fs::symlink_metadata(&file).unwrap().is_file());
        assert_eq!(
            waiting_token(&state).unwrap().as_deref(),
            Some("p2pfs1-abc")
        );
        // The leftover of a crash does not prevent a new file.
        fs::write(&way, "half of a tok").unwrap();
        save_token(&state, "p2pfs1-abd").unwrap();
        assert_eq!(
            waiting_token(&state).unwrap().as_deref(),
            Some("p2pfs1-abd")
        );
    }

    #[test]
    fn a_token_is_stored_privately_until_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("not/there/yet");
        assert_eq!(waiting_token(&state).unwrap(), None);
        let file = save_token(&state, "p2pfs1-abc").unwrap();
        assert_eq!(
            fs::metadata(&file).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(
            fs::metadata(&state).unwrap().permissions().mode() & 0o777,
            0o700
        );
        assert_eq!(
            waiting_token(&state).unwrap().as_deref(),
            Some("p2pfs1-abc")
        );
        forget_token(&state).unwrap();
        forget_token(&state).unwrap();
        assert_eq!(waiting_token(&state).unwrap(), None);
    }
}
