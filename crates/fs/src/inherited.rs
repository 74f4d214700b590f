//! Records of the open handles for the process that serves the mount next.
//!
//! After this process has ended, the kernel continues to use the handles of this process and the
//! modes of their inodes. Each open is therefore a record in a file that outlives this process. The
//! mount broker keeps one in memory. The next process reads it and answers for handles that it
//! never gave. A record is written before the kernel learns of its handle. If the process is killed
//! in between, the record stands for an open that does not exist. Its inode then keeps the recorded
//! mode as long as the mount exists. A record has the version that was opened, because the name may
//! stand for another version when the next process starts. For a file in a writable share it has
//! the place on the disk instead. Other own files are found by their inode numbers.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::inode::{Inode, Name, Node, NumberOnDisk};
use super::modes::Mode;
use super::names::LIFETIME;
use super::traits::{BackingFile, FileVersion, OpenContent};
use p2pfs_proto::wire::native::record::Timestamp;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::path::SharedPath;

/// Bytes before the records: the number of entries in the namespace, and the two bits below.
const HEADER_BYTES: u64 = 8;
/// Header bit that is set if the records have versions. Records of an earlier p2pfs have none.
const WITH_VERSIONS: u64 = 1 << 63;
/// Header bit that is set if there are writable shares.
const IS_WRITABLE: u64 = 1 << 62;
/// Bytes of an open without its version: handle, inode, and the kernel's number of the backing file
/// plus 1. All are 0 if the record is free.
const OPEN_BYTES: usize = 24;
/// Bytes of a record: the open, and the size, time, bits and hash of its version. A file in a
/// writable share has its device and inode number in place of size and time.
const RECORD_BYTES: usize = 80;
/// Bit of a record that is set if it has a version.
const IS_VERSION: u8 = 1;
/// Bit of a record that is set if the version is executable.
const IS_EXECUTABLE: u8 = 2;
/// Bit of a record that is set if the file is in a writable share.
const IS_WRITTEN: u8 = 4;

/// The version of a file that was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OpenedVersion {
    pub hash: ContentHash,
    pub size_bytes: u64,
    pub mtime: Timestamp,
    pub executable: bool,
}

impl OpenedVersion {
    /// Returns the version of a file, without its name.
    pub(crate) fn of(file: &FileVersion) -> Self {
        Self {
            hash: file.hash,
            size_bytes: file.size_bytes,
            mtime: file.mtime,
            executable: file.executable,
        }
    }

    /// Returns an inode for the version, for use when its name stands for another version.
    pub(super) fn inode(self) -> Inode {
        let Self {
            hash,
            size_bytes,
            mtime,
            executable,
        } = self;
        let file = FileVersion {
            path: SharedPath::root(),
            hash,
            size_bytes,
            mtime,
            executable,
            own: None,
        };
        Inode {
            name: Name::Hash(hash),
            node: Node::File(file),
        }
    }
}

/// The file that a program opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpenedFile {
    /// A version.
    Version(OpenedVersion),
    /// A file in a writable share, which is read and written in its present state.
    Written(NumberOnDisk),
    /// Another own file, which is read in its present state.
    Own,
}

/// One open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OpenRecord {
    /// The number of the handle.
    pub handle: u64,
    /// The inode number.
    pub ino: u64,
    /// The mode of the inode.
    pub mode: Mode,
    /// The opened file.
    pub file: OpenedFile,
}

/// The file of records.
pub(crate) struct Inherited {
    file: File,
    state: Mutex<RecordTable>,
    /// Contents of inodes that the kernel reads itself for opens of the previous process. They stay
    /// open here as long as those opens.
    held: Mutex<HashMap<u64, Arc<dyn OpenContent>>>,
    /// The inodes that the previous process had open.
    files: HashMap<u64, OpenedFile>,
    /// When this process took the mount over. `None` if there was no previous process.
    followed: Option<Instant>,
}

#[derive(Default)]
struct RecordTable {
    slots: HashMap<u64, u64>,
    free: Vec<u64>,
    end: u64,
    /// Opens of the previous process for which this process has no handle yet.
    before: HashMap<u64, OpenRecord>,
}

