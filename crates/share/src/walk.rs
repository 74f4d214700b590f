//! Access to the disk: checking a name and reading a directory.

use std::collections::{BTreeMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, readlinkat, statat};
use rustix::io::Errno;

use super::beneath::Beneath;
use super::disk_thread::DiskAccess;
use super::exclude::Exclude;
use super::identity::{FileIdentity, NameStat};
use super::left_out::LeftOutWhy;
use super::links::{LinkOutcome, follow};
use super::listing::ShareListing;
use super::observe::ObservedName;
use super::offer_rule::OfferRule;
use super::order::EventSeq;
use super::place::SharePlace;
use super::tree::{LeftOutBody, NodeBody, Slot};
use p2pfs_types::path::{ARRIVING, KEPT, PathError, SharedPath};

/// Maximum names of a directory that are read in one step, so that new events do not wait for the
/// end of a large directory.
pub(super) const BATCH_MAX_NAMES: usize = 1024;

/// A directory of a share, with what its check needs from the state. It is copied, so that the
/// state is not locked during the check.
#[derive(Clone)]
pub(super) struct ShareDirectory {
    pub(super) index: u16,
    pub(super) slot: Slot,
    /// Number of the directory; `None` if it is left out as unreadable.
    pub(super) number: Option<u32>,
    pub(super) dir: Arc<Path>,
    /// Path in the listing below which the files of the share appear.
    pub(super) listed_below: SharePlace,
    pub(super) include_private: bool,
    pub(super) exclude: Arc<Exclude>,
    /// Path of the directory in the share.
    pub(super) path: SharedPath,
}

impl ShareDirectory {
    /// Returns the directory of a slot, for disk access without the state. Returns `None` if the
    /// slot is neither a directory nor one that is left out as unreadable, or if the disk of its
    /// share does not answer.
    pub(super) fn of(listing: &ShareListing, slot: Slot) -> Option<Self> {
        let node = listing.tree.get(slot)?;
        let share = listing.shares.by_index.get(&node.share)?;
        if share.problems.stands_still {
            return None;
        }
        let number = match &node.body {
            NodeBody::Directory(directory) => Some(directory.number),
            NodeBody::LeftOut(body) if body.directory && body.why == LeftOutWhy::Unreadable => None,
            _ => return None,
        };
        Some(Self {
            index: node.share,
            slot,
            number,
            dir: share.dir.clone(),
            listed_below: share.spec.place.clone(),
            include_private: share.spec.include_private,
            exclude: share.exclude.clone(),
            path: listing.tree.path(slot)?,
        })
    }
}

/// An open directory of a share.
pub(super) struct OpenShareDirectory {
    pub(super) place: ShareDirectory,
    share: OwnedFd,
    pub(super) fd: OwnedFd,
    /// Names in it that are never accessed.
    refused: Vec<Vec<u8>>,
    is_inbox: bool,
    /// Devices of filesystems that invent inode numbers.
    making_up: Vec<u64>,
}

impl OpenShareDirectory {
    pub(super) fn open(
        beneath: &Beneath,
        place: ShareDirectory,
        share: OwnedFd,
    ) -> Result<Self, Errno> {
        let fd = beneath.open_directory(&place.dir, share.as_fd(), &place.path)?;
        let dir = place.dir.join(place.path.as_local());
        let (refused, is_inbox) = (beneath.refused_in(&dir), beneath.is_inbox(&dir));
        Ok(Self {
            place,
            share,
            fd,
            refused,
            is_inbox,
            making_up: beneath.making_up(),
        })
    }

    /// Returns the path in the share of a name in this directory, or why it cannot be listed.
    fn path_of(&self, name: &[u8]) -> Result<SharedPath, LeftOutWhy> {
        match self.place.path.join(name) {
            Ok(path) => self.place.listed_below.check(&path).map(|()| path),
            Err(PathError::Hidden) => Err(LeftOutWhy::Hidden),
            // a name read from the disk is never malformed, so it is too long
            Err(_) => Err(LeftOutWhy::TooLong),
        }
    }

