//! Serves verified ranges of shared files, with the content that they had when they were hashed.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use bytes::Bytes;
use rustix::fs::{AtFlags, StatxFlags, fstat, statx};
use rustix::io::Errno;

use super::error::ShareError;
use super::identity::{FileIdentity, NameStat};
use super::outboards::Outboards;
use super::part::{HashPairs, grain_of, outboard_bytes};
use super::set::ShareSetInner;
use super::shared::SharedState;
use super::state::ListingState;
use super::tree::Slot;
use super::{beneath, kept};
use p2pfs_types::digest::{
    AppendAt, ContentHash, DigestError, InMemory, OnDisk, ReadAt, decode, encode_in,
};
use p2pfs_types::extent::ByteRange;
use p2pfs_types::path::SharedPath;
use p2pfs_types::pool::PiecePool;

/// Maximum files of one content that are tried before it counts as not shared.
const SOURCE_CANDIDATES_MAX: usize = 16;

/// A name under which a file with a requested content may be found.
struct SourceCandidate {
    slot: Slot,
    dir: Arc<Path>,
    include_private: bool,
    path: SharedPath,
    identity: FileIdentity,
}

/// Result of comparing an open file with its candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judged {
    /// By its attributes, it is the file that was hashed.
    Same,
    /// It is the file that was hashed, but its size or mtime changed since. Bytes that did not
    /// change can still be proven.
    Written,
    /// It is another file, or it is shorter than the content.
    Other,
    /// Others may no longer read it.
    Denied,
}

impl SourceCandidate {
    fn judge(&self, seen: &NameStat) -> Judged {
        if !self.include_private && !seen.others_may_read() {
            return Judged::Denied;
        }
        let same = seen.identity.same_but_ctime(&self.identity);
        // an entry of an earlier run has only size and mtime until the walk reaches it
        let as_listed = self.identity.ino == 0
            && (seen.identity.size_bytes, seen.identity.mtime)
                == (self.identity.size_bytes, self.identity.mtime);
        if same || as_listed {
            return Judged::Same;
        }
        let inode = |identity: &FileIdentity| (identity.dev, identity.ino);
        let is_it = inode(&seen.identity) == inode(&self.identity);
        if is_it && seen.identity.size_bytes >= self.identity.size_bytes {
            Judged::Written
        } else {
            Judged::Other
        }
    }

    fn file(
        &self,
        file: File,
        hash: ContentHash,
        seen: &NameStat,
        shared: &Arc<SharedState>,
    ) -> ShareFile {
        let known = self.identity.ino != 0;
        let identity = if known { self.identity } else { seen.identity };
        ShareFile::new(file, hash, identity, self.include_private, shared)
    }
}

/// One search for a file with a requested content, and what it has found so far.
pub(super) struct SourceSearch<'a> {
    set: &'a ShareSetInner,
    hash: &'a ContentHash,
    /// Whether a file that was written since it was hashed will do.
    takes_written: bool,
    written: Option<ShareFile>,
    /// Whether a file has the content, and others may no longer read it.
    denied: bool,
    /// Files that could not be opened because this process may not.
    refused: Vec<SourceCandidate>,
    /// Names that are gone, or stand for another file or version.
    missed: Vec<(Arc<Path>, SharedPath)>,
    /// Files that were written since they were hashed.
    unchecked: Vec<Slot>,
    /// Why a file could not be opened for lack of resources.
    want: Option<Errno>,
}

impl<'a> SourceSearch<'a> {
    pub(super) fn new(set: &'a ShareSetInner, hash: &'a ContentHash, takes_written: bool) -> Self {
        Self {
            set,
            hash,
            takes_written,
            written: None,
            denied: false,
            refused: Vec::new(),
            missed: Vec::new(),
            unchecked: Vec::new(),
            want: None,
        }
    }

