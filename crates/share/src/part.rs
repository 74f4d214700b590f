//! An outboard under construction. An outboard of up to [`IN_MEMORY_MAX_BYTES`] is in memory. A
//! larger one is in a file, so that no shared file is too large for this node's memory.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::extension::KnownStart;
use p2pfs_types::digest::{ContentHash, Grain, Growing, ReadAt};

/// Size of the largest outboard that is held in memory: that of a file of 1 GiB, see [`grain_of`].
pub(super) const IN_MEMORY_MAX_BYTES: u64 = 1 << 20;
/// Bytes of a file that are read at a time: a whole number of groups.
pub(super) const READ_BYTES: usize = 1 << 20;

/// Returns the grain of a shared file's outboard: the finest at which the outboard has at most
/// [`IN_MEMORY_MAX_BYTES`], or else the coarsest. Small random reads need a fine grain. For a file
/// of up to 256 MiB, 16 KiB are read and hashed to serve a page of 4 KiB. With a grain of 64 KiB,
/// this took half of the server's time.
pub(super) fn grain_of(size_bytes: u64) -> Grain {
    Grain::within(size_bytes, IN_MEMORY_MAX_BYTES)
}

/// Returns the length of a shared file's outboard in bytes.
pub(super) fn outboard_bytes(size_bytes: u64) -> u64 {
    grain_of(size_bytes).outboard_bytes(size_bytes)
}

/// Hash pairs in pre-order, shared by all readers that serve from them.
#[derive(Clone, Debug)]
pub(super) enum HashPairs {
    Memory(Arc<[u8]>),
    /// File with the pairs of an outboard over [`IN_MEMORY_MAX_BYTES`].
    Disk(Arc<File>),
}

impl ReadAt for HashPairs {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Memory(pairs) => ReadAt::read_at(&&pairs[..], offset, buffer),
            Self::Disk(file) => FileExt::read_at(&**file, buffer, offset),
        }
    }
}

/// Outboards under construction on the disk.
#[derive(Default)]
pub(super) struct UnfinishedOutboards {
    bytes: Arc<AtomicU64>,
    made: AtomicU64,
}

/// Disk space reserved for one outboard.
struct DiskReservation {
    of: Arc<AtomicU64>,
    bytes: u64,
}

