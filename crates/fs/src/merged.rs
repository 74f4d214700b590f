//! The listed names, with the writable shares of this node on top.
//!
//! A program sees at once what it wrote, although the file is listed only after its close. The disk
//! therefore decides in a writable share, by these rules:
//!
//! * An own file that has its name is the file on the disk. If it is not there any longer, the name
//!   is gone.
//! * Another file on the disk with a mark is shown if it is not listed yet as it is now. If it is,
//!   the listing decides, which knows what other nodes wrote since.
//! * A directory with a mark, or a link, is shown until it is listed. Then the listing decides. The
//!   mark of a directory that another node deleted and that was made again has the time of the
//!   deletion.
//! * An object without a mark is shown once it is listed, like those of other shares.
//!
//! The other case of a change that is not listed yet is a deletion of other nodes' versions. This
//! node's log has it before the call of the program returns. Until the kernel was notified of that
//! view, the name is in [`RemovedNames`].

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use super::inode::{Inode, Name, Node, NumberOnDisk, WrittenFile};
use super::names::{self, ResolvedName};
use super::namespace::MountNamespace;
use super::traits::WritableFolder;
use p2pfs_catalogue::{Found, NameHandle, View};
use p2pfs_proto::wire::native::link::link_stays_inside;
use p2pfs_proto::wire::native::record::{Kind, ShareIndex, Timestamp};
use p2pfs_types::path::SharedPath;
use p2pfs_upper::{Found as OnDisk, FoundKind, MarkTime};

/// Minimum interval between two walks through the writable shares for inode numbers.
const NUMBERS_PERIOD: Duration = Duration::from_secs(1);

/// Paths that this node deleted for all nodes, each with the number of the first view that has the
/// deletion.
#[derive(Default)]
pub(super) struct RemovedNames(Mutex<HashMap<SharedPath, u64>>);

impl RemovedNames {
    /// Records that the views from this number on have the deletion of a path.
    pub(super) fn record(&self, path: SharedPath, since: u64) {
        self.0.lock().insert(path, since);
    }

    /// Forgets the deletions that this view has.
    pub(super) fn forget_until(&self, view: &View) {
        self.0.lock().retain(|_, since| *since > view.number());
    }

    fn has(&self, view: &View, path: &SharedPath) -> bool {
        let removed = self.0.lock();
        !removed.is_empty()
            && removed
                .get(path)
                .is_some_and(|since| *since > view.number())
    }
}

/// Paths of the files and directories in the writable shares by their inode numbers. A program may
/// use a number that the kernel learned from a previous process of the mount. The index is made for
/// the first such number, and again for one that is not in it.
#[derive(Default)]
pub(super) struct WrittenNumbers(Mutex<Option<(Instant, HashMap<u64, SharedPath>)>>);

impl WrittenNumbers {
    fn path_of(&self, folders: &[Arc<WritableFolder>], ino: u64) -> Option<SharedPath> {
        let mut index = self.0.lock();
        let is_old = |made: &Instant| made.elapsed() >= NUMBERS_PERIOD;
        let found = |paths: &HashMap<u64, SharedPath>| paths.get(&ino).cloned();
        match &*index {
            Some((made, paths)) if found(paths).is_some() || !is_old(made) => found(paths),
            _ => {
                let (_, paths) = index.insert((Instant::now(), number_all(folders)));
                found(paths)
            }
        }
    }
}

fn number_all(folders: &[Arc<WritableFolder>]) -> HashMap<u64, SharedPath> {
    let mut paths = HashMap::new();
    for folder in folders {
        let root = folder.upper.find(&SharedPath::root()).ok().flatten();
        let Some(device) = root.map(|root| root.device) else {
            continue;
        };
        let mut waiting = vec![(SharedPath::root(), folder.place.clone())];
        while let Some((directory, place)) = waiting.pop() {
            let mut has_other_devices = None;
            for found in folder.upper.names(&directory).unwrap_or_default() {
                let (Ok(local), Ok(path)) = (directory.join(&found.name), place.join(&found.name))
                else {
                    continue;
                };
                match found.kind {
                    FoundKind::Directory => {
                        let number = Inode::directory(Name::Union(path.clone())).number();
                        paths.insert(number, path.clone());
                        waiting.push((local, path));
                    }
                    FoundKind::File => {
                        let number = found.number;
                        let on_disk = || folder.upper.find(&local).ok().flatten();
                        let differs = || on_disk().is_some_and(|file| file.device != device);
                        let file = if *has_other_devices.get_or_insert_with(differs) {
                            on_disk().as_ref().map(NumberOnDisk::of)
                        } else {
                            Some(NumberOnDisk { device, number })
                        };
                        paths.extend(file.map(|file| (file.inode(), path)));
                    }
                    FoundKind::Symlink | FoundKind::Other => {}
                }
            }
        }
    }
    paths
}

