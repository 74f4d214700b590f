//! The folder.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{CWD, RenameFlags, fstatvfs, lgetxattr, renameat_with};

use super::attributes::{SENDER_ATTRIBUTE, origin_of, write_address, write_sender};
use super::origin::Origin;
use super::parts::{Left, Note, Part, left_in};
use super::room::{Taken, Use};
use p2pfs_legacy::wire::mesh::{numbered_name, received_name};
use p2pfs_proto::wire::native::record::{SENDER_MAX_BYTES, Sender};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::files::{self, begin_to_write_out, link, opened_anew};
use p2pfs_types::id::NodeId;

/// Files that the folder takes; a person looks through no more.
pub const FILES_MAX: u64 = 10_000;
/// The part of the budget, and of [`FILES_MAX`], that the files of one sender may take: half, so
/// that no sender fills the folder for all others.
pub(super) const SENDER_PART: u64 = 2;
/// Numbers that are tried where a name is taken.
const NUMBERS_MAX: u32 = 10_000;
/// Names of pushed files that are remembered at the most.
const TAKEN_MAX: usize = 2 * FILES_MAX as usize;
/// What others may read is shared; nobody but the folder's owner may change it.
const FILE_MODE: u32 = 0o644;

/// How the inbox is set; see `[inbox]` in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboxSettings {
    /// The folder; made where it is missing.
    pub dir: PathBuf,
    /// The most that its files may take together.
    pub budget_bytes: u64,
    /// What is left free on its filesystem.
    pub floor_bytes: u64,
}

/// Why a file is not taken. Its sender may try again later, but for a name.
#[derive(Debug, thiserror::Error)]
pub enum InboxError {
    /// The budget is used up.
    #[error(
        "the inbox has room for {left_bytes} bytes of its budget, and the file has {size_bytes}"
    )]
    Budget {
        /// What is left of it.
        left_bytes: u64,
        /// What the file takes.
        size_bytes: u64,
    },
    /// The sender has used up its part of the budget.
    #[error(
        "the inbox has room for {left_bytes} bytes more from one sender, whose files may take half \
         of its budget, and the file has {size_bytes}"
    )]
    SenderBudget {
        /// What is left of the sender's part.
        left_bytes: u64,
        /// What the file takes.
        size_bytes: u64,
    },
    /// The sender has as many files as one may have.
    #[error("the inbox holds {} files of this sender already", FILES_MAX / SENDER_PART)]
    SenderFiles,
    /// The disk would be too full.
    #[error("the disk of the inbox has no room for {size_bytes} bytes above its floor")]
    Floor {
        /// What the file takes.
        size_bytes: u64,
    },
    /// Too many files.
    #[error("the inbox holds {FILES_MAX} files already")]
    Files,
    /// No name for a file.
    #[error("the name is none that a file could be kept under")]
    Name,
    /// The disk.
    #[error("the inbox cannot be written: {0}")]
    Disk(#[from] io::Error),
}

/// The inbox. Clones are the same.
#[derive(Clone, Debug)]
pub struct Inbox {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: InboxSettings,
    use_now: Mutex<Use>,
    /// The names of files that were pushed, with the sender that their room is charged to, where it
    /// is known.
    taken: Mutex<Taken>,
}

/// A file on its way into the inbox; gone when it is dropped before it has its name, but where it
/// is kept for a later life.
#[derive(Debug)]
pub struct Arriving {
    inbox: Inbox,
    file: File,
    size_bytes: u64,
    origin: Origin,
    /// Where it is while it has not its name; none where it has no name at all.
    part: Option<Part>,
}

