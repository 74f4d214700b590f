//! The set of all folders that this node shares: the interface of this crate.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::fs::{AtFlags, FileType, fstat, statat};
use tokio::sync::{mpsc, watch};

use super::beneath::{self, Beneath};
use super::config::{
    Attributes, EVENT_QUEUE_EVENTS, Form, Known, MissingShare, ShareConfig, ShareEvent, ShareSpec,
    ShareStatus,
};
use super::error::ShareError;
use super::exclude::Exclude;
use super::former_numbers::FormerNumbers;
use super::identity::NameStat;
use super::ledger::{LEDGER_FILE, ShareLedger};
use super::left_out::LeftOut;
use super::outboards::{Outboards, SMALL_FILE_MAX_BYTES};
use super::scanner::Scanner;
use super::shared::{Intervals, SharedState};
use super::source::{self, ShareFile, SourceSearch};
use super::state::ListingState;
use super::status::{SharedFor, StatusView};
use super::writable::{WritableFolder, WriteAccess};
use super::{folder, hasher};
use p2pfs_proto::wire::native::record::ShareIndex;
use p2pfs_types::digest::{ContentHash, ContentKey};
use p2pfs_types::files::trusted_way::reach;
use p2pfs_types::files::{make_private_dir, without_links_above};
use p2pfs_types::path::{SharedPath, check_name};

/// How long after the start a content that is not found is answered with [`ShareError::Beginning`]
/// at most. It ends when the caller reports that all shares were added ([`ShareSet::all_added`]).
/// Without this bound, a folder on a disk that hangs would make other nodes wait forever.
const BEGINNING_MAX: Duration = Duration::from_secs(10);
/// How long dropping the set waits for all of its threads together. A thread that is blocked on a
/// disk may never end.
const ENDS_WITHIN: Duration = Duration::from_secs(2);
/// Interval between two checks whether a thread has ended.
const END_PERIOD: Duration = Duration::from_millis(1);

/// All folders that this node shares. Clones refer to the same set. Dropping the last clone stops
/// the threads and, unless a thread is blocked on a disk, writes the pending state.
#[derive(Clone)]
pub struct ShareSet {
    pub(super) inner: Arc<ShareSetInner>,
}

pub(super) struct ShareSetInner {
    pub(super) shared: Arc<SharedState>,
    /// Until when a content that was not found may belong to a share that is not added yet.
    begins_until: Mutex<Option<Instant>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Serializes [`ShareSet::add`] and [`ShareSet::remove`]. Otherwise a share could be added
    /// between the check for overlaps and the change that this check permits.
    changing: Mutex<()>,
}

impl ShareSet {
    /// Opens the state and starts the threads. The receiver must be drained: a full queue pauses
    /// the scan without loss, and dropping the receiver ends the threads.
    ///
    /// # Errors
    /// [`ShareError::Locked`], [`ShareError::State`], [`ShareError::Damaged`],
    /// [`ShareError::Io`].
    pub fn open(config: ShareConfig) -> Result<(Self, mpsc::Receiver<ShareEvent>), ShareError> {
        make_private_dir(&config.state_dir)?;
        let ledger = ShareLedger::open(&config.state_dir.join(LEDGER_FILE))?;
        Self::open_with(config, ledger)
    }

    /// Starts the threads as [`Self::open`] does, with a ledger that is already open.
    pub fn open_with(
        config: ShareConfig,
        ledger: ShareLedger,
    ) -> Result<(Self, mpsc::Receiver<ShareEvent>), ShareError> {
        let (watch_limit, hash_threads) = (config.watch_limit, config.hash_threads);
        let shared = Arc::new(open_shared(config, ledger)?);
        let (sender, receiver) = mpsc::channel(EVENT_QUEUE_EVENTS);
        let inner = ShareSetInner {
            shared,
            begins_until: Mutex::new(Some(Instant::now() + BEGINNING_MAX)),
            threads: Mutex::default(),
            changing: Mutex::default(),
        };
        inner.start(sender, watch_limit, hash_threads)?;
        let inner = Arc::new(inner);
        Ok((Self { inner }, receiver))
    }

