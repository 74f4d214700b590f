//! The folders that this node offers: walked, watched, hashed, and served from.
//!
//! Owns what is listed of the local disk and the events that say so ([`ShareEvent`]), the hashes
//! that are remembered across restarts, and the outboards of shared files. Opens shared names
//! only beneath their folder, through no symbolic link and into no mount of p2pfs (`openat2`). It
//! never writes into a share, never opens a fifo or device, and knows no peer.
//!
//! How the parts work together: the `scanner` follows the kernel's reports and walks; what it finds
//! of a name goes into the `State`, which alone decides what is listed, and puts a file to be
//! hashed into the queue; `hasher` threads read it. Each change of the listing is an event that the
//! `order` holds until its turn, and that the scanner sends. A hash stays true while (dev, ino,
//! size, mtime, ctime) do; where a disk makes up the numbers of its files, only for a name that is
//! listed with it. One taken within [`config::QUIET_DEFAULT`] of a modification is *racy*: the file
//! is listed at once, hashed once more when it has been at rest, and only then remembered for good.
//! One taken while somebody had the file open for writing holds until that is closed.
//!
//! # Disks that stand still
//!
//! A server that went away leaves whoever asks its filesystem waiting, for ever perhaps. Nothing
//! here waits with it but one thread: the scanner looks at such filesystems through a
//! `disk_thread`, which it leaves to a look of which nothing comes; hashers that read nothing for
//! long, of any disk, are left and replaced (`at_work`). The share is passed over until that thread
//! is back, and then walked.
//!
//! # The way of a new file
//!
//! A program makes `a` in a share, writes it and closes it. Three threads take part: *1* and *3*
//! are the scanner's, *2* one of the hashers', *4* the node's loop. `Scanner::round` makes the
//! calls of *1* and *3*.
//!
//! | | on | what happens |
//! |---|---|---|
//! | 1 | the scanner | `Scanner::read_reports`: `Watches::drain` reads inotify → `note_report` gives each report its turn (`Order::step`) → `Checks::note`: the name is to be looked at, once for all that was reported of it |
//! | | | `Scanner::run_checks` (`checking`): `OpenPlace::look` asks the disk → `take_look`: `Checks::cause_of_file` says whether the writer is done → `State::observe` |
//! | | | `see_file` → `schedule`: closed, so `State::await_hash` → `Order::await_file` (what is of a later turn waits for it) and `Queue::enqueue`; a writer that is still at it, `State::rest` until it has been quiet |
//! | 2 | a hasher | `next_jobs` → `Queue::take` → `hash`: `open_job` opens it beneath its folder, `read` reads and hashes it, `conclude` sees that it did not change meanwhile → the outcome lies in `State::read` → `Shared::wake` |
//! | 3 | the scanner | `Scanner::take_read` → `State::hashed` → `list_file`: it is listed and in the ledger → `tell_put` → `Order::tell` holds a [`ShareEvent::Put`] of its turn |
//! | | | `Scanner::send_events`: `Order::release` lets go of what nothing earlier keeps back → the channel of [`ShareSet::open`] |
//! | 4 | the node's loop | `Runner::handle_share` (`node::run`) → `Machine::put` → `Machine::say` (`node::machine::heads`) notes the fact, and that a head is due in 10 ms |
//! | | | `Machine::publish_head`: `record_own` puts all that was noted into the log (`catalogue`) → the head of it is signed → `Cluster::set_head` → `Cluster::spread` (`cluster::spread`): to all of a small cluster at once, else to some in rounds; who hears of it pulls the rest |
//!
//! # Errors
//!
//! A call that fails changes nothing but what [`ShareError`] says; trouble with one name leaves
//! that name out with a reason in [`ShareStatus`], trouble with a whole share empties it until it
//! is back.

mod at_work;
mod beneath;
mod checking;
mod checks;
mod config;
mod disk_thread;
mod error;
mod exclude;
mod folder;
mod hashed;
mod hasher;
mod identity;
mod kept;
mod ledger;
mod left_links;
mod left_out;

mod links;
mod mounts;
mod name_arena;
mod observe;
mod offered;
mod order;
mod outboards;
mod outcome;
mod packed;
mod part;
mod queue;
mod reading;
mod renamed;
mod round_robin;
mod runs;
mod scanner;
mod shared;
mod source;
mod state;
mod status;
mod tree;

mod walk;
mod walk_queue;
mod watch;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::fs::{AtFlags, FileType, statat};
use tokio::sync::mpsc;

