//! Fetching and pinning files, and sharing folders.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io;
use std::iter::Peekable;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::vec;

use tempfile::NamedTempFile;
use tokio::fs::File;
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};

use super::FileError;
use super::cache::{LocalContents, named_pins, set_all};
use crate::{Node, NodeError};
use p2pfs_cache::CacheError;
use p2pfs_catalogue::{Found, View};
use p2pfs_fetch::{FillProgress, TransferError};
use p2pfs_fs::{Hidden, hidden_children};
use p2pfs_proto::wire::native::record::Kind;
use p2pfs_share::{MissingShare, ShareError, ShareSpec, ShareStatus};
use p2pfs_transfer::Fetcher;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::NodeId;
use p2pfs_types::path::SharedPath;

/// Maximum number of whole files fetched at once for one call, whatever their size.
const FILLS_AT_ONCE: usize = 4;
/// Maximum number of small files fetched at once. Each takes a round trip, and this many share it.
const SMALL_FILLS_AT_ONCE: usize = 64;
/// Maximum total size of small files fetched at once. It keeps a link of 100 MB/s busy over 20 ms.
/// At the lowest rate limit that can be set (64 KiB/s), it arrives within the minute that a fill
/// waits for bytes.
const SMALL_FILLS_BYTES: u64 = 2 << 20;
/// Maximum number of different contents in one call, after directories are expanded. Larger calls
/// are refused.
pub const FILES_MAX: usize = 1_000_000;
/// Number of names read from a directory at once.
const CHILDREN_BATCH: usize = 1000;

/// Different contents beneath some names, with size in bytes and one name each.
pub type Contents = BTreeMap<ContentHash, (u64, SharedPath)>;

/// Files being fetched into the cache. Dropping it cancels the unfinished fetches. Bytes that
/// arrived stay, as far as there is room.
#[must_use = "dropping it cancels the fetches"]
pub struct Prefetch {
    fetcher: Fetcher,
    here: LocalContents,
    /// Files not yet begun, the smallest first, so that none waits long behind a large one.
    waiting: Peekable<vec::IntoIter<(ContentHash, (u64, SharedPath))>>,
    running: JoinSet<(ContentHash, Fetched)>,
    /// Progress of the running fetches.
    on_their_way: BTreeMap<ContentHash, watch::Receiver<FillProgress>>,
    running_bytes: u64,
    files: usize,
    bytes: u64,
    come_bytes: u64,
}

/// The result of fetching one file.
#[derive(Debug)]
pub struct Fetched {
    /// One of the names of the file.
    pub path: SharedPath,
    /// Size of the file in bytes.
    pub size_bytes: u64,
    /// `Ok` once the cache holds every byte.
    pub outcome: Result<(), TransferError>,
}

impl Fetched {
    /// Returns whether the only failure is that the cache did not keep the file.
    pub fn is_not_kept(&self) -> bool {
        self.outcome == Err(TransferError::CacheFull)
    }
}

impl Prefetch {
    /// Returns the number of files that were not here. Files of equal content count once.
    pub fn files(&self) -> usize {
        self.files
    }

    /// Returns the total size of these files in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns how many of these bytes are here by now. Bytes of a failed file no longer count.
    pub fn ready_bytes(&self) -> u64 {
        let ready = self.on_their_way.values().map(|it| it.borrow().ready_bytes);
        self.come_bytes + ready.sum::<u64>()
    }

    /// Returns the next file that has ended, or `None` after the last one. The future may be
    /// dropped early without losing a result.
    pub async fn next(&mut self) -> Option<Fetched> {
        if let Some(came) = self.begin() {
            return Some(came);
        }
        // A fetch task neither panics nor is aborted while the prefetch exists.
        let (hash, fetched) = self.running.join_next().await?.ok()?;
        self.on_their_way.remove(&hash);
        self.running_bytes -= fetched.size_bytes;
        if fetched.outcome.is_ok() {
            self.come_bytes += fetched.size_bytes;
        }
        Some(fetched)
    }

