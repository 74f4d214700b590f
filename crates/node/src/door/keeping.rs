//! Bringing files here and keeping them, and sharing folders.

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
use super::cache::{Here, named_pins, set_all};
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

/// Whole files fetched at a time for one call, however large they are.
const FILLS_AT_ONCE: usize = 4;
/// Small ones fetched at a time: each takes a round trip, and so many share it.
const SMALL_FILLS_AT_ONCE: usize = 64;
/// What these have together at most: it keeps 100 MB/s busy over 20 ms, and is less than what comes
/// over the slowest link that can be set (64 KiB/s) within the minute that a fill waits for bytes.
const SMALL_FILLS_BYTES: u64 = 2 << 20;
/// Files that one call may touch, directories taken apart; beyond it the call is refused.
pub const FILES_MAX: usize = 1_000_000;
/// Names read from a directory at a time.
const CHILDREN_BATCH: usize = 1000;

/// The different contents beneath some names, with one name each.
pub type Contents = BTreeMap<ContentHash, (u64, SharedPath)>;

/// Files on their way into the cache. Dropping it cancels those that are not there yet; what came
/// of them stays, as far as there is room.
#[must_use = "dropping it cancels the fetches"]
pub struct Prefetch {
    fetcher: Fetcher,
    here: Here,
    /// The smallest first: none of them waits behind a large one for long.
    waiting: Peekable<vec::IntoIter<(ContentHash, (u64, SharedPath))>>,
    running: JoinSet<(ContentHash, Fetched)>,
    /// How far those that run are.
    on_their_way: BTreeMap<ContentHash, watch::Receiver<FillProgress>>,
    running_bytes: u64,
    files: usize,
    bytes: u64,
    come_bytes: u64,
}

/// How the fetch of one file ended.
#[derive(Debug)]
pub struct Fetched {
    /// One of the names that it has.
    pub path: SharedPath,
    pub size_bytes: u64,
    /// `Ok` once the cache holds every byte.
    pub outcome: Result<(), TransferError>,
}

impl Fetched {
    /// Whether all that is wrong is that our cache did not keep it.
    pub fn is_not_kept(&self) -> bool {
        self.outcome == Err(TransferError::CacheFull)
    }
}

impl Prefetch {
    /// How many files were not here; those of the same content count once.
    pub fn files(&self) -> usize {
        self.files
    }

    /// How many bytes they have in all.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many of them are here by now; those of a file that failed count no more.
    pub fn ready_bytes(&self) -> u64 {
        let ready = self.on_their_way.values().map(|it| it.borrow().ready_bytes);
        self.come_bytes + ready.sum::<u64>()
    }

    /// The next file that has ended; none once all have. May be dropped before it is done: nothing
    /// is lost by that.
    pub async fn next(&mut self) -> Option<Fetched> {
        if let Some(came) = self.begin() {
            return Some(came);
        }
        // a task of ours neither panics nor is aborted while this lives
        let (hash, fetched) = self.running.join_next().await?.ok()?;
        self.on_their_way.remove(&hash);
        self.running_bytes -= fetched.size_bytes;
        if fetched.outcome.is_ok() {
            self.come_bytes += fetched.size_bytes;
        }
        Some(fetched)
    }

