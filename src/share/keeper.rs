//! The thread that keeps the state true to the disk: it follows the watches, walks, and sends the
//! events.
//!
//! It never holds the state's lock while it reads the disk or waits for the node to take an event.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::mpsc::{Sender, error::TrySendError};

use super::config::ShareEvent;
use super::left_out::LeftOutWhy;
use super::observe::Found;
use super::shared::Shared;
use super::state::{Recheck, State};
use super::tree::{Body, LeftOutBody, Slot};
use super::walk::{Looks, OpenPlace, Place, Walk};
use super::watch::{Cause, Report, Watches};

/// How often a share that is gone is looked for.
const VANISHED_RETRY: Duration = Duration::from_secs(1);
/// Names that wait to be looked at; when there are more, everything is walked instead.
const CHECKS_MAX: usize = 1 << 16;
/// How long to wait before the node's full queue is tried again.
const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(2);
/// Files remembered but no more shared, before the ledger is tidied.
const LEDGER_SLACK_ROWS: u64 = 10_000;

/// A directory to read.
pub(super) struct Errand {
    pub(super) index: u16,
    pub(super) slot: Slot,
    /// Known subdirectories are read too.
    pub(super) full: bool,
}

pub(super) struct Keeper {
    pub(super) shared: Arc<Shared>,
    events: Sender<ShareEvent>,
    pub(super) watches: Watches,
    checks: BTreeMap<(Slot, Box<[u8]>), Cause>,
    pub(super) errands: Vec<Errand>,
    pub(super) walk: Option<Walk>,
    rescan_at: Instant,
    retry_at: Instant,
    pub(super) warned_of_watches: bool,
    tidied: bool,
}

impl Keeper {
    pub(super) fn new(shared: Arc<Shared>, events: Sender<ShareEvent>, watch_limit: usize) -> Self {
        let now = Instant::now();
        let (rescan_at, retry_at) = (now + shared.rescan, now + VANISHED_RETRY);
        Self {
            shared,
            events,
            watches: Watches::new(watch_limit),
            checks: BTreeMap::new(),
            errands: Vec::new(),
            walk: None,
            rescan_at,
            retry_at,
            warned_of_watches: false,
            tidied: false,
        }
    }

    /// Runs until the set is dropped or nobody takes the events any more.
    pub(super) fn run(mut self) {
        while !self.shared.is_stopping() && !self.events.is_closed() {
            let asked = self.shared.settling_asked();
            self.shared.take_wakes();
            self.read_reports();
            self.gather(Instant::now());
            self.run_checks();
            self.advance();
            self.send_events();
            if self.has_work() {
                continue;
            }
            if self.shared.lock().queue.files_left() == 0 {
                self.shared.note_settled(asked);
                self.tidy_ledger();
            }
            self.wait();
        }
        self.shared.stop();
    }

    fn has_work(&self) -> bool {
        let state = self.shared.lock();
        self.walk.is_some()
            || !self.errands.is_empty()
            || !self.checks.is_empty()
            || !state.rechecks.is_empty()
            || !state.scans.is_empty()
            || !state.outbox.is_empty()
    }

    /// Until something is reported, asked, or due.
    fn wait(&self) {
        let rested = self.shared.lock().queue.next_rested();
        let due = rested
            .unwrap_or(self.rescan_at)
            .min(self.rescan_at)
            .min(self.retry_at);
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
        let mut fds: Vec<PollFd<'_>> = [waker].into_iter().chain(reports).collect();
        // an interrupted wait is a short one
        let _ = poll(&mut fds, Some(&timeout));
    }

    fn read_reports(&mut self) {
        let mut reports = Vec::new();
        let dropped = self.watches.drain(|report| reports.push(report));
        if reports.is_empty() && dropped.is_empty() {
            return;
        }
        let mut state = self.shared.lock();
        for report in reports {
            note_report(&mut state, &mut self.checks, report);
        }
        for (watch, slot) in dropped {
            if let Some(directory) = state.tree.directory_mut(slot)
                && directory.watch == Some(watch)
            {
                directory.watch = None;
            }
        }
        if self.checks.len() > CHECKS_MAX {
            self.checks.clear();
            scan_all(&mut state);
        }
    }

