//! Attributes that tell one state of a file from another without reading it.

use std::time::{Duration, SystemTime};

use rustix::fs::{FileType, Stat};

use p2pfs_proto::wire::native::record::{EARLIEST_UNIX_S, Timestamp};

/// Longest tick of the clock that dates files (`time(7)`, the software clock: 100 Hz).
const TICK_MAX: Duration = Duration::from_millis(10);

/// A [`Timestamp`] in 12 bytes instead of 16, because the tree holds two for each directory.
#[repr(C, packed(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileTimestamp {
    pub(super) seconds: i64,
    pub(super) nanoseconds: u32,
}

impl FileTimestamp {
    pub(super) const fn new(seconds: i64, nanoseconds: u32) -> Self {
        Self {
            seconds,
            nanoseconds,
        }
    }

    /// Returns the current time of the system clock.
    pub(super) fn now() -> Self {
        Self::from(SystemTime::now())
    }

    /// Returns a time before which this machine dates no change from now on.
    pub(super) fn last_tick() -> Self {
        Self::from(SystemTime::now() - TICK_MAX)
    }

    /// Returns this time, or `now` if that is earlier, so that no version has a time in the future.
    /// If `now` is before [`EARLIEST_UNIX_S`], the clock is not set yet. Then always returns this
    /// time, because the version would otherwise keep a far too early time forever.
    pub(super) fn seen_at(self, now: Self) -> Self {
        if now.seconds < EARLIEST_UNIX_S.cast_signed() {
            self
        } else {
            self.min(now)
        }
    }

    /// Returns the distance to `other` in either direction.
    pub(super) fn distance(self, other: Self) -> Duration {
        let apart = (self.total_nanoseconds() - other.total_nanoseconds()).unsigned_abs();
        Duration::from_nanos(u64::try_from(apart).unwrap_or(u64::MAX))
    }

    /// Returns the time after this duration.
    pub(super) fn later_by(self, duration: Duration) -> Self {
        let later = i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX);
        Self::from_nanoseconds(self.total_nanoseconds().saturating_add(later))
    }

    /// Returns the time at these nanoseconds since 1970.
    pub(super) fn from_nanoseconds(nanoseconds: i128) -> Self {
        let seconds = nanoseconds.div_euclid(1_000_000_000);
        let seconds = seconds.clamp(i64::MIN.into(), i64::MAX.into()) as i64;
        Self::new(seconds, nanoseconds.rem_euclid(1_000_000_000) as u32)
    }

    /// Returns the time in nanoseconds.
    pub(super) fn total_nanoseconds(self) -> i128 {
        i128::from(self.seconds) * 1_000_000_000 + i128::from(self.nanoseconds)
    }
}

impl From<SystemTime> for FileTimestamp {
    fn from(time: SystemTime) -> Self {
        Timestamp::from(time).into()
    }
}

impl From<FileTimestamp> for Timestamp {
    fn from(stamp: FileTimestamp) -> Self {
        Self {
            seconds: stamp.seconds,
            nanoseconds: stamp.nanoseconds,
        }
    }
}

impl From<Timestamp> for FileTimestamp {
    fn from(time: Timestamp) -> Self {
        Self::new(time.seconds, time.nanoseconds)
    }
}

/// Returns whether `mtime` is less than `window` before or after `now`. In that case, a write may
/// have been missed or may still be going on.
pub(super) fn is_recent(mtime: FileTimestamp, now: FileTimestamp, window: Duration) -> bool {
    mtime.distance(now) < window
}

/// (dev, ino, size, mtime, ctime). While these are the same, the bytes are taken to be the same. A
/// program cannot set the ctime, but writes within one clock tick or through a mapping may leave it
/// unchanged (see `reading::trust_in`).
#[repr(C, packed(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FileIdentity {
    pub(super) dev: u64,
    pub(super) ino: u64,
    pub(super) size_bytes: u64,
    pub(super) mtime: FileTimestamp,
    pub(super) ctime: FileTimestamp,
}

