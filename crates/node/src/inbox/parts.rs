//! Incomplete files that may continue after a restart. They are kept in a subfolder of the inbox
//! that no share lists.
//!
//! Another user may be able to write into the inbox. The subfolder is therefore opened once for each
//! use, never through a link, and only if it is a folder of the daemon's user. Its files are reached
//! through this descriptor, so a link that takes its name meanwhile leads nowhere.
//!
//! This module owns two files for each incomplete file: its bytes so far, and a note with the hash
//! of the whole file and the progress at the time of the note. A note without bytes means that the
//! file was published. The progress in a note counts only if the bytes match it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use p2pfs_types::digest::ContentHash;
use p2pfs_types::files::{
    PRIVATE_DIR_MODE, PRIVATE_MODE, create_anew, open_own, open_own_dir, open_own_writable, path_of,
};
use p2pfs_types::id::NodeId;
use p2pfs_types::path::ARRIVING;

/// Time since the last write of a progress note after which a starting node removes the note and
/// its unfinished file. A running node does so already after
/// [`COMING_PATIENCE`](super::COMING_PATIENCE) without progress.
const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);
/// Maximum size of a note: two hashes, a key, a name of 255 bytes, and numbers.
const NOTE_MAX_BYTES: u64 = 1024;
/// Extension of the file with the bytes.
const BYTES: &str = "part";
/// Number of digits of the sender's key in a file name.
const SENDER_DIGITS: usize = 16;

/// The offered file and the progress of its transfer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProgressNote {
    /// The sender.
    pub(super) from: NodeId,
    /// Hash of the whole file.
    pub(super) hash: ContentHash,
    /// The offered name.
    pub(super) name: Vec<u8>,
    pub(super) size_bytes: u64,
    /// Length of the prefix that had arrived.
    pub(super) prefix_bytes: u64,
    /// Hash of that prefix.
    pub(super) prefix_hash: ContentHash,
}

/// The open subfolder.
#[derive(Clone, Debug)]
struct PartFolder(Arc<File>);

/// The bytes and the note of one file, in the open subfolder.
#[derive(Clone, Debug)]
pub(super) struct PartPaths {
    /// Keeps the descriptor that both paths lead through.
    _folder: PartFolder,
    bytes: PathBuf,
    note: PathBuf,
}

/// A file of which an earlier run of the node left a note: unfinished or published.
#[derive(Debug)]
pub(super) struct UnfinishedPush {
    pub(super) note: ProgressNote,
    pub(super) part: PartPaths,
    /// The bytes; `None` if they do not exist. This means that the file was published.
    pub(super) bytes: Option<File>,
}

impl PartFolder {
    /// Opens the subfolder of an inbox.
    ///
    /// # Errors
    /// `NotFound` without a subfolder. `PermissionDenied` if it is a link or a folder in which
    /// another user may create or rename files.
    fn open(inbox: &Path) -> io::Result<Self> {
        let path = inbox.join(ARRIVING);
        let opened = open_own_dir(&path)?;
        let folder = opened.map_err(|why| foreign_folder(&path, why))?;
        Ok(Self(Arc::new(folder)))
    }

    /// Returns a path of the subfolder that no change of names affects.
    fn path(&self) -> PathBuf {
        path_of(&self.0).into()
    }

    fn part(&self, stem: &str) -> PartPaths {
        let note = self.path().join(stem);
        PartPaths {
            _folder: self.clone(),
            bytes: note.with_extension(BYTES),
            note,
        }
    }
}

/// Returns the error for a subfolder that the daemon did not make.
fn foreign_folder(path: &Path, why: &str) -> io::Error {
    let text = format!(
        "{} is not a folder that only the daemon may change ({why}): remove it",
        path.display()
    );
    io::Error::new(io::ErrorKind::PermissionDenied, text)
}