    /// Begins as many fetches as may run at once. Returns early with the first file that is here in
    /// the meantime.
    pub(super) fn begin(&mut self) -> Option<Fetched> {
        while let Some((hash, (size_bytes, path))) = self.waiting.next_if(|(_, (size_bytes, _))| {
            may_fetch_beside(self.running.len(), self.running_bytes, *size_bytes)
        }) {
            if self.here.has(&hash) {
                // Another fetch brought it in the meantime.
                self.come_bytes += size_bytes;
                let outcome = Ok(());
                return Some(Fetched {
                    path,
                    size_bytes,
                    outcome,
                });
            }
            let fill = self.fetcher.fill(hash, size_bytes);
            self.on_their_way.insert(hash, fill.progress());
            self.running_bytes += size_bytes;
            self.running.spawn(async move {
                let outcome = fill.done().await;
                let fetched = Fetched {
                    path,
                    size_bytes,
                    outcome,
                };
                (hash, fetched)
            });
        }
        None
    }

    /// Waits until all fetches have ended.
    ///
    /// # Errors
    /// [`FileError::NotFetched`] for the first file that failed. The other fetches are cancelled.
    pub async fn finish(mut self) -> Result<(), FileError> {
        while let Some(Fetched { path, outcome, .. }) = self.next().await {
            outcome.map_err(|source| FileError::NotFetched { path, source })?;
        }
        Ok(())
    }
}

impl Node {
    /// Fetches a file, or all files beneath a directory, into the cache.
    ///
    /// # Errors
    /// [`FileError::NotFound`], [`FileError::TooMany`], [`FileError::TooManyLinks`]; then nothing
    /// is fetched.
    pub fn prefetch(&self, path: &SharedPath) -> Result<Prefetch, FileError> {
        Ok(self.fetch(self.contents_of(path)?))
    }

    /// Pins the current contents of a file, or of all files beneath a directory. Pinned contents
    /// are not evicted, whatever happens to their names. The returned [`Prefetch`] fetches them.
    ///
    /// # Errors
    /// As [`Node::prefetch`], and [`FileError::NoRoom`] and [`FileError::NotKept`]. Then no pin was
    /// changed.
    pub async fn pin(&self, path: &SharedPath) -> Result<Prefetch, FileError> {
        let contents = self.contents_of(path)?;
        self.set_pins(path, &contents, true).await?;
        Ok(self.fetch(contents))
    }

    /// Unpins the current contents of a path, and the contents that were pinned by names there and
    /// are no longer listed under them.
    ///
    /// # Errors
    /// As [`Node::pin`].
    pub async fn unpin(&self, path: &SharedPath) -> Result<(), FileError> {
        let contents = self.pinned_at(path)?;
        self.set_pins(path, &contents, false).await
    }

    /// Copies a file to a local one and returns its length. The local file appears under its name
    /// when it is complete, and replaces an existing file.
    ///
    /// # Errors
    /// As [`Node::open`], [`FileError::Unreadable`] if its bytes do not arrive, and
    /// [`FileError::Local`]. Then no part of the file is left.
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

    /// Shares a folder from now on, for as long as this node runs. Its files are listed as they are
    /// hashed.
    ///
    /// # Errors
    /// [`NodeError::Share`], which names the folder and the problem.
    pub async fn share(&self, dir: impl Into<PathBuf>) -> Result<(), NodeError> {
        let spec = ShareSpec::new(dir);
        let shares = self.shares.clone();
        let added = spawn_blocking(move || shares.add(spec)).await;
        added.map_err(|_| NodeError::Stopping)??;
        Ok(())
    }

    /// Shares a folder with the options of `spec`. Blocks on the disk.
    ///
    /// # Errors
    /// [`ShareError`], which names the folder and the problem.
    pub fn add_share(&self, spec: ShareSpec) -> Result<(), ShareError> {
        self.shares.add(spec).map(drop)
    }

