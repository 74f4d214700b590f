//! The number of versions that are open at once, and its limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use p2pfs_fs::FsError;

/// Maximum number of versions open at once; further opens fail with ENFILE. A quarter of the
/// largest descriptor limit that Linux allows a process by default (`fs.nr_open`: 1,048,576). Most
/// open versions need no descriptor.
pub(crate) const OPEN_VERSIONS_MAX: usize = 1_048_576 / 4;

/// The count of open versions. Clones share their state.
#[derive(Clone, Debug, Default)]
pub struct OpenVersions(Arc<AtomicUsize>);

/// One open version. It counts until it is dropped.
#[derive(Debug)]
pub struct OpenSlot(OpenVersions);

impl OpenVersions {
    /// Counts one more open version.
    ///
    /// # Errors
    /// [`FsError::TooManyHandles`] if the maximum number of versions is open.
    pub fn enter(&self) -> Result<OpenSlot, FsError> {
        let open = self.0.fetch_add(1, Ordering::Relaxed);
        // Beyond the limit, dropping the slot undoes the count.
        let slot = OpenSlot(self.clone());
        if open < OPEN_VERSIONS_MAX {
            Ok(slot)
        } else {
            Err(FsError::TooManyHandles)
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for OpenSlot {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}