    /// Begins as many as go at a time, or gives the first of them that is here after all.
    pub(super) fn begin(&mut self) -> Option<Fetched> {
        while let Some((hash, (size_bytes, path))) = self.waiting.next_if(|(_, (size_bytes, _))| {
            goes_beside(self.running.len(), self.running_bytes, *size_bytes)
        }) {
            if self.here.has(&hash) {
                // it came for somebody else meanwhile
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

    /// Waits until all have ended.
    ///
    /// # Errors
    /// [`FileError::NotFetched`] for the first that could not be had; the others were cancelled.
    pub async fn finish(mut self) -> Result<(), FileError> {
        while let Some(Fetched { path, outcome, .. }) = self.next().await {
            outcome.map_err(|source| FileError::NotFetched { path, source })?;
        }
        Ok(())
    }
}

impl Node {
    /// Brings a file, or all files beneath a directory, into the cache.
    ///
    /// # Errors
    /// [`FileError::NotFound`], [`FileError::TooMany`]; nothing is fetched then.
    pub fn prefetch(&self, path: &SharedPath) -> Result<Prefetch, FileError> {
        Ok(self.fetch(self.contents_of(path)?))
    }

    /// Keeps the contents that a file, or all files beneath a directory, have now: they are not
    /// evicted, whatever becomes of their names, and are fetched by what this returns.
    ///
    /// # Errors
    /// As [`Node::prefetch`], [`FileError::NoRoom`] and [`FileError::NotKept`]: nothing was changed
    /// then.
    pub async fn pin(&self, path: &SharedPath) -> Result<Prefetch, FileError> {
        let contents = self.contents_of(path)?;
        self.set_pins(path, &contents, true).await?;
        Ok(self.fetch(contents))
    }

    /// Keeps them no longer than there is room, and what was pinned by such names and is listed
    /// under them no more.
    ///
    /// # Errors
    /// As [`Node::pin`].
    pub async fn unpin(&self, path: &SharedPath) -> Result<(), FileError> {
        let contents = self.kept_of(path)?;
        self.set_pins(path, &contents, false).await
    }

    /// Copies a file to a local one, which appears under its name when it is whole, in place of
    /// one that was there. Gives its length.
    ///
    /// # Errors
    /// As [`Node::open`], [`FileError::Unreadable`] where its bytes do not come, and
    /// [`FileError::Local`]. Nothing is left of it then.
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

    /// Shares a folder from now on, for as long as this node runs; its files are listed as they
    /// are hashed.
    ///
    /// # Errors
    /// [`NodeError::Share`] naming the folder and what is wrong with it.
    pub async fn share(&self, dir: impl Into<PathBuf>) -> Result<(), NodeError> {
        let spec = ShareSpec::new(dir);
        let shares = self.shares.clone();
        let added = spawn_blocking(move || shares.add(spec)).await;
        added.map_err(|_| NodeError::Stopping)??;
        Ok(())
    }

    /// The same, with how much of it is shared; waits for the disk.
    ///
    /// # Errors
    /// [`ShareError`] naming the folder and what is wrong with it.
    pub fn add_share(&self, spec: ShareSpec) -> Result<(), ShareError> {
        self.shares.add(spec).map(drop)
    }

    /// Shares a folder no longer; waits for the disk.
    ///
    /// # Errors
    /// [`ShareError`] where it is not shared.
    pub fn remove_share(&self, dir: &Path) -> Result<(), ShareError> {
        self.shares.remove(dir)
    }

    /// All shares that this node begins with were added, or are missing for now. Until then, and
    /// for 10 s at most, others who ask for what is not found are told to ask again.
    pub fn all_shares_added(&self) {
        self.shares.all_added();
    }

    /// Lists no more what is known of folders that were shared once and were not added since the
    /// start. Of those that are to be added yet, all that are `missing`, what is awaited stays
    /// listed; waits for the disk.
    pub fn forget_absent_shares(&self, missing: &[MissingShare]) {
        self.shares.forget_absent(missing);
    }

    /// Which member a reader of a share means: that of its key, or the one whose certificate has
    /// that name.
    pub fn member_meant(&self, reader: &str) -> Option<NodeId> {
        crate::names::member_meant(&self.keyring, reader)
    }

    /// What is shared, and how far that is.
    pub fn shared(&self) -> Vec<ShareStatus> {
        self.shares.list()
    }

    /// How many bytes were read for hashing since the start.
    pub fn hashed_bytes(&self) -> u64 {
        self.shares.read_bytes()
    }

    /// Brings contents into the cache, those that are here already left out.
    pub fn fetch(&self, contents: Contents) -> Prefetch {
        let here = self.here();
        let missing = contents.into_iter().filter(|(hash, _)| !here.has(hash));
        let mut contents: Vec<_> = missing.collect();
        contents.sort_by_key(|(_, (size_bytes, _))| *size_bytes);
        Prefetch {
            fetcher: self.running.fetcher.clone(),
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
        // a panic, or the end of the runtime: nobody knows what is kept
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

    /// The different contents of a file, or of all files beneath a directory. A path that is
    /// named may lead over links; those in a directory are left out.
    ///
    /// # Errors
    /// [`FileError::NotFound`], [`FileError::TooMany`], [`FileError::TooManyLinks`].
    pub fn contents_of(&self, path: &SharedPath) -> Result<Contents, FileError> {
        let mut contents = Contents::new();
        let (path, found) = self.follow_links(path)?;
        collect(&self.view(), path, &found, &mut contents)?;
        Ok(contents)
    }

    /// The different contents beneath a path below `.p2pfs`, each with its name in the folder; none
    /// where the path leads elsewhere or names nothing that can be kept.
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

/// Whether one more of this size is to be fetched beside so many that have so many bytes.
fn goes_beside(running: usize, running_bytes: u64, size_bytes: u64) -> bool {
    running < FILLS_AT_ONCE
        || (running < SMALL_FILLS_AT_ONCE && running_bytes + size_bytes <= SMALL_FILLS_BYTES)
}

/// A file beside its name, gone unless it gets that name.
fn part_beside(file: &Path) -> io::Result<NamedTempFile> {
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty());
    // what its writer's umask leaves, as for any new file
    tempfile::Builder::new()
        .prefix(".p2pfs-")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(dir.unwrap_or(Path::new(".")))
}

/// The path in the folder of one below `.p2pfs/peers/NAME`.
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

    /// How many of these are fetched at a time.
    fn at_once(sizes_bytes: &[u64]) -> usize {
        let mut running_bytes = 0;
        let goes = |(running, size_bytes): &(usize, &u64)| {
            let goes = goes_beside(*running, running_bytes, **size_bytes);
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
        // what is large waits for the small ones before it
        assert_eq!(at_once(&[&[1 << 10; 10][..], &[1 << 30; 10]].concat()), 10);
    }
}
