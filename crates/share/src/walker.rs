//! Walks through the shares: opening, watching and reading one directory after another.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use rustix::fs::fstat;
use rustix::io::Errno;

use super::beneath::{is_absence, is_want};
use super::disk_thread::{DiskAccess, DiskThread};
use super::identity::{FileIdentity, NameStat};
use super::left_out::{LeftOutWhy, warning_of_closed};
use super::listing::ShareListing;
use super::observe::ObservedName;
use super::order::EventSeq;
use super::proof::Told;
use super::reports::KernelReports;
use super::shared::SharedState;
use super::shares::OfferedShares;
use super::tree::Slot;
use super::walk::{DirectoryWalk, ObservedNames, OpenShareDirectory, ShareDirectory};
use super::watch::{Cause, Unwatched, Watches};
use super::watch_warning::WatchWarning;
use super::writable::WriteAccess;

/// Maximum steps through new directories before all other work continues.
const FRESH_STEPS_MAX: usize = 64;

/// Result of opening a directory.
struct OpenAttempt {
    /// Attributes of the share's own directory, if that is the directory to read.
    share: Option<NameStat>,
    /// Whether the mount may write into the share, if its own directory is the one to read.
    access: Option<WriteAccess>,
    open: Result<OpenShareDirectory, Errno>,
    /// Attributes of the directory, if it was left out as unreadable until now.
    seen: Option<NameStat>,
}

impl OpenAttempt {
    /// Opens the directory of `place` beneath its share.
    ///
    /// # Errors
    /// The share's own directory cannot be opened.
    fn at(
        disk: &DiskAccess<'_>,
        place: ShareDirectory,
        access: Option<WriteAccess>,
    ) -> Result<Self, Errno> {
        let share = disk.beneath.open_share(&place.dir)?;
        disk.step();
        let of_share = place.path.is_root().then(|| seen(&share)).flatten();
        let access = match (access, share.try_clone()) {
            (Some(access), Ok(folder)) => Some(access.again(folder)),
            _ => None,
        };
        disk.step();
        let is_new = place.number.is_none();
        let open = OpenShareDirectory::open(disk.beneath, place, share);
        disk.step();
        let opened = open.as_ref().ok().filter(|_| is_new);
        let seen = opened.and_then(|open| seen(&open.fd));
        Ok(Self {
            share: of_share,
            access,
            open,
            seen,
        })
    }
}

fn seen(fd: &OwnedFd) -> Option<NameStat> {
    Some(NameStat::of(&fstat(fd).ok()?))
}

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
struct WalkQueue {
    visits: VecDeque<Visit>,
    walk: Option<DirectoryWalk>,
}

impl WalkQueue {
    fn is_empty(&self) -> bool {
        self.walk.is_none() && self.visits.is_empty()
    }
}

/// Reads the directories of the shares, new ones first.
pub(super) struct Walker {
    shared: Arc<SharedState>,
    /// New directories, for which later turns wait.
    fresh: WalkQueue,
    /// All other directories.
    scan: WalkQueue,
    warning: WatchWarning,
}

/// Parts of the scanner that a step of the walker uses.
pub(super) struct WalkContext<'a> {
    pub(super) disk: &'a mut DiskThread,
    pub(super) reports: &'a mut KernelReports,
}

impl Walker {
    pub(super) fn new(shared: Arc<SharedState>) -> Self {
        Self {
            shared,
            fresh: WalkQueue::default(),
            scan: WalkQueue::default(),
            warning: WatchWarning::default(),
        }
    }

    /// Returns whether no directory waits to be read.
    pub(super) fn is_idle(&self) -> bool {
        self.fresh.is_empty() && self.scan.is_empty()
    }

    /// Ends the warning about missing watches if its cause is gone.
    pub(super) fn update_warning(&mut self, shares: &mut OfferedShares) {
        self.warning.update(shares);
    }

    /// Queues a directory to be read.
    pub(super) fn queue_visit(&mut self, listing: &mut ShareListing, visit: Visit) {
        if let Some(share) = listing.shares.by_index.get_mut(&visit.index) {
            share.walk.left += 1;
            match visit.turn {
                Some(_) => self.fresh.visits.push_back(visit),
                None => self.scan.visits.push_back(visit),
            }
        } else if let Some(turn) = visit.turn {
            listing.order.end_reading(turn);
        }
    }

