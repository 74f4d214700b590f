//! Open contents: the bytes that are here, and reads that wait for those that are not.
//!
//! An open file has an [`Origin`]. An own file that wins its name is read live, in its current state.
//! Any other content is fixed: its sources are the cache, an own shared file of equal content and
//! other nodes, in this order, and bytes of other versions are never returned.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use bytes::Bytes;

use super::counters::{CacheOpens, OpenCount, OpenSlot, OpenVersions, ReadCounters};
use super::store::{ContentStore, Origin};
use p2pfs_cache::{CacheError, CacheFile, ReadOutcome};
use p2pfs_catalogue::View;
use p2pfs_fetch::TransferError;
use p2pfs_fetch::plan::PlanError;
use p2pfs_fetch::session::Read;
use p2pfs_fs::{FileVersion, FsError, OpenContent, Opened, ReadNow, ReadReply, ReadWait};
use p2pfs_share::{ShareError, ShareFile};
use p2pfs_types::digest::ContentKey;
use p2pfs_types::extent::{ByteRange, ExtentSet};
use p2pfs_types::files::read_full_at;
use p2pfs_types::path::SharedPath;

/// How long a read of a version waits without progress if no log names the version and no known
/// node has it. A node that still has a part of the version can offer it within this time.
const UNNAMED_GRACE: Duration = Duration::from_secs(1);

/// Callback for the result of a read that waits for other nodes.
pub type SupplyReply = Box<dyn FnOnce(Result<Bytes, TransferError>) + Send>;

/// Supplier of the bytes that are not here. No method waits for the network.
pub trait RemoteBytes: Send + Sync {
    /// Fetches a range until the read's deadline, which is extended while bytes of the content
    /// arrive. It may call the reply before it returns.
    fn read(&self, read: Read<SupplyReply>) -> ReadWait;

    /// Fills the buffer with bytes that have arrived and are not stored. Returns whether it did.
    fn read_unstored(&self, content: &ContentKey, offset: u64, buffer: &mut [u8]) -> bool;

    /// Records that a range was read without [`RemoteBytes::read`], so that read-ahead moves on.
    fn record_read(&self, content: ContentKey, range: ByteRange);

    /// Returns whether a node is known that has some of a content.
    fn has_holder(&self, content: &ContentKey) -> bool;
}

/// Receives what happens to opened versions.
pub trait ReadWatch: Send + Sync {
    /// Returns the watch of a version that is opened under a path. The path is the root if the
    /// version is opened by its hash.
    fn opened(&self, path: &SharedPath, content: ContentKey) -> Arc<dyn OpenWatch>;
}

/// Receives what happens to one open version.
pub trait OpenWatch: Send + Sync {
    /// Records that the wait of a reader for bytes of other nodes ended.
    fn wait_ended(&self, outcome: Result<(), &TransferError>);

    /// Records that a read failed with this error. `why` is the error of the transfer, if there was
    /// one.
    fn failed(&self, error: FsError, why: Option<&TransferError>);

    /// Records that the version was closed, and whether bytes of it were fetched or still lack.
    fn closed(&self, is_partial: bool);
}

/// Opens contents for the readers of this machine. Clones share their state.
#[derive(Clone)]
pub struct ContentOpener(Arc<OpenerInner>);

struct OpenerInner {
    store: ContentStore,
    remote: Arc<dyn RemoteBytes>,
    watch: Arc<dyn ReadWatch>,
    read_deadline: Duration,
    counters: ReadCounters,
    open: OpenVersions,
}

impl ContentOpener {
    /// Creates an opener of the contents of a store. `remote` supplies what is not here, and a read
    /// that waits for it ends after `read_deadline` without progress.
    pub fn new(
        store: ContentStore,
        remote: Arc<dyn RemoteBytes>,
        watch: Arc<dyn ReadWatch>,
        read_deadline: Duration,
    ) -> Self {
        Self(Arc::new(OpenerInner {
            store,
            remote,
            watch,
            read_deadline,
            counters: ReadCounters::default(),
            open: OpenVersions::default(),
        }))
    }

