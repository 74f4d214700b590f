//! Files with secrets: mode 0600, replaced atomically, refused if the group or others have access.

#![allow(
    clippy::disallowed_methods,
    reason = "key files are the one thing that trust keeps on the disk"
)]

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use tempfile::NamedTempFile;
use zeroize::Zeroizing;

use super::TrustError;
use p2pfs_types::files::trusted_way::open_to_read;
use p2pfs_types::files::{PRIVATE_MODE, make_private_dir};

/// Maximum size in bytes of a secret file. A key has less than 100 bytes, an epoch's secret 65.
const FILE_MAX_BYTES: u64 = 4096;
/// Permission bits of the group and of other users.
const OTHERS: u32 = 0o077;

/// Reads a secret file. Returns none if it does not exist.
///
/// # Errors
/// [`TrustError::Exposed`] if the group or others have any right to it, [`TrustError::BadFile`] if
/// it is too long, [`TrustError::File`].
pub(super) fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, TrustError> {
    read_up_to(path, FILE_MAX_BYTES)
}

/// Reads a secret file of up to `most_bytes`. Returns none if it does not exist.
///
/// # Errors
/// Those of [`read`].
pub(super) fn read_up_to(
    path: &Path,
    most_bytes: u64,
) -> Result<Option<Zeroizing<Vec<u8>>>, TrustError> {
    // Opening a pipe without a writer must not block the start for ever.
    let file = match open_to_read(path).map_err(io::Error::from) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open", path, error)),
    };
    let metadata = file
        .metadata()
        .map_err(|error| failed("read", path, error))?;
    if !metadata.is_file() {
        let error = io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file");
        return Err(failed("read", path, error));
    }
    if metadata.mode() & OTHERS != 0 {
        return Err(TrustError::Exposed {
            path: path.into(),
            mode: metadata.mode() & 0o7777,
        });
    }
    // The buffer has room for the whole file. If it grew while it is filled, an unwiped copy of a
    // secret would remain in memory.
    let length_bytes = metadata.len().min(most_bytes) as usize + 1;
    let mut content = Zeroizing::new(Vec::with_capacity(length_bytes));
    let read = file.take(most_bytes + 1).read_to_end(&mut content);
    read.map_err(|error| failed("read", path, error))?;
    if content.len() as u64 > most_bytes {
        return Err(TrustError::BadFile {
            path: path.into(),
            expected: "a key or secret",
            or: "",
        });
    }
    Ok(Some(content))
}

/// Writes a new file. Returns `false` and leaves the file unchanged if it exists already.
///
/// # Errors
/// [`TrustError::File`]. No temporary file remains.
pub(super) fn create(path: &Path, content: &[u8]) -> Result<bool, TrustError> {
    match write_beside(path, content)?.persist_noclobber(path) {
        Ok(_) => {}
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => return Err(failed("create", path, error.error)),
    }
    sync_directory(path)?;
    Ok(true)
}

/// Replaces a file atomically, or creates it. After a crash it has either the old or the new
/// content.
///
/// # Errors
/// [`TrustError::File`]. The old file is unchanged. If only the sync of the directory failed, the
/// file gets its old content back, if that can be written.
pub(super) fn replace(path: &Path, content: &[u8]) -> Result<(), TrustError> {
    replace_synced(path, content, sync_directory)
}

fn replace_synced(
    path: &Path,
    content: &[u8],
    sync: impl Fn(&Path) -> Result<(), TrustError>,
) -> Result<(), TrustError> {
    let before = Before::of(path)?;
    rename_to(path, content)?;
    sync(path).inspect_err(|_| before.restore())
}

/// Writes a temporary file and gives it the name of `path`.
fn rename_to(path: &Path, content: &[u8]) -> Result<(), TrustError> {
    let replaced = write_beside(path, content)?.persist(path);
    replaced.map_err(|error| failed("replace", path, error.error))?;
    Ok(())
}

/// The content of a file before it is replaced.
struct Before<'a> {
    path: &'a Path,
    content: Option<Zeroizing<Vec<u8>>>,
}

impl<'a> Before<'a> {
    fn of(path: &'a Path) -> Result<Self, TrustError> {
        let content = match fs::read(path) {
            Ok(content) => Some(Zeroizing::new(content)),
            // Nothing can be renamed over a directory, and `restore` does not remove one.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::IsADirectory
                ) =>
            {
                None
            }
            Err(error) => return Err(failed("read", path, error)),
        };
        Ok(Self { path, content })
    }

    /// Gives the file its old content back, or removes it if there was none. An error is ignored:
    /// the caller reports the one that led here.
    fn restore(&self) {
        let _as_after_a_crash = match &self.content {
            Some(content) => rename_to(self.path, content).and_then(|()| sync_directory(self.path)),
            None => remove(self.path),
        };
    }
}

/// Replaces two files, the first before the second. After a crash the first one may be new while
/// the second one is old.
///
/// # Errors
/// [`TrustError::File`], and those of [`read`] for the first file. Neither file is new then: if the
/// first one was replaced already, or only the last sync of the directory failed, the files get
/// their old content back, if that can be written.
pub(super) fn replace_both(
    first: (&Path, &[u8]),
    second: (&Path, &[u8]),
) -> Result<(), TrustError> {
    replace_both_synced(first, second, sync_directory)
}

