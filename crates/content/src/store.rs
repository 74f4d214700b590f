//! The store of contents: what is here, from memory, and proofs of it for other nodes.

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::Guard;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::admission::{self, Asker, PublishedNames};
use super::error::ProofError;
use super::kept::{KeptFiles, ProvableFile, Purpose};
use super::unverified::UnverifiedRoom;
use p2pfs_cache::{Cache, CacheConfig, CacheError, CacheEvent, CacheFile, CachedBytes};
use p2pfs_catalogue::View;
use p2pfs_fs::{LiveAttributes, LiveLook};
use p2pfs_proto::wire::native::record::ShareIndex;
use p2pfs_share::{
    Attributes, ShareConfig, ShareError, ShareEvent, ShareFile, ShareLedger, ShareSet, SharedBytes,
    WritableFolder,
};
use p2pfs_types::digest::{ContentHash, ContentKey};
use p2pfs_types::extent::{ByteRange, ExtentSet};
use p2pfs_types::files::opened_anew;
use p2pfs_types::path::SharedPath;
use p2pfs_types::pool::PiecePool;

/// Interval of the checks for expired files, while any file is kept open.
const SWEEP_PERIOD: Duration = Duration::from_secs(1);

/// The contents of this machine. Clones are the same store.
#[derive(Clone)]
pub struct ContentStore {
    inner: Arc<StoreInner>,
}

struct StoreInner {
    cache: Cache,
    shares: ShareSet,
    names: PublishedNames,
    kept: Mutex<KeptFiles>,
    /// Buffers of the proofs.
    pieces: PiecePool,
}

/// A store that is being opened: its cache is open, its shares are not.
pub struct StoreStart {
    cache: Cache,
}

impl StoreStart {
    /// Opens the cache, and returns the receiver of its events.
    ///
    /// # Errors
    /// [`CacheError`], and nothing is open.
    pub fn open(
        config: CacheConfig,
    ) -> Result<(Self, std::sync::mpsc::Receiver<CacheEvent>), CacheError> {
        let (cache, events) = Cache::open(config)?;
        Ok((Self { cache }, events))
    }

    /// Returns the cache, for its administration.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Opens the shares, and returns the receiver of their events, which must be drained. Proofs are
    /// made in buffers of `pieces`.
    ///
    /// # Errors
    /// [`ShareError`]; the cache is closed.
    pub fn add_shares(
        self,
        config: ShareConfig,
        ledger: ShareLedger,
        names: PublishedNames,
        pieces: PiecePool,
    ) -> Result<(ContentStore, mpsc::Receiver<ShareEvent>), ShareError> {
        let (shares, events) = ShareSet::open_with(config, ledger)?;
        Ok((ContentStore::new(self.cache, shares, names, pieces), events))
    }
}

/// Where the bytes of a content are on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// An own file that is read in its present state, whatever its content.
    Live,
    /// An own shared file that is as it was when it was hashed.
    Shared,
    /// Verified bytes of other nodes in the cache, perhaps a part.
    Cached,
}

/// How much of a content is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Here {
    /// Where its bytes are; `None` if nothing is here.
    pub origin: Option<Origin>,
    /// Number of readable bytes.
    pub bytes: u64,
}

/// Ranges of a content that can be proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provable {
    /// Size of the whole content in bytes.
    pub size_bytes: u64,
    /// Whether all of it is here.
    pub is_whole: bool,
    /// The ranges that can be proven.
    pub ranges: ExtentSet,
}