    /// Opens a version for reading. If its own file wins the name and can be opened, the reads
    /// return that file's bytes as they are at the time. Blocking.
    ///
    /// # Errors
    /// As [`ContentOpener::open_unchanging`].
    pub fn open(&self, file: &FileVersion) -> Result<Opened, FsError> {
        let live = file.own.as_ref().and_then(|own| self.0.store.own_file(own));
        let is_live = live.is_some();
        let bytes = match live {
            Some(live) => OpenBytes::Live(Arc::new(live)),
            None => OpenBytes::Fixed(self.open_fixed(file)?),
        };
        Ok(Opened {
            content: self.handle(file, bytes)?,
            live: is_live,
        })
    }

    /// Opens a version for reads of exactly its content, even if it is an own file. If that file
    /// changes meanwhile, the reads need another source or fail. Blocking.
    ///
    /// # Errors
    /// `TooManyHandles` if the limit of open versions is reached. If the bytes cannot be read here
    /// now and no other node has them: `TooManyHandles`, `Unreachable` or `Gone`.
    pub fn open_unchanging(&self, file: &FileVersion) -> Result<Arc<ContentHandle>, FsError> {
        let bytes = OpenBytes::Fixed(self.open_fixed(file)?);
        self.handle(file, bytes)
    }

    fn open_fixed(&self, file: &FileVersion) -> Result<FixedBytes, FsError> {
        let bytes = FixedBytes::open(file, &self.0.store);
        let view = self.0.store.view();
        // If another node has the content, reads can do without the local copy.
        match bytes.hindrance() {
            Some(Hindrance::Want) if view.contents().is_mine_alone(&file.hash) => {
                Err(FsError::TooManyHandles)
            }
            Some(Hindrance::Beginning) if view.contents().is_mine_alone(&file.hash) => {
                Err(FsError::Unreachable)
            }
            // The own file may have changed, and no other node lists this content.
            Some(Hindrance::Unsettled) if !view.contents().is_elsewhere(&file.hash) => {
                Err(FsError::Gone)
            }
            _ => Ok(bytes),
        }
    }

    fn handle(&self, file: &FileVersion, bytes: OpenBytes) -> Result<Arc<ContentHandle>, FsError> {
        let slot = self.0.open.enter()?;
        let content = ContentKey::new(file.hash, file.size_bytes);
        let count = OpenCount::default();
        match bytes.origin() {
            Some(Origin::Live | Origin::Shared) => count.leave_out(),
            Some(Origin::Cached) if bytes.is_partial() => {}
            Some(Origin::Cached) => count.hit(&self.0.counters),
            None => {}
        }
        Ok(Arc::new(ContentHandle {
            opener: self.clone(),
            watch: self.0.watch.opened(&file.path, content),
            bytes,
            count,
            _slot: slot,
        }))
    }

    /// Returns the count of open versions. Peers of other protocols add their files to it.
    pub fn open_versions(&self) -> &OpenVersions {
        &self.0.open
    }

    /// Returns the number of reads that wait for bytes now.
    pub fn waiting_reads(&self) -> u64 {
        self.0.counters.waiting()
    }

    /// Returns how many opened versions of other nodes' files had the bytes of their first read in
    /// the cache, and how many did not, since the start.
    pub fn cache_opens(&self) -> CacheOpens {
        self.0.counters.cache_opens()
    }
}

/// An open content. Dropping it closes it, which may wait for a disk.
pub struct ContentHandle {
    opener: ContentOpener,
    bytes: OpenBytes,
    watch: Arc<dyn OpenWatch>,
    count: OpenCount,
    _slot: OpenSlot,
}

/// The bytes of an open content on this machine.
enum OpenBytes {
    /// The own shared file that wins its name, in its current state.
    Live(Arc<File>),
    /// A content that does not change.
    Fixed(FixedBytes),
}

impl OpenBytes {
    /// Returns where the bytes of the next read come from if they are here. `None` if no file of
    /// this machine can have them.
    fn origin(&self) -> Option<Origin> {
        match self {
            Self::Live(_) => Some(Origin::Live),
            Self::Fixed(fixed) if fixed.was_shared() => Some(Origin::Shared),
            Self::Fixed(fixed) => fixed.cached.as_ref().map(|_| Origin::Cached),
        }
    }

