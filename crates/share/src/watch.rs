//! Watches directories with inotify.
//!
//! This module calls inotify directly instead of using the `notify` crate. The recursive watch of
//! that crate walks the tree by path on its own. It would follow mounts (including this node's,
//! which can deadlock), read every directory twice, and keep each path twice in memory. A watch
//! must also exist before its directory is read, or changes in between are lost.

use std::collections::BTreeSet;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use super::tree::Slot;
use p2pfs_types::files::path_of;

/// Buffer size of one read: at least 240 events, with names of 255 bytes (`inotify(7)`).
const READ_BYTES: usize = 64 * 1024;
/// How long the old name of a rename waits for the report of the new one, if nothing else is
/// reported. The kernel reports both in one system call, microseconds apart, unless the calling
/// thread has to wait in between. This is a tenth of the time allowed until a change is announced.
const MOVE_WAIT: Duration = Duration::from_millis(200);

const MASK: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::EXCL_UNLINK)
    .union(WatchFlags::ONLYDIR);

/// Why a name is checked. [`Cause::then`] combines several causes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cause {
    /// A walk, or new attributes. The writer may or may not be done.
    Walk,
    /// The name was unlinked or moved away.
    Unlinked,
    /// The name was created. A writer probably has the file open, unless the name is a second link.
    Created,
    /// The file was written to. A writer probably has it open.
    Modified,
    /// The file was written to after a close. The writer may or may not be done.
    Reopened,
    /// A writer closed the file, or the file was moved here. A file that is moved here counts as
    /// complete.
    Closed,
}

impl Cause {
    /// Combines this cause with one that was reported later. A later [`Self::Created`] replaces any
    /// cause, because the name then stands for another file. A write after a close gives
    /// [`Self::Reopened`]. Otherwise the cause that stands lower in this list wins.
    pub(super) fn then(self, later: Self) -> Self {
        match (self, later) {
            (Self::Closed | Self::Reopened, Self::Modified) => Self::Reopened,
            (_, Self::Created) => later,
            _ => self.max(later),
        }
    }

    /// Returns whether the file may have been written to or replaced.
    pub(super) fn is_of_writer(self) -> bool {
        self >= Self::Created
    }
}

/// A report of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum InotifyReport {
    /// A change of the name in the directory.
    Name {
        directory: Slot,
        name: Box<[u8]>,
        cause: Cause,
        change: NameChange,
    },
    /// The directory itself changed its attributes, or was deleted, moved or unmounted.
    Itself { directory: Slot },
    /// Events were dropped. Everything must be checked.
    Overflow,
}

/// Change of a name, or of its file, in a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NameChange {
    /// Its attributes changed.
    Attributes,
    /// The name was created.
    Created,
    /// The file was moved here, from this directory and name if that is watched.
    Moved(Option<(Slot, Box<[u8]>)>),
    /// The name was unlinked, or moved away.
    Removed,
    /// The file was written to, or its writer closed it.
    Written,
}

/// Why a directory is not watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unwatched {
    /// The limit of watches (fs.inotify.max_user_watches, or the configured one), or of inotify
    /// instances (fs.inotify.max_user_instances).
    Limit,
    /// Any other error, for example a directory that is gone again.
    Other,
}

/// The old name of a rename. It is reported after the new name, so that a renamed file is listed
/// under its new name before it loses the old one.
struct PendingRename {
    cookie: u32,
    reports: Vec<InotifyReport>,
    until: Instant,
}

impl PendingRename {
    fn old_name(&self) -> Option<(Slot, &[u8])> {
        self.reports.iter().find_map(|report| match report {
            InotifyReport::Name {
                directory, name, ..
            } => Some((*directory, &**name)),
            _ => None,
        })
    }
}

/// A new watch, before the kernel adds it. That may block on the disk, so it needs neither the
/// watches nor the state.
pub(super) struct NewWatch(Arc<OwnedFd>);

impl NewWatch {
    /// Watches an open directory by its descriptor, so that no rename can substitute another one.
    pub(super) fn add(&self, directory: BorrowedFd<'_>) -> Result<i32, Unwatched> {
        let added = inotify::add_watch(&self.0, path_of(directory), MASK);
        added.map_err(|error| match error {
            Errno::NOSPC => Unwatched::Limit,
            _ => Unwatched::Other,
        })
    }
}

/// The watches. Two directories may be one inode (bind mounts) and then share a watch.
pub(super) struct Watches {
    inotify: Option<Arc<OwnedFd>>,
    by_watch: BTreeSet<(i32, Slot)>,
    limit: usize,
    /// Last report, if it is the old name of a rename and the new name may follow.
    moved: Option<PendingRename>,
}

impl Watches {
    /// Creates an inotify instance. If none is available (fs.inotify.max_user_instances), every
    /// watch fails until [`Self::restart`] gets one.
    pub(super) fn new(limit: usize) -> Self {
        let mut watches = Self {
            inotify: None,
            by_watch: BTreeSet::new(),
            limit,
            moved: None,
        };
        watches.restart();
        watches
    }

    /// Tries to create the inotify instance if there is none. A walk then adds the watches.
    pub(super) fn restart(&mut self) {
        if self.inotify.is_none() {
            let flags = CreateFlags::CLOEXEC | CreateFlags::NONBLOCK;
            self.inotify = inotify::init(flags).ok().map(Arc::new);
        }
    }

