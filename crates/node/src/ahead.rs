//! Small files that come before they are read: asked for in batches, and read from there until the
//! cache has them.

use super::content::NodeContent;
use super::fixed::FixedVersion;
use p2pfs_fs::{ReadNow, WholeFile};
use p2pfs_transfer::batches::SmallFile;

impl NodeContent {
    /// Lets go of the cached files that are held for who was expected to read them.
    pub fn close_idle(&self) {
        self.batches.close_idle();
    }

    pub(super) fn ask_in_batches(&self, files: &[WholeFile]) {
        let small = |file: &WholeFile| SmallFile::new(file.hash, file.size_bytes);
        let files: Vec<SmallFile> = files.iter().map(small).collect();
        self.batches.ask(&files);
    }

    /// Reads what came in a batch and is not stored yet.
    pub(super) fn read_come(
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
