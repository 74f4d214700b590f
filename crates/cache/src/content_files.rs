//! The files of one content on disk: their paths, and their descriptors while they are open.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::context::CacheContext;
use super::disk::may_be_readable;
use super::layout::{self, Paths};
use super::pages::{PageMap, bytes_of, page_count};
use super::summary::FileSummary;
use p2pfs_types::digest::{ContentHash, Grain};
use p2pfs_types::extent::{ByteRange, PAGE_BYTES};
use p2pfs_types::files::{leave_descriptors, open_own, open_own_writable};

/// Open descriptors of a file.
pub(super) struct Descriptors {
    pub(super) data: File,
    /// `None` for a file of one chunk.
    pub(super) outboard: Option<File>,
}

impl Descriptors {
    /// Opens the existing files. If the disk refuses write access, opens them for reading only and
    /// records the failure. A complete file is then fully usable, and an incomplete one behaves as
    /// on a full disk.
    pub(super) fn open(context: &CacheContext, paths: &Paths, size_bytes: u64) -> io::Result<Self> {
        match Self::open_with(open_own_writable, paths, size_bytes) {
            Err(error) if may_be_readable(&error) => {
                let files = Self::open_with(open_own, paths, size_bytes)?;
                let _ = context.record_result::<()>(Err(error));
                Ok(files)
            }
            opened => opened,
        }
    }

    fn open_with(
        open: impl Fn(&Path) -> io::Result<File>,
        paths: &Paths,
        size_bytes: u64,
    ) -> io::Result<Self> {
        let data = open(&paths.data)?;
        leave_descriptors(&data)?;
        let outboard = match Grain::CHUNK.outboard_bytes(size_bytes) {
            0 => None,
            _ => Some(open(&paths.outboard)?),
        };
        Ok(Self { data, outboard })
    }

    /// Syncs the written data and outboard to the disk.
    pub(super) fn sync(&self, context: &CacheContext) -> io::Result<()> {
        let files = [Some(&self.data), self.outboard.as_ref()];
        let mut files = files.into_iter().flatten();
        files.try_for_each(|file| context.disk.sync(file))
    }

    /// Creates the files of a content whose first write is `first`. A failure leaves nothing, or
    /// leftovers that the survey of the next start removes.
    pub(super) fn make(
        context: &CacheContext,
        paths: &Paths,
        size_bytes: u64,
        first: ByteRange,
    ) -> io::Result<Self> {
        let made = Self::try_make(context, paths, size_bytes, first);
        if made.is_err() {
            let _ = layout::remove(&context.disk, paths);
        }
        made
    }

    fn try_make(
        context: &CacheContext,
        paths: &Paths,
        size_bytes: u64,
        first: ByteRange,
    ) -> io::Result<Self> {
        // Leftover files of an earlier run are not valid data, and a leftover map would claim pages
        // of the new file.
        context.disk.remove(&paths.map)?;
        let data = context.disk.create_empty(&paths.data)?;
        leave_descriptors(&data)?;
        if first.len() < size_bytes {
            context.disk.set_len(&data, size_bytes)?;
        }
        let outboard = match Grain::CHUNK.outboard_bytes(size_bytes) {
            0 => None,
            length_bytes => {
                let outboard = context.disk.create_empty(&paths.outboard)?;
                context.disk.set_len(&outboard, length_bytes)?;
                Some(outboard)
            }
        };
        Ok(Self { data, outboard })
    }
}

/// The files of one content, which are created with its first bytes.
pub(super) struct ContentFiles {
    pub(super) hash: ContentHash,
    pub(super) size_bytes: u64,
    pub(super) paths: Paths,
    /// Empty until the first bytes are stored.
    descriptors: OnceLock<Descriptors>,
    /// The data file, opened read-only for the kernel, which may read only a complete file.
    backing: OnceLock<Arc<File>>,
}

impl ContentFiles {
    pub(super) fn new(
        hash: ContentHash,
        size_bytes: u64,
        paths: Paths,
        descriptors: Option<Descriptors>,
    ) -> Self {
        Self {
            hash,
            size_bytes,
            paths,
            descriptors: descriptors.map_or_else(OnceLock::new, OnceLock::from),
            backing: OnceLock::new(),
        }
    }

    /// Returns the descriptors, and creates the files if needed. Must be called by one thread at a
    /// time.
    pub(super) fn open_for(
        &self,
        context: &CacheContext,
        first: ByteRange,
    ) -> io::Result<&Descriptors> {
        if let Some(descriptors) = self.descriptors.get() {
            return Ok(descriptors);
        }
        let made = Descriptors::make(context, &self.paths, self.size_bytes, first)?;
        Ok(self.descriptors.get_or_init(|| made))
    }

    /// Returns whether the files were created.
    pub(super) fn exist(&self) -> bool {
        self.descriptors.get().is_some()
    }

    /// Syncs the written data and outboard to the disk. Returns `None` if there are no files.
    pub(super) fn sync(&self, context: &CacheContext) -> Option<io::Result<()>> {
        let descriptors = self.descriptors.get()?;
        Some(descriptors.sync(context))
    }

    /// Returns the data file.
    pub(super) fn data(&self) -> io::Result<&File> {
        let descriptors = self.descriptors.get();
        descriptors.map(|it| &it.data).ok_or_else(not_there)
    }

    /// Returns the outboard file.
    pub(super) fn outboard(&self) -> io::Result<&File> {
        let descriptors = self.descriptors.get();
        let outboard = descriptors.and_then(|it| it.outboard.as_ref());
        outboard.ok_or_else(not_there)
    }

    /// Returns the data file, opened read-only, for the kernel to read. Call this only for a
    /// complete file: the kernel does not check which pages are present.
    pub(super) fn backing(&self) -> Option<Arc<File>> {
        if let Some(file) = self.backing.get() {
            return Some(file.clone());
        }
        let file = Arc::new(open_own(&self.paths.data).ok()?);
        Some(self.backing.get_or_init(|| file).clone())
    }

    /// Frees the disk space of pages, which no thread reads or writes.
    pub(super) fn free(&self, context: &CacheContext, pages: &PageMap) {
        for run in pages.runs(0..page_count(self.size_bytes)) {
            let range = bytes_of(&run, run.end * PAGE_BYTES);
            // A file system without hole punching keeps the space until the file is evicted.
            if let Ok(data) = self.data() {
                let _ = context.disk.punch(data, range.start, range.len());
            }
        }
    }

    /// Reads the summary of the file from its map on disk.
    pub(super) fn read_summary(&self, context: &CacheContext) -> Option<FileSummary> {
        let map = layout::load(&self.paths, &self.hash, context.boot).ok()??;
        Some(map.summary())
    }
}

fn not_there() -> io::Error {
    io::ErrorKind::NotFound.into()
}