/// A path in the folder of a writable share.
#[derive(Clone, Debug)]
pub(super) struct UpperPlace {
    pub folder: Arc<WritableFolder>,
    pub local: SharedPath,
}

impl UpperPlace {
    /// Returns the object on the disk. A disk that fails has none.
    pub(super) fn find(&self) -> Option<OnDisk> {
        self.folder.upper.find(&self.local).ok().flatten()
    }

    /// Returns the node of a file.
    pub(super) fn written(&self, disk: OnDisk) -> Node {
        Node::Written(WrittenFile {
            share: self.folder.share,
            local: self.local.clone(),
            disk,
        })
    }
}

/// Returns the time that a mark has.
pub(super) fn time_of(mark: MarkTime) -> Timestamp {
    Timestamp {
        seconds: mark.seconds,
        nanoseconds: mark.nanoseconds,
    }
}

/// Returns the modification time of an object on the disk.
pub(super) fn mtime_of(disk: &OnDisk) -> Timestamp {
    let (seconds, nanoseconds) = disk.mtime;
    Timestamp {
        seconds,
        nanoseconds,
    }
}

impl MountNamespace {
    /// Returns the folders of the writable shares. Returns `None` if there are none.
    pub(super) fn folders(&self) -> Option<Arc<[Arc<WritableFolder>]>> {
        let folders = self.content.writing()?.folders();
        (!folders.is_empty()).then_some(folders)
    }

    /// Returns where a new object with this path goes. Returns `None` if no writable share contains
    /// the path.
    pub(super) fn place_for(&self, path: &SharedPath) -> Option<UpperPlace> {
        place_in(&self.folders()?, path)
    }

    /// Returns the path of a file or directory in a writable share by its inode number.
    pub(super) fn path_of_written(&self, ino: u64) -> Option<SharedPath> {
        self.written_numbers.path_of(&self.folders()?, ino)
    }

    /// Returns the inode of a file in a writable share, whether or not its name stands for it.
    pub(super) fn inode_on_disk(&self, number: NumberOnDisk) -> Option<Inode> {
        let path = self.path_of_written(number.inode())?;
        let at = self.place_for(&path)?;
        let disk = at.find().filter(|disk| NumberOnDisk::of(disk) == number)?;
        let (name, node) = (Name::Union(path), at.written(disk));
        Some(Inode { name, node })
    }

    /// Returns what a name stands for, without foreign files.
    pub(super) fn native(&self, view: &View, name: &Name) -> Option<ResolvedName> {
        match name {
            Name::Union(path) => self.merged(view, path, view.lookup(path)),
            _ => names::resolve(view, name),
        }
    }

    /// Returns what a path stands for. `found` is what is listed there.
    pub(super) fn merged(
        &self,
        view: &View,
        path: &SharedPath,
        found: Option<Found>,
    ) -> Option<ResolvedName> {
        let Some(folders) = self.folders() else {
            return found.map(|found| names::listed(view, path, found));
        };
        let found = found.filter(|_| !self.removed.has(view, path));
        let Some((at, is_own)) = own_place(&folders, view, path, found.as_ref()) else {
            return found.map(|found| names::listed(view, path, found));
        };
        let disk = at.find();
        match disk.map(|disk| (disk.kind, disk)) {
            Some((FoundKind::File, disk))
                if is_own
                    || (is_file_or_absent(found.as_ref()) && is_ahead(view, path, &at, &disk)) =>
            {
                Some(ResolvedName::new(at.written(disk), mtime_of(&disk)))
            }
            // A program removed the file and made a directory of that name.
            Some((FoundKind::Directory, disk)) if is_own => {
                Some(ResolvedName::new(Node::Directory, mtime_of(&disk)))
            }
            Some((FoundKind::Directory, disk)) if found.is_none() => {
                let is_place = folders.iter().any(|it| it.is_at_or_below(path));
                let mark = || at.folder.upper.mark(&at.local).ok().flatten();
                let is_unlisted = || {
                    let made = mark().map(|mark| time_of(mark.after));
                    made.is_some_and(|made| !view.has_own_directory_after(path, made))
                };
                let directory = || ResolvedName::new(Node::Directory, mtime_of(&disk));
                (is_place || is_unlisted()).then(directory)
            }
            Some((FoundKind::Symlink, disk))
                if is_own || (found.is_none() && !view.has_own_of(path, mtime_of(&disk))) =>
            {
                let target = at.folder.upper.link_target(&at.local).ok()?;
                if !link_stays_inside(path, &target) {
                    return found.map(|found| names::listed(view, path, found));
                }
                let link = Node::Symlink(Bytes::from(target));
                Some(ResolvedName::new(link, mtime_of(&disk)))
            }
            Some((FoundKind::Directory, _)) => found.map(|found| names::listed(view, path, found)),
            _ if is_own => None,
            _ => {
                let is_place = folders.iter().any(|folder| folder.is_at_or_below(path));
                let is_gone = !is_place && is_own_directory(view, path, &at, found.as_ref());
                let found = found.filter(|_| !is_gone);
                let listed = found.map(|found| names::listed(view, path, found));
                let place = || ResolvedName::new(Node::Directory, self.started);
                listed.or_else(|| is_place.then(place))
            }
        }
    }