impl PartPaths {
    /// Creates an empty file for the bytes of a file from `from`, and the subfolder if it is
    /// missing. Removes the note and the bytes of an older push of the same file.
    ///
    /// # Errors
    /// Those of the disk, and `PermissionDenied` if the subfolder is a link or another user's.
    pub(super) fn create(
        inbox: &Path,
        from: &NodeId,
        hash: &ContentHash,
    ) -> io::Result<(Self, File)> {
        match DirBuilder::new()
            .mode(PRIVATE_DIR_MODE)
            .create(inbox.join(ARRIVING))
        {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let stem = format!("{}-{hash}", from.short(SENDER_DIGITS));
        let part = PartFolder::open(inbox)?.part(&stem);
        part.remove();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.open(&part.bytes)?;
        Ok((part, file))
    }

    /// Returns the path of the bytes.
    pub(super) fn bytes(&self) -> &Path {
        &self.bytes
    }

    /// Writes the note atomically: after a crash of this process, either the old note or the new
    /// one exists.
    pub(super) fn write_note(&self, note: &ProgressNote) -> io::Result<()> {
        let text = postcard::to_stdvec(note).map_err(io::Error::other)?;
        let new = self.note.with_extension("new");
        create_anew(&new, PRIVATE_MODE)?.write_all(&text)?;
        fs::rename(new, &self.note)
    }

    /// Removes the bytes and the note.
    pub(super) fn remove(&self) {
        // The bytes last: a note alone would mean that the file was published.
        self.remove_note();
        let _none = fs::remove_file(&self.bytes);
    }

    /// Removes the note.
    pub(super) fn remove_note(&self) {
        let _none = fs::remove_file(&self.note);
    }
}

impl ProgressNote {
    fn read(path: &Path) -> Option<Self> {
        let mut text = Vec::new();
        let mut file = open_own(path).ok()?.take(NOTE_MAX_BYTES);
        file.read_to_end(&mut text).ok()?;
        let note: Self = postcard::from_bytes(&text).ok()?;
        (note.prefix_bytes <= note.size_bytes).then_some(note)
    }
}

/// Returns the unfinished and the published files of which an earlier run of the node left notes in
/// an inbox, at most `most`. Removes all other files from the subfolder. A subfolder that another
/// user may change is left alone.
pub(super) fn left_in(inbox: &Path, most: usize) -> Vec<UnfinishedPush> {
    let Ok(folder) = PartFolder::open(inbox) else {
        return Vec::new();
    };
    let Ok(entries) = fs::read_dir(folder.path()) else {
        return Vec::new();
    };
    let (mut left, mut names) = (Vec::new(), Vec::new());
    for entry in entries.flatten() {
        names.push(entry.path());
    }
    for path in names.iter().filter(|path| path.extension().is_none()) {
        let Some(stem) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        let part = folder.part(stem);
        match ProgressNote::read(path).filter(|_| left.len() < most && is_fresh(path)) {
            Some(note) => {
                let bytes = match open_own_writable(&part.bytes) {
                    Ok(bytes) => Some(bytes),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                    Err(_) => {
                        // The sender sends the file from its beginning.
                        part.remove();
                        continue;
                    }
                };
                left.push(UnfinishedPush { note, part, bytes });
            }
            None => part.remove(),
        }
    }
    let is_known = |path: &PathBuf| {
        let known = left.iter().any(|left| left.part.note == *path);
        known || left.iter().any(|left| left.part.bytes == *path)
    };
    for path in names.iter().filter(|path| !is_known(path)) {
        // bytes without a note, or half a note
        let _gone = fs::remove_file(path);
    }
    left
}

fn is_fresh(path: &Path) -> bool {
    let changed = fs::metadata(path).and_then(|found| found.modified());
    // After the clock was set back, the file counts as fresh.
    changed.is_ok_and(|at| at.elapsed().unwrap_or_default() < KEPT_FOR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn note(n: u8) -> ProgressNote {
        ProgressNote {
            from: NodeId::new([n; 32]),
            hash: ContentHash::of(&[n]),
            name: vec![b'n'; 255],
            size_bytes: u64::MAX,
            prefix_bytes: u64::MAX,
            prefix_hash: ContentHash::of(&[n]),
        }
    }

    fn create(inbox: &Path, n: u8) -> PartPaths {
        let note = note(n);
        let (part, _) = PartPaths::create(inbox, &note.from, &note.hash).unwrap();
        part.write_note(&note).unwrap();
        part
    }

    fn names(inbox: &Path) -> usize {
        fs::read_dir(inbox.join(ARRIVING)).unwrap().count()
    }

    #[test]
    fn a_recorded_part_is_found_again_and_an_unrecorded_one_is_removed() {
        let inbox = tempfile::tempdir().unwrap();
        let inbox = inbox.path();
        assert!(left_in(inbox, 9).is_empty(), "there is not a folder yet");
        create(inbox, 1);
        let named = create(inbox, 2);
        fs::remove_file(named.bytes()).unwrap();
        PartPaths::create(inbox, &NodeId::new([3; 32]), &ContentHash::of(b"3")).unwrap();
        fs::write(inbox.join(ARRIVING).join("garbage"), b"x").unwrap();
        fs::write(inbox.join(ARRIVING).join("half.new"), b"x").unwrap();
        let mut left = left_in(inbox, 9);
        left.sort_by_key(|left| left.note.from);
        let whole: Vec<bool> = left.iter().map(|left| left.bytes.is_none()).collect();
        assert_eq!(whole, [false, true]);
        assert_eq!(left[0].note, note(1));
        assert_eq!(names(inbox), 3);
        left.iter().for_each(|left| left.part.remove());
        assert_eq!(names(inbox), 0);
    }

    #[test]
    fn bytes_that_cannot_be_opened_do_not_count_as_published() {
        let inbox = tempfile::tempdir().unwrap();
        let inbox = inbox.path();
        let part = create(inbox, 1);
        fs::remove_file(part.bytes()).unwrap();
        // a link is not opened
        std::os::unix::fs::symlink("/dev/null", part.bytes()).unwrap();
        assert!(left_in(inbox, 9).is_empty());
        assert_eq!(names(inbox), 0);
    }

    #[test]
    fn planted_link_or_folder_of_all_users_is_not_used_for_parts() {
        let (inbox, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (inbox, kept) = (inbox.path(), other.path().join("kept.part"));
        fs::write(&kept, b"x").unwrap();
        let planted = inbox.join(ARRIVING);
        let is_refused = || {
            let note = note(1);
            let refused = PartPaths::create(inbox, &note.from, &note.hash).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
            assert!(refused.to_string().contains("remove it"), "{refused}");
            assert!(left_in(inbox, 9).is_empty());
        };
        std::os::unix::fs::symlink(other.path(), &planted).unwrap();
        is_refused();
        assert_eq!(
            fs::read_dir(other.path()).unwrap().count(),
            1,
            "nothing went or came"
        );
        fs::remove_file(&planted).unwrap();
        fs::create_dir(&planted).unwrap();
        fs::set_permissions(&planted, fs::Permissions::from_mode(0o777)).unwrap();
        is_refused();
    }

    #[test]
    fn link_that_takes_the_place_of_the_subfolder_is_not_followed() {
        let (inbox, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let inbox = inbox.path();
        let part = create(inbox, 1);
        fs::rename(inbox.join(ARRIVING), inbox.join("moved")).unwrap();
        std::os::unix::fs::symlink(other.path(), inbox.join(ARRIVING)).unwrap();
        part.write_note(&note(1)).unwrap();
        part.remove();
        assert_eq!(fs::read_dir(other.path()).unwrap().count(), 0);
        assert_eq!(fs::read_dir(inbox.join("moved")).unwrap().count(), 0);
    }

    #[test]
    fn parts_are_bounded_and_dropped_after_a_day() {
        let inbox = tempfile::tempdir().unwrap();
        let inbox = inbox.path();
        (0..9).for_each(|n| drop(create(inbox, n)));
        assert_eq!(left_in(inbox, 4).len(), 4);
        assert_eq!(names(inbox), 8);
        let old = std::time::SystemTime::now() - KEPT_FOR - Duration::from_secs(60);
        for entry in fs::read_dir(inbox.join(ARRIVING)).unwrap() {
            let file = File::options().write(true).open(entry.unwrap().path());
            file.unwrap().set_modified(old).unwrap();
        }
        assert!(left_in(inbox, 4).is_empty());
        assert_eq!(names(inbox), 0);
    }
}
