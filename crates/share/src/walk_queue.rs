//! The walk queues: opening, watching and reading one directory after another.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::fstat;
use rustix::io::Errno;

use super::beneath::{is_absence, is_want};
use super::disk_thread::DiskAccess;
use super::identity::{FileIdentity, NameStat};
use super::left_out::warning_of_closed;
use super::offered::{OfferedShare, UNWATCHED};
use super::order::EventSeq;
use super::scanner::{Scanner, Visit, WalkQueue, place_of};
use super::state::ListingState;
use super::walk::{DirectoryWalk, ObservedNames, OpenShareDirectory, ShareDirectory};
use super::watch::{Cause, Unwatched};

/// Maximum steps through new directories before all other work continues.
const FRESH_STEPS_MAX: usize = 64;

/// Result of opening a directory.
struct OpenAttempt {
    /// Attributes of the share's own directory, if that is the directory to read.
    share: Option<NameStat>,
    open: Result<OpenShareDirectory, Errno>,
    /// Attributes of the directory, if it was left out as unreadable until now.
    seen: Option<NameStat>,
}

impl OpenAttempt {
    /// Opens the directory of `place` beneath its share.
    ///
    /// # Errors
    /// The share's own directory cannot be opened.
    fn at(disk: &DiskAccess<'_>, place: ShareDirectory) -> Result<Self, Errno> {
        let share = disk.beneath.open_share(&place.dir)?;
        disk.step();
        let of_share = place.path.is_root().then(|| seen(&share)).flatten();
        let is_new = place.number.is_none();
        let open = OpenShareDirectory::open(disk.beneath, place, share);
        disk.step();
        let opened = open.as_ref().ok().filter(|_| is_new);
        let seen = opened.and_then(|open| seen(&open.fd));
        Ok(Self {
            share: of_share,
            open,
            seen,
        })
    }
}

fn seen(fd: &OwnedFd) -> Option<NameStat> {
    Some(NameStat::of(&fstat(fd).ok()?))
}

impl Scanner {
    /// Runs up to [`FRESH_STEPS_MAX`] steps through new directories, because later turns wait for
    /// them, and then one step through the other directories.
    pub(super) fn advance(&mut self) {
        for _ in 0..FRESH_STEPS_MAX {
            if self.fresh.walk.is_none() && self.fresh.visits.is_empty() {
                break;
            }
            let queue = std::mem::take(&mut self.fresh);
            self.fresh = self.step(queue, |scanner| &mut scanner.fresh);
        }
        let queue = std::mem::take(&mut self.scan);
        self.scan = self.step(queue, |scanner| &mut scanner.scan);
    }

