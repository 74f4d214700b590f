//! Small files that arrive before they are read. They are requested in batches, and reads are
//! answered from the batch until the cache has the file.

use super::content::NodeContent;
use super::fixed::FixedVersion;
use p2pfs_fs::{ReadNow, WholeFile};
use p2pfs_transfer::batches::SmallFile;

impl NodeContent {
    /// Closes the cached files that are kept open for expected readers.
    pub fn close_idle(&self) {
        self.batches.close_idle();
    }

    pub(super) fn ask_in_batches(&self, files: &[WholeFile]) {
        let small = |file: &WholeFile| SmallFile::new(file.hash, file.size_bytes);
        let files: Vec<SmallFile> = files.iter().map(small).collect();
        self.batches.ask(&files);
    }

    /// Reads bytes of a file that arrived in a batch and is not stored in the cache yet. Returns
    /// [`ReadNow::Wait`] if there is no such file, or if it ends before the range.
    pub(super) fn read_batched(
        &self,
        version: &FixedVersion,
        offset: u64,
        buffer: &mut [u8],
    ) -> ReadNow {
        let Some(bytes) = self.batches.here(&version.small()) else {
            return ReadNow::Wait;
        };
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        match bytes.get(start..).and_then(|rest| rest.get(..buffer.len())) {
            Some(part) => {
                buffer.copy_from_slice(part);
                ReadNow::Done(part.len())
            }
            None => ReadNow::Wait,
        }
    }
}