impl Drop for DiskReservation {
    fn drop(&mut self) {
        self.of.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// An outboard as far as its pairs are known.
pub(super) struct OutboardBuilder {
    growing: Growing,
    store: PairStore,
}

/// Storage of the pairs, not shared until all are known.
pub(super) enum PairStore {
    Memory(Arc<[u8]>),
    Disk(UnfinishedFile),
}

/// An unfinished outboard on disk. Dropping it deletes the file, unless [`Self::persist_as`] has
/// given the file its final name.
pub(super) struct UnfinishedFile {
    file: Arc<File>,
    path: PathBuf,
    _reserved: DiskReservation,
}

impl Drop for UnfinishedFile {
    fn drop(&mut self) {
        // fails harmlessly if the file was given its final name
        let _ = std::fs::remove_file(&self.path);
    }
}

impl UnfinishedOutboards {
    /// Starts the outboard of a file. A large outboard is in `dir`, and all unfinished outboards
    /// there together fit `budget_bytes`.
    ///
    /// # Errors
    /// [`io::ErrorKind::QuotaExceeded`] if the outboard does not fit; otherwise the error
    /// of the disk.
    pub(super) fn begin(
        &self,
        dir: &Path,
        size_bytes: u64,
        budget_bytes: u64,
    ) -> io::Result<OutboardBuilder> {
        let growing = Growing::new(size_bytes, grain_of(size_bytes));
        let bytes = outboard_bytes(size_bytes);
        if bytes <= IN_MEMORY_MAX_BYTES {
            let store = PairStore::Memory(vec![0; bytes as usize].into());
            return Ok(OutboardBuilder { growing, store });
        }
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let of = self.bytes.clone();
        let reserved = DiskReservation { of, bytes };
        if before + bytes > budget_bytes {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let path = self.path(dir);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).open(&path);
        let store = PairStore::Disk(UnfinishedFile {
            file: Arc::new(file?),
            path,
            _reserved: reserved,
        });
        Ok(OutboardBuilder { growing, store })
    }

    /// Returns a name for an incomplete file.
    pub(super) fn path(&self, dir: &Path) -> PathBuf {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        dir.join(format!("part-{number}"))
    }
}

/// Failure of hashing a file.
pub(super) enum BuildError {
    /// The file could not be read.
    Reading(io::Error),
    /// Its outboard could not be written.
    Writing,
}

impl BuildError {
    pub(super) fn into_io(self) -> io::Error {
        match self {
            Self::Reading(error) => error,
            Self::Writing => io::ErrorKind::StorageFull.into(),
        }
    }
}

impl OutboardBuilder {
    /// Starts from the known first bytes of the file instead of from its start. Returns the number
    /// of bytes that need not be read, or `None` if the known tree cannot be used.
    pub(super) fn start_from(&mut self, start: &KnownStart) -> io::Result<Option<u64>> {
        let (size_bytes, store) = (self.growing.left_bytes(), &mut self.store);
        let (grain, save) = (grain_of(size_bytes), |place, pair: &[u8; 64]| {
            store.save(place, pair)
        });
        let KnownStart { version, pairs } = start;
        let Some(growing) = Growing::from_version(size_bytes, grain, version, pairs, save)? else {
            return Ok(None);
        };
        self.growing = growing;
        Ok(Some(self.growing.done_bytes()))
    }

    /// Returns the bytes of the file that are not read yet.
    pub(super) fn left_bytes(&self) -> u64 {
        self.growing.left_bytes()
    }

    /// Reads `limit_bytes` more of the file, rounded up to [`READ_BYTES`], or all that is left.
    pub(super) fn read_on(
        &mut self,
        reader: &mut impl Read,
        limit_bytes: u64,
        buffer: &mut Vec<u8>,
    ) -> Result<(), BuildError> {
        let end = self.left_bytes().saturating_sub(limit_bytes);
        while self.left_bytes() > end {
            let length = self.left_bytes().min(READ_BYTES as u64) as usize;
            buffer.resize(length, 0);
            reader.read_exact(buffer).map_err(BuildError::Reading)?;
            let store = &mut self.store;
            let saved = self
                .growing
                .feed(buffer, |place, pair| store.save(place, pair));
            saved.map_err(|_| BuildError::Writing)?;
        }
        Ok(())
    }

    /// Returns the hash and the storage of the pairs, or `None` before everything was read.
    pub(super) fn finish(self) -> Option<(ContentHash, PairStore)> {
        Some((self.growing.finish()?, self.store))
    }
}

impl PairStore {
    fn save(&mut self, place: u64, pair: &[u8; 64]) -> io::Result<()> {
        match self {
            Self::Memory(pairs) => {
                let pairs = Arc::get_mut(pairs).expect("nobody shares them yet");
                pairs[place as usize..][..64].copy_from_slice(pair);
                Ok(())
            }
            Self::Disk(on_disk) => on_disk.file.write_all_at(pair, place),
        }
    }

    /// Returns the pairs, once all are known.
    pub(super) fn pairs(&self) -> HashPairs {
        match self {
            Self::Memory(pairs) => HashPairs::Memory(pairs.clone()),
            Self::Disk(on_disk) => HashPairs::Disk(on_disk.file.clone()),
        }
    }
}

impl UnfinishedFile {
    /// Renames the file to its final name.
    pub(super) fn persist_as(&self, path: &Path) -> io::Result<()> {
        std::fs::rename(&self.path, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: u64 = 2 << 30;

    #[test]
    fn the_outboard_of_a_large_file_is_on_disk_and_removed_with_its_part() {
        let dir = tempfile::tempdir().unwrap();
        let parts = UnfinishedOutboards::default();
        let bytes = outboard_bytes(LARGE);
        let part = parts.begin(dir.path(), LARGE, bytes).ok().unwrap();
        assert_eq!(parts.bytes.load(Ordering::Relaxed), bytes);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        let second = parts.begin(dir.path(), LARGE, bytes);
        assert_eq!(second.err().unwrap().kind(), io::ErrorKind::QuotaExceeded);
        let small = parts.begin(dir.path(), 1 << 30, bytes).ok().unwrap();
        assert!(matches!(small.store, PairStore::Memory(_)));
        drop(part);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(parts.begin(dir.path(), LARGE, bytes).is_ok());
    }
}