    /// Stops sharing a folder. Blocks on the disk.
    ///
    /// # Errors
    /// [`ShareError`] if the folder is not shared.
    pub fn remove_share(&self, dir: &Path) -> Result<(), ShareError> {
        self.shares.remove(dir)
    }

    /// Declares that all shares of the start have been added or are missing for now. Until then,
    /// and for 10 s at most, nodes that request a content that is not found are told to retry.
    pub fn all_shares_added(&self) {
        self.shares.all_added();
    }

    /// Removes the stored listings of formerly shared folders that were not added since the start.
    /// Folders in `missing` are still to be added, and their expected files stay listed. Blocks on
    /// the disk.
    pub fn forget_absent_shares(&self, missing: &[MissingShare]) {
        self.shares.forget_absent(missing);
    }

    /// Returns the member that a reader of a share means: the member with that key, or the one with
    /// that name in its certificate.
    pub fn member_meant(&self, reader: &str) -> Option<NodeId> {
        crate::names::member_meant(&self.identity.keyring, reader)
    }

    /// Returns the shared folders and their progress.
    pub fn shared(&self) -> Vec<ShareStatus> {
        self.shares.list()
    }

    /// Returns how many bytes were read for hashing since the start.
    pub fn hashed_bytes(&self) -> u64 {
        self.shares.read_bytes()
    }

    /// Fetches contents into the cache, except those that are already here.
    pub fn fetch(&self, contents: Contents) -> Prefetch {
        let here = self.here();
        let missing = contents.into_iter().filter(|(hash, _)| !here.has(hash));
        let mut contents: Vec<_> = missing.collect();
        contents.sort_by_key(|(_, (size_bytes, _))| *size_bytes);
        Prefetch {
            fetcher: self.handles.fetcher.clone(),
            files: contents.len(),
            bytes: contents.iter().map(|(_, (size_bytes, _))| size_bytes).sum(),
            waiting: contents.into_iter().peekable(),
            running: JoinSet::new(),
            on_their_way: BTreeMap::new(),
            running_bytes: 0,
            come_bytes: 0,
            here,
        }
    }

    async fn set_pins(
        &self,
        path: &SharedPath,
        contents: &Contents,
        pinned: bool,
    ) -> Result<(), FileError> {
        let (cache, lack_of_room) = (self.cache.clone(), self.room());
        let close_idle = self.idle_closer();
        let pins = named_pins(contents);
        let bytes = self.room_needed(contents);
        let own = path.clone();
        let told = self.pins.clone();
        let changed = spawn_blocking(move || {
            if pinned && lack_of_room(bytes).is_some() {
                return Err(FileError::NoRoom { path: own, bytes });
            }
            let changed = set_all(&cache, &pins, pinned, close_idle);
            told.send_replace(());
            changed.map_err(|source| FileError::NotKept { path: own, source })
        });
        // A panic, or the end of the runtime. Which contents are pinned is unknown.
        changed.await.unwrap_or_else(|died| {
            let source = CacheError::Io {
                action: "change the pins in",
                path: self.cache.dir().to_owned(),
                source: io::Error::other(died),
            };
            let path = path.clone();
            Err(FileError::NotKept { path, source })
        })
    }

    /// Returns the different contents of a file, or of all files beneath a directory. The path
    /// itself may lead through links. Links inside a directory are skipped.
    ///
    /// # Errors
    /// [`FileError::NotFound`], [`FileError::TooMany`], [`FileError::LinkToNothing`],
    /// [`FileError::TooManyLinks`].
    pub fn contents_of(&self, path: &SharedPath) -> Result<Contents, FileError> {
        let mut contents = Contents::new();
        let (path, found) = self.follow_links(path)?;
        collect(&self.view(), path, &found, &mut contents)?;
        Ok(contents)
    }