    /// Shares a folder, or gives new settings to a folder that is already shared. However, a
    /// resolved `spec` ([`ShareSpec::is_resolved`]) changes nothing if the folder is already shared
    /// under another name. A directory gets the same number each time it is added, unless another
    /// one needed the number meanwhile. Blocks for some system calls and a write of the state; the
    /// walk runs afterwards.
    ///
    /// # Errors
    /// [`ShareError::NotFound`], [`ShareError::NotDirectory`],
    /// [`ShareError::LeadsElsewhere`], [`ShareError::Planted`], [`ShareError::Unreadable`],
    /// [`ShareError::Closed`], [`ShareError::Refused`], [`ShareError::Overlaps`],
    /// [`ShareError::TooMany`], [`ShareError::BadPattern`], [`ShareError::State`],
    /// [`ShareError::Damaged`], [`ShareError::Io`].
    pub fn add(&self, spec: ShareSpec) -> Result<ShareIndex, ShareError> {
        let shared = &self.inner.shared;
        // before the lock: a disk that does not answer blocks only this call
        let dir = folder::check(&shared.beneath, &spec)?;
        let access = match shared.beneath.open_share(&dir) {
            Ok(folder) if spec.writable => shared.write_access(&dir).again(folder),
            _ => WriteAccess::Off,
        };
        let _alone = self.inner.changing.lock();
        let exclude = Exclude::new(&spec.exclude, spec.default_excludes);
        let exclude = exclude.map_err(|why| ShareError::BadPattern { why })?;
        let overlaps =
            |other: &Path| other != dir && (other.starts_with(&dir) || dir.starts_with(other));
        let state = shared.lock();
        let other = state
            .listing
            .shares
            .by_index
            .values()
            .map(|share| &share.dir)
            .find(|other| overlaps(other));
        if let Some(other) = other {
            return Err(ShareError::Overlaps {
                dir,
                other: other.to_path_buf(),
            });
        }
        // a folder that is already shared under another name, as in the configuration, keeps those
        // settings
        let mut shares = state.listing.shares.by_index.iter();
        let by_another = shares.find(|(_, it)| *it.dir == *dir && it.spec.dir != spec.dir);
        if let Some((index, _)) = by_another.filter(|_| spec.is_resolved) {
            return Ok(ShareIndex(*index));
        }
        let (ledger, in_use) = (state.listing.ledger.clone(), state.numbers_in_use());
        drop(state);
        let index = ledger.share_index(&dir, &spec.dir, &in_use)?;
        let mut state = shared.lock();
        state.add_share(index, &dir, &spec, Arc::new(exclude), access);
        shared.writable.update(&state.listing.shares);
        drop(state);
        shared.wake();
        Ok(ShareIndex(index))
    }

    /// Tries whether the mount could write into the folder of a share with these settings. Blocks on
    /// the disk.
    ///
    /// # Errors
    /// [`ShareError::NotWritable`], and the errors of [`Self::add`] about the folder.
    pub fn try_to_write(&self, spec: &ShareSpec) -> Result<(), ShareError> {
        let beneath = &self.inner.shared.beneath;
        let dir = folder::check(beneath, spec)?;
        let folder = beneath.open_share(&dir)?;
        let seen = NameStat::of(&fstat(&folder)?);
        if !spec.include_private && !seen.others_may_read() {
            let why = "others may not read it, so nothing in it is shared; chmod o+rx".to_owned();
            return Err(ShareError::NotWritable { dir, why });
        }
        match WriteAccess::to(folder) {
            WriteAccess::Refused { why, .. } => Err(ShareError::NotWritable { dir, why }),
            WriteAccess::Off | WriteAccess::Open(_) => Ok(()),
        }
    }

    /// Returns the folders that the mount writes into, deepest place first. Reads memory only.
    pub fn writable_folders(&self) -> Arc<[WritableFolder]> {
        self.inner.shared.writable.present()
    }