    /// Runs up to [`FRESH_STEPS_MAX`] steps through new directories, because later turns wait for
    /// them, and then one step through the other directories.
    pub(super) fn advance(&mut self, context: &mut WalkContext<'_>) {
        for _ in 0..FRESH_STEPS_MAX {
            if self.fresh.is_empty() {
                break;
            }
            let queue = std::mem::take(&mut self.fresh);
            self.fresh = self.step(queue, |walker| &mut walker.fresh, context);
        }
        let queue = std::mem::take(&mut self.scan);
        self.scan = self.step(queue, |walker| &mut walker.scan, context);
    }

    /// Runs one step of `queue`: a batch of names, or the next directory. `grown` returns the field
    /// of the walker to which directories found in this step were added.
    fn step(
        &mut self,
        mut queue: WalkQueue,
        grown: fn(&mut Self) -> &mut WalkQueue,
        context: &mut WalkContext<'_>,
    ) -> WalkQueue {
        if let Some(walk) = queue.walk.take() {
            queue.walk = self.read_on(walk, context);
        } else if let Some(visit) = queue.visits.pop_front() {
            let (index, turn) = (visit.index, visit.turn);
            queue.walk = match self.begin_walk(visit, context) {
                Some((walk, first)) => self.take_batch(walk, first, context),
                None => {
                    self.end_walk(index, turn);
                    None
                }
            };
        }
        // depth first, so that the queue holds little more than one directory's subdirectories
        let mut met = std::mem::take(&mut grown(self).visits);
        met.append(&mut queue.visits);
        queue.visits = met;
        queue
    }

    fn end_walk(&mut self, index: u16, turn: Option<EventSeq>) {
        let shared = self.shared.clone();
        let mut state = shared.lock();
        if let Some(turn) = turn {
            state.listing.order.end_reading(turn);
        }
        state.listing.shares.end_walk(index);
        self.warning.update(&mut state.listing.shares);
    }

    fn read_on(
        &mut self,
        mut walk: DirectoryWalk,
        context: &mut WalkContext<'_>,
    ) -> Option<DirectoryWalk> {
        let (place, turn) = (walk.open.place.clone(), walk.turn);
        let read = context.disk.run(place.index, &place.dir, move |disk| {
            let batch = walk.next_batch(disk);
            (walk, batch)
        });
        match read {
            Some((walk, batch)) => self.take_batch(walk, batch, context),
            None => {
                self.end_walk(place.index, turn);
                None
            }
        }
    }

    fn take_batch(
        &mut self,
        mut walk: DirectoryWalk,
        batch: Result<ObservedNames, Errno>,
        context: &mut WalkContext<'_>,
    ) -> Option<DirectoryWalk> {
        let place = walk.open.place.clone();
        let turn = walk.turn;
        match batch {
            Ok(looks) if looks.is_empty() => self.check_unmet_names(walk, context),
            Ok(looks) => {
                if self.apply(&place, looks, Some(&mut walk), context) {
                    return Some(walk);
                }
            }
            Err(error) if is_want(error) => {
                self.shared.lock().listing.shares.record_want(place.index)
            }
            Err(_) => {}
        }
        self.end_walk(place.index, turn);
        None
    }

    /// Applies the results of a walk to the state. Returns whether the directory is still the same.
    fn apply(
        &mut self,
        place: &ShareDirectory,
        looks: ObservedNames,
        mut walk: Option<&mut DirectoryWalk>,
        context: &mut WalkContext<'_>,
    ) -> bool {
        let turn = walk.as_ref().and_then(|walk| walk.turn);
        if turn.is_none() {
            // the names found may refer to names that were reported meanwhile, so the reports get
            // the earlier turns in the order of events
            context.reports.read(&self.shared);
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
            let checks = &context.reports.checks;
            let is_due = !directory && turn.is_none() && checks.is_due(place.slot, &name);
            let fresh = if is_due {
                None
            } else {
                state.observe(place.slot, &name, found, Cause::Walk, Told::Nothing, now)
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
                self.queue_visit(&mut state.listing, visit);
            }
        }
        drop(state);
        shared.hashing.notify_all();
        true
    }