    /// Runs one step of `queue`: a batch of names, or the next directory. `grown` returns the field
    /// of the scanner to which directories found in this step were added.
    fn step(&mut self, mut queue: WalkQueue, grown: fn(&mut Self) -> &mut WalkQueue) -> WalkQueue {
        if let Some(walk) = queue.walk.take() {
            queue.walk = self.read_on(walk);
        } else if let Some(visit) = queue.visits.pop_front() {
            let (index, turn) = (visit.index, visit.turn);
            queue.walk = match self.begin_walk(visit) {
                Some((walk, first)) => self.take_batch(walk, first),
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
        self.update_watch_warning(&mut state);
    }

    /// Ends the warning about missing watches if its share has them now or is no longer offered.
    /// Another share without watches is warned of instead.
    pub(super) fn update_watch_warning(&mut self, state: &mut ListingState) {
        let Some((index, _)) = &self.warned_of_watches else {
            return;
        };
        // a running walk has not tried all of its watches yet
        let may_lack = |share: &OfferedShare| share.problems.unwatched || share.walk.is_running;
        if state
            .listing
            .shares
            .by_index
            .get(index)
            .is_some_and(may_lack)
        {
            return;
        }
        if let Some((index, dir)) = self.warned_of_watches.take() {
            state
                .listing
                .shares
                .settle(index, dir, Some(UNWATCHED.to_owned()));
        }
        let mut shares = state.listing.shares.by_index.iter();
        let other = shares.find(|(_, share)| share.problems.unwatched);
        let other = other.map(|(index, share)| (*index, share.dir.to_path_buf()));
        if let Some((index, dir)) = other {
            self.warn_of_watches(state, index, dir);
        }
    }

    fn warn_of_watches(&mut self, state: &mut ListingState, index: u16, dir: PathBuf) {
        self.warned_of_watches = Some((index, dir.clone()));
        state.listing.shares.warn(index, dir, UNWATCHED);
    }

    fn read_on(&mut self, mut walk: DirectoryWalk) -> Option<DirectoryWalk> {
        let (place, turn) = (walk.open.place.clone(), walk.turn);
        let read = self.disk.run(place.index, &place.dir, move |disk| {
            let batch = walk.next_batch(disk);
            (walk, batch)
        });
        match read {
            Some((walk, batch)) => self.take_batch(walk, batch),
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
    ) -> Option<DirectoryWalk> {
        let place = walk.open.place.clone();
        let turn = walk.turn;
        match batch {
            Ok(looks) if looks.is_empty() => self.check_unmet_names(walk),
            Ok(looks) => {
                if self.apply_walk(&place, looks, Some(&mut walk)) {
                    return Some(walk);
                }
            }
            Err(error) if is_want(error) => self.record_want(place.index),
            Err(_) => {}
        }
        self.end_walk(place.index, turn);
        None
    }

    /// Checks the names that the state has and the walk did not find. They are gone, or were
    /// created during the walk.
    fn check_unmet_names(&mut self, walk: DirectoryWalk) {
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
        let looks = self.disk.run(place.index, &place.dir, move |disk| {
            open.check_unmet(disk, names)
        });
        if let Some(looks) = looks {
            self.apply_walk(&place, looks, None);
        }
    }

    /// Opens and watches a directory, and reads its first batch.
    fn begin_walk(
        &mut self,
        visit: Visit,
    ) -> Option<(DirectoryWalk, Result<ObservedNames, Errno>)> {
        let mut place = place_of(&self.shared.lock(), visit.slot)?;
        if place.index != visit.index {
            return None;
        }
        let asked = place.clone();
        let opened = self
            .disk
            .run(place.index, &place.dir, |disk| OpenAttempt::at(disk, asked))?;
        let opened = opened
            .map_err(|error| self.lose_share(&place, error))
            .ok()?;
        let private = place.path.is_root() && !self.enter_share(&mut place, opened.share);
        let mut open = opened
            .open
            .map_err(|error| self.lose_directory(&place, error))
            .ok()?;
        open.place.number = place.number;
        self.take_up(&mut open, opened.seen);
        place.number = open.place.number;
        let had = self.watch_of(&place);
        let new_watch = self.watches.new_watch(had);
        let read = self.disk.run(place.index, &place.dir, move |disk| {
            let watch = new_watch.and_then(|watch| watch.add(open.as_fd()));
            disk.step();
            let seen = seen(&open.fd);
            let walk = (!private).then(|| DirectoryWalk::begin(disk, open, visit.full, visit.turn));
            (watch, seen, walk)
        });
        let (watch, seen, walk) = read?;
        self.record_watch(&place, had, watch);
        self.date_directory(&place, seen);
        if private {
            self.enter_share_opened_meanwhile(&place, seen);
        }
        walk?
            .map_err(|error| self.lose_directory(&place, error))
            .ok()
    }

    fn enter_share(&self, place: &mut ShareDirectory, share: Option<NameStat>) -> bool {
        let Some(seen) = share else { return false };
        let mut state = self.shared.lock();
        let open = state.enter_share(place.index, &seen);
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

    fn lose_share(&mut self, place: &ShareDirectory, error: Errno) {
        if is_want(error) {
            return self.record_want(place.index);
        }
        let denied = error == Errno::ACCESS;
        let dir = place.dir.clone();
        let look = move |disk: &DiskAccess<'_>| disk.beneath.closed_above(&dir);
        let above = denied.then(|| self.disk.run(place.index, &place.dir, look));
        let why = match above.flatten().flatten() {
            Some(above) => warning_of_closed(&above),
            None => format!("the share cannot be read ({error}); its files are not listed"),
        };
        let mut state = self.shared.lock();
        state.vanish(place.index, &why);
        if denied {
            state.listing.kept.clear();
        }
    }

    /// Schedules another walk of a share in which a check failed for lack of resources.
    pub(super) fn record_want(&self, index: u16) {
        if let Some(share) = self.shared.lock().listing.shares.by_index.get_mut(&index) {
            share.problems.wanting = true;
        }
    }

    fn lose_directory(&self, place: &ShareDirectory, error: Errno) {
        if is_want(error) {
            return self.record_want(place.index);
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
    fn watch_of(&mut self, place: &ShareDirectory) -> Option<i32> {
        let mut state = self.shared.lock();
        // before the kernel gives one of their numbers to the new watch
        let unwatched = std::mem::take(&mut state.listing.unwatched);
        let had = state
            .listing
            .tree
            .directory(place.slot)
            .and_then(|it| it.watch);
        drop(state);
        for (watch, slot) in unwatched {
            self.watches.remove(watch, slot);
        }
        had
    }

    /// Records the watch that was added for a directory, unless its share was removed meanwhile.
    fn record_watch(
        &mut self,
        place: &ShareDirectory,
        had: Option<i32>,
        added: Result<i32, Unwatched>,
    ) {
        self.watches.record(place.slot, had, added);
        let shared = self.shared.clone();
        let mut state = shared.lock();
        let directory = state.listing.tree.directory_mut(place.slot);
        let Some(directory) = directory.filter(|it| Some(it.number) == place.number) else {
            drop(state);
            if let Ok(watch) = added {
                self.watches.remove(watch, place.slot);
            }
            return;
        };
        match added {
            Ok(watch) => directory.watch = Some(watch),
            Err(Unwatched::Other) => {}
            Err(Unwatched::Limit) => {
                directory.watch = None;
                if let Some(share) = state.listing.shares.by_index.get_mut(&place.index) {
                    share.problems.unwatched = true;
                }
                if self.warned_of_watches.is_none() {
                    let dir = place.dir.to_path_buf();
                    self.warn_of_watches(&mut state, place.index, dir);
                }
            }
        }
    }
}