    /// Returns the first file that has the content.
    pub(super) fn run(mut self) -> Result<ShareFile, ShareError> {
        let shared = &self.set.shared;
        let checked = shared.checked();
        let all = candidates(&shared.lock(), self.hash, |_| true);
        for candidate in all {
            if let Some(file) = self.try_one(candidate) {
                return Ok(file);
            }
        }
        recheck_shares_of(shared, &self.refused);
        if !self.unchecked.is_empty() {
            shared.lock().record_written(&self.unchecked);
            shared.wake();
        }
        if self.denied {
            shared.lock().listing.kept.forget(self.hash);
            return Err(ShareError::NotHere);
        }
        let replaced = self.replaced();
        match (self.written, self.want) {
            (Some(written), _) if replaced.is_err() => Ok(written),
            (_, Some(error)) => Err(error.into()),
            _ => replaced.map_err(|error| {
                let is_absent = matches!(error, ShareError::NotHere) && !self.missed.is_empty();
                if is_absent && shared.may_be_renamed(self.hash, &self.missed, checked) {
                    ShareError::Missed
                } else {
                    error
                }
            }),
        }
    }

    /// Opens a file that may have the content. Returns it if it is as it was when it was hashed.
    fn try_one(&mut self, candidate: SourceCandidate) -> Option<ShareFile> {
        let shared = &self.set.shared;
        let SourceCandidate { dir, path, .. } = &candidate;
        let (file, seen) = match shared.beneath.open_file(dir, path) {
            Ok(opened) => opened,
            Err(error) => {
                self.want = self.want.or(beneath::is_want(error).then_some(error));
                if beneath::is_absence(error) {
                    self.missed.push((candidate.dir, candidate.path));
                } else if error == Errno::ACCESS {
                    self.denied = true;
                    self.refused.push(candidate);
                }
                return None;
            }
        };
        match candidate.judge(&seen) {
            Judged::Same => return Some(candidate.file(file, *self.hash, &seen, shared)),
            Judged::Denied => self.denied = true,
            Judged::Written => {
                self.unchecked.push(candidate.slot);
                if self.takes_written && self.written.is_none() {
                    self.written = Some(candidate.file(file, *self.hash, &seen, shared));
                }
                self.missed.push((candidate.dir, candidate.path));
            }
            Judged::Other => self.missed.push((candidate.dir, candidate.path)),
        }
        None
    }

    /// Returns the former content of a small file that was replaced recently.
    fn replaced(&self) -> Result<ShareFile, ShareError> {
        let shared = &self.set.shared;
        let bytes = shared.lock().listing.kept.get(self.hash, Instant::now());
        let absent = || {
            if self.set.begins() {
                ShareError::Beginning
            } else {
                ShareError::NotHere
            }
        };
        let file = kept::in_memory(&bytes.ok_or_else(absent)?)?;
        let seen = NameStat::of(&fstat(&file)?);
        let hash = *self.hash;
        Ok(ShareFile::new(file, hash, seen.identity, true, shared))
    }
}

/// Schedules a walk of each share in which a file could not be opened, if the share's own directory
/// cannot be opened either. The kernel does not report that this process may no longer pass a
/// directory above a share.
fn recheck_shares_of(shared: &SharedState, refused: &[SourceCandidate]) {
    for candidate in refused {
        if shared.beneath.open_share(&candidate.dir).err() != Some(Errno::ACCESS) {
            continue;
        }
        let mut state = shared.lock();
        let listing = &mut state.listing;
        let node = listing.tree.get(candidate.slot);
        if node.is_some_and(|node| listing.shares.scan(node.share)) {
            drop(state);
            shared.wake();
        }
    }
}

/// Returns at most [`SOURCE_CANDIDATES_MAX`] files that may have this content and for which
/// `is_meant` returns true: the files that are listed with it and not suspected, the file that was
/// moved and may be listed soon, and the file that had this content before it grew.
fn candidates(
    state: &ListingState,
    hash: &ContentHash,
    is_meant: impl Fn(&SourceCandidate) -> bool,
) -> Vec<SourceCandidate> {
    let listed = state.listing.tree.with_content(hash);
    let listed = listed.filter(|slot| !state.queue.notes(*slot).is_suspected);
    let listed = listed.filter_map(|slot| Some((slot, state.listing.tree.file(slot)?.identity)));
    let moved = state.listing.moved.get(hash);
    let former = state
        .listing
        .former
        .get(hash)
        .map(|it| (it.slot, it.identity));
    let candidate = |(slot, identity)| {
        let share = state
            .listing
            .shares
            .by_index
            .get(&state.listing.tree.get(slot)?.share)?;
        Some(SourceCandidate {
            slot,
            dir: share.dir.clone(),
            include_private: share.spec.include_private,
            path: state.listing.tree.path(slot)?,
            identity,
        })
    };
    let all = listed.chain(moved).chain(former).filter_map(candidate);
    all.filter(is_meant).take(SOURCE_CANDIDATES_MAX).collect()
}

