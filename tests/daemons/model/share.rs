//! One node's share: the test's own record beside the disk.

mod operations;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use rand::RngExt;
use rand::rngs::StdRng;

/// Names for random operations. They are few, so that operations collide. Some look like the names
/// that the filesystem gives to losing versions.
const NAMES: [&[u8]; 11] = [
    b"a",
    b"A",
    b" a  space",
    b"b.txt",
    b"c.tar.gz",
    b".d",
    b"not utf-8 \xff.e",
    b"a~one",
    b"b~two.txt",
    b"new\nline",
    &[b'n'; 255],
];
const DEPTH_MAX: usize = 3;
/// The directory that no random operation changes.
pub(super) const UNTOUCHED: &str = "stays";

/// Seconds and nanoseconds since 1970. Seconds before 1970 are negative.
pub(super) type Time = (i64, i64);

#[derive(Clone, Debug)]
pub(super) enum Thing {
    File {
        bytes: Vec<u8>,
        mode: u32,
        mtime: Time,
        version: Time,
    },
    Directory {
        mode: u32,
        mtime: Time,
    },
    Link {
        /// Target as listed.
        target: PathBuf,
        /// Target inside the share, for an absolute link into it.
        within: Option<&'static str>,
        mtime: Time,
    },
}

/// Description of an operation, for the report of a failure.
pub(super) struct Done {
    pub told: String,
    /// The result depends on the time of the scan, so no operation may follow before it.
    pub ends_batch: bool,
}

#[derive(Clone)]
pub(super) struct Share {
    pub folder: PathBuf,
    pub things: BTreeMap<PathBuf, Thing>,
}

