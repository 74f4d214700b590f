//! The content that the filesystem reads: open versions and the sources of their bytes.
//!
//! Owns the open versions and the order of a version's sources. An own file that wins its name is
//! read live, in its current state, if it can be opened. Otherwise the sources are the cache, an
//! own shared file of equal content and the network, and bytes of other versions are never
//! returned. Nothing here blocks on the network.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use super::events::{EventLog, Fetched};
use super::failed_reads::ReadFailure;
use super::fixed::{FixedVersion, MissedReason};
use super::foreign::ForeignPeers;
use super::names::Names;
use super::open_versions::{OpenSlot, OpenVersions};
use super::published::{Outdated, Published};
use super::read_counters::{CacheOpens, OpenCount, ReadCounters};
use super::read_end::{ReadEnd, WatchedVersion};
use p2pfs_catalogue::View;
use p2pfs_content::ContentStore;
use p2pfs_fetch::TransferError;
use p2pfs_fetch::plan::PlanError;
use p2pfs_fs::{
    Content, FileVersion, ForeignFiles, FsError, LiveAttributes, LiveLook, OpenContent, Opened,
    PageDropper, ReadNow, ReadReply, ReadWait, Space, WholeFile,
};
use p2pfs_proto::wire::native::record::ShareIndex;
use p2pfs_transfer::batches::{Batches, SmallFile};
use p2pfs_transfer::{Fetcher, Read, ReadReply as TransferReply};
use p2pfs_types::digest::ContentKey;
use p2pfs_types::extent::ByteRange;
use p2pfs_types::files::read_full_at;
use p2pfs_types::path::SharedPath;

/// How long a read of a version waits without progress if no log names the version and no known
/// node has it. A node that still has a part of the version can offer it within this time.
const UNNAMED_GRACE: Duration = Duration::from_secs(1);

/// The bytes and names of the node, as the filesystem sees them. Each call uses the state that the
/// event loop published last.
pub struct NodeContent {
    pub(super) names: Names,
    pub(super) published: Published,
    pub(super) changes: mpsc::Sender<Outdated>,
    /// Queue to the event loop for the ends of reads that may change the ranking of versions.
    pub(super) read_ends: mpsc::Sender<ReadEnd>,
    pub(super) store: ContentStore,
    pub(super) fetcher: Fetcher,
    pub(super) batches: Batches,
    pub(super) read_deadline: Duration,
    pub(super) open: OpenVersions,
    pub(super) reads: ReadCounters,
    pub(super) foreign: Option<Arc<dyn ForeignPeers>>,
}

/// An open version. It counts as open until it is dropped.
struct OpenVersion {
    content: Arc<NodeContent>,
    source: VersionSource,
    watch: WatchedVersion,
    count: OpenCount,
    _slot: OpenSlot,
}

/// Records that a read of a version failed.
struct FailureRecord {
    content: ContentKey,
    /// The path under which the version was opened; the root if it was opened by its hash.
    path: SharedPath,
    view: Arc<ArcSwap<View>>,
    events: EventLog,
}

impl FailureRecord {
    /// Records the failure, unless the reader itself or the end of the node ended the read. `why`
    /// is the error of the transfer, if there was one.
    fn record(&self, ended: FsError, why: Option<&TransferError>) {
        let Some(failure) = ReadFailure::of(ended) else {
            return;
        };
        let ContentKey { hash, size_bytes } = self.content;
        let details = match (failure, why) {
            // Only the transfer knows what the disk said.
            (ReadFailure::Disk, Some(why)) => why.to_string(),
            _ => ended.to_string(),
        };
        let last_name = || self.view.load().contents().last_name_of(&hash);
        let fetched = || Fetched {
            hash,
            size_bytes,
            name: Some(self.path.clone())
                .filter(|path| !path.is_root())
                .or_else(last_name),
        };
        let events = &self.events;
        events.record_failed_read(fetched, hash, failure, &details);
    }
}

/// The source of an open version's bytes.
enum VersionSource {
    /// The own shared file that wins its name, in its current state.
    Live(Arc<File>),
    /// A content that does not change.
    Fixed(FixedVersion),
}

impl NodeContent {
    /// Returns the number of reads that wait for bytes now.
    pub fn waiting_reads(&self) -> u64 {
        self.reads.waiting()
    }

    /// Returns how many opened versions of other nodes' files had the bytes of their first read in
    /// the cache, and how many did not, since the start.
    pub fn cache_opens(&self) -> CacheOpens {
        self.reads.cache_opens()
    }