impl Inherited {
    /// Reads the records of the previous process.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub(crate) fn read(file: File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let opens = read_records(&file, length)?;
        let (mut state, mut files) = (RecordTable::default(), HashMap::new());
        for (slot, open) in (0..).zip(opens) {
            match open {
                Some(open) => {
                    state.slots.insert(open.handle, slot);
                    state.before.insert(open.handle, open);
                    files.insert(open.ino, open.file);
                }
                None => state.free.push(slot),
            }
            state.end = slot + 1;
        }
        let (state, held) = (Mutex::new(state), Mutex::default());
        Ok(Self {
            file,
            state,
            held,
            files,
            followed: (length > 0).then(Instant::now),
        })
    }

    /// Returns whether the kernel may still cache names from the previous process.
    pub(crate) fn is_believed(&self) -> bool {
        self.followed
            .is_some_and(|since| since.elapsed() < LIFETIME)
    }

    /// Returns whether a previous process served the mount, so that the kernel may have pages of
    /// inodes that this process does not know.
    pub(crate) fn has_predecessor(&self) -> bool {
        self.followed.is_some()
    }

    /// Returns the inodes that the previous process had open as a version with this content.
    pub(crate) fn inodes_of(&self, hash: &ContentHash) -> Vec<u64> {
        let is_it = |open: &OpenedFile| matches!(open, OpenedFile::Version(it) if it.hash == *hash);
        let of_content = self.files.iter().filter(|(_, open)| is_it(open));
        of_content.map(|(ino, _)| *ino).collect()
    }

    /// Keeps a content open until the last open of the inode is closed.
    pub(crate) fn keep_open(&self, ino: u64, content: Arc<dyn OpenContent>) {
        self.held.lock().insert(ino, content);
    }

    /// Removes and returns the content that was kept open for an inode. Dropping it closes it,
    /// which may wait for the disk.
    pub(crate) fn release(&self, ino: u64) -> Option<Arc<dyn OpenContent>> {
        self.held.lock().remove(&ino)
    }

    /// Returns the remaining opens of the previous process.
    pub(crate) fn before(&self) -> Vec<OpenRecord> {
        self.state.lock().before.values().copied().collect()
    }

    /// Returns the version of an inode that the previous process had open, whatever its name stands
    /// for by now.
    pub(crate) fn version(&self, ino: u64) -> Option<OpenedVersion> {
        match self.files.get(&ino)? {
            OpenedFile::Version(version) => Some(*version),
            OpenedFile::Written(_) | OpenedFile::Own => None,
        }
    }

    /// Returns the place on the disk of an inode that the previous process had open, if it is a file
    /// in a writable share.
    pub(crate) fn written(&self, ino: u64) -> Option<NumberOnDisk> {
        match self.files.get(&ino)? {
            OpenedFile::Written(number) => Some(*number),
            OpenedFile::Version(_) | OpenedFile::Own => None,
        }
    }

    /// Removes and returns an open of the previous process.
    pub(crate) fn take_before(&self, handle: u64) -> Option<OpenRecord> {
        self.state.lock().before.remove(&handle)
    }

    /// Writes the record of an open. If that fails, the next process does not know the handle, and
    /// this process is not affected.
    pub(crate) fn record(&self, open: OpenRecord) {
        let mut state = self.state.lock();
        let slot = state.free.pop().unwrap_or_else(|| {
            state.end += 1;
            state.end - 1
        });
        state.slots.insert(open.handle, slot);
        let _lost = self.file.write_all_at(&encode(open), place(slot));
    }

    /// Frees the record of a closed handle.
    pub(crate) fn forget(&self, handle: u64) {
        let mut state = self.state.lock();
        if let Some(slot) = state.slots.remove(&handle) {
            let _stays = self.file.write_all_at(&[0; RECORD_BYTES], place(slot));
            state.free.push(slot);
        }
    }

    /// Returns the number of entries that the previous process recorded last, or 0 if there was
    /// none.
    pub(crate) fn entries(&self) -> u64 {
        self.header() & !(WITH_VERSIONS | IS_WRITABLE)
    }

    /// Returns whether the previous process recorded that there are writable shares.
    pub(crate) fn is_writable(&self) -> bool {
        self.header() & IS_WRITABLE != 0
    }

    fn header(&self) -> u64 {
        let mut bytes = [0; HEADER_BYTES as usize];
        let read = self.file.read_exact_at(&mut bytes, 0);
        read.map_or(0, |()| u64::from_ne_bytes(bytes))
    }

    /// Records the present number of entries, and whether there are writable shares.
    pub(crate) fn record_namespace(&self, entries: u64, is_writable: bool) {
        let writable = if is_writable { IS_WRITABLE } else { 0 };
        let header = entries | WITH_VERSIONS | writable;
        let _lost = self.file.write_all_at(&header.to_ne_bytes(), 0);
    }
}