    /// Returns whether some bytes may have to come from other nodes.
    fn is_partial(&self) -> bool {
        match self {
            Self::Live(_) => false,
            Self::Fixed(fixed) => fixed.is_partial(),
        }
    }
}

impl ContentHandle {
    /// Fetches a range of a content that is not here.
    fn fetch(
        &self,
        fixed: &FixedBytes,
        range: ByteRange,
        ahead: bool,
        reply: ReadReply,
    ) -> ReadWait {
        let opener = &*self.opener.0;
        let (content, view) = (fixed.content, opener.store.view());
        let hash = content.hash;
        // No other node has the content, and the own file that had it has changed.
        let is_gone = view.contents().is_mine_alone(&hash)
            || (fixed.was_shared() && !view.contents().is_elsewhere(&hash));
        if is_gone {
            self.watch.failed(FsError::Gone, None);
            reply(Err(FsError::Gone));
            return ReadWait::ended();
        }
        let deadline = Instant::now() + opener.patience(&content, &view);
        let waiting = opener.counters.begin_waiting();
        let (watch, store) = (self.watch.clone(), opener.store.clone());
        let answer: SupplyReply = Box::new(move |result| {
            drop(waiting);
            watch.wait_ended(result.as_ref().map(|_| ()));
            reply(result.map_err(|error| {
                let is_named = store.view().contents().is_named(&hash);
                let ended = read_failure(&error, is_named);
                watch.failed(ended, Some(&error));
                ended
            }));
        });
        let mut read = Read::new(content, range, deadline, answer);
        read.ahead = ahead;
        opener.remote.read(read)
    }
}

impl OpenerInner {
    /// Returns how long a read of a content waits without progress.
    fn patience(&self, content: &ContentKey, view: &View) -> Duration {
        let (hash, contents) = (&content.hash, view.contents());
        let is_listed = contents.is_named(hash) || contents.is_elsewhere(hash);
        if is_listed || self.remote.has_holder(content) {
            self.read_deadline
        } else {
            self.read_deadline.min(UNNAMED_GRACE)
        }
    }
}

impl Drop for ContentHandle {
    fn drop(&mut self) {
        if let OpenBytes::Fixed(fixed) = &self.bytes {
            self.watch.closed(fixed.is_partial());
        }
    }
}

impl OpenContent for ContentHandle {
    fn read_now(&self, offset: u64, buffer: &mut [u8]) -> ReadNow {
        let mut read = self.read_here(offset, buffer);
        let OpenBytes::Fixed(fixed) = &self.bytes else {
            return read;
        };
        let opener = &*self.opener.0;
        if read == ReadNow::Wait && opener.remote.read_unstored(&fixed.content, offset, buffer) {
            self.count.miss(&opener.counters);
            read = ReadNow::Done(buffer.len());
        }
        if fixed.is_partial() && matches!(read, ReadNow::Done(_)) {
            // Local reads advance the reader too, and read-ahead must know the reader's position.
            let range = ByteRange::at(offset, buffer.len() as u64);
            opener.remote.record_read(fixed.content, range);
        }
        read
    }

    fn read_here(&self, offset: u64, buffer: &mut [u8]) -> ReadNow {
        let opener = &*self.opener.0;
        match &self.bytes {
            OpenBytes::Live(file) => read_live(file, offset, buffer),
            OpenBytes::Fixed(fixed) => {
                let read = fixed.read(&opener.store, offset, buffer);
                if matches!(read, ReadNow::Done(_)) {
                    self.count.hit(&opener.counters);
                }
                read
            }
        }
    }

    fn read(&self, range: ByteRange, ahead: bool, reply: ReadReply) -> ReadWait {
        match &self.bytes {
            OpenBytes::Fixed(fixed) => {
                self.count.miss(&self.opener.0.counters);
                self.fetch(fixed, range, ahead, reply)
            }
            OpenBytes::Live(_) => {
                reply(Err(FsError::BadHandle));
                ReadWait::ended()
            }
        }
    }

    fn record_timeout(&self) {
        if let OpenBytes::Fixed(_) = &self.bytes {
            self.watch.failed(FsError::DeadlinePassed, None);
        }
    }

