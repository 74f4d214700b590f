//! Compares a mount with the expected namespace.

#![allow(unsafe_code, reason = "system calls that no safe crate offers")]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use rand::RngExt;
use rand::rngs::StdRng;

use super::namespace::{Namespace, Shown};
use super::share::time_of;
use crate::support::process::run;

/// Returns all differences of the folder. Contents are read only once the listing is right.
pub(super) fn differences(folder: &Path, expected: &Namespace) -> Vec<String> {
    let mut listed = BTreeSet::new();
    if let Err(error) = list(folder, Path::new(""), &mut listed) {
        return vec![format!("cannot be listed: {error}")];
    }
    let names: BTreeSet<PathBuf> = expected.keys().cloned().collect();
    let missing = names
        .difference(&listed)
        .map(|path| format!("not listed: {path:?}"));
    let spare = listed
        .difference(&names)
        .map(|path| format!("listed: {path:?}"));
    let wrong: Vec<String> = missing.chain(spare).collect();
    if !wrong.is_empty() {
        return wrong;
    }
    let each = |(path, shown): (&PathBuf, &Shown)| {
        let directories = |(below, shown): &(&PathBuf, &Shown)| {
            below.parent() == Some(path) && matches!(shown, Shown::Directory { .. })
        };
        let links = match shown {
            Shown::Directory { .. } => 2 + expected.iter().filter(directories).count() as u64,
            _ => 1,
        };
        let wrong = difference(&folder.join(path), shown, links);
        wrong
            .unwrap_or_else(|error| Some(format!("{error}")))
            .map(|wrong| format!("{path:?}: {wrong}"))
    };
    expected.iter().filter_map(each).collect()
}

fn list(folder: &Path, below: &Path, listed: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if !listed.insert(path.clone()) {
            return Err(io::Error::other(format!("{path:?} is listed twice")));
        }
        if entry.file_type()?.is_dir() {
            list(folder, &path, listed)?;
        }
    }
    Ok(())
}

/// Returns how one name differs, if it does.
fn difference(path: &Path, expected: &Shown, links: u64) -> io::Result<Option<String>> {
    let meta = fs::symlink_metadata(path)?;
    let kind = meta.file_type();
    let has_room = !kind.is_file() || (meta.blocks() > 0) == (meta.len() > 0);
    if meta.nlink() != links || !has_room {
        let (found, blocks) = (meta.nlink(), meta.blocks());
        return Ok(Some(format!("{found} links of {links}, {blocks} blocks")));
    }
    let seen = (
        kind.is_file(),
        kind.is_dir(),
        meta.permissions().mode() & 0o7777,
        time_of(&meta),
    );
    let (wanted, size_bytes) = match expected {
        Shown::File {
            bytes,
            executable,
            mtime,
        } => {
            let mode = if *executable { 0o755 } else { 0o644 };
            ((true, false, mode, *mtime), bytes.len() as u64)
        }
        Shown::Directory { mtime, until } => {
            let time = seen.3.clamp(*mtime, *until);
            ((false, true, 0o755, time), meta.len())
        }
        Shown::Link { target, mtime } => (
            (false, false, 0o777, *mtime),
            target.as_os_str().len() as u64,
        ),
    };
    if (seen, meta.len()) != (wanted, size_bytes) {
        let (mode, size) = (seen.2, meta.len());
        return Ok(Some(format!(
            "mode {mode:o}, {size} bytes, mtime {:?}; expected {:o}, {size_bytes}, {:?}",
            seen.3, wanted.2, wanted.3
        )));
    }
    let same = match expected {
        Shown::File { bytes, .. } => {
            let mut hash = [0; 64];
            rustix::fs::getxattr(path, "user.p2pfs.hash", &mut hash)?;
            hash == blake3::hash(bytes).to_hex().as_bytes() && fs::read(path)? == *bytes
        }
        Shown::Link { target, .. } => fs::read_link(path)? == *target,
        Shown::Directory { .. } => true,
    };
    Ok((!same).then(|| "another content".to_owned()))
}