/// Reads the records of a file in their order. Records without versions are rewritten in the
/// present format.
fn read_records(file: &File, length: u64) -> io::Result<Vec<Option<OpenRecord>>> {
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    file.read_exact_at(&mut bytes, 0)?;
    bytes.resize(bytes.len().max(HEADER_BYTES as usize), 0);
    let (header, records) = bytes.split_at(HEADER_BYTES as usize);
    let header = number(header, 0).unwrap_or(0);
    if header & WITH_VERSIONS != 0 {
        return Ok(records.chunks_exact(RECORD_BYTES).map(decode).collect());
    }
    let opens: Vec<_> = records.chunks_exact(OPEN_BYTES).map(decode).collect();
    let mut anew = (header | WITH_VERSIONS).to_ne_bytes().to_vec();
    for open in &opens {
        anew.extend(open.map_or([0; RECORD_BYTES], encode));
    }
    file.write_all_at(&anew, 0)?;
    Ok(opens)
}

fn place(slot: u64) -> u64 {
    HEADER_BYTES + slot * RECORD_BYTES as u64
}

fn encode(open: OpenRecord) -> [u8; RECORD_BYTES] {
    let backing = match open.mode {
        Mode::Asked => 0,
        Mode::Backed(BackingFile(number)) => u64::from(number) + 1,
    };
    let mut record = [0; RECORD_BYTES];
    record[..8].copy_from_slice(&open.handle.to_ne_bytes());
    record[8..16].copy_from_slice(&open.ino.to_ne_bytes());
    record[16..24].copy_from_slice(&backing.to_ne_bytes());
    match open.file {
        OpenedFile::Version(version) => {
            let executable = if version.executable { IS_EXECUTABLE } else { 0 };
            record[24..32].copy_from_slice(&version.size_bytes.to_ne_bytes());
            record[32..40].copy_from_slice(&version.mtime.seconds.to_ne_bytes());
            record[40..44].copy_from_slice(&version.mtime.nanoseconds.to_ne_bytes());
            record[44] = IS_VERSION | executable;
            record[48..].copy_from_slice(version.hash.as_bytes());
        }
        OpenedFile::Written(NumberOnDisk { device, number }) => {
            record[24..32].copy_from_slice(&device.to_ne_bytes());
            record[32..40].copy_from_slice(&number.to_ne_bytes());
            record[44] = IS_WRITTEN;
        }
        OpenedFile::Own => {}
    }
    record
}

fn decode(record: &[u8]) -> Option<OpenRecord> {
    let number = |at| number(record, at);
    let (handle, ino, backing) = (number(0)?, number(8)?, number(16)?);
    let mode = match backing.checked_sub(1) {
        None => Mode::Asked,
        Some(number) => Mode::Backed(BackingFile(u32::try_from(number).ok()?)),
    };
    (handle != 0).then_some(OpenRecord {
        handle,
        ino,
        mode,
        file: decode_file(record).unwrap_or(OpenedFile::Own),
    })
}