    /// Returns the different contents beneath a path below `.p2pfs`, each with its name in the
    /// folder. Returns `None` if the path leads elsewhere or names nothing that can be pinned.
    ///
    /// # Errors
    /// [`FileError::TooMany`].
    pub fn hidden_contents(&self, path: &[u8]) -> Result<Option<Contents>, FileError> {
        let mut contents = Contents::new();
        match self.hidden(path) {
            Some(Hidden::File(file)) => {
                let name = within_peer(path);
                let name = name.or_else(|| self.names_of(&file.hash, 1).pop());
                let name = name.unwrap_or_else(SharedPath::root);
                contents.insert(file.hash, (file.size_bytes, name));
            }
            Some(Hidden::Directory) => collect_hidden(&self.view(), path, &mut contents)?,
            _ => return Ok(None),
        }
        Ok(Some(contents))
    }
}

/// Returns whether a file of this size may be fetched beside `running` others of `running_bytes`.
fn may_fetch_beside(running: usize, running_bytes: u64, size_bytes: u64) -> bool {
    running < FILLS_AT_ONCE
        || (running < SMALL_FILLS_AT_ONCE && running_bytes + size_bytes <= SMALL_FILLS_BYTES)
}

/// Creates a temporary file in the directory of `file`. It is removed unless it gets that name.
fn part_beside(file: &Path) -> io::Result<NamedTempFile> {
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty());
    // The umask of the process applies, as for any new file.
    tempfile::Builder::new()
        .prefix(".p2pfs-")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(dir.unwrap_or(Path::new(".")))
}

/// Returns the path within the folder of a path below `.p2pfs/peers/NAME`.
fn within_peer(path: &[u8]) -> Option<SharedPath> {
    let within = path.splitn(4, |byte| *byte == b'/').nth(3)?;
    SharedPath::new(within).ok()
}

fn collect_hidden(view: &View, dir: &[u8], contents: &mut Contents) -> Result<(), FileError> {
    for child in hidden_children(view, dir, None, usize::MAX) {
        let path = [dir, b"/", &child.name].concat();
        match child.found.kind {
            Kind::File {
                hash, size_bytes, ..
            } => {
                let name = within_peer(&path).unwrap_or_else(SharedPath::root);
                contents.insert(hash, (size_bytes, name));
            }
            Kind::Directory => collect_hidden(view, &path, contents)?,
            Kind::Symlink { .. } => {}
        }
    }
    if contents.len() > FILES_MAX {
        Err(FileError::TooMany)
    } else {
        Ok(())
    }
}

fn collect(
    view: &View,
    path: SharedPath,
    found: &Found,
    contents: &mut Contents,
) -> Result<(), FileError> {
    match &found.kind {
        Kind::File {
            hash, size_bytes, ..
        } => {
            contents.insert(*hash, (*size_bytes, path));
        }
        Kind::Symlink { .. } => {}
        Kind::Directory => {
            let mut after: Option<Box<[u8]>> = None;
            loop {
                let batch = view.children(&path, after.as_deref(), CHILDREN_BATCH);
                let Some(last) = batch.last() else { break };
                after = Some(last.name.clone());
                for child in &batch {
                    if let Ok(below) = path.join(&child.name) {
                        collect(view, below, &child.found, contents)?;
                    }
                }
            }
        }
    }
    if contents.len() > FILES_MAX {
        return Err(FileError::TooMany);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns how many of these files are fetched at once.
    fn at_once(sizes_bytes: &[u64]) -> usize {
        let mut running_bytes = 0;
        let goes = |(running, size_bytes): &(usize, &u64)| {
            let goes = may_fetch_beside(*running, running_bytes, **size_bytes);
            running_bytes += **size_bytes;
            goes
        };
        sizes_bytes.iter().enumerate().take_while(goes).count()
    }

    #[test]
    fn many_small_files_share_a_round_trip_and_four_large_ones_the_link() {
        assert_eq!(at_once(&[0; 1000]), 64);
        assert_eq!(at_once(&[64 << 10; 1000]), 32);
        assert_eq!(at_once(&[1 << 30; 1000]), 4);
        // a large file waits for the small ones before it
        assert_eq!(at_once(&[&[1 << 10; 10][..], &[1 << 30; 10]].concat()), 10);
    }
}