/// Reads a few files in all ways: with O_DIRECT, through a mapping, at random offsets, by hash.
pub(super) fn expect_reads_to_agree(mount: &Path, shown: &Namespace, random: &mut StdRng) {
    let files: Vec<(&PathBuf, &Vec<u8>)> = (shown.iter())
        .filter_map(|(path, shown)| match shown {
            Shown::File { bytes, .. } if !bytes.is_empty() => Some((path, bytes)),
            _ => None,
        })
        .collect();
    for _ in 0..files.len().min(4) {
        let (path, bytes) = files[random.random_range(0..files.len())];
        let path = mount.join(path);
        assert!(read_directly(&path, random, bytes), "O_DIRECT of {path:?}");
        assert!(read_mapped(&path, bytes), "a mapping of {path:?}");
        let hash = blake3::hash(bytes).to_hex();
        let by_hash = mount.join(".p2pfs/by-hash").join(hash.as_str());
        assert!(fs::read(&by_hash).unwrap() == *bytes, "{by_hash:?}");
        let file = fs::File::open(&path).unwrap();
        let start = random.random_range(0..bytes.len());
        let mut part = vec![0; random.random_range(0..=bytes.len() - start)];
        file.read_exact_at(&mut part, start as u64).unwrap();
        assert!(part == bytes[start..start + part.len()], "{path:?}");
    }
}

fn read_directly(path: &Path, random: &mut StdRng, bytes: &[u8]) -> bool {
    let mut options = fs::OpenOptions::new();
    let file = options.read(true).custom_flags(libc::O_DIRECT).open(path);
    // A disk requires that memory, offset and length are aligned.
    let mut room = vec![0u8; 3 * 4096];
    let aligned = room.as_ptr().align_offset(4096);
    let pages = &mut room[aligned..aligned + 8192];
    let start = random.random_range(0..=bytes.len() / 4096) * 4096;
    let length = file.unwrap().read_at(pages, start as u64).unwrap();
    pages[..length] == bytes[start..(start + 8192).min(bytes.len())]
}

fn read_mapped(path: &Path, bytes: &[u8]) -> bool {
    use std::os::fd::AsRawFd;
    let file = fs::File::open(path).unwrap();
    let (read, shared) = (libc::PROT_READ, libc::MAP_SHARED);
    let nowhere = std::ptr::null_mut();
    // SAFETY: this is a new mapping of a complete file with the length of `bytes`. It is read only
    // while mapped and unmapped once.
    unsafe {
        let at = libc::mmap(nowhere, bytes.len(), read, shared, file.as_raw_fd(), 0);
        assert_ne!(at, libc::MAP_FAILED, "{path:?}");
        let same = std::slice::from_raw_parts(at.cast::<u8>(), bytes.len()) == bytes;
        libc::munmap(at, bytes.len());
        same
    }
}

/// Checks the output of `find` and `du` for the whole mount.
pub(super) fn expect_tools_to_agree(mount: &Path, shown: &Namespace) {
    for (kind, is_of_kind) in [
        (
            "f",
            (|it| matches!(it, Shown::File { .. })) as fn(&Shown) -> bool,
        ),
        ("d", |it| matches!(it, Shown::Directory { .. })),
        ("l", |it| matches!(it, Shown::Link { .. })),
    ] {
        let mut find = Command::new("find");
        find.args([".", "-mindepth", "1", "-type", kind, "-printf", "%P\\0"]);
        let found = run(find.current_dir(mount));
        assert!(found.status.success(), "{}", found.stderr);
        let found: BTreeSet<PathBuf> = (found.stdout.split(|byte| *byte == 0))
            .filter(|name| !name.is_empty())
            .map(|name| PathBuf::from(OsStr::from_bytes(name)))
            .collect();
        let of_kind = shown.iter().filter(|it| is_of_kind(it.1));
        assert_eq!(
            found,
            of_kind.map(|it| it.0.clone()).collect(),
            "find -type {kind}"
        );
    }
    let mut du = Command::new("du");
    du.args(["-sB1", "--apparent-size", "."]);
    let counted = run(du.current_dir(mount)).expect_ok();
    let counted: u64 = counted.split('\t').next().unwrap().parse().unwrap();
    let size = |shown: &Shown| match shown {
        Shown::File { bytes, .. } => bytes.len() as u64,
        Shown::Directory { .. } => 4096,
        Shown::Link { target, .. } => target.as_os_str().len() as u64,
    };
    let expected = 4096 + shown.values().map(size).sum::<u64>();
    assert_eq!(counted, expected, "du --apparent-size");
}