impl ContentStore {
    pub(super) fn new(
        cache: Cache,
        shares: ShareSet,
        names: PublishedNames,
        pieces: PiecePool,
    ) -> Self {
        let inner = StoreInner {
            cache,
            shares,
            names,
            kept: Mutex::new(KeptFiles::new()),
            pieces,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Returns the cache, for its administration.
    pub fn cache(&self) -> &Cache {
        &self.inner.cache
    }

    /// Returns the shared folders, for their administration.
    pub fn shares(&self) -> &ShareSet {
        &self.inner.shares
    }

    /// Returns the folders that the mount writes into, deepest place first. Reads memory only.
    pub fn writable_folders(&self) -> Arc<[WritableFolder]> {
        self.inner.shares.writable_folders()
    }

    /// Returns the room for bytes that nothing verifies.
    pub fn unverified(&self) -> UnverifiedRoom {
        UnverifiedRoom::new(self.inner.cache.clone())
    }

    /// Returns how much of a content is here. Reads memory only.
    pub fn here(&self, content: &ContentKey) -> Here {
        if self.inner.shares.holds(&content.hash) {
            return Here {
                origin: Some(Origin::Shared),
                bytes: content.size_bytes,
            };
        }
        let cached_bytes = self.inner.cache.cached_bytes(&content.hash);
        let bytes = cached_bytes.min(content.size_bytes);
        Here {
            origin: (bytes > 0).then_some(Origin::Cached),
            bytes,
        }
    }

    /// Returns whether all of a content is here. Reads memory only.
    pub fn is_whole(&self, hash: &ContentHash) -> bool {
        self.inner.cache.is_complete(hash) || self.inner.shares.holds(hash)
    }

    /// Returns whether an asker may have a content and may know that it is here. For others the
    /// content must look as if it were not here. Reads memory only.
    pub fn may_have(&self, asker: Asker<'_>, hash: &ContentHash) -> bool {
        let shared = self.inner.shares.shared_for(hash);
        admission::admits(asker, hash, shared, &self.inner.names)
    }

    /// Returns the folder of the share of each file that may have a content. Reads memory only.
    pub fn share_dirs(&self, hash: &ContentHash) -> Vec<PathBuf> {
        self.inner.shares.dirs_with(hash)
    }

    /// Returns the disk on which a content would be read: the folder of the first share that has
    /// it, or `None` for the cache. Reads memory only.
    pub fn disk_of(&self, hash: &ContentHash) -> Option<PathBuf> {
        let is_cached = self.inner.cache.is_complete(hash);
        let dirs = (!is_cached).then(|| self.share_dirs(hash));
        dirs.into_iter().flatten().next()
    }

    /// Returns the file of the cache in which fetched bytes of a content are stored. Returns `None`
    /// if the cache gives none; the fetch then goes on in memory. Blocking.
    pub fn place(&self, content: &ContentKey) -> Option<CacheFile> {
        let file = self.inner.cache.file(content.hash, content.size_bytes);
        file.ok()
    }

    /// Opens a file with all bytes of a content: the own file with this name if it is as it was
    /// when it was hashed, else the complete file of the cache. Blocking.
    pub fn local_file(
        &self,
        hash: &ContentHash,
        own: Option<&(ShareIndex, SharedPath)>,
    ) -> Option<File> {
        let own = own.and_then(|(share, path)| self.inner.shares.own_with(*share, path, hash).ok());
        own.or_else(|| {
            let cached = self.inner.cache.existing(hash).ok()??;
            opened_anew(&*cached.backing()?).ok()
        })
    }

    /// Returns whether an own file with this content can be opened and is as it was when it was
    /// hashed. Blocking.
    pub fn has_unchanged_file(&self, hash: &ContentHash) -> bool {
        self.inner.shares.source(hash).is_ok()
    }

    /// Opens the sources of a content for a reader: the file of the cache, and an own file. Blocking.
    pub(super) fn sources(
        &self,
        hash: &ContentHash,
    ) -> (
        Result<Option<CacheFile>, CacheError>,
        Result<ShareFile, ShareError>,
    ) {
        let inner = &self.inner;
        (inner.cache.existing(hash), inner.shares.provable(hash))
    }

    /// Opens an own file with a content. Returns `None` if no share lists the content, which is
    /// known without the disk. Blocking.
    pub(super) fn shared_file(&self, hash: &ContentHash) -> Option<Result<ShareFile, ShareError>> {
        let shares = &self.inner.shares;
        shares.holds(hash).then(|| shares.provable(hash))
    }

    /// Opens an own file in its present state. Blocking.
    pub fn own_file(&self, own: &(ShareIndex, SharedPath)) -> Option<File> {
        self.inner.shares.own(own.0, &own.1).ok()
    }

    /// Returns the present attributes of an own file. Returns `None` if it no longer exists. It makes
    /// at most one `stat`.
    pub fn own_attributes(&self, own: &(ShareIndex, SharedPath)) -> Option<LiveAttributes> {
        let now = self.inner.shares.stat(own.0, &own.1).ok()?;
        Some(live_attributes(now))
    }

    /// Returns a function that reads the attributes of the own files in one directory, which is
    /// opened once. Returns `None` if the directory no longer exists.
    pub fn own_attributes_in(&self, share: ShareIndex, directory: &SharedPath) -> Option<LiveLook> {
        let stat = self.inner.shares.stats_in(share, directory).ok()?;
        Some(Box::new(move |name| stat(name).ok().map(live_attributes)))
    }

    /// Returns the present namespace.
    pub(super) fn view(&self) -> Guard<Arc<View>> {
        self.inner.names.view.load()
    }

    /// Returns the bytes of a range with their proof, from any source that has them. The file stays
    /// open for the next request. Reads and hashes. Blocking.
    ///
    /// # Errors
    /// [`ProofError`].
    pub fn prove(&self, content: &ContentKey, range: ByteRange) -> Result<Bytes, ProofError> {
        let mut outcome = ProofError::NotHere;
        // a kept file may be gone while another source has the bytes
        for _ in 0..2 {
            let file = match self.keep_open(&content.hash, range) {
                Ok(file) => file,
                Err(ProofError::NotHere) => break,
                Err(why) => return Err(why),
            };
            if file.size_bytes() != content.size_bytes {
                return Err(ProofError::NotHere);
            }
            match file.encode(range, &self.inner.pieces) {
                Ok(bytes) => return Ok(bytes),
                // the cache's partial file was used because no share could prove the content; the
                // share's reason may be a passing one, and then it is the better answer
                Err(ProofError::NotHere) if !file.is_whole() => {
                    let shared = self.inner.shares.source(&content.hash).err();
                    outcome = shared.map_or(ProofError::NotHere, ProofError::from);
                }
                Err(why) => outcome = why,
            }
            let stale = self.inner.kept.lock().remove(&content.hash);
            drop(stale);
        }
        Err(outcome)
    }

    /// Returns whether a whole own file must be hashed before a range of this content can be proven.
    /// Reads memory only.
    pub fn lacks_outboard(&self, content: &ContentKey, range: ByteRange) -> bool {
        let hash = &content.hash;
        if !self.inner.shares.lacks_outboard(content) || self.inner.cache.is_complete(hash) {
            return false;
        }
        let purpose = Purpose::Range(range);
        let kept = self.inner.kept.lock().get(Instant::now(), hash, purpose);
        !matches!(kept, Some(ProvableFile::Shared(file)) if file.has_outboard())
    }

    /// Hashes a whole own file, so that ranges of its content can be proven. The file stays open for
    /// the next request. If it cannot be hashed, that request finds out why. Blocking.
    pub fn rebuild_outboard(&self, content: &ContentKey, range: ByteRange) {
        if let Ok(ProvableFile::Shared(file)) = self.keep_open(&content.hash, range) {
            let _known_later = file.load_outboard();
        }
    }

    /// Returns the bytes of a range with their proof if that needs no waiting: a file with them is
    /// kept open, and the bytes are in memory.
    pub fn prove_at_once(&self, content: &ContentKey, range: ByteRange) -> Option<Bytes> {
        let now = Instant::now();
        let purpose = Purpose::Range(range);
        let kept = self.inner.kept.lock().get(now, &content.hash, purpose);
        let file = kept.filter(|file| file.size_bytes() == content.size_bytes)?;
        file.encode_at_once(range, &self.inner.pieces)
    }

    /// Returns all bytes of a content with their proof. The file is not kept open, since a peer that
    /// requests a whole file does not ask for more of it. Blocking.
    ///
    /// # Errors
    /// [`ProofError`].
    pub fn prove_whole(&self, content: &ContentKey) -> Result<Bytes, ProofError> {
        let file = self.inner.find(&content.hash)?;
        if file.size_bytes() != content.size_bytes {
            return Err(ProofError::NotHere);
        }
        file.encode(ByteRange::new(0, content.size_bytes), &self.inner.pieces)
    }

    /// Returns what can be proven of a content. The file stays open for a moment, so that a request
    /// that follows need not open it again. Blocking.
    ///
    /// # Errors
    /// [`ProofError`].
    pub fn provable(&self, hash: &ContentHash) -> Result<Provable, ProofError> {
        let kept = self
            .inner
            .kept
            .lock()
            .get(Instant::now(), hash, Purpose::Offer);
        let file = match kept.filter(ProvableFile::is_current) {
            Some(file) => file,
            None => self.open_kept(hash, Purpose::Offer)?,
        };
        Ok(Provable {
            size_bytes: file.size_bytes(),
            is_whole: file.is_whole(),
            ranges: file.ranges(),
        })
    }

    /// Returns the kept file of a content, or opens one and keeps it open.
    fn keep_open(&self, hash: &ContentHash, range: ByteRange) -> Result<ProvableFile, ProofError> {
        let purpose = Purpose::Range(range);
        let kept = self.inner.kept.lock().get(Instant::now(), hash, purpose);
        kept.map_or_else(|| self.open_kept(hash, purpose), Ok)
    }

    fn open_kept(&self, hash: &ContentHash, purpose: Purpose) -> Result<ProvableFile, ProofError> {
        let file = self.inner.find(hash)?;
        // without a runtime, kept files stay open until others displace them
        let runtime = Handle::try_current().ok();
        let mut kept = self.inner.kept.lock();
        let closed = kept.put(Instant::now(), *hash, file.clone(), purpose);
        let sweeper = runtime.filter(|_| kept.begins_sweep());
        drop(kept);
        closed.into_iter().for_each(close_beside);
        if let Some(runtime) = sweeper {
            runtime.spawn(sweep(Arc::downgrade(&self.inner)));
        }
        Ok(file)
    }
}

impl StoreInner {
    /// Opens the file that can prove the most of a content: the whole one of the cache, then an own
    /// file, also one that was written since it was hashed, since the proof tells; then a part in
    /// the cache. A reader of this machine takes each range from the first source that has it.
    fn find(&self, hash: &ContentHash) -> Result<ProvableFile, ProofError> {
        let cached = || match self.cache.existing(hash)? {
            Some(file) => Ok(ProvableFile::Cached(file)),
            None => Err(ProofError::NotHere),
        };
        if self.cache.is_complete(hash) {
            return cached();
        }
        match self.shares.provable(hash) {
            Ok(file) => Ok(ProvableFile::Shared(file)),
            Err(_) if self.cache.cached_bytes(hash) > 0 => cached(),
            Err(why) => Err(why.into()),
        }
    }

    /// Closes the files without recent requests. Deleted files stay open for longer. Returns
    /// whether any file is still open. Blocking.
    fn close_expired(&self) -> bool {
        let now = Instant::now();
        let old = self.kept.lock().remove_expired(now);
        let (lost, unused): (Vec<_>, Vec<_>) = old.into_iter().partition(|it| it.1.is_nameless());
        drop(unused);
        let mut kept = self.kept.lock();
        let mut closed = kept.remove_expired_deleted(now);
        closed.extend(kept.retain_deleted(now, lost));
        kept.swept = !kept.is_empty();
        let swept = kept.swept;
        drop(kept);
        drop(closed);
        swept
    }
}

fn live_attributes(now: Attributes) -> LiveAttributes {
    LiveAttributes {
        size_bytes: now.size_bytes,
        mtime: now.mtime,
        executable: now.executable,
    }
}

async fn sweep(inner: Weak<StoreInner>) {
    loop {
        tokio::time::sleep(SWEEP_PERIOD).await;
        let Some(inner) = inner.upgrade() else { return };
        // closing files touches the disk; the cache reports failures
        let swept = tokio::task::spawn_blocking(move || inner.close_expired()).await;
        if !swept.unwrap_or(false) {
            return;
        }
    }
}

/// Closes a file on another thread if that may take long. The filesystem frees a deleted file at
/// its last close. This can take the journal a millisecond, longer than the answer for which this
/// file was displaced.
fn close_beside(file: ProvableFile) {
    match Handle::try_current() {
        Ok(runtime) if file.is_nameless() => drop(runtime.spawn_blocking(move || drop(file))),
        _ => drop(file),
    }
}