/// Returns the folder of the share of each file that may have a content, for at most
/// [`SOURCE_CANDIDATES_MAX`] files.
pub(super) fn dirs_with(state: &ListingState, hash: &ContentHash) -> Vec<PathBuf> {
    let found = candidates(state, hash, |_| true);
    found.iter().map(|it| it.dir.to_path_buf()).collect()
}

/// Returns whether the file at `path` below the folder `dir` of its share has a content, judging by
/// its attributes `seen`.
pub(super) fn is_as_hashed(
    state: &ListingState,
    hash: &ContentHash,
    dir: &Path,
    path: &SharedPath,
    seen: &NameStat,
) -> bool {
    let found = candidates(state, hash, |it| *it.dir == *dir && it.path == *path);
    found.first().map(|it| it.judge(seen)) == Some(Judged::Same)
}

/// An open shared file with a requested content. It stays open and can be served as long as its
/// bytes are the same, even if its name changes or goes away.
#[derive(Clone)]
pub struct ShareFile {
    inner: Arc<ShareFileInner>,
}

struct ShareFileInner {
    file: File,
    hash: ContentHash,
    identity: FileIdentity,
    include_private: bool,
    pairs: OnceLock<HashPairs>,
    outboards: Arc<Outboards>,
    shared: Weak<SharedState>,
}

impl ShareFile {
    pub(super) fn new(
        file: File,
        hash: ContentHash,
        identity: FileIdentity,
        include_private: bool,
        shared: &Arc<SharedState>,
    ) -> Self {
        let outboards = shared.outboards.clone();
        let (pairs, shared) = (OnceLock::new(), Arc::downgrade(shared));
        Self {
            inner: Arc::new(ShareFileInner {
                file,
                hash,
                identity,
                include_private,
                pairs,
                outboards,
                shared,
            }),
        }
    }