impl Share {
    pub(super) fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            things: BTreeMap::new(),
        }
    }

    /// Does one random operation. Returns `None` if the chosen one is not possible here. Only a
    /// watched share gets dates that depend on the time of the scan.
    pub(super) fn change(
        &mut self,
        other: &Share,
        watched: bool,
        random: &mut StdRng,
    ) -> Option<Done> {
        let path = self.random_path(random);
        let mut ends_batch = false;
        let told = match random.random_range(0..100) {
            0..22 => self.write(&path, random)?,
            22..28 => self.append(&path, random)?,
            28..33 => self.resize(&path, random)?,
            33..37 => self.write_sparse(&path, random)?,
            37..47 => self.rename(&path, &self.random_path(random))?,
            47..55 => self.delete(&path)?,
            55..64 => self.make_directory(&path, random)?,
            64..71 => self.change_mode(&path, random)?,
            71..78 => self.make_link(&path, random)?,
            78..83 => self.link_again(&path, &self.random_path(random))?,
            83..90 => self.copy_from(other, random)?,
            90..96 => self.date_back(&path, random)?,
            _ if watched => {
                ends_batch = true;
                self.date_forward(&path)?
            }
            _ => return None,
        };
        self.follow_hard_links(&path);
        Some(Done {
            told: format!("{told} {path:?}"),
            ends_batch,
        })
    }

    /// Returns a name in the root or in an existing directory, often an existing name.
    fn random_path(&self, random: &mut StdRng) -> PathBuf {
        let touched = || self.things.iter().filter(|it| !it.0.starts_with(UNTOUCHED));
        let count = touched().count();
        if count > 0 && random.random_bool(0.4) {
            let at = random.random_range(0..count);
            return touched().nth(at).unwrap().0.clone();
        }
        let directory = |(path, thing): (&PathBuf, &Thing)| {
            let shallow = path.components().count() < DEPTH_MAX;
            (shallow && matches!(thing, Thing::Directory { .. })).then(|| path.clone())
        };
        let mut parents: Vec<PathBuf> = touched().filter_map(directory).collect();
        parents.push(PathBuf::new());
        let parent = &parents[random.random_range(0..parents.len())];
        parent.join(OsStr::from_bytes(
            NAMES[random.random_range(0..NAMES.len())],
        ))
    }

    fn full(&self, path: &Path) -> PathBuf {
        self.folder.join(path)
    }

    fn has_parent(&self, path: &Path) -> bool {
        let parent = path.parent().unwrap();
        parent == Path::new("") || matches!(self.things.get(parent), Some(Thing::Directory { .. }))
    }

    /// Records the file as it is on the disk now.
    fn remember(&mut self, path: &Path, bytes: Vec<u8>) {
        let meta = fs::symlink_metadata(self.full(path)).unwrap();
        let mtime = time_of(&meta);
        let mode = meta.permissions().mode() & 0o777;
        // A version is bytes and mtime. It is never newer than its first sight.
        let version = match self.things.get(path) {
            Some(Thing::File {
                bytes: old,
                mtime: at,
                version,
                ..
            }) if (old, *at) == (&bytes, mtime) => *version,
            _ => mtime.min(now()),
        };
        self.things.insert(
            path.to_owned(),
            Thing::File {
                bytes,
                mode,
                mtime,
                version,
            },
        );
    }

    /// Applies a change of a file to its other hard links.
    fn follow_hard_links(&mut self, path: &Path) {
        let Some(Thing::File { bytes, .. }) = self.things.get(path) else {
            return;
        };
        let bytes = bytes.clone();
        let same = |other: &&PathBuf| *other != path && self.is_same_file(path, other);
        let others: Vec<PathBuf> = self.things.keys().filter(same).cloned().collect();
        for other in others {
            self.remember(&other, bytes.clone());
        }
    }

    fn is_same_file(&self, one: &Path, other: &Path) -> bool {
        let number = |path| fs::symlink_metadata(self.full(path)).map(|meta| meta.ino());
        number(one).is_ok_and(|ino| number(other).is_ok_and(|other| other == ino))
    }

    /// Creates a directory of empty files that no random operation changes.
    pub(super) fn fill(&mut self, directory: &str, count: usize) {
        fs::create_dir(self.full(Path::new(directory))).unwrap();
        let (mode, mtime) = (0o755, (0, 0));
        let thing = Thing::Directory { mode, mtime };
        self.things.insert(PathBuf::from(directory), thing);
        for number in 0..count {
            self.add_empty(&Path::new(directory).join(format!("stays-{number:03}")));
        }
    }

    pub(super) fn add_empty(&mut self, path: &Path) {
        fs::write(self.full(path), b"").unwrap();
        self.remember(path, vec![]);
    }

    pub(super) fn remove_file(&mut self, path: &Path) {
        fs::remove_file(self.full(path)).unwrap();
        self.things.remove(path);
    }

    /// Gives files with a future date the current time, because the time of their first sight is
    /// unknown.
    pub(super) fn forget_dates_ahead(&mut self) {
        let ahead = |(path, thing): (&PathBuf, &Thing)| match thing {
            Thing::File { mtime, bytes, .. } if *mtime > now() => {
                Some((path.clone(), bytes.clone()))
            }
            _ => None,
        };
        let ahead: Vec<(PathBuf, Vec<u8>)> = self.things.iter().filter_map(ahead).collect();
        for (path, bytes) in ahead {
            set_mtime(&self.full(&path), now());
            self.remember(&path, bytes);
        }
    }

    /// Records the new times of directories after operations in them.
    pub(super) fn note_directory_times(&mut self) {
        for (path, thing) in &mut self.things {
            if let Thing::Directory { mtime, .. } = thing {
                *mtime = time_of(&fs::symlink_metadata(self.folder.join(path)).unwrap());
            }
        }
    }

    /// Returns whether other nodes may read the path: the modes of it and of every directory above
    /// allow it.
    pub(super) fn is_shown(&self, path: &Path) -> bool {
        let open_above = path
            .ancestors()
            .skip(1)
            .all(|above| match self.things.get(above) {
                Some(Thing::Directory { mode, .. }) => mode & 0o5 == 0o5,
                _ => above == Path::new(""),
            });
        open_above
            && match &self.things[path] {
                Thing::File { mode, .. } => mode & 0o4 != 0,
                Thing::Directory { mode, .. } => mode & 0o5 == 0o5,
                Thing::Link { target, .. } => !leads_out(path, target),
            }
    }
}

/// Returns whether a link is left out of the share. No target names an existing directory, so `..`
/// after a name leads nowhere.
fn leads_out(link: &Path, target: &Path) -> bool {
    let in_root = link.parent() == Some(Path::new(""));
    let parts = target
        .components()
        .skip_while(|it| *it == Component::ParentDir);
    let goes_up_from_a_name = parts.skip(1).any(|it| it == Component::ParentDir);
    target.is_absolute() || (in_root && target.starts_with("..")) || goes_up_from_a_name
}

fn set_mtime(path: &Path, mtime: Time) {
    let since = Duration::new(mtime.0.unsigned_abs(), 0);
    let whole = match mtime.0 {
        0.. => SystemTime::UNIX_EPOCH + since,
        _ => SystemTime::UNIX_EPOCH - since,
    };
    let time = whole + Duration::from_nanos(mtime.1 as u64);
    File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_modified(time)
        .unwrap();
}

pub(super) fn time_of(meta: &fs::Metadata) -> Time {
    (meta.mtime(), meta.mtime_nsec())
}

pub(super) fn now() -> Time {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    (since.as_secs() as i64, i64::from(since.subsec_nanos()))
}