    /// Returns when to call [`Self::drain`] again if nothing is reported.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.moved.as_ref().map(|moved| moved.until)
    }

    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(AsFd::as_fd)
    }

    /// Returns a new watch for a directory that has the watch `had` so far. The caller must pass
    /// the result of [`NewWatch::add`] to [`Self::record`] before it calls [`Self::drain`].
    pub(super) fn new_watch(&self, had: Option<i32>) -> Result<NewWatch, Unwatched> {
        let inotify = self.inotify.clone().ok_or(Unwatched::Limit)?;
        if had.is_none() && self.by_watch.len() >= self.limit {
            return Err(Unwatched::Limit);
        }
        Ok(NewWatch(inotify))
    }

    /// Records the watch that the kernel added for a directory: `had` if the directory still has
    /// it, otherwise a new one.
    pub(super) fn record(&mut self, slot: Slot, had: Option<i32>, added: Result<i32, Unwatched>) {
        match added {
            Ok(watch) => {
                self.by_watch.insert((watch, slot));
                if let Some(dead) = had.filter(|had| *had != watch) {
                    self.remove(dead, slot);
                }
            }
            Err(Unwatched::Limit) => {
                // the kernel needed another watch for the directory, so the old watch no longer
                // exists
                had.map(|dead| self.by_watch.remove(&(dead, slot)));
            }
            Err(Unwatched::Other) => {}
        }
    }

    pub(super) fn remove(&mut self, watch: i32, slot: Slot) {
        if self.by_watch.remove(&(watch, slot))
            && self.slots(watch).next().is_none()
            && let Some(inotify) = &self.inotify
        {
            // the kernel may have dropped it first, with the directory
            let _ = inotify::remove_watch(inotify, watch);
        }
    }

    /// Removes the watches of directories that are gone.
    pub(super) fn remove_all(&mut self, unwatched: Vec<(i32, Slot)>) {
        for (watch, slot) in unwatched {
            self.remove(watch, slot);
        }
    }

    fn slots(&self, watch: i32) -> impl Iterator<Item = Slot> + '_ {
        let range = (watch, Slot::FIRST)..=(watch, Slot::LAST);
        self.by_watch.range(range).map(|(_, slot)| *slot)
    }

    /// Passes every pending report to `take`, for a rename the new name first. An old name without
    /// a new one is passed before the next report, or after [`MOVE_WAIT`]. Returns the watches that
    /// the kernel dropped. Removes the watches of no directory: the kernel added them after the
    /// scanner had stopped waiting for their disk.
    pub(super) fn drain(&mut self, mut take: impl FnMut(InotifyReport)) -> Vec<(i32, Slot)> {
        let (mut dropped, mut abandoned) = (Vec::new(), BTreeSet::new());
        let mut moved = self.moved.take();
        let Some(inotify) = &self.inotify else {
            return dropped;
        };
        let mut buffer = vec![MaybeUninit::uninit(); READ_BYTES];
        let mut reader = Reader::new(inotify, &mut buffer);
        while let Ok(event) = reader.next() {
            let (flags, cookie) = (event.events(), event.cookie());
            let (other, from) = match moved.take() {
                Some(it) if it.cookie == cookie => (None, Some(it)),
                other => (other, None),
            };
            release(other, &mut take);
            if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                take(InotifyReport::Overflow);
                continue;
            }
            if self.slots(event.wd()).next().is_none() {
                abandoned.insert(event.wd());
            }
            let old_name = from.as_ref().and_then(PendingRename::old_name);
            let mut reports = Vec::new();
            for directory in self.slots(event.wd()) {
                if flags.contains(ReadFlags::IGNORED) {
                    dropped.push((event.wd(), directory));
                    continue;
                }
                let name = event.file_name().map(|name| name.to_bytes().into());
                reports.push(report(directory, name, flags, old_name));
            }
            if flags.contains(ReadFlags::MOVED_FROM) {
                let until = Instant::now() + MOVE_WAIT;
                moved = Some(PendingRename {
                    cookie,
                    reports,
                    until,
                });
            } else {
                reports.into_iter().for_each(&mut take);
                release(from, &mut take);
            }
        }
        for watch in abandoned {
            // the kernel has dropped it already if its directory is gone
            let _ = inotify::remove_watch(inotify, watch);
        }
        for entry in &dropped {
            self.by_watch.remove(entry);
        }
        match moved {
            Some(it) if it.until > Instant::now() => self.moved = Some(it),
            other => release(other, take),
        }
        dropped
    }
}

/// Passes on the reports about the old name of a rename, which waited for those about the new name.
fn release(moved: Option<PendingRename>, take: impl FnMut(InotifyReport)) {
    let reports = moved.into_iter().flat_map(|moved| moved.reports);
    reports.for_each(take);
}

fn report(
    directory: Slot,
    name: Option<Box<[u8]>>,
    flags: ReadFlags,
    old_name: Option<(Slot, &[u8])>,
) -> InotifyReport {
    let Some(name) = name else {
        return InotifyReport::Itself { directory };
    };
    let cause = if flags.intersects(ReadFlags::CLOSE_WRITE | ReadFlags::MOVED_TO) {
        Cause::Closed
    } else if flags.contains(ReadFlags::MODIFY) {
        Cause::Modified
    } else if flags.contains(ReadFlags::CREATE) {
        Cause::Created
    } else if flags.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM) {
        Cause::Unlinked
    } else {
        Cause::Walk
    };
    let change = if flags.contains(ReadFlags::MOVED_TO) {
        NameChange::Moved(old_name.map(|(directory, name)| (directory, name.into())))
    } else if flags.contains(ReadFlags::CREATE) {
        NameChange::Created
    } else if flags.contains(ReadFlags::ATTRIB) {
        NameChange::Attributes
    } else if flags.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM) {
        NameChange::Removed
    } else {
        NameChange::Written
    };
    InotifyReport::Name {
        directory,
        name,
        cause,
        change,
    }
}
