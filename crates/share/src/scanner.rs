//! The thread that keeps the state in step with the disk. [`Scanner::round`] reads the reports of
//! the watches, walks the shares, and sends the events.
//!
//! The thread does not hold the state's lock while it opens or reads anything in a share, or waits
//! for room in the event queue.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::fstat;
use tokio::sync::mpsc::{Sender, error::TrySendError};

use super::beneath::is_want;
use super::checking::check_names;
use super::checks::{CheckedName, PendingChecks};
use super::config::ShareEvent;
use super::disk_thread::DiskThread;
use super::hasher;
use super::identity::{FileIdentity, NameStat};
use super::observe::ObservedName;
use super::outcome::FinishedRead;
use super::proof::Told;
use super::reports::KernelReports;
use super::shared::SharedState;
use super::state::ListingState;
use super::tidying::LedgerTidying;
use super::walker::{Visit, WalkContext, Walker};

/// Interval between two attempts to find a vanished share, or to walk a share in which something
/// could not be opened for lack of resources. Also the interval between two checks whether each
/// share is still at its path.
const RETRY: Duration = Duration::from_secs(1);
/// Pause before sending to the full event queue is retried.
const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(2);

/// The thread that scans the shares.
pub(super) struct Scanner {
    shared: Arc<SharedState>,
    events: Sender<ShareEvent>,
    pub(super) disk: DiskThread,
    pub(super) reports: KernelReports,
    pub(super) walker: Walker,
    pub(super) tidying: LedgerTidying,
    rescan_at: Instant,
    retry_at: Instant,
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
            walker: Walker::new(shared.clone()),
            disk: DiskThread::new(shared.clone()),
            shared,
            events,
            reports: KernelReports::new(watch_limit),
            tidying: LedgerTidying::default(),
            rescan_at,
            retry_at,
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
            if self.reports.watches.next_due().is_none() {
                self.shared.record_checked(asked);
            }
            if self.has_told_all() {
                self.shared.record_settled(asked);
                self.tidying.run(&self.shared);
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
        self.reports.read(&self.shared);
        let now = Instant::now();
        if now >= self.retry_at {
            self.check_roots();
        }
        self.gather(now);
        self.run_checks();
        self.take_read(read);
        self.walker.advance(&mut WalkContext {
            disk: &mut self.disk,
            reports: &mut self.reports,
        });
        hasher::replace_standing(&self.shared);
        // left-out names may have to be listed now because another name changed
        self.shared.lock().listing.recheck_dependents();
        self.send_events();
    }

    pub(super) fn has_work(&self) -> bool {
        let state = self.shared.lock();
        !self.walker.is_idle()
            || !self.reports.checks.is_empty()
            || !state.listing.rechecks.is_empty()
            || !state.listing.shares.scans.is_empty()
            || !state.read.is_empty()
            || !state.listing.shares.outbox.is_empty()
            || state.listing.order.is_reading()
    }

    fn has_told_all(&self) -> bool {
        let state = self.shared.lock();
        let all_told = state.queue.files_left() == 0 && state.listing.order.is_empty();
        all_told && self.reports.watches.next_due().is_none()
    }

    /// Waits until something is reported, requested or due.
    fn wait(&mut self) {
        let state = self.shared.lock();
        let waiting = [state.queue.next_rested(), state.listing.order.next_due()];
        drop(state);
        let asked = waiting.into_iter().chain([self.reports.watches.next_due()]);
        let due = self.rescan_at.min(self.retry_at);
        let due = asked.flatten().fold(due, Instant::min);
        self.reports.wait(&self.shared.waker, due);
    }

    /// Schedules a walk of each share on a local disk that cannot be opened at its path, or that is
    /// another directory there, or whose file system became read-only or writable. The kernel
    /// reports no change of a directory above a share: that this process may no longer pass it, or
    /// that it was renamed. A share on another disk waits for the rescan, because its disk may not
    /// answer.
    fn check_roots(&self) {
        let roots = self.shared.lock().listing.open_roots();
        let beneath = &self.shared.beneath;
        for root in roots {
            if beneath.is_far(&root.dir) {
                continue;
            }
            let folder = beneath.open_share(&root.dir);
            let seen = folder.and_then(|folder| Ok((fstat(&folder)?, folder)));
            let is_same = match seen {
                Ok((seen, folder)) => {
                    let FileIdentity { dev, ino, .. } = NameStat::of(&seen).identity;
                    let is_it = (dev, ino) == root.inode || beneath.making_up().contains(&{ dev });
                    is_it && !root.access.differs(&folder)
                }
                Err(error) => is_want(error),
            };
            if !is_same {
                self.shared.lock().listing.shares.scan(root.index);
            }
        }
    }