/// Replaces two files as [`replace_both`] does. `sync` makes the new name of a file durable.
fn replace_both_synced(
    (first, content): (&Path, &[u8]),
    (second, beside): (&Path, &[u8]),
    sync: impl Fn(&Path) -> Result<(), TrustError>,
) -> Result<(), TrustError> {
    let before_first = Before {
        path: first,
        content: read(first)?,
    };
    let before_second = Before::of(second)?;
    // Written before the first file is replaced: if there is no room for both, neither is replaced.
    let ready = write_beside(second, beside)?;
    replace_synced(first, content, &sync)?;
    if let Err(error) = ready.persist(second) {
        // The conversion drops the temporary file, so there is room to restore the first one.
        let refused = failed("replace", second, error.into());
        before_first.restore();
        return Err(refused);
    }
    sync(second).inspect_err(|_| {
        before_second.restore();
        before_first.restore();
    })
}

/// Removes a file. A missing file is not an error.
///
/// # Errors
/// [`TrustError::File`]. The file may still exist.
pub(super) fn remove(path: &Path) -> Result<(), TrustError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path, error)),
        _ => sync_directory(path),
    }
}

/// Writes a temporary file in the directory of `path`. The temporary file is removed unless it is
/// renamed.
fn write_beside(path: &Path, content: &[u8]) -> Result<NamedTempFile, TrustError> {
    let directory = directory_of(path);
    make_private_dir(directory).map_err(|error| failed("create", directory, error))?;
    let written = tempfile::Builder::new()
        .permissions(Permissions::from_mode(PRIVATE_MODE))
        .tempfile_in(directory)
        .and_then(|mut file| {
            file.write_all(content)?;
            file.as_file().sync_all()?;
            Ok(file)
        });
    // Only the error's kind: its text names the temporary file, which no longer exists.
    written.map_err(|error| failed("write", path, error.kind().into()))
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn sync_directory(path: &Path) -> Result<(), TrustError> {
    let directory = directory_of(path);
    let synced = File::open(directory).and_then(|opened| opened.sync_all());
    synced.map_err(|error| failed("sync", directory, error))
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> TrustError {
    TrustError::File {
        action,
        path: path.into(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names_in(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn a_secret_file_is_private_and_leaves_no_temporary_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/er/secret");
        assert!(create(&path, b"one").unwrap());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(
            fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o7777,
            0o700
        );
        replace(&path, b"two").unwrap();
        assert_eq!(&read(&path).unwrap().unwrap()[..], b"two");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(names_in(path.parent().unwrap()), ["secret"]);
    }

    #[test]
    fn two_files_are_replaced_together_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let [first, second] = ["first", "second"].map(|name| directory.path().join(name));
        let replace = |a: &[u8], b: &[u8]| replace_both((&first, a), (&second, b));
        let content = |path| read(path).unwrap().map(|content| content.to_vec());
        replace(b"1", b"2").unwrap();
        assert_eq!(content(&first).unwrap(), b"1");
        assert_eq!(content(&second).unwrap(), b"2");
        // A file cannot replace a directory.
        fs::remove_file(&second).unwrap();
        fs::create_dir(&second).unwrap();
        assert!(replace(b"3", b"4").is_err());
        assert_eq!(content(&first).unwrap(), b"1");
        fs::remove_file(&first).unwrap();
        assert!(replace(b"3", b"4").is_err());
        assert_eq!(content(&first), None);
        fs::remove_dir(&second).unwrap();
        fs::create_dir(&first).unwrap();
        assert!(replace(b"3", b"4").is_err());
        assert_eq!(content(&second), None);
        assert_eq!(names_in(directory.path()), ["first"]);
    }

    #[test]
    fn two_files_keep_their_content_if_only_a_sync_of_their_directory_fails() {
        let directory = tempfile::tempdir().unwrap();
        let [first, second] = ["first", "second"].map(|name| directory.path().join(name));
        let failing = |unsynced: &Path, content: [&[u8]; 2]| {
            let [one, other] = content;
            replace_both_synced((&first, one), (&second, other), |path| {
                if path == unsynced {
                    Err(failed("sync", path, io::ErrorKind::Other.into()))
                } else {
                    Ok(())
                }
            })
        };
        for unsynced in [&first, &second] {
            assert!(failing(unsynced, [b"1", b"2"]).is_err());
            assert!(names_in(directory.path()).is_empty());
        }
        replace_both((&first, b"1"), (&second, b"2")).unwrap();
        for unsynced in [&first, &second] {
            assert!(failing(unsynced, [b"3", b"4"]).is_err());
            assert_eq!(fs::read(&first).unwrap(), b"1");
            assert_eq!(fs::read(&second).unwrap(), b"2");
        }
        let failed = replace_synced(&first, b"3", |path| {
            Err(failed("sync", path, io::ErrorKind::Other.into()))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(&first).unwrap(), b"1");
    }

    #[test]
    fn a_full_disk_is_reported_with_its_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        let full = failed("write", &path, io::ErrorKind::StorageFull.into()).to_string();
        let said = format!("cannot write {}: no storage space; free", path.display());
        assert!(full.starts_with(&said), "{full}");
    }

    #[test]
    fn creating_never_overwrites() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        assert!(create(&path, b"first").unwrap());
        assert!(!create(&path, b"second").unwrap());
        assert_eq!(&read(&path).unwrap().unwrap()[..], b"first");
        assert_eq!(names_in(directory.path()), ["secret"]);
    }

    #[test]
    fn a_readable_secret_file_is_refused_with_the_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        create(&path, b"x").unwrap();
        for mode in [0o640, 0o604, 0o620, 0o601] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = read(&path).unwrap_err();
            assert!(matches!(error, TrustError::Exposed { .. }));
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        assert!(read(&path).is_ok());
    }

    #[test]
    fn a_missing_file_is_not_an_error_and_a_huge_one_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        assert!(read(&path).unwrap().is_none());
        create(&path, &[b'a'; 5000]).unwrap();
        assert!(matches!(read(&path), Err(TrustError::BadFile { .. })));
    }
}
