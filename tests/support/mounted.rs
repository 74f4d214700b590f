//! A mount of contents in memory that cannot outlive its test.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use p2pfs_fuse::{Mount, MountOptions};
use p2pfs_types::path::SharedPath;

use super::memory::Memory;

/// A mount in its own folder. It is removed at the end of the test in any case.
pub(crate) struct Mounted {
    pub content: Arc<Memory>,
    pub mount: Mount,
    scratch: tempfile::TempDir,
    upper: Option<tempfile::TempDir>,
}

impl Mounted {
    pub(crate) fn start(content: &Arc<Memory>, adjust: impl FnOnce(&mut MountOptions)) -> Self {
        content.publish(None);
        let scratch = tempfile::tempdir().unwrap();
        let mut options = MountOptions::for_this_user();
        adjust(&mut options);
        let dir = scratch.path().join("mount");
        let mount = Mount::start(&dir, content.clone(), &options).unwrap();
        Self {
            content: content.clone(),
            mount,
            scratch,
            upper: None,
        }
    }

    pub(crate) fn of(content: &Arc<Memory>) -> Self {
        Self::start(content, |_| {})
    }

    /// Mounts the content so that programs can write, into the folder [`Mounted::upper`].
    pub(crate) fn writable(content: &Arc<Memory>, adjust: impl FnOnce(&mut MountOptions)) -> Self {
        Self::writable_below(SharedPath::root(), content, adjust)
    }

    /// Mounts the content so that programs can write below a path.
    pub(crate) fn writable_below(
        place: SharedPath,
        content: &Arc<Memory>,
        adjust: impl FnOnce(&mut MountOptions),
    ) -> Self {
        let upper = tempfile::tempdir().unwrap();
        content.set_writable(upper.path(), place);
        let mut mounted = Self::start(content, adjust);
        mounted.mount.set_writable(true).unwrap();
        mounted.upper = Some(upper);
        mounted
    }

    /// Returns the folder into which the mount writes.
    pub(crate) fn upper(&self) -> &Path {
        self.upper.as_ref().unwrap().path()
    }

    pub(crate) fn dir(&self) -> &Path {
        self.mount.dir()
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.mount.dir().join(name)
    }

    pub(crate) fn publish(&self) {
        self.content.publish(Some(&self.mount));
    }

    /// Returns a path beside the mount.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }
}

/// Returns the names in a directory.
pub(crate) fn names(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// Returns the errno of a failure.
pub(crate) fn errno<T: std::fmt::Debug>(outcome: std::io::Result<T>) -> i32 {
    outcome.unwrap_err().raw_os_error().unwrap()
}