pub use config::{
    Attributes, EVENT_QUEUE_EVENTS, Form, HASH_THREADS_DEFAULT, Known, MissingShare,
    OUTBOARD_BUDGET_DEFAULT_BYTES, QUIET_DEFAULT, RESCAN_DEFAULT, ShareConfig, ShareEvent,
    ShareProgress, ShareSpec, ShareStatus,
};
pub use error::ShareError;
pub use exclude::{EXCLUDE_MAX_PATTERNS, EXCLUDED_BY_DEFAULT, PATTERN_MAX_BYTES, check_patterns};
pub use left_out::{FILE_MAX_BYTES, LEFT_OUT_LIST_MAX, LeftOut, LeftOutWhy};
pub use source::ShareFile;
pub use status::SharedFor;

use beneath::Beneath;
use exclude::Exclude;
use identity::Seen;
use ledger::LEDGER_FILE;
pub use ledger::{Ledger, open_sound};
use outboards::Outboards;
use p2pfs_proto::wire::native::record::ShareIndex;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::files::{make_private_dir, without_links_above};
use p2pfs_types::path::{SharedPath, check_name};
use scanner::Scanner;
use shared::Shared;
use state::State;

/// For how long a set waits for its first shares, where nobody says that all were added: a folder
/// on a disk that hangs must not make the node tell others to wait for ever.
const BEGINNING_MAX: Duration = Duration::from_secs(10);
/// How long the threads have to end; one that stands still over a disk does not.
const ENDS_WITHIN: Duration = Duration::from_secs(2);
/// How often it is looked whether they have.
const END_PERIOD: Duration = Duration::from_millis(1);

/// All folders that this node offers. Clones are the same set; the last one dropped stops its
/// threads and writes what is to be remembered.
#[derive(Clone)]
pub struct ShareSet {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    /// Until when a content that is not found may be in a share that is still to be added.
    begins_until: Mutex<Option<Instant>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// One change of the shares at a time, since a check and what it allows belong together.
    changing: Mutex<()>,
}

impl ShareSet {
    /// Opens the state and starts the threads. The receiver must be drained: a full queue pauses
    /// the scan and loses nothing; a dropped one ends the threads.
    ///
    /// # Errors
    /// [`ShareError::Locked`], [`ShareError::State`], [`ShareError::Io`].
    pub fn open(config: ShareConfig) -> Result<(Self, mpsc::Receiver<ShareEvent>), ShareError> {
        make_private_dir(&config.state_dir)?;
        let ledger = Ledger::open(&config.state_dir.join(LEDGER_FILE))?;
        Self::open_with(config, ledger)
    }

    /// The same, with what is remembered in that state directory.
    pub fn open_with(
        config: ShareConfig,
        ledger: Ledger,
    ) -> Result<(Self, mpsc::Receiver<ShareEvent>), ShareError> {
        let (watch_limit, hash_threads) = (config.watch_limit, config.hash_threads);
        let shared = Arc::new(open_shared(config, ledger)?);
        let (sender, receiver) = mpsc::channel(EVENT_QUEUE_EVENTS);
        let inner = Inner {
            shared,
            begins_until: Mutex::new(Some(Instant::now() + BEGINNING_MAX)),
            threads: Mutex::default(),
            changing: Mutex::default(),
        };
        inner.start(sender, watch_limit, hash_threads)?;
        let inner = Arc::new(inner);
        Ok((Self { inner }, receiver))
    }

    /// Offers a folder, or gives one that is offered new settings. Its number is the same whenever
    /// the same directory is added again. Blocks for a few system calls; the walk comes after.
    ///
    /// # Errors
    /// [`ShareError::NotFound`], [`ShareError::NotDirectory`], [`ShareError::Unreadable`],
    /// [`ShareError::Refused`], [`ShareError::Overlaps`], [`ShareError::TooMany`],
    /// [`ShareError::BadPattern`], [`ShareError::State`].
    pub fn add(&self, spec: ShareSpec) -> Result<ShareIndex, ShareError> {
        let shared = &self.inner.shared;
        // a disk that stands still holds up this one alone
        let dir = folder::check(&shared.beneath, &spec)?;
        let _alone = self.inner.changing.lock();
        let exclude = Exclude::new(&spec.exclude, spec.default_excludes);
        let exclude = exclude.map_err(|why| ShareError::BadPattern { why })?;
        let overlaps =
            |other: &Path| other != dir && (other.starts_with(&dir) || dir.starts_with(other));
        let state = shared.lock();
        let other = state
            .shares
            .values()
            .map(|share| &share.dir)
            .find(|other| overlaps(other));
        if let Some(other) = other {
            return Err(ShareError::Overlaps {
                dir,
                other: other.to_path_buf(),
            });
        }
        // what the configuration says of a folder by another name counts before what was added
        let mut shares = state.shares.iter();
        let by_another = shares.find(|(_, it)| *it.dir == *dir && it.given != spec.dir);
        if let Some((index, _)) = by_another.filter(|_| spec.is_resolved) {
            return Ok(ShareIndex(*index));
        }
        let ledger = state.ledger.clone();
        drop(state);
        let index = ledger.share_index(&dir, &spec.dir)?;
        let mut state = shared.lock();
        state.add_share(index, &dir, &spec, Arc::new(exclude));
        drop(state);
        shared.wake();
        Ok(ShareIndex(index))
    }