    /// Returns the size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.inner.identity.size_bytes
    }

    /// Returns whether all attributes of the file, including the ctime, are as when it was hashed:
    /// it was not written, renamed or given another mode or date.
    pub fn is_current(&self) -> bool {
        let stat = fstat(&self.inner.file);
        stat.is_ok_and(|stat| FileIdentity::of(&stat) == self.inner.identity)
    }

    /// Returns whether the bytes are the same as when the file was hashed, judging by its
    /// attributes. The removal of the file's last name changes ctime but no byte.
    pub fn is_unchanged(&self) -> bool {
        fstat(&self.inner.file).is_ok_and(|stat| {
            let (now, then) = (FileIdentity::of(&stat), self.inner.identity);
            now == then || (stat.st_nlink == 0 && now.same_but_ctime(&then))
        })
    }

    /// Returns whether the file has no name any longer, so that only open descriptors keep it.
    pub fn is_nameless(&self) -> bool {
        fstat(&self.inner.file).is_ok_and(|stat| stat.st_nlink == 0)
    }

    /// Returns the range with its proof, in the format of [`p2pfs_types::digest::encode`]. Every
    /// group is checked against the hash. Blocks for the disk. If the outboard was evicted, the
    /// first call rebuilds it, usually by hashing the whole file.
    ///
    /// # Errors
    /// [`ShareError::Gone`] if the bytes changed. In that case, all files with the content
    /// are hashed again. Until then they stay listed but are not sources of the content.
    /// [`ShareError::NotHere`] if others may no longer read it, [`ShareError::OutOfRange`],
    /// [`ShareError::Io`].
    pub fn encode(&self, range: ByteRange, pool: &PiecePool) -> Result<Bytes, ShareError> {
        if !self.may_be_read() {
            return Err(ShareError::NotHere);
        }
        let encoded = self.pairs().and_then(|pairs| {
            Ok(self.encode_with(pool, range, OnDisk(&self.inner.file), pairs)?)
        });
        if matches!(encoded, Err(ShareError::Gone)) {
            self.suspect();
        }
        encoded
    }

    /// Returns the range with its proof if that needs no waiting, because the bytes are in the page
    /// cache and this [`ShareFile`] has already loaded the outboard into memory or needs none.
    /// Returns `None` otherwise, and on any error.
    pub fn encode_at_once(&self, range: ByteRange, pool: &PiecePool) -> Option<Bytes> {
        if !self.might_be_read() {
            return None;
        }
        let pairs = match (outboard_bytes(self.size_bytes()), self.inner.pairs.get()) {
            (0, _) => &[],
            (_, Some(HashPairs::Memory(pairs))) => &pairs[..],
            _ => return None,
        };
        let data = InMemory(&self.inner.file);
        self.encode_with(pool, range, data, pairs).ok()
    }

    fn encode_with(
        &self,
        pool: &PiecePool,
        range: ByteRange,
        data: impl AppendAt,
        pairs: impl ReadAt,
    ) -> Result<Bytes, DigestError> {
        let (hash, size_bytes) = (self.inner.hash, self.size_bytes());
        let grain = grain_of(size_bytes);
        encode_in(pool, grain, hash, size_bytes, range, data, pairs)
    }

    /// Returns whether the file's mode currently lets others read it, or private files are shared.
    fn may_be_read(&self) -> bool {
        let seen = || Some(NameStat::of(&fstat(&self.inner.file).ok()?));
        self.inner.include_private || seen().is_some_and(|seen| seen.others_may_read())
    }

    /// Returns what [`Self::may_be_read`] does, but according to the mode in the kernel's cache,
    /// without a request to another machine.
    fn might_be_read(&self) -> bool {
        let known = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let seen = || statx(&self.inner.file, "", known, StatxFlags::MODE);
        // for a regular file, the bit o+r suffices
        self.inner.include_private || seen().is_ok_and(|seen| seen.stx_mode & 0o4 != 0)
    }

    /// Reads unverified bytes from `offset` on, as they are on the disk now; see
    /// [`Self::is_current`].
    ///
    /// # Errors
    /// [`ShareError::Io`].
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, ShareError> {
        Ok(FileExt::read_at(&self.inner.file, buffer, offset)?)
    }

    /// Reads bytes of the content. If the file was written since it was hashed, each byte is checked
    /// against the hash.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn read_content(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, ShareError> {
        let wanted = ByteRange::at(offset, buffer.len() as u64);
        let wanted = ByteRange::new(wanted.start, wanted.end.min(self.size_bytes()));
        let length = self.read_at(offset, buffer)?;
        // checked after the read, so that bytes written meanwhile are not returned
        if length as u64 == wanted.len() && self.is_unchanged() {
            return Ok(length);
        }
        let proven = self.encode(wanted, &PiecePool::default())?;
        let decoded = decode(self.inner.hash, self.size_bytes(), wanted, proven);
        let verified = decoded.ok().and_then(|verified| verified.slice(wanted));
        let bytes = verified.ok_or(ShareError::Gone)?;
        buffer[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    /// Returns whether the outboard is loaded, or the content needs none.
    pub fn has_outboard(&self) -> bool {
        outboard_bytes(self.size_bytes()) == 0 || self.inner.pairs.get().is_some()
    }

    /// Loads the outboard, from memory, from disk, or by hashing the file again.
    ///
    /// # Errors
    /// [`ShareError::Gone`] if the file no longer has the content; [`ShareError::Io`].
    pub fn load_outboard(&self) -> Result<(), ShareError> {
        self.pairs().map(drop)
    }

    fn pairs(&self) -> Result<&HashPairs, ShareError> {
        if let Some(pairs) = self.inner.pairs.get() {
            return Ok(pairs);
        }
        let ShareFileInner {
            file,
            hash,
            outboards,
            ..
        } = &*self.inner;
        let shared = self.inner.shared.upgrade();
        let newer = shared.and_then(|shared| shared.lock().listing.newer_version(hash));
        let pairs = outboards.load(*hash, self.size_bytes(), file, newer)?;
        Ok(self.inner.pairs.get_or_init(|| pairs))
    }

    /// Has every file with the content hashed again. Also drops the content's outboard, because the
    /// outboard may be damaged instead of the file. Hashing rebuilds it.
    fn suspect(&self) {
        self.inner.outboards.forget(&self.inner.hash);
        if let Some(shared) = self.inner.shared.upgrade() {
            shared.lock().suspect(&self.inner.hash);
            shared.wake();
        }
    }
}
