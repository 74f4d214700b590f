//! The folder of the inbox.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{CWD, OFlags, RenameFlags, fstatvfs, lgetxattr, renameat_with};
use rustix::io::Errno;

use super::attributes::{SENDER_ATTRIBUTE, origin_of, write_address, write_sender};
use super::origin::ChargedSender;
use super::parts::{PartPaths, ProgressNote, UnfinishedPush, left_in};
use super::room::{InboxUsage, PushedNames};
use p2pfs_proto::wire::native::record::{SENDER_MAX_BYTES, Sender};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::file_name::{numbered_name, received_name};
use p2pfs_types::files::trusted_way::open_plain_dir;
use p2pfs_types::files::{self, begin_to_write_out, link, opened_anew};
use p2pfs_types::id::NodeId;

/// Maximum number of files in the folder and in transfer. More are too many for a person to look
/// through.
pub const FILES_MAX: u64 = 10_000;
/// Divisor of the budget, and of [`FILES_MAX`], that gives the limit of one sender. A sender gets
/// half of each, so it cannot fill the folder alone.
pub(super) const SENDER_PART: u64 = 2;
/// Maximum number of suffixes tried for a taken name.
const NUMBERS_MAX: u32 = 10_000;
/// Maximum number of remembered names of pushed files.
const TAKEN_MAX: usize = 2 * FILES_MAX as usize;
/// Mode of pushed files. Every user may read them, because a share by default lists only such
/// files. Only the owner may change them.
const FILE_MODE: u32 = 0o644;

/// Settings of an inbox; see `[inbox]` in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboxSettings {
    /// The folder; created if it is missing.
    pub dir: PathBuf,
    /// Maximum total size of its files in bytes.
    pub budget_bytes: u64,
    /// Space in bytes to leave free on its filesystem.
    pub floor_bytes: u64,
}

/// The reason why a file is refused.
#[derive(Debug, thiserror::Error)]
pub enum InboxError {
    /// The budget is used up.
    #[error(
        "the inbox has room for {left_bytes} bytes of its budget, and the file has {size_bytes}"
    )]
    Budget {
        /// Rest of the budget in bytes.
        left_bytes: u64,
        /// Size of the file in bytes.
        size_bytes: u64,
    },
    /// The sender has used up its part of the budget.
    #[error(
        "the inbox has room for {left_bytes} bytes more from one sender, whose files may take half \
         of its budget, and the file has {size_bytes}"
    )]
    SenderBudget {
        /// Rest of the sender's part in bytes.
        left_bytes: u64,
        /// Size of the file in bytes.
        size_bytes: u64,
    },
    /// The sender has its maximum number of files in the inbox.
    #[error("the inbox holds {} files of this sender already", FILES_MAX / SENDER_PART)]
    SenderFiles,
    /// The file would leave less free space than the floor.
    #[error("the disk of the inbox has no room for {size_bytes} bytes above its floor")]
    Floor {
        /// Size of the file in bytes.
        size_bytes: u64,
    },
    /// The folder has its maximum number of files.
    #[error("the inbox holds {FILES_MAX} files already")]
    Files,
    /// The name cannot be used for a file.
    #[error("the name is none that a file could be kept under")]
    Name,
    /// The disk failed.
    #[error("the inbox cannot be written: {0}")]
    Disk(#[from] io::Error),
}

/// The inbox. Clones share their state.
#[derive(Clone, Debug)]
pub struct Inbox {
    inner: Arc<InboxInner>,
}

#[derive(Debug)]
struct InboxInner {
    settings: InboxSettings,
    /// Path of the folder at the start, without links.
    plain: PathBuf,
    use_now: Mutex<InboxUsage>,
    /// Names of pushed files, with the sender to which their space is charged, if known. The lock
    /// is never held during a call to the disk, because tasks take it for every shared file.
    taken: Mutex<PushedNames>,
}

/// A file in transfer into the inbox. If it is dropped before it is published, its bytes disappear,
/// unless it is kept for a later life.
#[derive(Debug)]
pub struct InboxFile {
    inbox: Inbox,
    /// The folder in which the file gets its name, whatever is at the folder's path by then.
    folder: InboxFolder,
    file: File,
    size_bytes: u64,
    origin: ChargedSender,
    /// Paths of the file in the subfolder until it is published. `None` for a file without a name.
    part: Option<PartPaths>,
}