impl Inbox {
    /// The inbox in that folder, which is made where it is missing. Blocking.
    ///
    /// # Errors
    /// Where the folder cannot be made, or holds no files without a name.
    pub fn open(settings: InboxSettings) -> io::Result<Self> {
        files::make_open_dir(&settings.dir)?;
        let inner = Inner {
            settings,
            use_now: Mutex::default(),
            taken: Mutex::default(),
        };
        inner.remember_taken()?;
        let inbox = Self {
            inner: Arc::new(inner),
        };
        files::unnamed(inbox.dir(), FILE_MODE).map(|_| inbox.clone())
    }

    /// Whether a file of that name may be one that was pushed, here or wherever it was moved to.
    pub fn may_have_taken(&self, name: &[u8]) -> bool {
        self.inner.taken.lock().contains_key(name)
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.inner.settings.dir
    }

    /// Makes room for a file of that size from that sender. Blocking.
    ///
    /// # Errors
    /// [`InboxError`].
    pub fn begin(&self, origin: Origin, size_bytes: u64) -> Result<Arriving, InboxError> {
        let file = files::unnamed(self.dir(), FILE_MODE)?;
        self.take_room(&file, origin, size_bytes)?;
        Ok(self.arriving(file, origin, size_bytes, None))
    }

    /// The same for a file that is kept when this process ends. Blocking.
    ///
    /// # Errors
    /// [`InboxError`].
    pub(super) fn begin_kept(
        &self,
        origin: Origin,
        from: &NodeId,
        hash: &ContentHash,
        size_bytes: u64,
    ) -> Result<Arriving, InboxError> {
        let (part, file) = Part::create(self.dir(), from, hash)?;
        self.take_room(&file, origin, size_bytes)
            .inspect_err(|_| part.remove())?;
        Ok(self.arriving(file, origin, size_bytes, Some(part)))
    }

    /// What an earlier life of this process left here, at most `most` files. What is not whole
    /// takes the room that it needs, also where there is less by now. Blocking.
    pub(super) fn left(&self, most: usize) -> Vec<(Note, Part, Option<Arriving>)> {
        let left = left_in(self.dir(), most).into_iter();
        let taken_up = |left: Left| {
            let size_bytes = left.note.size_bytes;
            let arriving = left.bytes.map(|file| {
                let address = origin_of(left.part.bytes());
                let origin = address.unwrap_or(Origin::Node(left.note.from));
                self.inner.use_now.lock().expect(origin, size_bytes);
                self.arriving(file, origin, size_bytes, Some(left.part.clone()))
            });
            (left.note, left.part, arriving)
        };
        left.map(taken_up).collect()
    }

    fn arriving(
        &self,
        file: File,
        origin: Origin,
        size_bytes: u64,
        part: Option<Part>,
    ) -> Arriving {
        Arriving {
            inbox: self.clone(),
            file,
            size_bytes,
            origin,
            part,
        }
    }

    fn take_room(&self, file: &File, origin: Origin, size_bytes: u64) -> Result<(), InboxError> {
        let settings = &self.inner.settings;
        let disk = fstatvfs(file).map_err(io::Error::from)?;
        let mut used = self.inner.use_now.lock();
        if !used.is_known() {
            used.look(&settings.dir, &self.inner.taken.lock())?;
        }
        let taken = used.held_bytes.saturating_add(used.coming_bytes);
        let left_bytes = settings.budget_bytes.saturating_sub(taken);
        if size_bytes > left_bytes {
            return Err(InboxError::Budget {
                left_bytes,
                size_bytes,
            });
        }
        let sender = used.of(&origin);
        let sender_left_bytes = (settings.budget_bytes / SENDER_PART).saturating_sub(sender.bytes);
        if size_bytes > sender_left_bytes {
            return Err(InboxError::SenderBudget {
                left_bytes: sender_left_bytes,
                size_bytes,
            });
        }
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let wanted = settings.floor_bytes.saturating_add(used.coming_bytes);
        if size_bytes > free.saturating_sub(wanted) {
            return Err(InboxError::Floor { size_bytes });
        }
        if used.held_files + used.coming_files >= FILES_MAX {
            return Err(InboxError::Files);
        }
        if sender.files >= FILES_MAX / SENDER_PART {
            return Err(InboxError::SenderFiles);
        }
        used.expect(origin, size_bytes);
        write_address(file, origin);
        Ok(())
    }
}

