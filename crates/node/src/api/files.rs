//! The bytes of files: read while they arrive, copied to local files, and fetched into the cache.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::NamedTempFile;
use tokio::fs::File;
use tokio::io::AsyncWriteExt;

use super::contents::Contents;
use super::{FileError, NameLookup, Prefetch, Reader};
use crate::NodeNamespace;
use p2pfs_content::{CacheOpens, ContentOpener, ContentStore};
use p2pfs_fetch::FetchReport;
use p2pfs_fs::{FileVersion, FsError, LostFiles, Writing};
use p2pfs_transfer::Fetcher;
use p2pfs_types::path::SharedPath;

/// The bytes of files. [`Node::files`](crate::Node::files) returns it. Clones share their state.
#[derive(Clone)]
pub struct FileAccess {
    pub(crate) names: NameLookup,
    pub(crate) store: ContentStore,
    pub(crate) opener: ContentOpener,
    pub(crate) namespace: Arc<NodeNamespace>,
    pub(crate) fetcher: Fetcher,
}

impl FileAccess {
    /// Opens a file for reading; links are followed.
    ///
    /// # Errors
    /// [`FileError::NotFound`], [`FileError::WrongKind`], [`FileError::LinkToNothing`],
    /// [`FileError::TooManyLinks`], and [`FileError::Unreadable`] if this node cannot open the
    /// file's content.
    pub async fn open(&self, path: &SharedPath) -> Result<Reader, FileError> {
        let opened = self.open_version(self.names.version(path)?).await;
        opened.map_err(|source| FileError::Unreadable {
            path: path.clone(),
            source,
        })
    }

    /// Opens one version of a file, even if its name shows another version by now. The reader
    /// returns only bytes of `version`, also for a file in an own share.
    ///
    /// # Errors
    /// Those of [`ContentOpener::open_unchanging`].
    pub async fn open_version(&self, version: FileVersion) -> Result<Reader, FsError> {
        Reader::open(self.opener.clone(), version).await
    }

    /// Copies a file to a local one and returns its length. The local file appears under its name
    /// when it is complete, and replaces an existing file.
    ///
    /// # Errors
    /// As [`FileAccess::open`], [`FileError::Unreadable`] if bytes do not arrive, and
    /// [`FileError::Local`]. After an error, `to` is as before.
    pub async fn get(&self, path: &SharedPath, to: impl AsRef<Path>) -> Result<u64, FileError> {
        let to = to.as_ref();
        let mut reader = self.open(path).await?.to_the_end();
        let local = |source| FileError::Local {
            file: to.to_owned(),
            source,
        };
        let part = part_beside(to).map_err(local)?;
        let mut file = File::from_std(part.reopen().map_err(local)?);
        loop {
            let came = reader.next_bytes().await;
            let bytes = came.map_err(|source| FileError::Unreadable {
                path: path.clone(),
                source,
            })?;
            if bytes.is_empty() {
                break;
            }
            file.write_all(&bytes).await.map_err(local)?;
        }
        file.sync_data().await.map_err(local)?;
        part.persist(to).map_err(|error| local(error.error))?;
        Ok(reader.size_bytes())
    }

    /// Fetches a file, or all files beneath a directory, into the cache.
    ///
    /// # Errors
    /// [`FileError::NotFound`], [`FileError::TooMany`], [`FileError::LinkToNothing`],
    /// [`FileError::TooManyLinks`]. Then nothing is fetched.
    pub fn prefetch(&self, path: &SharedPath) -> Result<Prefetch, FileError> {
        Ok(self.fetch(self.names.contents_of(path)?))
    }

    /// Fetches contents into the cache, except those that this node has already.
    pub fn fetch(&self, contents: Contents) -> Prefetch {
        Prefetch::of(contents, self.store.clone(), self.fetcher.clone())
    }

    /// Returns the files that are being fetched.
    pub fn fetches(&self) -> Vec<FetchReport> {
        self.fetcher.fetches()
    }

    /// Opens a local file with all bytes of a version: the file in the own share that `version`
    /// names if it still has this content, else the complete file in the cache. Returns `None` if
    /// there is neither. Reads the disk.
    pub fn local_file(&self, version: &FileVersion) -> Option<fs::File> {
        self.store.local_file(&version.hash, version.own.as_ref())
    }

    /// Returns how many opened versions of other nodes' files had the bytes of their first read in
    /// the cache, and how many did not, since the start.
    pub fn cache_opens(&self) -> CacheOpens {
        self.opener.cache_opens()
    }

    /// Returns the folders of the writable shares that have no room. Blocks on their disks.
    pub fn full_folders(&self) -> Vec<PathBuf> {
        let full = self.namespace.full_shares();
        let folders = self.namespace.store.writable_folders();
        let full = folders.iter().filter(|folder| full.contains(&folder.share));
        full.map(|folder| folder.dir.clone()).collect()
    }

    /// Returns the versions that programs deleted or replaced.
    pub fn lost(&self) -> LostFiles {
        LostFiles::new(self.namespace.clone())
    }

    /// Returns the names and contents of the node for a mounted filesystem.
    pub fn namespace(&self) -> Arc<NodeNamespace> {
        self.namespace.clone()
    }
}

/// Creates a temporary file in the directory of `file`. Dropping it removes it unless it was
/// renamed before.
fn part_beside(file: &Path) -> io::Result<NamedTempFile> {
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty());
    // The umask of the process applies, as for any new file.
    tempfile::Builder::new()
        .prefix(".p2pfs-")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(dir.unwrap_or(Path::new(".")))
}
