//! Watching directories with inotify.
//!
//! Done on the system call itself and not with the `notify` crate, whose recursive watch walks the
//! tree by path on its own: it would follow mounts (our own among them, which can deadlock), read
//! every directory twice, and keep each path twice in memory; and the watch must be there before
//! a directory is read, or what comes between is lost.

use std::collections::BTreeSet;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use super::tree::Slot;
use p2pfs_types::files::path_of;

/// One read takes so much: some hundred events.
const READ_BYTES: usize = 64 * 1024;
/// How long a name that something was moved from waits for the report of where it went, where
/// nothing else was reported since. The kernel makes both in one system call, microseconds apart,
/// unless its thread has to wait between them; a tenth of what may pass until a change is told.
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

/// What made us look at a name; where several did, see [`Cause::then`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cause {
    /// A walk, or new attributes: its writer may or may not be done.
    Walk,
    /// It was unlinked or moved away.
    Unlinked,
    /// It was made: its writer is at it, unless it is a second link.
    Created,
    /// It was written to: its writer is at it.
    Modified,
    /// It was written to after a close: its writer may or may not be done.
    Reopened,
    /// Its writer closed it, or it was moved here whole.
    Closed,
}

impl Cause {
    /// What is known of a name of which `later` was reported after this. What is made under a name
    /// is another file than the one that was closed under it, and what is written to after a close
    /// is not what was closed; apart from that the greatest counts.
    pub(super) fn then(self, later: Self) -> Self {
        match (self, later) {
            (Self::Closed | Self::Reopened, Self::Modified) => Self::Reopened,
            (_, Self::Created) => later,
            _ => self.max(later),
        }
    }

    /// It may have been written to, or be another file.
    pub(super) fn is_of_writer(self) -> bool {
        self >= Self::Created
    }
}

/// What the kernel reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// Something about the name in the directory.
    Name {
        directory: Slot,
        name: Box<[u8]>,
        cause: Cause,
    },
    /// The directory itself changed its attributes, or was deleted, moved or unmounted.
    Itself { directory: Slot },
    /// Events were dropped: everything must be looked at.
    Overflow,
}

/// Why a directory is not watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unwatched {
    /// fs.inotify.max_user_watches, or our own limit.
    Limit,
    /// Anything else, such as a directory gone again.
    Other,
}

/// A name that something was moved from. It is reported after the name that it was moved to, so
/// that what is renamed is listed under its new name before it leaves the old one.
struct Moved {
    cookie: u32,
    reports: Vec<Report>,
    until: Instant,
}

/// The watches. Two directories may be one inode (bind mounts), and then share a watch.
pub(super) struct Watches {
    inotify: Option<OwnedFd>,
    by_watch: BTreeSet<(i32, Slot)>,
    limit: usize,
    /// The last report, where it may be one half of a rename.
    moved: Option<Moved>,
}

impl Watches {
    /// No inotify instance left (fs.inotify.max_user_instances) is as if every watch failed.
    pub(super) fn new(limit: usize) -> Self {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok();
        Self {
            inotify,
            by_watch: BTreeSet::new(),
            limit,
            moved: None,
        }
    }

    /// When to [`Self::drain`] again, if nothing is reported.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.moved.as_ref().map(|moved| moved.until)
    }

    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(AsFd::as_fd)
    }

    /// Watches an open directory, by its descriptor, so that no rename can slip another one in. The
    /// watch that it had is the same again, unless that ended unheard.
    pub(super) fn add(
        &mut self,
        slot: Slot,
        directory: BorrowedFd<'_>,
        had: Option<i32>,
    ) -> Result<i32, Unwatched> {
        let inotify = self.inotify.as_ref().ok_or(Unwatched::Limit)?;
        if had.is_none() && self.by_watch.len() >= self.limit {
            return Err(Unwatched::Limit);
        }
        match inotify::add_watch(inotify, path_of(directory), MASK) {
            Ok(watch) => {
                self.by_watch.insert((watch, slot));
                if let Some(dead) = had.filter(|had| *had != watch) {
                    self.remove(dead, slot);
                }
                Ok(watch)
            }
            Err(Errno::NOSPC) => {
                // a watch that is alive needs no room
                had.map(|dead| self.by_watch.remove(&(dead, slot)));
                Err(Unwatched::Limit)
            }
            Err(_) => Err(Unwatched::Other),
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

    fn slots(&self, watch: i32) -> impl Iterator<Item = Slot> + '_ {
        let range = (watch, Slot::FIRST)..=(watch, Slot::LAST);
        self.by_watch.range(range).map(|(_, slot)| *slot)
    }

    /// Hands every waiting report to `take`, of a rename the new name first; says which watches the
    /// kernel dropped.
    pub(super) fn drain(&mut self, mut take: impl FnMut(Report)) -> Vec<(i32, Slot)> {
        let mut dropped = Vec::new();
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
                take(Report::Overflow);
                continue;
            }
            let mut reports = Vec::new();
            for directory in self.slots(event.wd()) {
                if flags.contains(ReadFlags::IGNORED) {
                    dropped.push((event.wd(), directory));
                    continue;
                }
                let name = event.file_name().map(|name| name.to_bytes().into());
                reports.push(report(directory, name, flags));
            }
            if flags.contains(ReadFlags::MOVED_FROM) {
                let until = Instant::now() + MOVE_WAIT;
                moved = Some(Moved {
                    cookie,
                    reports,
                    until,
                });
            } else {
                reports.into_iter().for_each(&mut take);
                release(from, &mut take);
            }
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

/// Hands on what waited for the other half of a rename.
fn release(moved: Option<Moved>, take: impl FnMut(Report)) {
    let reports = moved.into_iter().flat_map(|moved| moved.reports);
    reports.for_each(take);
}

fn report(directory: Slot, name: Option<Box<[u8]>>, flags: ReadFlags) -> Report {
    let Some(name) = name else {
        return Report::Itself { directory };
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
    Report::Name {
        directory,
        name,
        cause,
    }
}