    /// Checks the names that the state has and the walk did not find. They are gone, or were
    /// created during the walk.
    fn check_unmet_names(&mut self, walk: DirectoryWalk, context: &mut WalkContext<'_>) {
        let DirectoryWalk { open, met, .. } = walk;
        let place = open.place.clone();
        let state = self.shared.lock();
        let unmet = state
            .listing
            .tree
            .children(place.slot)
            .filter(|s| !met.contains(s));
        let names = unmet.map(|slot| state.listing.tree.name(slot).into());
        let names: Vec<Box<[u8]>> = names.collect();
        drop(state);
        if names.is_empty() {
            return;
        }
        let looks = context.disk.run(place.index, &place.dir, move |disk| {
            open.check_unmet(disk, names)
        });
        if let Some(looks) = looks {
            self.apply(&place, looks, None, context);
        }
    }

    /// Opens and watches a directory, and reads its first batch.
    fn begin_walk(
        &mut self,
        visit: Visit,
        context: &mut WalkContext<'_>,
    ) -> Option<(DirectoryWalk, Result<ObservedNames, Errno>)> {
        let mut place = ShareDirectory::of(&self.shared.lock().listing, visit.slot)?;
        if place.index != visit.index {
            return None;
        }
        let (asked, access) = (place.clone(), self.access_to_check(&place));
        let opened = context.disk.run(place.index, &place.dir, |disk| {
            OpenAttempt::at(disk, asked, access)
        })?;
        let opened = opened
            .map_err(|error| self.lose_share(&place, error, context.disk))
            .ok()?;
        let is_root = place.path.is_root();
        let private = is_root && !self.enter_share(&mut place, opened.share, opened.access);
        let mut open = opened
            .open
            .map_err(|error| self.lose_directory(&place, error))
            .ok()?;
        open.place.number = place.number;
        self.take_up(&mut open, opened.seen);
        place.number = open.place.number;
        let watches = &mut context.reports.watches;
        let had = self.watch_of(&place, watches);
        let new_watch = watches.new_watch(had);
        let read = context.disk.run(place.index, &place.dir, move |disk| {
            let watch = new_watch.and_then(|watch| watch.add(open.as_fd()));
            disk.step();
            let seen = seen(&open.fd);
            let walk = (!private).then(|| DirectoryWalk::begin(disk, open, visit.full, visit.turn));
            (watch, seen, walk)
        });
        let (watch, seen, walk) = read?;
        self.record_watch(&place, had, watch, &mut context.reports.watches);
        self.date_directory(&place, seen);
        if private {
            self.enter_share_opened_meanwhile(&place, seen);
        }
        walk?
            .map_err(|error| self.lose_directory(&place, error))
            .ok()
    }

    /// Returns what is known of the mount's access to a writable share, if its own directory is the
    /// one to read.
    fn access_to_check(&self, place: &ShareDirectory) -> Option<WriteAccess> {
        let state = self.shared.lock();
        let share = state.listing.shares.by_index.get(&place.index)?;
        let is_checked = place.path.is_root() && share.spec.writable;
        is_checked.then(|| share.access.clone())
    }

    fn enter_share(
        &self,
        place: &mut ShareDirectory,
        share: Option<NameStat>,
        access: Option<WriteAccess>,
    ) -> bool {
        let Some(seen) = share else { return false };
        let mut state = self.shared.lock();
        let open = state.enter_share(place.index, &seen, access);
        self.shared.writable.update(&state.listing.shares);
        place.number = state.listing.tree.directory(place.slot).map(|d| d.number);
        open
    }

    /// Updates the mtime of a directory after its watch was added. It may have changed since the
    /// check, and the watch reports only later changes.
    fn date_directory(&self, place: &ShareDirectory, seen: Option<NameStat>) {
        if let Some(seen) = seen.filter(|_| !place.path.is_root()) {
            let mut state = self.shared.lock();
            state.listing.order.step();
            state
                .listing
                .list_directory(place.slot, seen.identity.mtime);
        }
    }