impl Inner {
    /// Looks which of the files in the folder were pushed.
    fn remember_taken(&self) -> io::Result<()> {
        let mut taken = Taken::new();
        for entry in std::fs::read_dir(&self.settings.dir)?.take(TAKEN_MAX) {
            let path = entry?.path();
            let mut value = [0; SENDER_MAX_BYTES];
            // of a link it says nothing, and nothing is opened
            let length = lgetxattr(&path, SENDER_ATTRIBUTE, &mut value[..]);
            if let (Ok(_), Some(name)) = (length, path.file_name()) {
                taken.insert(name.as_bytes().to_vec(), origin_of(&path));
            }
        }
        *self.taken.lock() = taken;
        Ok(())
    }

    fn note_taken(&self, name: Vec<u8>) -> io::Result<()> {
        if self.taken.lock().len() >= TAKEN_MAX {
            self.remember_taken()?;
        }
        self.taken.lock().entry(name).or_default();
        Ok(())
    }
}

impl Arriving {
    /// Writes some of it. Blocking.
    ///
    /// # Errors
    /// What the disk says, or that it is beyond the size that there is room for.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), InboxError> {
        if offset.saturating_add(bytes.len() as u64) > self.size_bytes {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge).into());
        }
        self.file.write_all_at(bytes, offset)?;
        // little is left to wait for when all of it is synced, and its sender waits for that
        begin_to_write_out(&self.file, offset, bytes.len() as u64);
        Ok(())
    }

    /// What was written, for whoever proves it.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// How much there is room for.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Returns the sender that its room is charged to.
    pub(super) fn origin(&self) -> Origin {
        self.origin
    }

    /// Writes down how far it is, where it is kept for a later life. Blocking.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn note(&self, note: &Note) -> io::Result<()> {
        self.part
            .as_ref()
            .map_or(Ok(()), |part| part.write_note(note))
    }

    /// Where it is kept for a later life, if it is.
    pub(super) fn part(&self) -> Option<&Part> {
        self.part.as_ref()
    }

    /// Gives it up, also for any later life. Blocking.
    pub(super) fn discard(self) {
        if let Some(part) = &self.part {
            part.remove();
        }
    }

    /// Gives the whole file its name, or that with the first number that is free, and says under
    /// which it is; `called` is what its sender is called now. Blocking.
    ///
    /// # Errors
    /// [`InboxError`]; nothing is left of it.
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
        // what has its name is whole also after the power failed
        self.file.sync_data()?;
        self.end_writing()?;
        for number in 0..NUMBERS_MAX {
            let numbered = numbered_name(&name, number);
            let last = std::ffi::OsString::from_vec(numbered.clone());
            // before it can be seen
            self.inbox.inner.note_taken(numbered.clone())?;
            let place = self.inbox.dir().join(last);
            match self.place_at(&place) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                placed => {
                    placed?;
                    let inbox = &self.inbox.inner;
                    let origin = self.origin;
                    inbox.taken.lock().insert(numbered.clone(), Some(origin));
                    inbox.use_now.lock().keep(origin, self.size_bytes);
                    return Ok(numbered);
                }
            }
        }
        Err(InboxError::Name)
    }

    /// Whoever shares the folder waits for those who have a file open for writing: nobody has when
    /// it gets its name.
    fn end_writing(&mut self) -> io::Result<()> {
        self.file = opened_anew(&self.file)?;
        Ok(())
    }

    /// Never over what is there.
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

impl Drop for Arriving {
    fn drop(&mut self) {
        let mut used = self.inbox.inner.use_now.lock();
        used.expect_no_more(&self.origin, self.size_bytes);
    }
}

#[cfg(test)]
mod tests;
