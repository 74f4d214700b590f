//! One node's share: what was made in it, remembered beside the disk.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use rand::RngExt;
use rand::rngs::StdRng;

use crate::support::content::noise;

/// Names that operations choose from: few, so that they meet, and some like those that the
/// filesystem gives to versions that lost.
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
/// The directory that no random operation touches.
pub const UNTOUCHED: &str = "stays";
/// Where links lead; none of the names is that of a link, so none is a loop.
const TARGETS: [&str; 5] = [
    "anchor",
    "../anchor",
    "./no/such",
    "/etc/hostname",
    "anchor/..",
];
/// Where absolute links lead, from the share's folder on.
const WITHIN: [&str; 3] = ["anchor", "no/such", ""];
const MODES: [u32; 6] = [0o644, 0o755, 0o444, 0o600, 0o745, 0o640];
const DIRECTORY_MODES: [u32; 3] = [0o755, 0o700, 0o775];
const CONTENTS: u64 = 5;

/// Seconds and nanoseconds since 1970; before it, negative seconds.
pub type Time = (i64, i64);

#[derive(Clone, Debug)]
pub enum Thing {
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
        /// As it is listed.
        target: PathBuf,
        /// Of an absolute link into its share, where in that it leads.
        within: Option<&'static str>,
        mtime: Time,
    },
}

/// What an operation was, for the report of a failure.
pub struct Done {
    pub told: String,
    /// What came of it depends on when it is seen, so nothing may follow before that.
    pub ends_batch: bool,
}

#[derive(Clone)]
pub struct Share {
    pub folder: PathBuf,
    pub things: BTreeMap<PathBuf, Thing>,
}