    /// Takes over what is due and what the other threads asked for.
    fn gather(&mut self, now: Instant) {
        let shared = self.shared.clone();
        let mut state = shared.lock();
        if now >= self.rescan_at {
            self.rescan_at = now + shared.rescan;
            self.tidied = false;
            scan_all(&mut state);
        }
        if now >= self.retry_at {
            self.retry_at = now + VANISHED_RETRY;
            let gone = state.shares.iter().filter(|(_, share)| share.vanished);
            let gone: Vec<u16> = gone.map(|(index, _)| *index).collect();
            state.scans.extend(gone);
        }
        state.wake_rested(now);
        for Recheck {
            directory,
            name,
            cause,
        } in std::mem::take(&mut state.rechecks)
        {
            note_check(&mut self.checks, directory, name, cause);
        }
        for index in std::mem::take(&mut state.scans) {
            if let Some(slot) = state.begin_scan(index) {
                self.send_out(
                    &mut state,
                    Errand {
                        index,
                        slot,
                        full: true,
                    },
                );
            }
        }
        for (watch, slot) in std::mem::take(&mut state.unwatched) {
            self.watches.remove(watch, slot);
        }
        drop(state);
        shared.hashing.notify_all();
    }

    fn send_out(&mut self, state: &mut State, errand: Errand) {
        if let Some(share) = state.shares.get_mut(&errand.index) {
            share.walks_left += 1;
            self.errands.push(errand);
        }
    }

    /// Looks at every name that something was reported of.
    fn run_checks(&mut self) {
        let mut checks = std::mem::take(&mut self.checks).into_iter().peekable();
        while let Some(((slot, name), cause)) = checks.next() {
            let mut names = vec![(name, cause)];
            while let Some(((_, name), cause)) = checks.next_if(|((next, _), _)| *next == slot) {
                names.push((name, cause));
            }
            self.check_names(slot, names);
        }
    }

    fn check_names(&mut self, slot: Slot, names: Vec<(Box<[u8]>, Cause)>) {
        let Some(place) = place_of(&self.shared.lock(), slot) else {
            return;
        };
        let index = place.index;
        let share = match self.shared.beneath.open_share(&place.dir) {
            Ok(share) => share,
            Err(_) => {
                self.shared.lock().scans.push(index);
                return;
            }
        };
        // a directory that cannot be opened is its parent's to look at
        let Ok(open) = OpenPlace::open(&self.shared.beneath, place, share) else {
            return;
        };
        let (names, causes): (Vec<_>, Vec<_>) = names.into_iter().unzip();
        let look = |name: Box<[u8]>| {
            let found = open.look(&self.shared.beneath, &name);
            (name, found)
        };
        let looks: Looks = names.into_iter().map(look).collect();
        self.take_in(&open.place, looks, |at| causes[at], None);
    }

    /// Hands what was found to the state; says whether the directory is still the same.
    pub(super) fn take_in(
        &mut self,
        place: &Place,
        looks: Looks,
        cause: impl Fn(usize) -> Cause,
        mut walk: Option<&mut Walk>,
    ) -> bool {
        let shared = self.shared.clone();
        let mut state = shared.lock();
        let now = Instant::now();
        for (at, (name, found)) in looks.into_iter().enumerate() {
            if state.tree.directory(place.slot).map(|d| d.number) != place.number {
                return false;
            }
            let directory = matches!(found, Found::Directory(_));
            let fresh = state.observe(place.slot, &name, found, cause(at), now);
            let child = state.tree.child(place.slot, &name);
            let full = walk.as_ref().is_some_and(|walk| walk.full);
            if let Some(walk) = &mut walk {
                walk.met.extend(child);
            }
            let enters = if directory && full { child } else { fresh };
            let is_open = |slot: &Slot| {
                !matches!(
                    state.tree.get(*slot).map(|node| &node.body),
                    Some(Body::LeftOut(LeftOutBody {
                        why: LeftOutWhy::Loop,
                        ..
                    }))
                )
            };
            if let Some(slot) = enters.filter(is_open) {
                self.send_out(
                    &mut state,
                    Errand {
                        index: place.index,
                        slot,
                        full,
                    },
                );
            }
        }
        drop(state);
        shared.hashing.notify_all();
        true
    }