    fn missing_bytes(&self, range: ByteRange) -> u64 {
        match &self.bytes {
            OpenBytes::Fixed(fixed) if fixed.is_partial() => fixed.missing_bytes(range),
            _ => 0,
        }
    }

    fn arrived_bytes(&self, range: ByteRange) -> u64 {
        match &self.bytes {
            OpenBytes::Fixed(fixed) => fixed.arrived_bytes(range),
            OpenBytes::Live(_) => 0,
        }
    }

    fn backing(&self) -> Option<Arc<File>> {
        match &self.bytes {
            OpenBytes::Fixed(fixed) => fixed.cached.as_ref()?.backing(),
            // The kernel and the writers of the file share its pages, so reads are live.
            OpenBytes::Live(file) => Some(file.clone()),
        }
    }
}

/// The bytes of a content that does not change. It never returns a byte of another version.
struct FixedBytes {
    content: ContentKey,
    /// The cache file, held open so that it is not evicted. `None` if the cache could not open it,
    /// or if the cache did not have it and an own share had the content.
    cached: Option<CacheFile>,
    /// The last file found in the own shares with the same content.
    shared: ArcSwapOption<ShareFile>,
    /// The ranges that were here when the version was opened; the whole file if nothing was
    /// missing.
    at_open: ExtentSet,
    hindrance: Option<Hindrance>,
}

/// The reason why a content was not found although it may be here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hindrance {
    /// Too few descriptors or too little memory.
    Want,
    /// Some shares had not been added yet.
    Beginning,
    /// An own file that had the content has just been renamed or replaced.
    Unsettled,
}

impl FixedBytes {
    /// Opens the local bytes of a version. Reads the disk.
    fn open(file: &FileVersion, store: &ContentStore) -> Self {
        let content = ContentKey::new(file.hash, file.size_bytes);
        let (cached, shared) = store.sources(&file.hash);
        let hindrance = hindrance(cached.as_ref().err(), shared.as_ref().err());
        // The size of cached bytes was proven. If this version states another size, the cached
        // bytes are not its bytes.
        let cached = cached.ok().flatten();
        let cached = cached.filter(|cached| cached.size_bytes() == file.size_bytes);
        let shared = of_size(shared, file.size_bytes);
        // With a shared file, no room in the cache is needed.
        let cached = match (&shared, cached) {
            (_, Some(cached)) => Some(cached),
            (Some(_), None) => None,
            (None, None) => store.place(&content),
        };
        let mut bytes = Self {
            content,
            cached,
            shared: ArcSwapOption::from(shared),
            at_open: ExtentSet::new(),
            hindrance,
        };
        if bytes.is_partial() {
            let present = bytes.cached.as_ref().map(CacheFile::present);
            bytes.at_open = present.unwrap_or_default();
        } else {
            bytes.at_open.insert(ByteRange::new(0, file.size_bytes));
        }
        bytes
    }

    /// Returns whether some bytes may still have to come from other nodes.
    fn is_partial(&self) -> bool {
        let is_complete = |cached: &CacheFile| cached.is_complete();
        !self.was_shared() && !self.cached.as_ref().is_some_and(is_complete)
    }

    /// Returns whether a file in the own shares had the content at the open or at a later read.
    fn was_shared(&self) -> bool {
        self.shared.load().is_some()
    }

    /// Returns why bytes that may be here were not found at the open. Returns `None` if there was
    /// no such reason, or if no bytes are missing.
    fn hindrance(&self) -> Option<Hindrance> {
        self.hindrance.filter(|_| self.is_partial())
    }

    /// Returns how many bytes of a range the cache lacks now.
    fn missing_bytes(&self, range: ByteRange) -> u64 {
        let cached = self.cached.as_ref();
        cached.map_or(range.len(), |cached| cached.missing_in(range).len())
    }

    /// Returns how many bytes of a range were not here when the version was opened.
    fn arrived_bytes(&self, range: ByteRange) -> u64 {
        if self.at_open.contains(range) {
            0
        } else {
            self.at_open.missing_in(range).len()
        }
    }