    /// Checks a name in this directory.
    pub(super) fn check(&self, disk: &DiskAccess<'_>, name: &[u8]) -> ObservedName {
        disk.step();
        let beneath = disk.beneath;
        let left_out = |why, directory, identity| {
            ObservedName::LeftOut(LeftOutBody {
                why,
                directory,
                identity,
            })
        };
        if self.refused.iter().any(|refused| refused == name) {
            return left_out(LeftOutWhy::OwnMount, true, FileIdentity::default());
        }
        let seen = match statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => NameStat {
                made_up: self.making_up.contains(&stat.st_dev),
                ..NameStat::of(&stat)
            },
            Err(Errno::NOENT | Errno::NOTDIR) => return ObservedName::Nothing,
            Err(_) => return left_out(LeftOutWhy::Unreadable, false, FileIdentity::default()),
        };
        let path = match self.path_of(name) {
            Ok(path) => path,
            Err(why) => return left_out(why, false, FileIdentity::default()),
        };
        let kind = seen.file_type();
        let directory = kind == FileType::Directory;
        if name == KEPT.as_bytes() {
            return ObservedName::Nothing;
        }
        if name == ARRIVING.as_bytes() {
            return if self.is_inbox {
                // an incomplete file that is being received into an inbox is not listed
                ObservedName::Nothing
            } else {
                left_out(LeftOutWhy::Arriving, directory, seen.identity)
            };
        }
        let rule = OfferRule {
            exclude: &self.place.exclude,
            include_private: self.place.include_private,
        };
        if let Some(why) = rule.left_out(&path, &seen) {
            return left_out(why, directory, seen.identity);
        }
        match kind {
            FileType::Directory => ObservedName::Directory(seen),
            FileType::Symlink => match self.resolve_link(beneath, name, &path) {
                Ok(target) => ObservedName::Symlink(seen, target),
                Err(why) => left_out(why, false, seen.identity),
            },
            FileType::RegularFile => ObservedName::File(seen),
            _ => left_out(LeftOutWhy::Special, false, seen.identity),
        }
    }

    /// Checks names that the state has and that the directory no longer seems to list.
    pub(super) fn check_unmet(
        &self,
        disk: &DiskAccess<'_>,
        names: Vec<Box<[u8]>>,
    ) -> ObservedNames {
        let looks = names.into_iter().map(|name| {
            let found = self.check(disk, &name);
            (name, found)
        });
        let mut looks: ObservedNames = looks.collect();
        let checked = looks.iter_mut().map(|(name, found)| (&**name, found));
        let found = checked.filter(|(_, found)| !found.is_nothing());
        self.drop_unlisted(disk, found.collect());
        looks
    }

    /// Sets the result to [`ObservedName::Nothing`] for names that the directory does not list. On
    /// a case-insensitive filesystem, a lookup also finds names that are spelled differently.
    pub(super) fn drop_unlisted(
        &self,
        disk: &DiskAccess<'_>,
        mut doubtful: BTreeMap<&[u8], &mut ObservedName>,
    ) {
        if doubtful.is_empty() {
            return;
        }
        // if reading fails, all results stay as they are
        let Ok(mut entries) = Dir::read_from(&self.fd) else {
            return;
        };
        while let Some(entry) = entries.read() {
            let Ok(entry) = entry else { return };
            disk.step();
            doubtful.remove(entry.file_name().to_bytes());
        }
        doubtful
            .into_values()
            .for_each(|found| *found = ObservedName::Nothing);
    }

    fn resolve_link(
        &self,
        beneath: &Beneath,
        name: &[u8],
        path: &SharedPath,
    ) -> Result<Box<[u8]>, LeftOutWhy> {
        let target = readlinkat(&self.fd, name, Vec::new()).map_err(|_| LeftOutWhy::Unreadable)?;
        let target = target.into_bytes();
        match follow(beneath, &self.place.dir, self.share.as_fd(), path, &target) {
            LinkOutcome::Inside(listed) => Ok(listed),
            LinkOutcome::Out => Err(LeftOutWhy::LinkOut),
            LinkOutcome::Loop => Err(LeftOutWhy::Loop),
            LinkOutcome::UpFromNothing => Err(LeftOutWhy::LinkUp),
        }
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A directory that is being read in batches.
pub(super) struct DirectoryWalk {
    pub(super) open: OpenShareDirectory,
    /// Whether known subdirectories are read too.
    pub(super) full: bool,
    /// Names found so far. The other names that the state has in this directory are checked at the
    /// end.
    pub(super) met: HashSet<Slot>,
    entries: Dir,
    /// Turn that waits for this directory.
    pub(super) turn: Option<EventSeq>,
}

/// Names and their results.
pub(super) type ObservedNames = Vec<(Box<[u8]>, ObservedName)>;

impl DirectoryWalk {
    /// Starts to read a directory and returns the first batch of names.
    pub(super) fn begin(
        disk: &DiskAccess<'_>,
        open: OpenShareDirectory,
        full: bool,
        turn: Option<EventSeq>,
    ) -> Result<(Self, Result<ObservedNames, Errno>), Errno> {
        let entries = Dir::read_from(&open.fd)?;
        let mut walk = Self {
            open,
            full,
            met: HashSet::new(),
            entries,
            turn,
        };
        let first = walk.next_batch(disk);
        Ok((walk, first))
    }

    /// Returns the next batch of names; empty at the end.
    ///
    /// # Errors
    /// Reading failed. Names that were not read may exist nevertheless.
    pub(super) fn next_batch(&mut self, disk: &DiskAccess<'_>) -> Result<ObservedNames, Errno> {
        let mut looks = ObservedNames::new();
        while looks.len() < BATCH_MAX_NAMES {
            let Some(entry) = self.entries.read() else {
                break;
            };
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                looks.push((name.into(), self.open.check(disk, name)));
            }
        }
        Ok(looks)
    }
}