    /// Returns a receiver of the folders that the mount writes into, and of each change.
    pub fn watch_writable(&self) -> watch::Receiver<Arc<[WritableFolder]>> {
        self.inner.shared.writable.watch()
    }

    /// Stops sharing a folder. Each of its entries gets its [`ShareEvent::Removed`]. Also works for
    /// a folder that vanished, and for one that was shared in an earlier run and is still in the
    /// log.
    ///
    /// # Errors
    /// [`ShareError::NotShared`].
    pub fn remove(&self, dir: &Path) -> Result<(), ShareError> {
        // the name as given first: this needs no access to the disk, which may not answer
        if self.remove_named(dir) || self.remove_named(&without_links_above(dir)) {
            return Ok(());
        }
        Err(ShareError::NotShared {
            dir: dir.to_owned(),
        })
    }

    fn remove_named(&self, dir: &Path) -> bool {
        let _alone = self.inner.changing.lock();
        let shared = &self.inner.shared;
        let mut state = shared.lock();
        let mut shares = state.listing.shares.by_index.iter();
        let by_name = shares.clone().find(|(_, share)| *share.dir == *dir);
        // compare the given names as text: a link in one may lead elsewhere by now, or to a disk
        // that does not answer
        let offered = by_name.or_else(|| shares.find(|(_, share)| share.spec.dir == dir));
        let index = offered.map(|(index, _)| *index);
        let index = index.or_else(|| state.listing.ledger.known_share(dir));
        let removed = index.is_some_and(|index| state.remove_share(index));
        shared.writable.update(&state.listing.shares);
        drop(state);
        shared.wake();
        removed
    }

    /// Returns the handle through which the receiver of the events frees the numbers of removed
    /// shares.
    pub fn former_numbers(&self) -> FormerNumbers {
        FormerNumbers(Arc::downgrade(&self.inner.shared))
    }

    /// Declares that every configured share was added or cannot be added now. From now on, a
    /// content that is not found counts as absent.
    pub fn all_added(&self) {
        *self.inner.begins_until.lock() = None;
    }

    /// Announces all names as removed that the log has of shares that were not added. `missing`
    /// lists all configured shares that are not added; the names of those with `is_awaited` stay.
    /// After a call with a `missing` that is not empty, the ledger removes no rows of deleted
    /// files.
    pub fn forget_absent(&self, missing: &[MissingShare]) {
        let mut state = self.inner.shared.lock();
        let awaited = missing.iter().filter(|share| share.is_awaited);
        let awaited: Vec<u16> = if state.absent.has_entries() {
            awaited
                .filter_map(|share| state.listing.ledger.share_given_as(&share.dir))
                .collect()
        } else {
            Vec::new()
        };
        let ListingState {
            absent, listing, ..
        } = &mut *state;
        absent.forget_unless_awaited(&awaited, &mut listing.order);
        absent.misses_configured = !missing.is_empty();
        drop(state);
        self.inner.shared.wake();
    }

    /// Returns the status of every share.
    pub fn list(&self) -> Vec<ShareStatus> {
        StatusView::of(&self.inner.shared.lock()).list()
    }

    /// Returns whether a file is listed with this content. Reads memory only.
    pub fn holds(&self, hash: &ContentHash) -> bool {
        let state = self.inner.shared.lock();
        state.listing.tree.with_content(hash).next().is_some()
    }

    /// Returns which readers may have a content of the shares. Reads memory only.
    pub fn shared_for(&self, hash: &ContentHash) -> SharedFor {
        StatusView::of(&self.inner.shared.lock()).shared_for(hash)
    }

    /// Returns the folder of the share of each file that may have a content, for at most 16 files.
    /// Reads memory only.
    pub fn dirs_with(&self, hash: &ContentHash) -> Vec<PathBuf> {
        source::dirs_with(&self.inner.shared.lock(), hash)
    }