impl FileIdentity {
    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            dev: stat.st_dev,
            ino: stat.st_ino,
            size_bytes: stat.st_size.cast_unsigned(),
            mtime: FileTimestamp::new(stat.st_mtime, stat.st_mtime_nsec as u32),
            ctime: FileTimestamp::new(stat.st_ctime, stat.st_ctime_nsec as u32),
        }
    }

    /// Returns this identity with a ctime of zero, which no file has. A recheck with it therefore
    /// considers every listed name of the file stale.
    pub(super) fn without_ctime(&self) -> Self {
        Self {
            ctime: FileTimestamp::default(),
            ..*self
        }
    }

    /// Returns the device and the inode number.
    pub(super) fn inode(&self) -> (u64, u64) {
        (self.dev, self.ino)
    }

    /// Returns whether both have the same inode number on the same filesystem.
    pub(super) fn is_inode_of(&self, other: &Self) -> bool {
        self.inode() == other.inode()
    }

    /// Returns whether this may be the same file after it only grew: it has the same inode, is
    /// longer, and neither time went back.
    pub(super) fn has_grown_since(&self, before: &Self) -> bool {
        let is_it = self.is_inode_of(before);
        let (now, then) = ((self.mtime, self.ctime), (before.mtime, before.ctime));
        is_it && self.size_bytes > before.size_bytes && now.0 >= then.0 && now.1 >= then.1
    }

    /// Returns whether everything but the ctime is the same. It is then taken for the same file
    /// with the same bytes, although a program can set the mtime back after a write. Not only a
    /// write changes the ctime, but also a rename, link or chmod.
    pub(super) fn same_but_ctime(&self, other: &Self) -> bool {
        Self {
            ctime: other.ctime,
            ..*self
        } == *other
    }
}

/// Attributes of a name from `stat`.
#[derive(Clone, Copy, Debug)]
pub(super) struct NameStat {
    pub(super) identity: FileIdentity,
    pub(super) mode: u32,
    /// Number of names. A file with several has others in this share or elsewhere.
    pub(super) links: u64,
    /// Whether the filesystem invents inode numbers, so that another file may have had this number
    /// before.
    pub(super) made_up: bool,
}

impl NameStat {
    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            identity: FileIdentity::of(stat),
            mode: stat.st_mode,
            links: stat.st_nlink,
            made_up: false,
        }
    }

    pub(super) fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }

    /// Returns whether the mode lets others read it: r, and for a directory also x.
    pub(super) fn others_may_read(&self) -> bool {
        let wanted = if self.file_type() == FileType::Directory {
            0o5
        } else {
            0o4
        };
        self.mode & wanted == wanted
    }

    /// Returns whether the owner may execute it. A record states this for a file.
    pub(super) fn executable(&self) -> bool {
        self.mode & 0o100 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_small_and_lossless() {
        assert_eq!(size_of::<FileTimestamp>(), 12);
        let time = Timestamp {
            seconds: -5,
            nanoseconds: 999_999_999,
        };
        assert_eq!(Timestamp::from(FileTimestamp::from(time)), time);
    }

    #[test]
    fn a_distance_is_symmetric_and_covers_all_times() {
        let (early, late) = (
            FileTimestamp::new(-1, 500_000_000),
            FileTimestamp::new(1, 0),
        );
        assert_eq!(early.distance(late), Duration::from_millis(1500));
        assert_eq!(late.distance(early), Duration::from_millis(1500));
        assert!(
            FileTimestamp::new(i64::MIN, 0).distance(FileTimestamp::new(i64::MAX, 0))
                > Duration::from_secs(1)
        );
    }

    #[test]
    fn a_version_is_not_backdated_by_an_unset_clock() {
        let (set, unset) = (
            FileTimestamp::new(1_800_000_000, 0),
            FileTimestamp::new(946_684_800, 0),
        );
        for (version, seen) in [(1_700_000_000, 1_700_000_000), (1_900_000_000, set.seconds)] {
            let version = FileTimestamp::new(version, 0);
            assert_eq!(version.seen_at(set), FileTimestamp::new(seen, 0));
            assert_eq!(version.seen_at(unset), version);
        }
    }

    #[test]
    fn others_need_execute_permission_for_a_directory_but_not_for_a_file() {
        let seen = |mode| NameStat {
            identity: FileIdentity::default(),
            mode,
            links: 1,
            made_up: false,
        };
        assert!(seen(0o100_604).others_may_read());
        assert!(!seen(0o100_770).others_may_read());
        assert!(seen(0o040_705).others_may_read());
        assert!(!seen(0o040_704).others_may_read());
        assert!(seen(0o100_744).executable() && !seen(0o100_644).executable());
    }
}