    /// Schedules a walk if a private share was made readable just before its watch was added. The
    /// watch reports only a later chmod.
    fn enter_share_opened_meanwhile(&self, place: &ShareDirectory, seen: Option<NameStat>) {
        if seen.is_some_and(|seen| seen.others_may_read()) {
            self.shared.lock().listing.shares.scans.push(place.index);
        }
    }

    /// Restores a directory that was unreadable and was opened now.
    fn take_up(&self, open: &mut OpenShareDirectory, seen: Option<NameStat>) {
        if let Some(seen) = seen.filter(|_| open.place.number.is_none()) {
            let mut state = self.shared.lock();
            state.listing.order.step();
            open.place.number = state.become_directory(open.place.slot, &seen);
        }
    }

    fn lose_share(&self, place: &ShareDirectory, error: Errno, disk: &mut DiskThread) {
        if is_want(error) {
            return self.shared.lock().listing.shares.record_want(place.index);
        }
        let denied = error == Errno::ACCESS;
        let dir = place.dir.clone();
        let look = move |disk: &DiskAccess<'_>| disk.beneath.closed_above(&dir);
        let above = denied.then(|| disk.run(place.index, &place.dir, look));
        let why = match above.flatten().flatten() {
            Some(above) => warning_of_closed(&above),
            None => format!("the share cannot be read ({error}); its files are not listed"),
        };
        let mut state = self.shared.lock();
        state.vanish(place.index, &why);
        self.shared.writable.update(&state.listing.shares);
        if denied {
            state.listing.kept.clear();
        }
    }

    fn lose_directory(&self, place: &ShareDirectory, error: Errno) {
        if is_want(error) {
            return self.shared.lock().listing.shares.record_want(place.index);
        }
        if place.path.is_root() {
            return;
        }
        let mut state = self.shared.lock();
        state.listing.order.step();
        if is_absence(error) {
            state.listing.recheck(place.slot, Cause::Walk);
        } else {
            state.become_unreadable(place.slot, FileIdentity::default(), true);
        }
    }

    /// Returns the watch that a directory seems to have. The report of its end may have been
    /// dropped, so each walk adds a watch again.
    fn watch_of(&self, place: &ShareDirectory, watches: &mut Watches) -> Option<i32> {
        let mut state = self.shared.lock();
        // before the kernel gives one of their numbers to the new watch
        let unwatched = std::mem::take(&mut state.listing.unwatched);
        let had = state
            .listing
            .tree
            .directory(place.slot)
            .and_then(|it| it.watch);
        drop(state);
        watches.remove_all(unwatched);
        had
    }

    /// Records the watch that was added for a directory, unless its share was removed meanwhile.
    fn record_watch(
        &mut self,
        place: &ShareDirectory,
        had: Option<i32>,
        added: Result<i32, Unwatched>,
        watches: &mut Watches,
    ) {
        watches.record(place.slot, had, added);
        let is_local = !self.shared.beneath.is_far(&place.dir);
        let shared = self.shared.clone();
        let mut state = shared.lock();
        let directory = state.listing.tree.directory_mut(place.slot);
        let Some(directory) = directory.filter(|it| Some(it.number) == place.number) else {
            drop(state);
            if let Ok(watch) = added {
                watches.remove(watch, place.slot);
            }
            return;
        };
        match added {
            Ok(watch) => {
                directory.is_local = is_local;
                if directory.watch.replace(watch) != Some(watch) {
                    state.listing.tree.forget_witnesses_in(place.slot);
                }
            }
            Err(Unwatched::Other) => {}
            Err(Unwatched::Limit) => {
                directory.watch = None;
                state.listing.tree.forget_witnesses_in(place.slot);
                if let Some(share) = state.listing.shares.by_index.get_mut(&place.index) {
                    share.problems.unwatched = true;
                }
                let dir = place.dir.to_path_buf();
                let shares = &mut state.listing.shares;
                self.warning.raise(shares, place.index, dir);
            }
        }
    }
}