    /// Collects the work that is due or requested by other threads.
    fn gather(&mut self, now: Instant) {
        let shared = self.shared.clone();
        let mut state = shared.lock();
        state.listing.check_clock();
        shared.set_clock(state.listing.clock);
        if now >= self.rescan_at {
            self.rescan_at = now + shared.intervals.rescan;
            self.tidying.allow();
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
        self.reports.read_mounts(&mut state.listing);
        state.wake_rested(now);
        self.reports.take_rechecks(&mut state.listing);
        if !state.listing.shares.scans.is_empty() {
            self.reports.watches.restart();
        }
        for index in std::mem::take(&mut state.listing.shares.scans) {
            if let Some(slot) = state.listing.shares.begin_scan(index) {
                let visit = Visit {
                    index,
                    slot,
                    full: true,
                    turn: None,
                };
                self.walker.queue_visit(&mut state.listing, visit);
            }
        }
        let unwatched = std::mem::take(&mut state.listing.unwatched);
        self.walker.update_warning(&mut state.listing.shares);
        drop(state);
        self.reports.watches.remove_all(unwatched);
        shared.hashing.notify_all();
    }

    /// Checks the reported names and applies the results in the order of their turns. If a name may
    /// have been replaced since its check, the result is applied later or not at all.
    fn run_checks(&mut self) {
        let mut checks = self.reports.checks.take().into_iter().peekable();
        let mut looks = Vec::new();
        while let Some(((slot, name), check)) = checks.next() {
            let mut names = vec![(name, check)];
            while let Some(((_, name), check)) = checks.next_if(|((next, _), _)| *next == slot) {
                names.push((name, check));
            }
            check_names(&self.shared, &mut self.disk, slot, names, &mut looks);
        }
        if looks.is_empty() {
            return;
        }
        // A check may have found a file that replaced the reported one. The new file may refer to
        // names that were reported only since, so give those reports their turns first.
        self.reports.read(&self.shared);
        looks.sort_by_key(|look| look.check.turn);
        let shared = self.shared.clone();
        let mut state = shared.lock();
        let now = Instant::now();
        let (mut before, mut late) = (self.reports.checks.take_postponed(), Vec::new());
        for look in looks {
            self.reports
                .checks
                .record_closed_writer(&look.check, &look.found, now);
            let last = before.remove(&(look.place.slot, look.name.clone()));
            let Some(look) = self.reports.checks.postpone(look) else {
                late.extend(last);
                continue;
            };
            state.listing.order.set_turn(look.check.turn);
            if is_known(&state, &look) && PendingChecks::may_be_ahead(&look.check, &look.found) {
                state.listing.order.set_ahead();
            }
            self.apply_check(&mut state, look, now);
        }
        // These names were overtaken twice in a row: they change faster than they are checked. All
        // changes before the previous check have their turns by now, so apply that check's result.
        for mut look in late {
            state.listing.order.step();
            // a later report of the name waits for its check
            look.check.told = Told::Written;
            self.apply_check(&mut state, look, now);
        }
        drop(state);
        shared.hashing.notify_all();
    }

    /// Applies a result in the current turn.
    fn apply_check(&mut self, state: &mut ListingState, look: CheckedName, now: Instant) {
        let CheckedName {
            place,
            name,
            check,
            found,
        } = look;
        if state.listing.tree.directory(place.slot).map(|d| d.number) != place.number {
            return;
        }
        let cause = match &found {
            ObservedName::File(seen) => {
                let quiet = self.shared.intervals.quiet;
                self.reports.checks.cause_of_file(&check, seen, now, quiet)
            }
            _ => check.cause,
        };
        let fresh = state.observe(place.slot, &name, found, cause, check.told, now);
        if let Some(slot) = fresh {
            let listing = &mut state.listing;
            let turn = listing.order.await_reading();
            let visit = Visit {
                index: place.index,
                slot,
                full: false,
                turn,
            };
            self.walker.queue_visit(listing, visit);
        }
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
            let is_due = node.is_some_and(|node| self.reports.checks.is_due(node.parent, name));
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
        state
            .listing
            .order
            .set_unchecked(self.reports.checks.first_turn());
        state.listing.release(Instant::now(), &mut events);
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
}

/// Returns whether the tree has the name of the result already; for a file, whether the name is
/// listed as a file. Returns `true` for every link.
fn is_known(state: &ListingState, look: &CheckedName) -> bool {
    let known = state.listing.tree.child(look.place.slot, &look.name);
    match &look.found {
        ObservedName::Symlink(..) => true,
        ObservedName::File(_) => {
            known.is_some_and(|slot| state.listing.tree.file(slot).is_some_and(|f| f.listed))
        }
        _ => known.is_some(),
    }
}
