//! The thread that keeps the state in step with the disk. [`Scanner::round`] reads the reports of
//! the watches, walks the shares, and sends the events.
//!
//! The thread does not hold the state's lock while it opens or reads anything in a share, or waits
//! for room in the event queue.

use std::collections::VecDeque;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::fstat;
use tokio::sync::mpsc::{Sender, error::TrySendError};

use super::beneath::is_want;
use super::checks::PendingChecks;
use super::config::ShareEvent;
use super::disk_thread::DiskThread;
use super::hasher;
use super::identity::{FileIdentity, FileTimestamp, NameStat};
use super::left_out::LeftOutWhy;
use super::listing::Recheck;
use super::mounts::{MountChanges, says_changed};
use super::observe::ObservedName;
use super::order::EventSeq;
use super::outcome::FinishedRead;
use super::shared::SharedState;
use super::state::ListingState;
use super::tree::{NodeBody, Slot};
use super::walk::{DirectoryWalk, ObservedNames, ShareDirectory};
use super::watch::{Cause, InotifyReport, Watches};

/// Interval between two attempts to find a vanished share, or to walk a share in which something
/// could not be opened for lack of resources. Also the interval between two checks whether each
/// share is still at its path.
const RETRY: Duration = Duration::from_secs(1);
/// Maximum names that wait to be checked. When there are more, everything is walked instead.
const CHECKS_MAX: usize = 1 << 16;
/// Pause before sending to the full event queue is retried.
const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(2);
/// The ledger is tidied once it has more rows than two for each listed file, plus this number.
pub(super) const LEDGER_SLACK_ROWS: u64 = 10_000;

/// A directory to read.
pub(super) struct Visit {
    pub(super) index: u16,
    pub(super) slot: Slot,
    /// Whether known subdirectories are read too.
    pub(super) full: bool,
    /// Turn that is blocked until the directory is read. `None` if no turn waits for it.
    pub(super) turn: Option<EventSeq>,
}

/// Directories to read one after another, and the one that is being read.
#[derive(Default)]
pub(super) struct WalkQueue {
    pub(super) visits: VecDeque<Visit>,
    pub(super) walk: Option<DirectoryWalk>,
}

pub(super) struct Scanner {
    pub(super) shared: Arc<SharedState>,
    events: Sender<ShareEvent>,
    pub(super) watches: Watches,
    pub(super) checks: PendingChecks,
    /// New directories, for which later turns wait.
    pub(super) fresh: WalkQueue,
    /// All other directories.
    pub(super) scan: WalkQueue,
    pub(super) disk: DiskThread,
    mounts: MountChanges,
    rescan_at: Instant,
    retry_at: Instant,
    /// Share and folder that are named in the current warning about missing watches.
    pub(super) warned_of_watches: Option<(u16, PathBuf)>,
    tidied: bool,
}

impl Scanner {
    pub(super) fn new(
        shared: Arc<SharedState>,
        events: Sender<ShareEvent>,
        watch_limit: usize,
    ) -> Self {
        let now = Instant::now();
        let (rescan_at, retry_at) = (now + shared.intervals.rescan, now + RETRY);
        Self {
            disk: DiskThread::new(shared.clone()),
            shared,
            events,
            watches: Watches::new(watch_limit),
            checks: PendingChecks::new(),
            fresh: WalkQueue::default(),
            scan: WalkQueue::default(),
            mounts: MountChanges::new(),
            rescan_at,
            retry_at,
            warned_of_watches: None,
            tidied: false,
        }
    }

    /// Runs until the set is dropped or the receiver of the events is closed.
    pub(super) fn run(mut self) {
        while !self.shared.is_stopping() && !self.events.is_closed() {
            let asked = self.shared.settling_asked();
            self.round();
            if self.has_work() {
                continue;
            }
            if self.watches.next_due().is_none() {
                self.shared.record_checked(asked);
            }
            if self.has_told_all() {
                self.shared.record_settled(asked);
                self.tidy_ledger();
            }
            self.wait();
        }
        self.shared.stop();
    }

    /// Applies pending reports, requests and finished reads, continues the walks, and sends the
    /// events that are not blocked.
    pub(super) fn round(&mut self) {
        self.shared.take_wakes();
        // announce a finished read only after everything that was reported before it ended
        let read = std::mem::take(&mut self.shared.lock().read);
        self.read_reports();
        let now = Instant::now();
        if now >= self.retry_at {
            self.check_roots();
        }
        self.gather(now);
        self.run_checks();
        self.take_read(read);
        self.advance();
        hasher::replace_standing(&self.shared);
        self.recheck();
        self.send_events();
    }