    /// Stops offering a folder; each of its entries gets its [`ShareEvent::Removed`]. Works for one
    /// that vanished, and for one that was offered in an earlier run and is still in the log.
    ///
    /// # Errors
    /// [`ShareError::NotShared`].
    pub fn remove(&self, dir: &Path) -> Result<(), ShareError> {
        // its own name first: that needs no disk, which may stand still
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
        let mut shares = state.shares.iter();
        let by_name = shares.clone().find(|(_, share)| *share.dir == *dir);
        // a link may lead elsewhere since, or to a disk that stands still
        let offered = by_name.or_else(|| shares.find(|(_, share)| share.given == dir));
        let index = offered.map(|(index, _)| *index);
        let index = index.or_else(|| state.ledger.known_share(dir));
        let removed = index.is_some_and(|index| state.remove_share(index));
        drop(state);
        shared.wake();
        removed
    }

    /// All shares that the node begins with were added, or cannot be now: what is not found from
    /// now on is not here.
    pub fn all_added(&self) {
        *self.inner.begins_until.lock() = None;
    }

    fn begins(&self) -> bool {
        let until = *self.inner.begins_until.lock();
        until.is_some_and(|until| Instant::now() < until)
    }

    /// Removes what the log still has of shares that were not added, but for those of which nobody
    /// knows yet that they cannot be. `missing` are all that are wanted: what their files hash to
    /// stays remembered for when they come.
    pub fn forget_absent(&self, missing: &[MissingShare]) {
        let mut state = self.inner.shared.lock();
        let awaited = missing.iter().filter(|share| share.is_awaited);
        let awaited: Vec<u16> = if state.has_absent() {
            awaited
                .filter_map(|share| state.ledger.share_given_as(&share.dir))
                .collect()
        } else {
            Vec::new()
        };
        state.forget_absent(&awaited);
        state.misses_shares = !missing.is_empty();
        drop(state);
        self.inner.shared.wake();
    }

    /// What is offered, and how it stands.
    pub fn list(&self) -> Vec<ShareStatus> {
        self.inner.shared.lock().list()
    }

    /// Whether a shared file had this content when it was hashed; from memory.
    pub fn holds(&self, hash: &ContentHash) -> bool {
        let state = self.inner.shared.lock();
        state.tree.with_content(hash).next().is_some()
    }

    /// For whom a content is in the shares; from memory.
    pub fn shared_for(&self, hash: &ContentHash) -> SharedFor {
        self.inner.shared.lock().shared_for(hash)
    }

    /// Opens a shared file for live reads, whatever is in it now.
    ///
    /// # Errors
    /// [`ShareError::NoSuchIndex`]; [`ShareError::NotHere`] where it is no regular file that may be
    /// shared; [`ShareError::Io`].
    pub fn own(&self, share: ShareIndex, path: &SharedPath) -> Result<File, ShareError> {
        let (dir, include_private) = self.share(share)?;
        let opened = self.inner.shared.beneath.open_file(&dir, path);
        let (file, seen) = opened.map_err(not_here)?;
        if include_private || seen.others_may_read() {
            Ok(file)
        } else {
            Err(ShareError::NotHere)
        }
    }

    /// The live attributes of a shared name; a link is not followed.
    ///
    /// # Errors
    /// As [`Self::own`].
    pub fn stat(&self, share: ShareIndex, path: &SharedPath) -> Result<Attributes, ShareError> {
        let parent = path.parent().ok_or(ShareError::NotHere)?;
        self.stats_in(share, &parent)?(path.file_name())
    }

