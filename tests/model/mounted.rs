//! What a mount shows, against what it must show.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::namespace::{Namespace, Shown};
use crate::share::time_of;

/// Every way in which the folder differs; contents are read once the listing is right.
pub fn differences(folder: &Path, expected: &Namespace) -> Vec<String> {
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
        let wrong = difference(&folder.join(path), shown);
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

/// How one name differs, if it does.
fn difference(path: &Path, expected: &Shown) -> io::Result<Option<String>> {
    let meta = fs::symlink_metadata(path)?;
    let kind = meta.file_type();
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
            let mode = if *executable { 0o555 } else { 0o444 };
            ((true, false, mode, *mtime), bytes.len() as u64)
        }
        Shown::Directory { mtime } => ((false, true, 0o555, *mtime), meta.len()),
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