    /// Returns whether a whole file must be hashed before a range of this shared content can be
    /// proven, because its outboard was evicted or could not be stored. Reads memory only.
    pub fn lacks_outboard(&self, content: &ContentKey) -> bool {
        let hash = &content.hash;
        if content.size_bytes <= SMALL_FILE_MAX_BYTES || self.inner.shared.outboards.has(hash) {
            return false;
        }
        let state = self.inner.shared.lock();
        let files = state.listing.tree.with_content(hash);
        let mut sizes =
            files.filter_map(|slot| Some(state.listing.tree.file(slot)?.identity.size_bytes));
        // the outboard of a newer version makes that of an older one at once
        sizes.any(|bytes| bytes == content.size_bytes)
            && state.listing.newer_version(hash).is_none()
    }

    /// Returns the live attributes of a shared name. Does not follow a link.
    ///
    /// # Errors
    /// As [`SharedBytes::own`].
    pub fn stat(&self, share: ShareIndex, path: &SharedPath) -> Result<Attributes, ShareError> {
        let parent = path.parent().ok_or(ShareError::NotHere)?;
        self.stats_in(share, &parent)?(path.file_name())
    }

    /// Returns a function that reads the live attributes of names in one directory. The directory
    /// is opened once and stays the same even if it is renamed.
    ///
    /// # Errors
    /// As [`SharedBytes::own`], also for the returned function.
    pub fn stats_in(
        &self,
        share: ShareIndex,
        directory: &SharedPath,
    ) -> Result<impl Fn(&[u8]) -> Result<Attributes, ShareError> + use<>, ShareError> {
        let (dir, include_private, local) = self.share(share, directory)?;
        let beneath = &self.inner.shared.beneath;
        let opened = beneath
            .open_share(&dir)
            .and_then(|fd| beneath.open_directory(&dir, fd.as_fd(), &local));
        let directory = opened.map_err(not_here)?;
        Ok(move |name: &[u8]| {
            check_name(name).map_err(|_| ShareError::NotHere)?;
            let stat = statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW);
            attributes_of(NameStat::of(&stat.map_err(not_here)?), include_private)
        })
    }

    /// Returns the files in a directory of the listing that wait to be hashed and so may not be
    /// listed yet. If there are many, returns some of them.
    pub fn unread_in(&self, directory: &SharedPath) -> Vec<SharedPath> {
        StatusView::of(&self.inner.shared.lock()).unread_in(directory)
    }

    /// Returns, for each share in which `path` or a directory above it is left out, the reason.
    pub fn left_out_at(&self, path: &SharedPath) -> Vec<LeftOut> {
        StatusView::of(&self.inner.shared.lock()).left_out_at(path)
    }

    /// Returns at most `limit` listed names after the position that an earlier call returned, in no
    /// particular order, and the position to continue from if there may be more. A name that stays
    /// listed during the whole iteration is returned once.
    pub fn listed(&self, after: Option<u32>, limit: usize) -> (Vec<Known>, Option<u32>) {
        StatusView::of(&self.inner.shared.lock()).listed(after, limit)
    }

    /// Returns the bytes of files that were read for hashing since the start.
    pub fn read_bytes(&self) -> u64 {
        let read_bytes = &self.inner.shared.read_bytes;
        read_bytes.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Writes the pending state to the disk, which otherwise happens about a second later.
    /// Blocking.
    pub fn store(&self) {
        let ledger = self.inner.shared.lock().listing.ledger.clone();
        ledger.store();
    }

    /// Returns by how much the clock of this machine is behind the time that it showed before, if that
    /// is more than a minute. Until the clock is right, versions keep their times.
    pub fn clock_behind(&self) -> Option<Duration> {
        self.inner.shared.clock().behind()
    }

    /// Returns the time of the clock that dates versions, in seconds since 1970. It is the system
    /// time, unless the clock of this machine is behind ([`Self::clock_behind`]). Reads memory only.
    pub fn version_time_s(&self) -> u64 {
        let now = self.inner.shared.clock().now();
        u64::try_from(now.total_nanoseconds() / 1_000_000_000).unwrap_or(0)
    }

    /// Starts a new walk through every share.
    pub fn rescan(&self) {
        self.inner.shared.lock().listing.shares.scan_all();
        self.inner.shared.wake();
    }

    /// Waits until every change that the kernel reported before this call is hashed and its events
    /// are in the event queue, which must be drained meanwhile. Returns false at the timeout, or if
    /// the threads are stopped.
    pub fn wait_settled(&self, timeout: Duration) -> bool {
        self.inner.shared.wait_settled(timeout)
    }

    /// Returns the folder of a share, whether it includes private files, and the name in it that a
    /// listed path stands for.
    fn share(
        &self,
        index: ShareIndex,
        listed: &SharedPath,
    ) -> Result<(Arc<Path>, bool, SharedPath), ShareError> {
        let state = self.inner.shared.lock();
        let share = state
            .listing
            .shares
            .by_index
            .get(&index.0)
            .ok_or(ShareError::NoSuchIndex { index: index.0 })?;
        let local = share.spec.place.local(listed).ok_or(ShareError::NotHere)?;
        Ok((share.dir.clone(), share.spec.include_private, local))
    }
}

