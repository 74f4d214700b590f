//! The kernel's reports about the shares, and the checks of names that they cause. The listing
//! requests further checks.

use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::checks::PendingChecks;
use super::identity::FileTimestamp;
use super::listing::{Recheck, ShareListing};
use super::mounts::{MountChanges, says_changed};
use super::offered::OfferedShare;
use super::proof::Told;
use super::shared::SharedState;
use super::tree::Slot;
use super::watch::{Cause, InotifyReport, NameChange, Watches};

/// Maximum names that wait to be checked. When there are more, everything is walked instead.
const CHECKS_MAX: usize = 1 << 16;

/// The kernel's reports about the shares, and the names to check. A name is checked because of a
/// report, or because the listing requests it after a change of another name
/// ([`Self::take_rechecks`]).
pub(super) struct KernelReports {
    pub(super) watches: Watches,
    mounts: MountChanges,
    pub(super) checks: PendingChecks,
}

impl KernelReports {
    pub(super) fn new(watch_limit: usize) -> Self {
        Self {
            watches: Watches::new(watch_limit),
            mounts: MountChanges::new(),
            checks: PendingChecks::new(),
        }
    }

    /// Gives each pending report of the watches its turn, and queues the checks.
    pub(super) fn read(&mut self, shared: &SharedState) {
        let mut reports = Vec::new();
        self.checks.begin_reading(FileTimestamp::last_tick());
        let dropped = self.watches.drain(|report| reports.push(report));
        let mut state = shared.lock();
        for report in reports {
            note_report(&mut state.listing, &mut self.checks, report);
        }
        for (watch, slot) in dropped {
            if let Some(directory) = state.listing.tree.directory_mut(slot)
                && directory.watch == Some(watch)
            {
                directory.watch = None;
                state.listing.tree.forget_witnesses_in(slot);
            }
        }
        if self.checks.len() > CHECKS_MAX {
            self.checks.clear();
            state.listing.shares.scan_all();
        }
        state.listing.order.record_drained();
    }

    /// Queues the checks that follow from mounts and unmounts.
    pub(super) fn read_mounts(&mut self, listing: &mut ShareListing) {
        for point in self.mounts.take() {
            note_mount(listing, &mut self.checks, &point);
        }
    }

    /// Queues the checks that the listing requests.
    pub(super) fn take_rechecks(&mut self, listing: &mut ShareListing) {
        for Recheck {
            directory,
            name,
            cause,
            told,
        } in std::mem::take(&mut listing.rechecks)
        {
            let turn = listing.order.step();
            self.checks.add_report(directory, name, cause, told, turn);
        }
    }

    /// Waits until something is reported, `waker` is written to, or `due`.
    pub(super) fn wait(&mut self, waker: impl AsFd, due: Instant) {
        let left = due.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: left.as_secs().cast_signed(),
            tv_nsec: left.subsec_nanos().into(),
        };
        let waker = PollFd::new(&waker, PollFlags::IN);
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
}

/// Schedules checks after a mount or unmount at `point`, because that path now leads to something
/// else.
fn note_mount(listing: &mut ShareListing, checks: &mut PendingChecks, point: &Path) {
    let shares = listing.shares.by_index.iter();
    let above = shares.filter(|(_, share)| share.dir.starts_with(point));
    listing.shares.scans.extend(above.map(|(index, _)| *index));
    let within = |share: &OfferedShare| {
        let below = point.strip_prefix(&share.dir).ok()?;
        let name = below.file_name()?.as_bytes();
        let mut above = below.parent()?.iter();
        let parent = above.try_fold(share.root, |slot, name| {
            listing.tree.child(slot, name.as_bytes())
        })?;
        Some((parent, Box::from(name)))
    };
    let names: Vec<(Slot, Box<[u8]>)> = listing
        .shares
        .by_index
        .values()
        .filter_map(within)
        .collect();
    for (parent, name) in names {
        let turn = listing.order.step();
        checks.add_report(parent, name, Cause::Walk, Told::Nothing, turn);
    }
}

pub(super) fn note_report(
    listing: &mut ShareListing,
    checks: &mut PendingChecks,
    report: InotifyReport,
) {
    match report {
        InotifyReport::Overflow => {
            listing.tree.forget_witnesses();
            listing.shares.scan_all();
        }
        InotifyReport::Name {
            directory,
            name,
            cause,
            change,
        } => {
            let turn = listing.order.step();
            let known = listing.tree.child(directory, &name);
            let told = told_by(listing, checks, known, change);
            if let Some(slot) = known.filter(|_| !told.keeps_file()) {
                listing.tree.forget_witness(slot);
            }
            // a new or lost name changes its directory's own mtime
            let above = listing
                .tree
                .get(directory)
                .filter(|node| node.parent != directory);
            if let Some(node) = above.filter(|_| cause != Cause::Modified) {
                let name = listing.tree.name(directory).into();
                checks.add_report(node.parent, name, Cause::Walk, Told::Nothing, turn);
            }
            checks.add_report(directory, name, cause, told, turn);
        }
        InotifyReport::Itself { directory } => {
            let Some(node) = listing.tree.get(directory) else {
                return;
            };
            if node.parent == directory {
                listing.shares.scans.push(node.share);
                return;
            }
            // the directory above a mount point gets no report about the mounted root
            let turn = listing.order.step();
            let name = listing.tree.name(directory).into();
            checks.add_report(node.parent, name, Cause::Walk, Told::Nothing, turn);
        }
    }
}

/// Returns what a report of a name says about the bytes of its file; the name has this slot. The file of a renamed name is known if
/// the old name was witnessed until the rename.
fn told_by(
    listing: &ShareListing,
    checks: &PendingChecks,
    slot: Option<Slot>,
    change: NameChange,
) -> Told {
    let from = match change {
        NameChange::Removed => {
            let known = slot.and_then(|slot| listing.witnessed(slot));
            return known.map_or(Told::Written, |_| Told::Removed);
        }
        NameChange::Attributes => return Told::Attributes,
        NameChange::Created => return Told::Created,
        NameChange::Moved(from) => from,
        NameChange::Written => None,
    };
    let known = from.and_then(|(directory, name)| match checks.told_of(directory, &name) {
        Told::Moved(known) => Some(known),
        told if told.keeps_file() => {
            let slot = listing.tree.child(directory, &name)?;
            listing.witnessed(slot)
        }
        _ => None,
    });
    known.map_or(Told::Written, Told::Moved)
}