    /// Rechecks left-out names that may have to be listed now because another name changed.
    fn recheck(&self) {
        let mut state = self.shared.lock();
        state.listing.recheck_dependents();
    }

    pub(super) fn has_work(&self) -> bool {
        let state = self.shared.lock();
        let queues = [&self.fresh, &self.scan];
        let walks = |queue: &&WalkQueue| queue.walk.is_some() || !queue.visits.is_empty();
        queues.iter().any(walks)
            || !self.checks.is_empty()
            || !state.listing.rechecks.is_empty()
            || !state.listing.shares.scans.is_empty()
            || !state.read.is_empty()
            || !state.listing.shares.outbox.is_empty()
            || state.listing.order.is_reading()
    }

    fn has_told_all(&self) -> bool {
        let state = self.shared.lock();
        let all_told = state.queue.files_left() == 0 && state.listing.order.is_empty();
        all_told && self.watches.next_due().is_none()
    }

    /// Waits until something is reported, requested or due.
    fn wait(&mut self) {
        let state = self.shared.lock();
        let waiting = [state.queue.next_rested(), state.listing.order.next_due()];
        drop(state);
        let asked = waiting.into_iter().chain([self.watches.next_due()]);
        let due = self.rescan_at.min(self.retry_at);
        let due = asked.flatten().fold(due, Instant::min);
        let left = due.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: left.as_secs().cast_signed(),
            tv_nsec: left.subsec_nanos().into(),
        };
        let waker = PollFd::new(&self.shared.waker, PollFlags::IN);
        let reports = self
            .watches
            .fd()
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        let mounts = self.mounts.polled();
        let fds = mounts.into_iter().chain([waker]).chain(reports);
        let mut fds: Vec<PollFd<'_>> = fds.collect();
        // an interrupted wait is only a shorter one
        let _ = poll(&mut fds, Some(&timeout));
        if fds.iter().any(says_changed) {
            self.mounts.mark_changed();
        }
    }

    pub(super) fn read_reports(&mut self) {
        let mut reports = Vec::new();
        self.checks.begin_reading(FileTimestamp::last_tick());
        let dropped = self.watches.drain(|report| reports.push(report));
        let mut state = self.shared.lock();
        for report in reports {
            note_report(&mut state, &mut self.checks, report);
        }
        for (watch, slot) in dropped {
            if let Some(directory) = state.listing.tree.directory_mut(slot)
                && directory.watch == Some(watch)
            {
                directory.watch = None;
            }
        }
        if self.checks.len() > CHECKS_MAX {
            self.checks.clear();
            state.listing.shares.scan_all();
        }
        state.listing.order.record_drained();
    }

    /// Schedules a walk of each share on a local disk that cannot be opened at its path, or that is
    /// another directory there. The kernel reports no change of a directory above a share: that
    /// this process may no longer pass it, or that it was renamed. A share on another disk waits
    /// for the rescan, because its disk may not answer.
    fn check_roots(&self) {
        let roots = self.shared.lock().listing.open_roots();
        let beneath = &self.shared.beneath;
        for (index, dir, inode) in roots {
            if beneath.is_far(&dir) {
                continue;
            }
            let seen = beneath.open_share(&dir).and_then(fstat);
            let is_same = match seen.map(|seen| NameStat::of(&seen).identity) {
                Ok(FileIdentity { dev, ino, .. }) => {
                    (dev, ino) == inode || beneath.making_up().contains(&{ dev })
                }
                Err(error) => is_want(error),
            };
            if !is_same {
                self.shared.lock().listing.shares.scan(index);
            }
        }
    }

    /// Collects the work that is due or requested by other threads.
    fn gather(&mut self, now: Instant) {
        let shared = self.shared.clone();
        let mut state = shared.lock();
        if now >= self.rescan_at {
            self.rescan_at = now + shared.intervals.rescan;
            self.tidied = false;
            state.listing.shares.scan_all();
        }
        if now >= self.retry_at {
            self.retry_at = now + RETRY;
            let again = state
                .listing
                .shares
                .by_index
                .iter_mut()
                .filter_map(|(index, share)| share.take_retry().then_some(*index));
            let again: Vec<u16> = again.collect();
            state.listing.shares.scans.extend(again);
        }
        for point in self.mounts.take() {
            note_mount(&mut state, &mut self.checks, &point);
        }
        state.wake_rested(now);
        for Recheck {
            directory,
            name,
            cause,
        } in std::mem::take(&mut state.listing.rechecks)
        {
            let turn = state.listing.order.step();
            self.checks.add_report(directory, name, cause, turn);
        }
        if !state.listing.shares.scans.is_empty() {
            self.watches.restart();
        }
        for index in std::mem::take(&mut state.listing.shares.scans) {
            if let Some(slot) = state.listing.shares.begin_scan(index) {
                self.queue_visit(
                    &mut state,
                    Visit {
                        index,
                        slot,
                        full: true,
                        turn: None,
                    },
                );
            }
        }
        let unwatched = std::mem::take(&mut state.listing.unwatched);
        self.update_watch_warning(&mut state);
        drop(state);
        for (watch, slot) in unwatched {
            self.watches.remove(watch, slot);
        }
        shared.hashing.notify_all();
    }

    pub(super) fn queue_visit(&mut self, state: &mut ListingState, visit: Visit) {
        if let Some(share) = state.listing.shares.by_index.get_mut(&visit.index) {
            share.walk.left += 1;
            match visit.turn {
                Some(_) => self.fresh.visits.push_back(visit),
                None => self.scan.visits.push_back(visit),
            }
        } else if let Some(turn) = visit.turn {
            state.listing.order.end_reading(turn);
        }
    }

    /// Applies the results of a walk to the state. Returns whether the directory is still the same.
    pub(super) fn apply_walk(
        &mut self,
        place: &ShareDirectory,
        looks: ObservedNames,
        mut walk: Option<&mut DirectoryWalk>,
    ) -> bool {
        let turn = walk.as_ref().and_then(|walk| walk.turn);
        if turn.is_none() {
            // the names found may refer to names that were reported meanwhile, so the reports get
            // the earlier turns in the order of events
            self.read_reports();
        }
        let shared = self.shared.clone();
        let mut state = shared.lock();
        let now = Instant::now();
        for (name, found) in looks {
            if state.listing.tree.directory(place.slot).map(|d| d.number) != place.number {
                return false;
            }
            match turn {
                Some(turn) => state.listing.order.set_turn_of_new(turn),
                None => state.listing.order.step_of_walk(),
            }
            let directory = matches!(found, ObservedName::Directory(_));
            // a name reported meanwhile is checked in its own turn
            let is_due = !directory && turn.is_none() && self.checks.is_due(place.slot, &name);
            let fresh = if is_due {
                None
            } else {
                state.observe(place.slot, &name, found, Cause::Walk, now)
            };
            let child = state.listing.tree.child(place.slot, &name);
            let full = walk.as_ref().is_some_and(|walk| walk.full);
            if let Some(walk) = &mut walk {
                walk.met.extend(child);
            }
            let enters = if directory && full { child } else { fresh };
            let left_out = enters.and_then(|slot| state.listing.tree.left_out(slot));
            let is_loop = left_out.is_some_and(|body| body.why == LeftOutWhy::Loop);
            if let Some(slot) = enters.filter(|_| !is_loop) {
                let turn = turn.and_then(|_| state.listing.order.await_reading());
                let visit = Visit {
                    index: place.index,
                    slot,
                    full,
                    turn,
                };
                self.queue_visit(&mut state, visit);
            }
        }
        drop(state);
        shared.hashing.notify_all();
        true
    }

    /// Applies finished reads to the state. If the name of a file is to be checked again, the read
    /// may have seen a change of a later turn than that of the file. The result is then applied one
    /// round later, when all reports from before the end of the read have their turns.
    fn take_read(&self, read: Vec<FinishedRead>) {
        if read.is_empty() {
            return;
        }
        let mut superseded = Vec::new();
        let mut state = self.shared.lock();
        let now = Instant::now();
        for mut read in read {
            let node = state.listing.tree.get(read.held.slot);
            let name = state.listing.tree.name(read.held.slot);
            let is_due = node.is_some_and(|node| self.checks.is_due(node.parent, name));
            let was_due = std::mem::replace(&mut read.overtaken, is_due);
            if is_due && !was_due {
                state.read.push(read);
            } else {
                let extends = read.extends;
                state.hashed(read, now);
                superseded.extend(extends.filter(|hash| state.listing.former.get(hash).is_some()));
            }
        }
        drop(state);
        // the outboard of a former version can be made again from that of the longer version
        for hash in superseded {
            self.shared.outboards.forget(&hash);
        }
        self.shared.hashing.notify_all();
    }

    /// Sends the released events in order. While the event queue is full, this thread does nothing
    /// else, and the hashers stop once too many finished reads wait. The kernel queues the reports
    /// meanwhile. If the kernel's queue overflows, everything is walked.
    fn send_events(&mut self) {
        let mut state = self.shared.lock();
        let mut events = std::mem::take(&mut state.listing.shares.outbox);
        state.listing.order.set_unchecked(self.checks.first_turn());
        state.listing.order.release(Instant::now(), &mut events);
        let ListingState {
            absent, listing, ..
        } = &mut *state;
        let is_sent = |turn| listing.order.is_sent(turn);
        events.extend(absent.retired.announce(is_sent));
        drop(state);
        if events.is_empty() {
            return;
        }
        for mut event in events {
            while let Err(TrySendError::Full(back)) = self.events.try_send(event) {
                event = back;
                // `blocking_send` would not end when the set is dropped
                if self.shared.is_stopping() {
                    return;
                }
                std::thread::park_timeout(FULL_QUEUE_PAUSE);
            }
        }
        self.shared.hashing.notify_all();
    }

    /// Removes the rows of files that are not listed from the ledger, if there are many. Tries that
    /// at most once in each rescan interval, and only while no configured share is missing or
    /// lists less than it has ([`super::offered::OfferedShare::lists_less`]).
    pub(super) fn tidy_ledger(&mut self) {
        let state = self.shared.lock();
        let unsure = super::offered::OfferedShare::lists_less;
        let whole =
            !state.absent.is_any_expected() && !state.listing.shares.by_index.values().any(unsure);
        if self.tidied || !whole || state.listing.shares.by_index.is_empty() {
            return;
        }
        self.tidied = true;
        let files = state.listing.tree.listed_files().count() as u64;
        let ledger = state.listing.ledger.clone();
        drop(state);
        // the list of live files is large, so build it only if there is much to remove
        if ledger.len() > 2 * files + LEDGER_SLACK_ROWS {
            let live: Vec<(u64, u64)> = self.shared.lock().listing.tree.listed_files().collect();
            ledger.retain(live);
        }
    }
}