/// Opening of the shared files: the half of [`ShareSet`] that gives bytes. A crate that does not
/// depend on this one cannot name the trait, so the [`ShareSet`] that it is handed is its
/// administration only.
pub trait SharedBytes {
    /// Opens a shared file with this content if its size and mtime are as when it was hashed. The
    /// ctime may differ, for example after a chmod or rename. If there is none and a small file
    /// with the content was replaced recently, returns its former content. A file that others may
    /// no longer read is not returned, unless its share includes private files.
    ///
    /// # Errors
    /// [`ShareError::NotHere`] if no file has the content, or others may no longer read it. An
    /// error that [is a want](ShareError::is_want) if a file that may have the content could not be
    /// opened for lack of resources, may be in a share that was not added yet, or may just have
    /// been renamed.
    fn source(&self, hash: &ContentHash) -> Result<ShareFile, ShareError>;

    /// As [`Self::source`], but if only a file that was written since it was hashed is found,
    /// returns that file. A log that grew still begins with the content, and [`ShareFile::encode`]
    /// proves that. Such a file must not be read with [`ShareFile::read_at`].
    ///
    /// # Errors
    /// As [`Self::source`].
    fn provable(&self, hash: &ContentHash) -> Result<ShareFile, ShareError>;

    /// Opens one shared file if it looks as it did when it was hashed to this content.
    ///
    /// # Errors
    /// As [`Self::own`]; [`ShareError::NotHere`] also if it is another file or version by
    /// now.
    fn own_with(
        &self,
        share: ShareIndex,
        path: &SharedPath,
        hash: &ContentHash,
    ) -> Result<File, ShareError>;

    /// Opens a shared file for live reads, whatever its current content is.
    ///
    /// # Errors
    /// [`ShareError::NoSuchIndex`]; [`ShareError::NotHere`] if it is not a regular file, or others
    /// may not read it and the share does not include private files; [`ShareError::Io`].
    fn own(&self, share: ShareIndex, path: &SharedPath) -> Result<File, ShareError>;
}

impl SharedBytes for ShareSet {
    fn source(&self, hash: &ContentHash) -> Result<ShareFile, ShareError> {
        SourceSearch::new(&self.inner, hash, false).run()
    }

    fn provable(&self, hash: &ContentHash) -> Result<ShareFile, ShareError> {
        SourceSearch::new(&self.inner, hash, true).run()
    }

    fn own_with(
        &self,
        share: ShareIndex,
        path: &SharedPath,
        hash: &ContentHash,
    ) -> Result<File, ShareError> {
        let (dir, _, local) = self.share(share, path)?;
        let opened = self.inner.shared.beneath.open_file(&dir, &local);
        let (file, seen) = opened.map_err(not_here)?;
        let is_it = source::is_as_hashed(&self.inner.shared.lock(), hash, &dir, &local, &seen);
        is_it.then_some(file).ok_or(ShareError::NotHere)
    }

