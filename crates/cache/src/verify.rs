//! Verification of all bytes on disk against their hashes, on demand or after an unclean stop.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::core::CacheCore;
use super::file::OpenFileState;
use p2pfs_types::digest::ContentHash;
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

/// A verification of several files, with the progress that it reports.
struct Verification<'a, F> {
    core: &'a Arc<CacheCore>,
    done: VerifyProgress,
    progress: F,
}

/// Checks the complete chunks of `files`, and drops damaged ones. A break of `progress` ends the
/// verification.
pub(super) fn verify_files(
    core: &Arc<CacheCore>,
    files: Vec<ContentHash>,
    progress: impl FnMut(&VerifyProgress) -> ControlFlow<()>,
) -> VerifyProgress {
    let bytes_total = files.iter().map(|hash| core.index.cached_bytes(hash)).sum();
    let mut verification = Verification {
        core,
        done: VerifyProgress {
            files_total: files.len(),
            bytes_total,
            ..VerifyProgress::default()
        },
        progress,
    };
    // A break is the wish of the caller, so it needs no report.
    let _ = verification.run(files);
    verification.done
}

impl<F: FnMut(&VerifyProgress) -> ControlFlow<()>> Verification<'_, F> {
    fn run(&mut self, files: Vec<ContentHash>) -> ControlFlow<()> {
        for hash in files {
            let opened = self.core.existing_unused(&hash);
            // Opening a small file can find it damaged.
            self.core.context.damage.await_drops();
            match opened {
                Ok(Some(file)) => self.check(file.shared())?,
                // A file that was removed meanwhile needs no check.
                Ok(None) => {}
                Err(_) => self.done.unopened_files += 1,
            }
            self.done.files += 1;
        }
        (self.progress)(&self.done)
    }

    /// Checks one file.
    fn check(&mut self, file: &OpenFileState) -> ControlFlow<()> {
        let context = &self.core.context;
        let whole = ByteRange::new(0, file.files.size_bytes);
        let mut start = 0;
        while start < file.files.size_bytes {
            let stride = ByteRange::at(start, STRIDE_BYTES).intersection(&whole);
            let (bytes, checked_bytes) = file.pages.bytes_to_check(stride);
            let doubtful_bytes = file.settle(context, stride);
            let wrong_bytes = file.check(context, stride);
            // Without this, readers would get damaged bytes after the verification has reported
            // them.
            context.damage.await_drops();
            context.damage.record(doubtful_bytes);
            let done = &mut self.done;
            done.dropped_bytes += doubtful_bytes + wrong_bytes;
            done.bytes += bytes;
            done.checked_bytes += checked_bytes;
            done.bytes_total = done.bytes_total.max(done.bytes);
            start = stride.end;
            (self.progress)(done)?;
        }
        self.core.index.lock().checked(&file.files.hash);
        ControlFlow::Continue(())
    }
}