    /// Reads the bytes that are here, without waiting for the network: those of the cache, even if
    /// it has a part only, then those of an own file. [`ContentStore::prove`] prefers the own file to a
    /// part in the cache, because it must keep one file for all ranges of a peer.
    fn read(&self, store: &ContentStore, offset: u64, buffer: &mut [u8]) -> ReadNow {
        let wanted = ByteRange::at(offset, buffer.len() as u64);
        if wanted.end > self.content.size_bytes {
            return ReadNow::Failed(FsError::Fault);
        }
        // If the cache's disk fails, the bytes come from an own share or another node.
        let cached = self.cached.as_ref();
        let read = cached.map(|cached| cached.read_at(offset, buffer));
        if let Some(Ok(ReadOutcome::Ready(length))) = read {
            return ReadNow::Done(length);
        }
        let known = self.shared.load_full();
        let read = known.map(|shared| read_shared(&shared, offset, buffer));
        if let Some(ReadNow::Done(length)) = read {
            return ReadNow::Done(length);
        }
        match self.find_shared(store) {
            Some(shared) => read_shared(&shared, offset, buffer),
            None => ReadNow::Wait,
        }
    }

    /// Returns a file in the own shares that has the content now, even if it did not exist when the
    /// version was opened.
    fn find_shared(&self, store: &ContentStore) -> Option<Arc<ShareFile>> {
        let ContentKey { hash, size_bytes } = self.content;
        let found = store.shared_file(&hash)?;
        let shared = of_size(found, size_bytes)?;
        self.shared.store(Some(shared.clone()));
        Some(shared)
    }
}

fn hindrance(cached: Option<&CacheError>, shared: Option<&ShareError>) -> Option<Hindrance> {
    if cached.is_some_and(CacheError::is_want) {
        return Some(Hindrance::Want);
    }
    match shared.filter(|error| error.is_want())? {
        ShareError::Missed => Some(Hindrance::Unsettled),
        ShareError::Beginning => Some(Hindrance::Beginning),
        _ => Some(Hindrance::Want),
    }
}

fn of_size(found: Result<ShareFile, ShareError>, size_bytes: u64) -> Option<Arc<ShareFile>> {
    let found = found.ok().filter(|file| file.size_bytes() == size_bytes);
    found.map(Arc::new)
}

/// Reads an own file with this content.
fn read_shared(shared: &ShareFile, offset: u64, buffer: &mut [u8]) -> ReadNow {
    match shared.read_content(offset, buffer) {
        Ok(length) if length == buffer.len() => ReadNow::Done(length),
        _ => ReadNow::Wait,
    }
}

fn read_live(file: &File, offset: u64, buffer: &mut [u8]) -> ReadNow {
    let read = read_full_at(file, buffer, offset);
    read.map_or(ReadNow::Failed(FsError::Disk), ReadNow::Done)
}

/// Maps a failed fetch to the error of the read. If no log names the version, not even that of a
/// dead node (`is_named`), the version was replaced. Then the error is `Gone` in place of
/// `Unreachable` or `DeadlinePassed`.
fn read_failure(error: &TransferError, is_named: bool) -> FsError {
    match error {
        TransferError::Plan(why) => plan_failure(why, is_named),
        TransferError::Cancelled => FsError::Interrupted,
        TransferError::CacheFull | TransferError::Cache { .. } => FsError::Disk,
        TransferError::OutOfRange { .. } => FsError::Fault,
        TransferError::Stopped => FsError::Stopping,
    }
}

fn plan_failure(why: &PlanError, is_named: bool) -> FsError {
    match why {
        // A limit of this node says nothing about the version. The error is not `Busy`, because
        // programs take EAGAIN from a read for the end of the data that is there. Python returns
        // such a short result without an error.
        PlanError::TooMany => FsError::TooManyHandles,
        PlanError::OnlyLiars => FsError::Unverified,
        PlanError::Gone => FsError::Gone,
        PlanError::NoHolder | PlanError::TimedOut | PlanError::Unanswered | PlanError::Refused
            if !is_named =>
        {
            FsError::Gone
        }
        PlanError::NoHolder => FsError::Unreachable,
        PlanError::TimedOut | PlanError::Unanswered | PlanError::Refused => FsError::DeadlinePassed,
    }
}

#[cfg(test)]
mod tests;