    /// Returns the number of open versions.
    pub fn open_versions(&self) -> usize {
        self.open.count()
    }

    /// Opens a version for reads of exactly its content, even if it is an own file. If that file
    /// changes meanwhile, the reads need another source or fail.
    ///
    /// # Errors
    /// `TooManyHandles` if the limit of open versions is reached. If the bytes cannot be read here
    /// now and no other node has them: `TooManyHandles`, `Unreachable` or `Gone`.
    pub fn open_unchanging(
        self: Arc<Self>,
        file: &FileVersion,
    ) -> Result<Arc<dyn OpenContent>, FsError> {
        let source = VersionSource::Fixed(self.open_fixed(file)?);
        Ok(OpenVersion::new(self, file, source)?)
    }

    fn open_fixed(&self, file: &FileVersion) -> Result<FixedVersion, FsError> {
        let version = FixedVersion::open(file, &self.store);
        let view = self.published.view.load();
        // If another node has the content, reads can do without the local copy.
        match version.hindrance() {
            Some(MissedReason::Want) if view.contents().is_mine_alone(&file.hash) => {
                Err(FsError::TooManyHandles)
            }
            Some(MissedReason::Beginning) if view.contents().is_mine_alone(&file.hash) => {
                Err(FsError::Unreachable)
            }
            // The own file may have changed, and no other node lists this content.
            Some(MissedReason::Unsettled) if !view.contents().is_elsewhere(&file.hash) => {
                Err(FsError::Gone)
            }
            _ => Ok(version),
        }
    }

    /// Returns how long a read of a version waits without progress.
    fn patience(&self, version: &FixedVersion, now: &View) -> Duration {
        let content = version.content();
        let (hash, contents) = (&content.hash, now.contents());
        let is_listed = contents.is_named(hash) || contents.is_elsewhere(hash);
        if is_listed || self.fetcher.has_holder(&content) {
            self.read_deadline
        } else {
            self.read_deadline.min(UNNAMED_GRACE)
        }
    }

    /// Returns the means to record that a read of a version failed.
    fn failure_of(&self, version: &FixedVersion) -> FailureRecord {
        FailureRecord {
            content: version.content(),
            path: version.path().clone(),
            view: self.published.view.clone(),
            events: self.reads.events.clone(),
        }
    }

    /// Records the close of a version of which bytes were fetched.
    fn record_close(&self, version: &FixedVersion, watch: &WatchedVersion) {
        let view = self.published.view.load();
        let supply = || self.fetcher.supply(&version.content());
        if let Some(end) = watch.closed(&view, supply) {
            // If the queue is full, the next version that is given whole reports it.
            let _busy = self.read_ends.try_send(end);
        }
    }

    /// Closes the cached files that are kept open for expected readers.
    pub fn close_idle(&self) {
        self.batches.close_idle();
    }

    /// Reads bytes of a file that arrived in a batch and is not stored in the cache yet. Returns
    /// [`ReadNow::Wait`] if there is no such file, or if it ends before the range.
    fn read_batched(&self, file: &SmallFile, offset: u64, buffer: &mut [u8]) -> ReadNow {
        let Some(bytes) = self.batches.here(file) else {
            return ReadNow::Wait;
        };
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        match bytes.get(start..).and_then(|rest| rest.get(..buffer.len())) {
            Some(part) => {
                buffer.copy_from_slice(part);
                ReadNow::Done(part.len())
            }
            None => ReadNow::Wait,
        }
    }

