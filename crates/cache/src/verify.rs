//! Verification of all bytes on disk against their hashes, on demand or after an unclean stop.

use std::ops::ControlFlow;

use super::cached_file::CacheFile;
use p2pfs_types::extent::{ByteRange, CHUNK_BYTES};

/// Bytes read and checked between two calls of the progress callback: 1 MiB.
const STRIDE_BYTES: u64 = 16 * CHUNK_BYTES;

/// Progress of a verification.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifyProgress {
    /// Number of finished files.
    pub files: usize,
    /// Number of files to check.
    pub files_total: usize,
    /// Cached bytes in finished files and in the processed part of the current one.
    pub bytes: u64,
    /// Cached bytes of all files to check. Larger if files grow during the verification.
    pub bytes_total: u64,
    /// Part of `bytes` that was read and checked: all except pages of incomplete chunks.
    pub checked_bytes: u64,
    /// Bytes that were found damaged and dropped.
    pub dropped_bytes: u64,
    /// Part of `files` that could not be opened. Nothing of them was checked.
    pub unopened_files: usize,
}

impl CacheFile {
    pub(super) fn verify(
        &self,
        done: &mut VerifyProgress,
        progress: &mut impl FnMut(&VerifyProgress) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let (shared, core) = (self.shared(), &self.handle.core);
        let whole = ByteRange::new(0, shared.size_bytes);
        let mut start = 0;
        while start < shared.size_bytes {
            let stride = ByteRange::at(start, STRIDE_BYTES).intersection(&whole);
            let (bytes, checked_bytes) = shared.bytes_to_check(stride);
            let doubtful_bytes = shared.settle(&core.context, stride);
            let wrong_bytes = shared.check(&core.context, stride);
            // Without this, readers would get damaged bytes after the verification has reported
            // them.
            core.context.damage.await_drops();
            core.context.damage.record(doubtful_bytes);
            done.dropped_bytes += doubtful_bytes + wrong_bytes;
            done.bytes += bytes;
            done.checked_bytes += checked_bytes;
            done.bytes_total = done.bytes_total.max(done.bytes);
            start = stride.end;
            progress(done)?;
        }
        core.checked(&shared.hash);
        ControlFlow::Continue(())
    }
}