/// The open folder of an inbox. It is opened for each file, so that an idle inbox does not prevent
/// its disk from being unmounted. Another user may own the directories above it, and put a link in
/// place of one of them at any time. So the folder is never reached through a link, and its files
/// only through its descriptor.
#[derive(Clone, Debug)]
pub(super) struct InboxFolder(Arc<OwnedFd>);

impl InboxFolder {
    /// Opens the folder at a path without links.
    ///
    /// # Errors
    /// The error of the system, with the remedy if a link is on the path now.
    pub(super) fn open(plain: &Path) -> io::Result<Self> {
        match open_plain_dir(plain, OFlags::RDONLY) {
            Ok(folder) => Ok(Self(Arc::new(folder))),
            Err(Errno::LOOP | Errno::NOTDIR) => {
                let said = format!(
                    "{} or a directory above it was replaced by a link or a file; put it back, or \
                     restart p2pfs",
                    plain.display()
                );
                Err(io::Error::new(io::ErrorKind::InvalidInput, said))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Returns a path of the folder that no change of names affects.
    pub(super) fn path(&self) -> PathBuf {
        files::path_of(&self.0).into()
    }

    /// Returns the free bytes of the disk.
    fn disk_room(&self) -> io::Result<u64> {
        let disk = fstatvfs(&self.0)?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }
}

impl Inbox {
    /// Opens the inbox in that folder, which is created if it is missing. Blocking.
    ///
    /// # Errors
    /// If the folder cannot be created or read, if another user could have put a link on its path,
    /// or if its filesystem does not support files without a name.
    pub fn open(settings: InboxSettings) -> io::Result<Self> {
        let plain = files::make_open_dir(&settings.dir)?;
        let folder = InboxFolder::open(&plain)?;
        let inner = InboxInner {
            settings,
            plain,
            use_now: Mutex::default(),
            taken: Mutex::default(),
        };
        inner.remember_taken(&folder)?;
        files::unnamed(&folder.path(), FILE_MODE)?;
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    fn folder(&self) -> io::Result<InboxFolder> {
        InboxFolder::open(&self.inner.plain)
    }

    /// Returns whether the inbox remembers a pushed file of that name. The file may have been moved
    /// elsewhere.
    pub fn may_have_taken(&self, name: &[u8]) -> bool {
        self.inner.taken.lock().contains_key(name)
    }

    /// Returns the path of the folder.
    pub fn dir(&self) -> &Path {
        &self.inner.settings.dir
    }

    /// Reserves space for a file of that size from that sender. Blocking.
    ///
    /// # Errors
    /// [`InboxError`].
    pub fn begin(&self, origin: ChargedSender, size_bytes: u64) -> Result<InboxFile, InboxError> {
        let folder = self.folder()?;
        let file = files::unnamed(&folder.path(), FILE_MODE)?;
        self.reserve_room(&folder, &file, origin, size_bytes)?;
        Ok(self.arriving(folder, file, origin, size_bytes, None))
    }

    /// Reserves space for a file that survives the end of this process. Blocking.
    ///
    /// # Errors
    /// [`InboxError`].
    pub(super) fn begin_kept(
        &self,
        origin: ChargedSender,
        from: &NodeId,
        hash: &ContentHash,
        size_bytes: u64,
    ) -> Result<InboxFile, InboxError> {
        let folder = self.folder()?;
        let (part, file) = PartPaths::create(&folder.path(), from, hash)?;
        self.reserve_room(&folder, &file, origin, size_bytes)
            .inspect_err(|_| part.remove())?;
        Ok(self.arriving(folder, file, origin, size_bytes, Some(part)))
    }

    /// Returns the notes of an earlier life, at most `most`. Each note of an unfinished file comes
    /// with the file, which reserves its full size, even if less space is available now. Blocking.
    pub(super) fn left(&self, most: usize) -> Vec<(ProgressNote, PartPaths, Option<InboxFile>)> {
        let Ok(folder) = self.folder() else {
            return Vec::new();
        };
        let left = left_in(&folder.path(), most).into_iter();
        let taken_up = |left: UnfinishedPush| {
            let size_bytes = left.note.size_bytes;
            let arriving = left.bytes.map(|file| {
                let address = origin_of(left.part.bytes());
                let origin = address.unwrap_or(ChargedSender::Node(left.note.from));
                self.inner.use_now.lock().expect(origin, size_bytes);
                let part = Some(left.part.clone());
                self.arriving(folder.clone(), file, origin, size_bytes, part)
            });
            (left.note, left.part, arriving)
        };
        left.map(taken_up).collect()
    }

    fn arriving(
        &self,
        folder: InboxFolder,
        file: File,
        origin: ChargedSender,
        size_bytes: u64,
        part: Option<PartPaths>,
    ) -> InboxFile {
        InboxFile {
            inbox: self.clone(),
            folder,
            file,
            size_bytes,
            origin,
            part,
        }
    }

    /// Returns why the inbox has no room for the last file that was refused for lack of room, or
    /// `None` if it has. Reads the disk only after such a refusal. Blocking.
    pub(crate) fn still_lacks(&self) -> Option<InboxError> {
        let mut used = self.inner.use_now.lock();
        let size_bytes = used.refused_bytes?;
        let lack = match self.folder() {
            Ok(folder) => self.check_room(&folder, folder.disk_room(), &mut used, size_bytes),
            Err(error) => Err(error.into()),
        };
        used.refused_bytes = used.refused_bytes.filter(|_| lack.is_err());
        lack.err()
    }

    /// Checks the room for a file of that size from any sender.
    fn check_room(
        &self,
        folder: &InboxFolder,
        disk_room: io::Result<u64>,
        used: &mut InboxUsage,
        size_bytes: u64,
    ) -> Result<(), InboxError> {
        let free = disk_room?;
        let settings = &self.inner.settings;
        if !used.is_fresh() {
            used.scan(&folder.path(), &self.inner.taken)?;
        }
        let taken = used.held_bytes.saturating_add(used.coming_bytes);
        let left_bytes = settings.budget_bytes.saturating_sub(taken);
        if size_bytes > left_bytes {
            return Err(InboxError::Budget {
                left_bytes,
                size_bytes,
            });
        }
        let wanted = settings.floor_bytes.saturating_add(used.coming_bytes);
        if size_bytes > free.saturating_sub(wanted) {
            return Err(InboxError::Floor { size_bytes });
        }
        if used.held_files + used.coming_files >= FILES_MAX {
            return Err(InboxError::Files);
        }
        Ok(())
    }

    fn reserve_room(
        &self,
        folder: &InboxFolder,
        file: &File,
        origin: ChargedSender,
        size_bytes: u64,
    ) -> Result<(), InboxError> {
        let settings = &self.inner.settings;
        let disk_room = folder.disk_room();
        let mut used = self.inner.use_now.lock();
        let room = self.check_room(folder, disk_room, &mut used, size_bytes);
        // A file larger than the budget never fits.
        if !matches!(room, Ok(()) | Err(InboxError::Disk(_))) && size_bytes <= settings.budget_bytes
        {
            used.refused_bytes = Some(size_bytes);
        }
        room?;
        let sender = used.of(&origin);
        let sender_left_bytes = (settings.budget_bytes / SENDER_PART).saturating_sub(sender.bytes);
        if size_bytes > sender_left_bytes {
            return Err(InboxError::SenderBudget {
                left_bytes: sender_left_bytes,
                size_bytes,
            });
        }
        if sender.files >= FILES_MAX / SENDER_PART {
            return Err(InboxError::SenderFiles);
        }
        used.expect(origin, size_bytes);
        write_address(file, origin);
        Ok(())
    }
}

impl InboxInner {
    /// Replaces the remembered names by those of the files in the folder with a sender attribute.
    /// Looks at [`TAKEN_MAX`] entries at most.
    fn remember_taken(&self, folder: &InboxFolder) -> io::Result<()> {
        let mut taken = PushedNames::new();
        for entry in std::fs::read_dir(folder.path())?.take(TAKEN_MAX) {
            let path = entry?.path();
            let mut value = [0; SENDER_MAX_BYTES];
            // Fails on a symbolic link, which has no `user.` attributes, and opens no file.
            let length = lgetxattr(&path, SENDER_ATTRIBUTE, &mut value[..]);
            if let (Ok(_), Some(name)) = (length, path.file_name()) {
                taken.insert(name.as_bytes().to_vec(), origin_of(&path));
            }
        }
        *self.taken.lock() = taken;
        Ok(())
    }

    fn record_pushed_name(&self, folder: &InboxFolder, name: Vec<u8>) -> io::Result<()> {
        if self.taken.lock().len() >= TAKEN_MAX {
            self.remember_taken(folder)?;
        }
        self.taken.lock().entry(name).or_default();
        Ok(())
    }
}

impl InboxFile {
    /// Writes bytes of the file. Blocking.
    ///
    /// # Errors
    /// If the disk fails, or the bytes are beyond the reserved size.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), InboxError> {
        if offset.saturating_add(bytes.len() as u64) > self.size_bytes {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge).into());
        }
        self.file.write_all_at(bytes, offset)?;
        // Writeback starts early, so that the final sync, for which the sender waits, is short.
        begin_to_write_out(&self.file, offset, bytes.len() as u64);
        Ok(())
    }

    /// Returns the file with the bytes written, for verification.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Returns the reserved size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Returns the sender to which its space is charged.
    pub(super) fn origin(&self) -> ChargedSender {
        self.origin
    }

    /// Stores the progress, if the file is kept for a later life. Blocking.
    ///
    /// # Errors
    /// The error of the disk.
    pub(super) fn store_note(&self, note: &ProgressNote) -> io::Result<()> {
        self.part
            .as_ref()
            .map_or(Ok(()), |part| part.write_note(note))
    }

    /// Returns its place in the subfolder, if it is kept for a later life.
    pub(super) fn part(&self) -> Option<&PartPaths> {
        self.part.as_ref()
    }

    /// Discards the file, also for any later life. Blocking.
    pub(super) fn discard(self) {
        if let Some(part) = &self.part {
            part.remove();
        }
    }

    /// Publishes the complete file and returns its final name: `name` without invalid bytes, with
    /// the first free number if it is taken. `called` is the current name of its sender. Blocking.
    ///
    /// # Errors
    /// [`InboxError`]; then nothing is left of the file.
    pub fn publish(
        mut self,
        name: &[u8],
        from: &Sender,
        called: &str,
    ) -> Result<Vec<u8>, InboxError> {
        let named = self.name_it(name, from, called);
        if named.is_err() {
            self.discard();
        }
        named
    }

    fn name_it(&mut self, name: &[u8], from: &Sender, called: &str) -> Result<Vec<u8>, InboxError> {
        let name = received_name(name).ok_or(InboxError::Name)?;
        self.file
            .set_permissions(Permissions::from_mode(FILE_MODE))?;
        write_sender(&self.file, from, called);
        // A published file is complete even after a power failure.
        self.file.sync_data()?;
        self.end_writing()?;
        for number in 0..NUMBERS_MAX {
            let numbered = numbered_name(&name, number);
            let last = std::ffi::OsString::from_vec(numbered.clone());
            // recorded before the file is visible
            let inbox = &self.inbox.inner;
            inbox.record_pushed_name(&self.folder, numbered.clone())?;
            let place = self.folder.path().join(last);
            match self.place_at(&place) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                placed => {
                    placed?;
                    let origin = self.origin;
                    inbox.taken.lock().insert(numbered.clone(), Some(origin));
                    inbox.use_now.lock().mark_stored(origin, self.size_bytes);
                    return Ok(numbered);
                }
            }
        }
        Err(InboxError::Name)
    }

    /// Reopens the file read-only. A share waits for the end of writing before it lists a file, and
    /// a pushed file must be listed as soon as it has its name.
    fn end_writing(&mut self) -> io::Result<()> {
        self.file = opened_anew(&self.file)?;
        Ok(())
    }

    /// Gives the file its name and never replaces an existing file.
    fn place_at(&self, place: &Path) -> io::Result<()> {
        match &self.part {
            Some(part) => {
                let flags = RenameFlags::NOREPLACE;
                Ok(renameat_with(CWD, part.bytes(), CWD, place, flags)?)
            }
            None => link(&self.file, place),
        }
    }
}

impl Drop for InboxFile {
    fn drop(&mut self) {
        let mut used = self.inbox.inner.use_now.lock();
        used.expect_no_more(&self.origin, self.size_bytes);
    }
}

#[cfg(test)]
mod tests;