    fn fetch(
        &self,
        (version, watch): (&FixedVersion, &WatchedVersion),
        range: ByteRange,
        ahead: bool,
        reply: ReadReply,
    ) -> ReadWait {
        let (content, view) = (version.content(), Arc::clone(&self.published.view));
        let hash = content.hash;
        let now = view.load();
        let failure = self.failure_of(version);
        // No other node has the content, and the own file that had it has changed.
        let is_gone = now.contents().is_mine_alone(&hash)
            || (version.was_shared() && !now.contents().is_elsewhere(&hash));
        if is_gone {
            failure.record(FsError::Gone, None);
            reply(Err(FsError::Gone));
            return ReadWait::ended();
        }
        let deadline = Instant::now() + self.patience(version, &now);
        let waiting = self.reads.begin_waiting();
        let fetcher = &self.fetcher;
        let (read_ends, watch, sources) = (self.read_ends.clone(), watch.clone(), fetcher.clone());
        let answer: TransferReply = Box::new(move |result| {
            drop(waiting);
            let now = view.load();
            let outcome = result.as_ref().map(|_| ());
            let supply = || sources.supply(&content);
            if let Some(end) = watch.end_of(Instant::now(), outcome, &now, supply) {
                // If the queue is full, the next read reports it.
                let _busy = read_ends.try_send(end);
            }
            reply(result.map_err(|error| {
                let ended = read_failure(&error, now.contents().is_named(&hash));
                failure.record(ended, Some(&error));
                ended
            }));
        });
        let answer = match version.small() {
            Some(file) => match self.batches.read(file, range, deadline, answer) {
                Ok(wait) => return wait,
                Err(unused) => unused,
            },
            None => answer,
        };
        let mut read = Read::new(content, range, deadline, answer);
        read.ahead = ahead;
        fetcher.read(read)
    }
}

impl OpenVersion {
    fn new(
        content: Arc<NodeContent>,
        file: &FileVersion,
        source: VersionSource,
    ) -> Result<Arc<Self>, FsError> {
        let _slot = content.open.enter()?;
        let key = ContentKey::new(file.hash, file.size_bytes);
        let view = content.published.view.load();
        let watch = WatchedVersion::new(&view, &file.path, key, Instant::now());
        let count = OpenCount::default();
        match &source {
            VersionSource::Fixed(version) if version.was_shared() => count.leave_out(),
            VersionSource::Fixed(version) if version.is_partial() => {}
            VersionSource::Fixed(_) => count.hit(&content.reads),
            VersionSource::Live(_) => count.leave_out(),
        }
        Ok(Arc::new(Self {
            content,
            source,
            watch,
            count,
            _slot,
        }))
    }
}

impl Drop for OpenVersion {
    fn drop(&mut self) {
        let VersionSource::Fixed(version) = &self.source else {
            return;
        };
        if version.is_partial() {
            // The fetched bytes change the file's block count.
            let changed = Outdated::CachedBytes(version.content().hash);
            let _busy = self.content.changes.try_send(changed);
        }
        self.content.record_close(version, &self.watch);
    }
}

impl OpenContent for OpenVersion {
    fn read_now(&self, offset: u64, buffer: &mut [u8]) -> ReadNow {
        let VersionSource::Fixed(version) = &self.source else {
            return self.read_here(offset, buffer);
        };
        let mut read = self.read_here(offset, buffer);
        if read == ReadNow::Wait
            && let Some(file) = version.small()
        {
            read = self.content.read_batched(&file, offset, buffer);
            if matches!(read, ReadNow::Done(_)) {
                self.count.miss(&self.content.reads);
            }
        }
        if version.is_partial() && matches!(read, ReadNow::Done(_)) {
            // Local reads advance the reader too, and read-ahead must know the reader's position.
            let range = ByteRange::at(offset, buffer.len() as u64);
            self.content.fetcher.record_read(version.content(), range);
        }
        read
    }

    fn read_here(&self, offset: u64, buffer: &mut [u8]) -> ReadNow {
        match &self.source {
            VersionSource::Live(file) => read_live(file, offset, buffer),
            VersionSource::Fixed(version) => {
                let read = version.read_local(self.content.store.shares(), offset, buffer);
                if matches!(read, ReadNow::Done(_)) {
                    self.count.hit(&self.content.reads);
                }
                read
            }
        }
    }

    fn read(&self, range: ByteRange, ahead: bool, reply: ReadReply) -> ReadWait {
        match &self.source {
            VersionSource::Fixed(version) => {
                self.count.miss(&self.content.reads);
                let watched = (version, &self.watch);
                self.content.fetch(watched, range, ahead, reply)
            }
            VersionSource::Live(_) => {
                reply(Err(FsError::BadHandle));
                ReadWait::ended()
            }
        }
    }

    fn record_timeout(&self) {
        if let VersionSource::Fixed(version) = &self.source {
            let failure = self.content.failure_of(version);
            failure.record(FsError::DeadlinePassed, None);
        }
    }

    fn missing_bytes(&self, range: ByteRange) -> u64 {
        match &self.source {
            VersionSource::Fixed(version) if version.is_partial() => version.missing_bytes(range),
            _ => 0,
        }
    }

    fn arrived_bytes(&self, range: ByteRange) -> u64 {
        match &self.source {
            VersionSource::Fixed(version) => version.arrived_bytes(range),
            VersionSource::Live(_) => 0,
        }
    }

