//! Files that hold secrets: mode 0600, written whole or not at all, refused when others can read
//! them.

#![allow(
    clippy::disallowed_methods,
    reason = "key files are the one thing that trust keeps on the disk"
)]

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use tempfile::NamedTempFile;
use zeroize::Zeroizing;

use super::TrustError;
use p2pfs_types::files::{PRIVATE_MODE, make_private_dir};

/// No secret of ours is longer: a key is below 100 bytes, an epoch's 65.
const FILE_MAX_BYTES: u64 = 4096;
/// The permission bits of everyone but the owner.
const OTHERS: u32 = 0o077;

/// The content of a secret file; none where it does not exist.
///
/// # Errors
/// [`TrustError::Exposed`] where others have any right to it, [`TrustError::File`].
pub(super) fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, TrustError> {
    read_up_to(path, FILE_MAX_BYTES)
}

/// The same, of another length at most.
///
/// # Errors
/// As [`read`].
pub(super) fn read_up_to(
    path: &Path,
    most_bytes: u64,
) -> Result<Option<Zeroizing<Vec<u8>>>, TrustError> {
    // a pipe that nobody writes to would hold the start up for ever; a file does not care
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK);
    let file = match options.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open", path, error)),
    };
    let metadata = file
        .metadata()
        .map_err(|error| failed("read", path, error))?;
    if !metadata.is_file() {
        let error = io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file");
        return Err(failed("read", path, error));
    }
    if metadata.mode() & OTHERS != 0 {
        return Err(TrustError::Exposed {
            path: path.into(),
            mode: metadata.mode() & 0o7777,
        });
    }
    // never grown while it is read, so that no copy of a secret stays behind unwiped
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

/// Writes a new file; `false` where one was there already, which is left as it is.
///
/// # Errors
/// [`TrustError::File`]; nothing is left behind.
pub(super) fn create(path: &Path, content: &[u8]) -> Result<bool, TrustError> {
    match write_beside(path, content)?.persist_noclobber(path) {
        Ok(_) => {}
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => return Err(failed("create", path, error.error)),
    }
    sync_directory(path)?;
    Ok(true)
}

/// Writes a file in place of the one there, if any: after a crash it is either the old or the new.
///
/// # Errors
/// [`TrustError::File`]; the old file is untouched.
pub(super) fn replace(path: &Path, content: &[u8]) -> Result<(), TrustError> {
    let replaced = write_beside(path, content)?.persist(path);
    replaced.map_err(|error| failed("replace", path, error.error))?;
    sync_directory(path)
}

/// Writes two files in place of those there, the first before the second: after a crash it may be
/// the new one beside the old second.
///
/// # Errors
/// [`TrustError::File`], and of the first as [`read`]; the old files are untouched.
pub(super) fn replace_both(
    (first, content): (&Path, &[u8]),
    (second, beside): (&Path, &[u8]),
) -> Result<(), TrustError> {
    let before = read(first)?;
    // where there is no room for both, neither has taken its place yet
    let ready = write_beside(second, beside)?;
    replace(first, content)?;
    if let Err(error) = ready.persist(second) {
        // which lets go of what was written, so that there is room to put the first one back
        let refused = failed("replace", second, error.into());
        let _as_after_a_crash = match before {
            Some(before) => replace(first, &before),
            None => remove(first),
        };
        return Err(refused);
    }
    sync_directory(second)
}

/// Removes a file; one that is not there is no error.
///
/// # Errors
/// [`TrustError::File`]; the file is still there.
pub(super) fn remove(path: &Path) -> Result<(), TrustError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path, error)),
        _ => sync_directory(path),
    }
}

/// A file in the same directory, gone unless it gets the name.
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
    // which names the file that is written beside this one, and gone by now
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
    fn a_secret_file_is_for_its_owner_alone_and_nothing_lies_beside_it() {
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
    fn of_two_files_either_both_are_replaced_or_none() {
        let directory = tempfile::tempdir().unwrap();
        let [first, second] = ["first", "second"].map(|name| directory.path().join(name));
        let replace = |a: &[u8], b: &[u8]| replace_both((&first, a), (&second, b));
        let content = |path| read(path).unwrap().map(|content| content.to_vec());
        replace(b"1", b"2").unwrap();
        assert_eq!(content(&first).unwrap(), b"1");
        assert_eq!(content(&second).unwrap(), b"2");
        // nothing can be put in the place of a folder
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
    fn where_there_is_no_room_it_is_said_what_helps() {
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
    fn a_file_that_others_can_read_is_refused_with_the_remedy() {
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
    fn a_file_that_is_not_there_is_no_error_and_a_huge_one_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        assert!(read(&path).unwrap().is_none());
        create(&path, &[b'a'; 5000]).unwrap();
        assert!(matches!(read(&path), Err(TrustError::BadFile { .. })));
    }
}