    fn own(&self, share: ShareIndex, path: &SharedPath) -> Result<File, ShareError> {
        let (dir, include_private, local) = self.share(share, path)?;
        let opened = self.inner.shared.beneath.open_file(&dir, &local);
        let (file, seen) = opened.map_err(not_here)?;
        if include_private || seen.others_may_read() {
            Ok(file)
        } else {
            Err(ShareError::NotHere)
        }
    }
}

/// Builds the state that the threads share, with the state that an earlier run left.
pub(super) fn open_shared(
    config: ShareConfig,
    ledger: ShareLedger,
) -> Result<SharedState, ShareError> {
    let state_dir = std::fs::canonicalize(&config.state_dir)?;
    let outboards = Outboards::open(state_dir.join("outboards"), config.outboard_budget_bytes)?;
    let mut refused = config.refuse_beneath;
    refused.push(state_dir);
    let refused = refused.iter().map(|path| without_links_above(path));
    let inboxes = config.inboxes.iter().map(|path| {
        let real = reach(path).map(|reached| reached.path().to_owned());
        real.unwrap_or_else(|_| without_links_above(path))
    });
    let allowed = config.allow_beneath.iter();
    let beneath = Beneath::new(refused.collect())
        .with_allowed(allowed.map(|path| without_links_above(path)).collect())
        .with_inboxes(inboxes.collect())
        .with_filesystems(ledger.filesystems());
    let numbers = ledger.share_numbers()?;
    let mut state = ListingState::new(ledger, config.quiet, config.known);
    let order = &mut state.listing.order;
    state.absent.forget_unnumbered(&numbers, order);
    let intervals = Intervals {
        quiet: config.quiet,
        rescan: config.rescan,
    };
    Ok(SharedState::new(state, beneath, outboards, intervals)?)
}

impl ShareSetInner {
    /// Returns whether a configured share may still have to be added.
    pub(super) fn begins(&self) -> bool {
        let until = *self.begins_until.lock();
        until.is_some_and(|until| Instant::now() < until)
    }

    fn start(
        &self,
        events: mpsc::Sender<ShareEvent>,
        watch_limit: usize,
        hash_threads: usize,
    ) -> Result<(), ShareError> {
        let scanner = Scanner::new(self.shared.clone(), events, watch_limit);
        let scanner = Builder::new()
            .name("share-scanner".to_owned())
            .spawn(|| scanner.run())?;
        let mut threads = self.threads.lock();
        threads.push(scanner);
        for number in 0..hash_threads.max(2) {
            threads.push(hasher::spawn(&self.shared, number == 0)?);
        }
        Ok(())
    }
}

impl Drop for ShareSetInner {
    fn drop(&mut self) {
        self.shared.stop();
        let mut threads = self.threads.lock();
        let until = Instant::now() + ENDS_WITHIN;
        for thread in threads.drain(..) {
            while !thread.is_finished() && Instant::now() < until {
                std::thread::park_timeout(END_PERIOD);
            }
            // a thread blocked on a disk ends with the process; a thread that panicked has reported
            // it
            if thread.is_finished() {
                let _ = thread.join();
            }
        }
    }
}

/// Converts errors that mean absence into [`ShareError::NotHere`], and other errors into their own.
fn not_here(error: rustix::io::Errno) -> ShareError {
    if beneath::is_absence(error) {
        ShareError::NotHere
    } else {
        error.into()
    }
}

fn attributes_of(seen: NameStat, include_private: bool) -> Result<Attributes, ShareError> {
    let form = match seen.file_type() {
        FileType::RegularFile => Form::File,
        FileType::Directory => Form::Directory,
        FileType::Symlink => Form::Symlink,
        _ => return Err(ShareError::NotHere),
    };
    if !include_private && !seen.others_may_read() {
        return Err(ShareError::NotHere);
    }
    Ok(Attributes {
        form,
        size_bytes: seen.identity.size_bytes,
        mtime: seen.identity.mtime.into(),
        executable: seen.executable(),
    })
}