    /// The same for the names in one directory, which is opened once: it stays the one that it is.
    ///
    /// # Errors
    /// As [`Self::own`], also of what it gives.
    pub fn stats_in(
        &self,
        share: ShareIndex,
        directory: &SharedPath,
    ) -> Result<impl Fn(&[u8]) -> Result<Attributes, ShareError> + use<>, ShareError> {
        let (dir, include_private) = self.share(share)?;
        let beneath = &self.inner.shared.beneath;
        let opened = beneath
            .open_share(&dir)
            .and_then(|fd| beneath.open_directory(&dir, fd.as_fd(), directory));
        let directory = opened.map_err(not_here)?;
        Ok(move |name: &[u8]| {
            check_name(name).map_err(|_| ShareError::NotHere)?;
            let stat = statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW);
            attributes_of(Seen::of(&stat.map_err(not_here)?), include_private)
        })
    }

    /// Names in a directory of the shares that wait to be hashed and so may not be listed yet; of
    /// many, some.
    pub fn unread_in(&self, directory: &SharedPath) -> Vec<SharedPath> {
        self.inner.shared.lock().unread_in(directory)
    }

    /// Why a name is left out, or a directory above it, in each share where it is.
    pub fn left_out_at(&self, path: &SharedPath) -> Vec<LeftOut> {
        self.inner.shared.lock().left_out_at(path)
    }

    /// Some of what is listed, at most `limit` names, those after a place that an earlier call
    /// gave, in no order; and the place to go on from, if there is more. A name that stays listed
    /// meanwhile comes once.
    pub fn listed(&self, after: Option<u32>, limit: usize) -> (Vec<Known>, Option<u32>) {
        self.inner.shared.lock().listed(after, limit)
    }

    /// Bytes of files that were read to be hashed, since the start.
    pub fn read_bytes(&self) -> u64 {
        let read_bytes = &self.inner.shared.read_bytes;
        read_bytes.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Walks through every share again, now.
    pub fn rescan(&self) {
        scanner::scan_all(&mut self.inner.shared.lock());
        self.inner.shared.wake();
    }

    /// Waits until everything that happened in the shares before this call is hashed and all its
    /// events are in the queue, which must be drained meanwhile. False at the timeout.
    pub fn wait_settled(&self, timeout: Duration) -> bool {
        self.inner.shared.wait_settled(timeout)
    }

    fn share(&self, index: ShareIndex) -> Result<(Arc<Path>, bool), ShareError> {
        let state = self.inner.shared.lock();
        let share = state
            .shares
            .get(&index.0)
            .ok_or(ShareError::NoSuchIndex { index: index.0 })?;
        Ok((share.dir.clone(), share.include_private))
    }
}

/// What the threads share, with the state that an earlier run left.
fn open_shared(config: ShareConfig, ledger: Ledger) -> Result<Shared, ShareError> {
    let state_dir = std::fs::canonicalize(&config.state_dir)?;
    let outboards = Outboards::open(state_dir.join("outboards"), config.outboard_budget_bytes)?;
    let mut refused = config.refuse_beneath;
    refused.push(state_dir);
    let refused = refused.iter().map(|path| without_links_above(path));
    let inboxes = config.inboxes.iter().map(|path| {
        let real = path.canonicalize();
        real.unwrap_or_else(|_| without_links_above(path))
    });
    let beneath = Beneath::new(refused.collect()).with_inboxes(inboxes.collect());
    let state = State::new(ledger, config.quiet, config.known);
    let (quiet, rescan) = (config.quiet, config.rescan);
    Ok(Shared::new(state, beneath, outboards, quiet, rescan)?)
}

impl Inner {
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

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.stop();
        let mut threads = self.threads.lock();
        let until = Instant::now() + ENDS_WITHIN;
        for thread in threads.drain(..) {
            while !thread.is_finished() && Instant::now() < until {
                std::thread::park_timeout(END_PERIOD);
            }
            // one that waits for a disk ends with the process; one that panicked has said so
            if thread.is_finished() {
                let _ = thread.join();
            }
        }
    }
}

/// What is not there, and what went wrong.
fn not_here(error: rustix::io::Errno) -> ShareError {
    if beneath::is_absence(error) {
        ShareError::NotHere
    } else {
        error.into()
    }
}

fn attributes_of(seen: Seen, include_private: bool) -> Result<Attributes, ShareError> {
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