fn decode_file(record: &[u8]) -> Option<OpenedFile> {
    let (first, second) = (number(record, 24)?, number(record, 32)?);
    let bits = *record.get(44)?;
    if bits & IS_WRITTEN != 0 {
        return Some(OpenedFile::Written(NumberOnDisk {
            device: first,
            number: second,
        }));
    }
    let mtime = Timestamp {
        seconds: second.cast_signed(),
        nanoseconds: u32::from_ne_bytes(record.get(40..44)?.try_into().ok()?),
    };
    (bits & IS_VERSION != 0).then_some(OpenedFile::Version(OpenedVersion {
        hash: ContentHash::new(record.get(48..)?.try_into().ok()?),
        size_bytes: first,
        mtime,
        executable: bits & IS_EXECUTABLE != 0,
    }))
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    let number = bytes.get(at..at + 8)?;
    Some(u64::from_ne_bytes(number.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(handle: u64, mode: Mode) -> OpenRecord {
        let version = OpenedVersion {
            hash: ContentHash::of(&handle.to_ne_bytes()),
            size_bytes: handle * 100,
            mtime: Timestamp {
                seconds: -1,
                nanoseconds: 5,
            },
            executable: handle.is_multiple_of(2),
        };
        OpenRecord {
            handle,
            ino: handle * 10,
            mode,
            file: match handle {
                9 => OpenedFile::Own,
                12 => OpenedFile::Written(NumberOnDisk {
                    device: u64::MAX,
                    number: 12,
                }),
                _ => OpenedFile::Version(version),
            },
        }
    }

    #[test]
    fn handles_of_an_earlier_version_are_read_and_get_room_for_versions() {
        let file = tempfile::tempfile().unwrap();
        let mut old = 5_u64.to_ne_bytes().to_vec();
        for open in [open(7, Mode::Asked), open(8, Mode::Backed(BackingFile(3)))] {
            old.extend_from_slice(&encode(open)[..OPEN_BYTES]);
            old.extend_from_slice(&[0; OPEN_BYTES]);
        }
        file.write_all_at(&old, 0).unwrap();
        for _ in 0..2 {
            let next = Inherited::read(file.try_clone().unwrap()).unwrap();
            let mut found = next.before();
            found.sort_unstable_by_key(|open| open.handle);
            let without = |handle, mode| OpenRecord {
                file: OpenedFile::Own,
                ..open(handle, mode)
            };
            let plain = without(7, Mode::Asked);
            let backed = without(8, Mode::Backed(BackingFile(3)));
            assert_eq!((next.entries(), &found[..2]), (5, &[plain, backed][..]));
            assert_eq!(next.version(70), None);
            if found.len() == 2 {
                next.record(open(10, Mode::Asked));
            } else {
                assert_eq!(found[2], open(10, Mode::Asked));
                let version = next.version(100).map(OpenedFile::Version);
                assert_eq!(version, Some(open(10, Mode::Asked).file));
            }
        }
    }

    #[test]
    fn the_next_process_finds_open_handles_and_no_closed_ones() {
        let file = tempfile::tempfile().unwrap();
        let ours = Inherited::read(file.try_clone().unwrap()).unwrap();
        assert_eq!((ours.before(), ours.entries()), (vec![], 0));
        assert!(!ours.is_believed(), "there was none before");
        let (plain, backed) = (open(7, Mode::Asked), open(8, Mode::Backed(BackingFile(0))));
        let written = open(12, Mode::Asked);
        for open in [plain, backed, open(9, Mode::Asked), written] {
            ours.record(open);
        }
        ours.forget(7);
        ours.forget(7);
        ours.record(open(11, Mode::Asked));
        ours.record_namespace(5, true);

        let next = Inherited::read(file.try_clone().unwrap()).unwrap();
        let mut found: Vec<u64> = next.before().iter().map(|open| open.handle).collect();
        found.sort_unstable();
        assert_eq!((found, next.entries()), (vec![8, 9, 11, 12], 5));
        assert!(next.is_believed() && next.is_writable() && !ours.is_believed());
        let version = next.version(80).map(OpenedFile::Version);
        assert_eq!((version, next.version(90)), (Some(backed.file), None));
        let on_disk = next.written(120).map(OpenedFile::Written);
        assert_eq!((on_disk, next.written(90)), (Some(written.file), None));
        assert_eq!(next.take_before(8), Some(backed));
        assert_eq!(next.take_before(8), None, "once");
        next.forget(8);
        next.forget(9);
        next.record(open(20, Mode::Asked));
        let last = Inherited::read(file).unwrap();
        let mut found: Vec<u64> = last.before().iter().map(|open| open.handle).collect();
        found.sort_unstable();
        assert_eq!(found, [11, 12, 20]);
        let length = last.file.metadata().unwrap().len();
        assert_eq!(length, place(4), "free places are used again");
    }
}