    /// Adds the names of a directory that only the writable shares have.
    pub(super) fn add_written_names(
        &self,
        view: &View,
        directory: &SharedPath,
        listed: &mut Vec<NameHandle>,
    ) {
        let Some(folders) = self.folders() else {
            return;
        };
        let deepest = place_in(&folders, directory);
        let on_disk = deepest.and_then(|at| at.folder.upper.names(&at.local).ok());
        let on_disk = on_disk.into_iter().flatten().map(|found| found.name);
        let places = folders.iter().filter_map(|folder| {
            let is_below = directory.is_root() || folder.place.is_beneath(directory);
            let mut names = is_below.then(|| folder.place.components())?;
            names.nth(directory.components().count()).map(Box::from)
        });
        let mut more: Vec<Box<[u8]>> = on_disk.chain(places).collect();
        if more.is_empty() {
            return;
        }
        let known: HashSet<&[u8]> = listed.iter().map(NameHandle::as_bytes).collect();
        more.sort_unstable();
        more.dedup();
        more.retain(|name| {
            let is_new = !known.contains(&**name);
            is_new
                && directory
                    .join(name)
                    .is_ok_and(|path| self.merged(view, &path, None).is_some())
        });
        listed.extend(more.into_iter().map(NameHandle::Other));
    }
}

/// Returns the place of a path in the writable share with the deepest place that contains it.
fn place_in(folders: &[Arc<WritableFolder>], path: &SharedPath) -> Option<UpperPlace> {
    folders.iter().find_map(|folder| {
        let local = folder.local(path)?;
        let folder = folder.clone();
        Some(UpperPlace { folder, local })
    })
}

/// Returns the place of a path on the disk, and whether the file or link that is listed there is
/// the one at this place. Returns `None` if no writable share is concerned.
fn own_place(
    folders: &[Arc<WritableFolder>],
    view: &View,
    path: &SharedPath,
    found: Option<&Found>,
) -> Option<(UpperPlace, bool)> {
    let own = found.and_then(|found| own_file(view, path, found));
    let Some((share, listed)) = own else {
        return place_in(folders, path).map(|at| (at, false));
    };
    let folder = folders.iter().find(|folder| folder.share == share)?;
    let local = folder.local(&listed)?;
    let folder = folder.clone();
    Some((UpperPlace { folder, local }, true))
}

/// Returns the share and the own path in the namespace of the own file or link that is listed at a
/// path. The two paths differ for a conflict name.
fn own_file(view: &View, path: &SharedPath, found: &Found) -> Option<(ShareIndex, SharedPath)> {
    if found.own.is_some() {
        return found.own.clone();
    }
    let said = found.said.as_ref()?;
    let is_conflict_name = said.name() != path.file_name();
    let behind = is_conflict_name.then(|| view.behind_conflict_name(path))??;
    let own = behind.is_own.then(|| view.own_file(&behind.path))??;
    Some((own.share, own.path))
}

fn is_file_or_absent(found: Option<&Found>) -> bool {
    found.is_none_or(|found| found.kind != Kind::Directory)
}

/// Returns whether a file on the disk was written through the mount and is not listed yet as it is
/// now.
fn is_ahead(view: &View, path: &SharedPath, at: &UpperPlace, disk: &OnDisk) -> bool {
    let Ok(Some(mark)) = at.folder.upper.mark(&at.local) else {
        return false;
    };
    let Some(own) = view
        .own_file(path)
        .filter(|own| own.share == at.folder.share)
    else {
        return true;
    };
    let is_listed = own.size_bytes == disk.size_bytes
        && own.mtime == mtime_of(disk)
        && (mark.replaces.iter()).all(|hash| *hash == own.hash || own.replaces.contains(hash));
    !is_listed
}

/// Returns whether a listed directory has only files of the writable share.
fn is_own_directory(
    view: &View,
    path: &SharedPath,
    at: &UpperPlace,
    found: Option<&Found>,
) -> bool {
    let is_directory = found.is_some_and(|found| found.kind == Kind::Directory);
    is_directory && !path.is_root() && view.is_only_of(path, at.folder.share)
}