    fn backing(&self) -> Option<Arc<File>> {
        match &self.source {
            VersionSource::Fixed(version) => version.backing(),
            // The kernel and the writers of the file share its pages, so reads are live.
            VersionSource::Live(file) => Some(file.clone()),
        }
    }
}

impl Content for NodeContent {
    fn view(&self) -> Arc<View> {
        self.published.view.load_full()
    }

    fn open(self: Arc<Self>, file: &FileVersion) -> Result<Opened, FsError> {
        let live = file
            .own
            .as_ref()
            .and_then(|(share, path)| self.store.shares().own(*share, path).ok());
        let is_live = live.is_some();
        let source = match live {
            Some(file) => VersionSource::Live(Arc::new(file)),
            None => VersionSource::Fixed(self.open_fixed(file)?),
        };
        Ok(Opened {
            content: OpenVersion::new(self, file, source)?,
            live: is_live,
        })
    }

    fn ask_ahead(&self, files: &[WholeFile]) {
        if !self.fetcher.is_metered() {
            let small = |file: &WholeFile| SmallFile::new(file.hash, file.size_bytes);
            let files: Vec<SmallFile> = files.iter().map(small).collect();
            self.batches.ask(&files);
        }
    }

    fn cached_bytes(&self, file: &FileVersion) -> u64 {
        if file.own.is_some() {
            return file.size_bytes;
        }
        let content = ContentKey::new(file.hash, file.size_bytes);
        self.store.here(&content).bytes
    }

    fn sender(&self, file: &FileVersion) -> Option<String> {
        let sent_by = self.view().sent_by(&file.path, &file.hash)?;
        Some(self.names.of_sender(&sent_by))
    }

    fn live(&self, file: &FileVersion) -> Option<LiveAttributes> {
        let (share, path) = file.own.as_ref()?;
        self.store
            .shares()
            .stat(*share, path)
            .ok()
            .map(live_attributes)
    }

    fn live_in(&self, share: ShareIndex, directory: &SharedPath) -> Option<LiveLook> {
        let stat = self.store.shares().stats_in(share, directory).ok()?;
        Some(Box::new(move |name| stat(name).ok().map(live_attributes)))
    }

    fn space(&self) -> Space {
        let usage = self.store.cache().usage();
        Space {
            budget_bytes: usage.budget_bytes,
            used_bytes: usage.used_bytes,
        }
    }

    fn status_json(&self) -> Vec<u8> {
        self.published.status.load().as_ref().clone()
    }

    fn watch_damage(&self, drop_pages: PageDropper) {
        self.store.cache().add_damage_listener(drop_pages);
    }

    fn foreign(&self) -> Option<&dyn ForeignFiles> {
        self.foreign.as_ref()?.files()
    }
}

fn live_attributes(now: p2pfs_content::shares::Attributes) -> LiveAttributes {
    LiveAttributes {
        size_bytes: now.size_bytes,
        mtime: now.mtime,
        executable: now.executable,
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
mod tests {
    use super::*;

    fn errors_of(why: &PlanError) -> [FsError; 2] {
        [true, false].map(|is_named| read_failure(&why.clone().into(), is_named))
    }

    #[test]
    fn a_read_over_a_limit_of_this_node_is_enfile_and_not_late_or_gone() {
        assert_eq!(errors_of(&PlanError::TooMany), [FsError::TooManyHandles; 2]);
        // A retry can succeed at once.
        assert!(!FsError::TooManyHandles.is_worth_remembering());
        assert_eq!(
            ReadFailure::of(FsError::TooManyHandles),
            Some(ReadFailure::Limit)
        );
    }

    #[test]
    fn missing_bytes_of_an_unnamed_version_are_gone_and_those_of_a_named_one_are_not() {
        let of_named = [
            (PlanError::NoHolder, FsError::Unreachable),
            (PlanError::TimedOut, FsError::DeadlinePassed),
            (PlanError::Unanswered, FsError::DeadlinePassed),
            (PlanError::Refused, FsError::DeadlinePassed),
        ];
        for (why, named) in of_named {
            assert_eq!(errors_of(&why), [named, FsError::Gone], "{why}");
        }
        assert_eq!(errors_of(&PlanError::Gone), [FsError::Gone; 2]);
        assert_eq!(errors_of(&PlanError::OnlyLiars), [FsError::Unverified; 2]);
    }
}