/// Schedules checks after a mount or unmount at `point`, because that path now leads to something
/// else.
fn note_mount(state: &mut ListingState, checks: &mut PendingChecks, point: &Path) {
    let shares = state.listing.shares.by_index.iter();
    let above = shares.filter(|(_, share)| share.dir.starts_with(point));
    state
        .listing
        .shares
        .scans
        .extend(above.map(|(index, _)| *index));
    let within = |share: &super::offered::OfferedShare| {
        let below = point.strip_prefix(&share.dir).ok()?;
        let name = below.file_name()?.as_bytes();
        let mut above = below.parent()?.iter();
        let parent = above.try_fold(share.root, |slot, name| {
            state.listing.tree.child(slot, name.as_bytes())
        })?;
        Some((parent, Box::from(name)))
    };
    let names: Vec<(Slot, Box<[u8]>)> = state
        .listing
        .shares
        .by_index
        .values()
        .filter_map(within)
        .collect();
    for (parent, name) in names {
        let turn = state.listing.order.step();
        checks.add_report(parent, name, Cause::Walk, turn);
    }
}

fn note_report(state: &mut ListingState, checks: &mut PendingChecks, report: InotifyReport) {
    match report {
        InotifyReport::Overflow => state.listing.shares.scan_all(),
        InotifyReport::Name {
            directory,
            name,
            cause,
        } => {
            let turn = state.listing.order.step();
            // a new or lost name changes its directory's own mtime
            let above = state
                .listing
                .tree
                .get(directory)
                .filter(|node| node.parent != directory);
            if let Some(node) = above.filter(|_| cause != Cause::Modified) {
                let name = state.listing.tree.name(directory).into();
                checks.add_report(node.parent, name, Cause::Walk, turn);
            }
            checks.add_report(directory, name, cause, turn);
        }
        InotifyReport::Itself { directory } => {
            let Some(node) = state.listing.tree.get(directory) else {
                return;
            };
            if node.parent == directory {
                state.listing.shares.scans.push(node.share);
                return;
            }
            // the directory above a mount point gets no report about the mounted root
            let turn = state.listing.order.step();
            let name = state.listing.tree.name(directory).into();
            checks.add_report(node.parent, name, Cause::Walk, turn);
        }
    }
}

/// Returns the directory of a slot, for disk access without the state. Returns `None` if the slot
/// is neither a directory nor one that is left out as unreadable, or if the disk of its share does
/// not answer.
pub(super) fn place_of(state: &ListingState, slot: Slot) -> Option<ShareDirectory> {
    let node = state.listing.tree.get(slot)?;
    let share = state.listing.shares.by_index.get(&node.share)?;
    if share.problems.stands_still {
        return None;
    }
    let number = match &node.body {
        NodeBody::Directory(directory) => Some(directory.number),
        NodeBody::LeftOut(body) if body.directory && body.why == LeftOutWhy::Unreadable => None,
        _ => return None,
    };
    Some(ShareDirectory {
        index: node.share,
        slot,
        number,
        dir: share.dir.clone(),
        listed_below: share.spec.place.clone(),
        include_private: share.spec.include_private,
        exclude: share.exclude.clone(),
        path: state.listing.tree.path(slot)?,
    })
}
