//! Operations on the files of a share. Each one changes the disk and the model, or is not possible
//! here.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use rand::RngExt;
use rand::rngs::StdRng;

use super::{DEPTH_MAX, Share, Thing, set_mtime, time_of};
use crate::support::content::noise;

/// Link targets. None is the name of a link, so no link loops.
const TARGETS: [&str; 5] = [
    "anchor",
    "../anchor",
    "./no/such",
    "/etc/hostname",
    "anchor/..",
];
/// Targets of absolute links, relative to the share's folder.
const WITHIN: [&str; 3] = ["anchor", "no/such", ""];
const MODES: [u32; 6] = [0o644, 0o755, 0o444, 0o600, 0o745, 0o640];
const DIRECTORY_MODES: [u32; 3] = [0o755, 0o700, 0o775];
const CONTENTS: u64 = 5;

impl Share {
    /// Writes a file: in place, by rename as editors do, or by a hard link as git does.
    pub(super) fn write(&mut self, path: &Path, random: &mut StdRng) -> Option<String> {
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

    pub(super) fn append(&mut self, path: &Path, random: &mut StdRng) -> Option<String> {
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

    /// Truncates a file or extends it by zeros, in place.
    pub(super) fn resize(&mut self, path: &Path, random: &mut StdRng) -> Option<String> {
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

    /// Creates a file that is mostly holes.
    pub(super) fn write_sparse(&mut self, path: &Path, random: &mut StdRng) -> Option<String> {
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

    pub(super) fn link_again(&mut self, path: &Path, to: &Path) -> Option<String> {
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

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> Option<String> {
        let thing = self.things.get(from)?;
        let directory = matches!(thing, Thing::Directory { .. });
        let legal = match self.things.get(to) {
            None => true,
            Some(Thing::Directory { .. }) => directory && self.is_empty(to),
            Some(_) => !directory,
        };
        let depth = to.components().count();
        // A rename between two hard links of one file does nothing (rename(2)).
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

    pub(super) fn delete(&mut self, path: &Path) -> Option<String> {
        match self.things.get(path)? {
            Thing::Directory { .. } => fs::remove_dir_all(self.full(path)).unwrap(),
            _ => fs::remove_file(self.full(path)).unwrap(),
        }
        self.things.retain(|other, _| !other.starts_with(path));
        Some("delete".to_owned())
    }

    pub(super) fn make_directory(&mut self, path: &Path, random: &mut StdRng) -> Option<String> {
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

    pub(super) fn change_mode(&mut self, path: &Path, random: &mut StdRng) -> Option<String> {
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

    pub(super) fn make_link(&mut self, path: &Path, random: &mut StdRng) -> Option<String> {
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

    /// Copies a file to the same path on the other node, sometimes with the same mtime.
    pub(super) fn copy_from(&mut self, other: &Share, random: &mut StdRng) -> Option<String> {
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

    /// Sets an mtime between 1960 and 2020. The version is as old as its mtime.
    pub(super) fn date_back(&mut self, path: &Path, random: &mut StdRng) -> Option<String> {
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

    /// Sets an mtime in 2030. It does not win: the version is as old as its first sight.
    pub(super) fn date_forward(&mut self, path: &Path) -> Option<String> {
        let Some(Thing::File { bytes, .. }) = self.things.get(path) else {
            return None;
        };
        let bytes = bytes.clone();
        set_mtime(&self.full(path), (1_893_456_000, 7));
        self.remember(path, bytes);
        Some("mtime in 2030".to_owned())
    }
}

/// Returns the relative target by which an absolute link into the share is listed.
fn as_listed(link: &Path, within: &str) -> PathBuf {
    let here = link.parent().into_iter().flat_map(Path::components);
    let (here, there) = (here.collect::<Vec<_>>(), Path::new(within).components());
    let same = here.iter().zip(there.clone());
    let common = same.take_while(|(here, there)| *here == there).count();
    let up = here[common..].iter().map(|_| Component::ParentDir);
    let listed: PathBuf = up.chain(there.skip(common)).collect();
    if listed == Path::new("") {
        PathBuf::from(".")
    } else {
        listed
    }
}

fn random_bytes(random: &mut StdRng) -> Vec<u8> {
    let content = random.random_range(0..CONTENTS);
    let length_bytes = [0, 1, 4096, 70_000, 300_000][content as usize];
    noise(content, length_bytes)
}