impl Share {
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            things: BTreeMap::new(),
        }
    }

    /// One random operation; none where the one chosen makes no sense here. Only a share that is
    /// watched is given a date that depends on when it was seen.
    pub fn change(&mut self, other: &Share, watched: bool, random: &mut StdRng) -> Option<Done> {
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

    /// A name in the root or in a directory that there is; often one that there is already.
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

    /// Remembers the file that is there now.
    fn remember(&mut self, path: &Path, bytes: Vec<u8>) {
        let meta = fs::symlink_metadata(self.full(path)).unwrap();
        let mtime = time_of(&meta);
        let mode = meta.permissions().mode() & 0o777;
        // a version is its bytes and its mtime, as old as it was first seen
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

    /// Writes in place; as editors do: beside it, and renamed over it; or as git does: beside it,
    /// and linked into place.
    fn write(&mut self, path: &Path, random: &mut StdRng) -> Option<String> {
        if !self.has_parent(path) {
            return None;
        }
        let bytes = random_bytes(random);
        let full = self.full(path);
        let way = match self.things.get(path) {
            Some(Thing::Directory { .. }) => return None,
            Some(Thing::Link { .. }) => "renamed",
            Some(Thing::File { .. }) => ["in place", "renamed"][random.random_range(0..2)],
            None => ["in place", "renamed", "linked"][random.random_range(0..3)],
        };
        if way == "in place" {
            fs::write(&full, &bytes).unwrap();
        } else {
            let beside = full.with_file_name(".saving");
            fs::write(&beside, &bytes).unwrap();
            fs::set_permissions(&beside, Permissions::from_mode(0o644)).unwrap();
            if way == "linked" {
                fs::hard_link(&beside, &full).unwrap();
                fs::remove_file(&beside).unwrap();
            } else {
                fs::rename(&beside, &full).unwrap();
            }
        }
        let told = format!("write {} bytes, {way}:", bytes.len());
        self.remember(path, bytes);
        Some(told)
    }

    fn append(&mut self, path: &Path, random: &mut StdRng) -> Option<String> {
        let Some(Thing::File { bytes, .. }) = self.things.get(path) else {
            return None;
        };
        let more = random_bytes(random);
        let mut file = File::options().append(true).open(self.full(path)).unwrap();
        file.write_all(&more).unwrap();
        drop(file);
        let whole = [&bytes[..], &more].concat();
        self.remember(path, whole);
        Some(format!("append {} bytes to", more.len()))
    }

    /// Shorter or longer by zeros, in place.
    fn resize(&mut self, path: &Path, random: &mut StdRng) -> Option<String> {
        let Some(Thing::File { bytes, .. }) = self.things.get(path) else {
            return None;
        };
        let mut bytes = bytes.clone();
        bytes.resize(random.random_range(0..100_000), 0);
        let file = File::options().write(true).open(self.full(path)).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
        drop(file);
        let told = format!("resize to {} bytes", bytes.len());
        self.remember(path, bytes);
        Some(told)
    }

    /// A new file that is mostly holes.
    fn write_sparse(&mut self, path: &Path, random: &mut StdRng) -> Option<String> {
        if self.things.contains_key(path) || !self.has_parent(path) {
            return None;
        }
        let mut bytes = vec![0; random.random_range(100_000..200_000)];
        let (at, part) = (random.random_range(0..90_000), noise(7, 5000));
        bytes[at..at + part.len()].copy_from_slice(&part);
        let file = File::create_new(self.full(path)).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
        file.write_all_at(&part, at as u64).unwrap();
        drop(file);
        let told = format!("{} bytes with holes to", bytes.len());
        self.remember(path, bytes);
        Some(told)
    }

    fn link_again(&mut self, path: &Path, to: &Path) -> Option<String> {
        let thing = self.things.get(path)?;
        let is_file = matches!(thing, Thing::File { .. });
        if !is_file || self.things.contains_key(to) || !self.has_parent(to) {
            return None;
        }
        let thing = thing.clone();
        fs::hard_link(self.full(path), self.full(to)).unwrap();
        self.things.insert(to.to_owned(), thing);
        Some(format!("hard link {to:?} to"))
    }

    /// What was done to a file was done to it under its other names, too.
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

    fn rename(&mut self, from: &Path, to: &Path) -> Option<String> {
        let thing = self.things.get(from)?;
        let directory = matches!(thing, Thing::Directory { .. });
        let legal = match self.things.get(to) {
            None => true,
            Some(Thing::Directory { .. }) => directory && self.is_empty(to),
            Some(_) => !directory,
        };
        let depth = to.components().count();
        // a rename of one name of a file to another of its names does nothing (rename(2))
        let legal = legal && !self.is_same_file(from, to);
        if !legal || !self.has_parent(to) || to.starts_with(from) || depth > DEPTH_MAX {
            return None;
        }
        fs::rename(self.full(from), self.full(to)).unwrap();
        self.things.remove(to);
        let below = |path: &&PathBuf| path.starts_with(from);
        let moved: Vec<PathBuf> = self.things.keys().filter(below).cloned().collect();
        for old in moved {
            let mut thing = self.things.remove(&old).unwrap();
            let rest = old.strip_prefix(from).unwrap();
            let new = if rest == Path::new("") {
                to.to_owned()
            } else {
                to.join(rest)
            };
            if let Thing::Link {
                target,
                within: Some(within),
                ..
            } = &mut thing
            {
                *target = as_listed(&new, within);
            }
            self.things.insert(new, thing);
        }
        Some(format!("rename to {to:?}:"))
    }

    fn is_empty(&self, directory: &Path) -> bool {
        !self
            .things
            .keys()
            .any(|path| path.parent() == Some(directory))
    }

    fn delete(&mut self, path: &Path) -> Option<String> {
        match self.things.get(path)? {
            Thing::Directory { .. } => fs::remove_dir_all(self.full(path)).unwrap(),
            _ => fs::remove_file(self.full(path)).unwrap(),
        }
        self.things.retain(|other, _| !other.starts_with(path));
        Some("delete".to_owned())
    }

    fn make_directory(&mut self, path: &Path, random: &mut StdRng) -> Option<String> {
        if self.things.contains_key(path) || !self.has_parent(path) {
            return None;
        }
        fs::create_dir(self.full(path)).unwrap();
        let mode = match random.random_range(0..8) {
            0 => 0o700,
            _ => 0o755,
        };
        fs::set_permissions(self.full(path), Permissions::from_mode(mode)).unwrap();
        self.things.insert(
            path.to_owned(),
            Thing::Directory {
                mode,
                mtime: (0, 0),
            },
        );
        Some(format!("mkdir {mode:o}"))
    }

    fn change_mode(&mut self, path: &Path, random: &mut StdRng) -> Option<String> {
        let mode = match self.things.get_mut(path)? {
            Thing::Link { .. } => return None,
            Thing::Directory { mode, .. } => {
                *mode = DIRECTORY_MODES[random.random_range(0..DIRECTORY_MODES.len())];
                *mode
            }
            Thing::File { mode, .. } => {
                *mode = MODES[random.random_range(0..MODES.len())];
                *mode
            }
        };
        fs::set_permissions(self.full(path), Permissions::from_mode(mode)).unwrap();
        Some(format!("chmod {mode:o}"))
    }

    fn make_link(&mut self, path: &Path, random: &mut StdRng) -> Option<String> {
        if self.things.contains_key(path) || !self.has_parent(path) {
            return None;
        }
        let nth = random.random_range(0..TARGETS.len() + WITHIN.len());
        let within = nth.checked_sub(TARGETS.len()).map(|nth| WITHIN[nth]);
        let (target, listed) = match within {
            Some(within) => {
                let folder = fs::canonicalize(&self.folder).unwrap();
                (folder.join(within), as_listed(path, within))
            }
            None => (TARGETS[nth].into(), TARGETS[nth].into()),
        };
        symlink(&target, self.full(path)).unwrap();
        let mtime = time_of(&fs::symlink_metadata(self.full(path)).unwrap());
        let told = format!("link to {target:?}:");
        let link = Thing::Link {
            target: listed,
            within,
            mtime,
        };
        self.things.insert(path.to_owned(), link);
        Some(told)
    }

    /// The same path on both nodes with the same content, sometimes with the same mtime.
    fn copy_from(&mut self, other: &Share, random: &mut StdRng) -> Option<String> {
        let path = other.random_path(random);
        let Some(Thing::File {
            bytes,
            mtime,
            version,
            ..
        }) = other.things.get(&path)
        else {
            return None;
        };
        let here = matches!(self.things.get(&path), None | Some(Thing::File { .. }));
        if !here || !self.has_parent(&path) {
            return None;
        }
        fs::write(self.full(&path), bytes).unwrap();
        let kept = mtime == version && random.random_bool(0.5);
        if kept {
            set_mtime(&self.full(&path), *mtime);
        }
        self.remember(&path, bytes.clone());
        Some(format!("copy of {path:?}, mtime kept {kept}; not"))
    }

    /// An mtime from 1960 to 2020: the version is as old as it says.
    fn date_back(&mut self, path: &Path, random: &mut StdRng) -> Option<String> {
        let Some(Thing::File { bytes, .. }) = self.things.get(path) else {
            return None;
        };
        let bytes = bytes.clone();
        let mtime = (
            random.random_range(-315_619_200..1_577_836_800),
            random.random_range(0..1_000_000_000),
        );
        set_mtime(&self.full(path), mtime);
        self.remember(path, bytes);
        Some(format!("mtime {mtime:?}"))
    }

    /// An mtime in 2030 wins nothing: the version is as old as it was first seen.
    fn date_forward(&mut self, path: &Path) -> Option<String> {
        let Some(Thing::File { bytes, .. }) = self.things.get(path) else {
            return None;
        };
        let bytes = bytes.clone();
        set_mtime(&self.full(path), (1_893_456_000, 7));
        self.remember(path, bytes);
        Some("mtime in 2030".to_owned())
    }

    /// A directory of empty files that no random operation touches.
    pub fn fill(&mut self, directory: &str, count: usize) {
        fs::create_dir(self.full(Path::new(directory))).unwrap();
        let (mode, mtime) = (0o755, (0, 0));
        let thing = Thing::Directory { mode, mtime };
        self.things.insert(PathBuf::from(directory), thing);
        for number in 0..count {
            self.add_empty(&Path::new(directory).join(format!("stays-{number:03}")));
        }
    }

    pub fn add_empty(&mut self, path: &Path) {
        fs::write(self.full(path), b"").unwrap();
        self.remember(path, vec![]);
    }

    pub fn remove_file(&mut self, path: &Path) {
        fs::remove_file(self.full(path)).unwrap();
        self.things.remove(path);
    }

    /// Files that are dated ahead get the time of now: when they are first seen is not known yet.
    pub fn forget_dates_ahead(&mut self) {
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

    /// Takes in what the operations did to the directories that they were in.
    pub fn note_directory_times(&mut self) {
        for (path, thing) in &mut self.things {
            if let Thing::Directory { mtime, .. } = thing {
                *mtime = time_of(&fs::symlink_metadata(self.folder.join(path)).unwrap());
            }
        }
    }

    /// Whether others may reach it: itself, and every directory above.
    pub fn is_shown(&self, path: &Path) -> bool {
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

fn leads_out(link: &Path, target: &Path) -> bool {
    let in_root = link.parent() == Some(Path::new(""));
    target.is_absolute() || (in_root && target.starts_with(".."))
}

/// A link into its share by an absolute path is listed as a relative one.
fn as_listed(link: &Path, within: &str) -> PathBuf {
    let here = link.parent().into_iter().flat_map(Path::components);
    let (here, there) = (here.collect::<Vec<_>>(), Path::new(within).components());
    let same = here.iter().zip(there.clone());
    let common = same.take_while(|(here, there)| *here == there).count();
    let up = here[common..].iter().map(|_| Component::ParentDir);
    let listed: PathBuf = up.chain(there.skip(common)).collect();
    match listed == Path::new("") {
        true => PathBuf::from("."),
        false => listed,
    }
}

fn random_bytes(random: &mut StdRng) -> Vec<u8> {
    let content = random.random_range(0..CONTENTS);
    let length_bytes = [0, 1, 4096, 70_000, 300_000][content as usize];
    noise(content, length_bytes)
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

pub fn time_of(meta: &fs::Metadata) -> Time {
    (meta.mtime(), meta.mtime_nsec())
}

pub fn now() -> Time {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    (since.as_secs() as i64, i64::from(since.subsec_nanos()))
}