    /// Sends what is to be told, in order. While the node's queue is full nothing else is done
    /// here, and the hashers stop at a full outbox; the kernel keeps our reports meanwhile, and
    /// where it cannot, everything is walked.
    fn send_events(&mut self) {
        let events = std::mem::take(&mut self.shared.lock().outbox);
        if events.is_empty() {
            return;
        }
        for mut event in events {
            while let Err(TrySendError::Full(back)) = self.events.try_send(event) {
                event = back;
                // not `blocking_send`: that could not be ended by dropping the set
                if self.shared.is_stopping() {
                    return;
                }
                std::thread::park_timeout(FULL_QUEUE_PAUSE);
            }
        }
        self.shared.hashing.notify_all();
    }

    /// Once after each periodic walk: rows of files that are no more are of no use.
    fn tidy_ledger(&mut self) {
        let state = self.shared.lock();
        let unsure = |share: &super::state::Share| share.vanished || share.scanning;
        let whole = !state.has_absent() && !state.shares.values().any(unsure);
        if self.tidied || !whole || state.shares.is_empty() {
            return;
        }
        self.tidied = true;
        let live: HashSet<(u64, u64)> = state.tree.listed_files().collect();
        let ledger = state.ledger.clone();
        drop(state);
        if ledger.len() > 2 * live.len() as u64 + LEDGER_SLACK_ROWS {
            ledger.retain(&live);
        }
    }
}

fn scan_all(state: &mut State) {
    let all: Vec<u16> = state.shares.keys().copied().collect();
    state.scans.extend(all);
}

fn note_check(
    checks: &mut BTreeMap<(Slot, Box<[u8]>), Cause>,
    directory: Slot,
    name: Box<[u8]>,
    cause: Cause,
) {
    let known = checks.entry((directory, name)).or_insert(cause);
    *known = (*known).max(cause);
}

fn note_report(state: &mut State, checks: &mut BTreeMap<(Slot, Box<[u8]>), Cause>, report: Report) {
    match report {
        Report::Overflow => scan_all(state),
        Report::Name {
            directory,
            name,
            cause,
        } => {
            // a new or lost name changes its directory's own mtime
            let above = state
                .tree
                .get(directory)
                .filter(|node| node.parent != directory);
            if let Some(node) = above.filter(|_| cause != Cause::Modified) {
                note_check(checks, node.parent, node.name.clone(), Cause::Walk);
            }
            note_check(checks, directory, name, cause);
        }
        Report::Itself { directory } | Report::Lost { directory } => {
            // any other directory is reported by the one it lies in, too
            let root = state
                .tree
                .get(directory)
                .filter(|node| node.parent == directory);
            if let Some(index) = root.map(|node| node.share) {
                state.scans.push(index);
            }
        }
    }
}

/// Which directory that is, for a look at the disk without the state.
pub(super) fn place_of(state: &State, slot: Slot) -> Option<Place> {
    let node = state.tree.get(slot)?;
    let share = state.shares.get(&node.share)?;
    let number = match &node.body {
        Body::Directory(directory) => Some(directory.number),
        Body::LeftOut(body) if body.directory && body.why == LeftOutWhy::Unreadable => None,
        _ => return None,
    };
    Some(Place {
        index: node.share,
        slot,
        number,
        dir: share.dir.clone(),
        include_private: share.include_private,
        path: state.tree.path(slot)?,
    })
}
