//! Finds shares that name the same folder, however it is spelled. The last of them is in effect.
//! Without this rule, the order in which shares are added would decide, which may differ between a
//! start and a reload.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::sections::ShareSettings;
use p2pfs_types::files::trusted_way::reach;
use p2pfs_types::files::without_links_above;

/// Maximum total wait for the disks. A start or reload is delayed meanwhile.
const DISKS_WITHIN: Duration = Duration::from_secs(1);

/// Returns the shares in effect, in their order, and a warning for each of the others.
pub(super) fn standing(shares: Vec<ShareSettings>) -> (Vec<ShareSettings>, Vec<String>) {
    if shares.len() < 2 {
        return (shares, Vec::new());
    }
    let names = folder_names(shares.iter().map(|it| it.dir.clone()).collect());
    let last: HashMap<&Path, usize> = (0..).zip(&names).map(|(at, it)| (&**it, at)).collect();
    let standing_at: Vec<usize> = names.iter().map(|name| last[&**name]).collect();
    let (mut standing, mut told) = (Vec::new(), Vec::new());
    for (at, share) in shares.iter().enumerate() {
        match standing_at[at] {
            later if later == at => standing.push(share.clone()),
            later => told.push(superseded(&share.dir, &shares[later].dir)),
        }
    }
    (standing, told)
}

fn superseded(dir: &Path, by: &Path) -> String {
    // Paths compare equal with and without a trailing slash.
    let also = if dir.as_os_str() == by.as_os_str() {
        String::new()
    } else {
        format!(", also named {}", by.display())
    };
    let dir = dir.display();
    format!("share.dir: {dir} is there twice{also}: the later one stands; take the earlier out")
}

/// Returns a name of each folder for comparison: its canonical path, or the path without `.` and
/// `..` if the disk does not answer in time. Waits for at most one second in total.
pub fn folder_names(dirs: Vec<PathBuf>) -> Vec<PathBuf> {
    let mut names: Vec<PathBuf> = dirs.iter().map(|dir| without_dots(dir)).collect();
    let until = Instant::now() + DISKS_WITHIN;
    let (asked, answers) = mpsc::channel();
    let asking = move || {
        for dir in dirs {
            // A link that another user could have put does not make two shares one.
            let real = match reach(&dir) {
                Ok(reached) => reached.path().to_owned(),
                Err(_) => without_links_above(&without_dots(&dir)),
            };
            if asked.send(real).is_err() {
                // The caller has stopped waiting, because a disk was late.
                return;
            }
        }
    };
    // If the thread cannot start, the channel closes and no answer arrives.
    let _begun = thread::Builder::new()
        .name("share-names".to_owned())
        .spawn(asking);
    for name in &mut names {
        let left = until.saturating_duration_since(Instant::now());
        match answers.recv_timeout(left) {
            Ok(real) => *name = real,
            Err(_) => break,
        }
    }
    names
}

/// Removes `.` and `..` lexically.
fn without_dots(dir: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in dir.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                plain.pop();
            }
            part => plain.push(part),
        }
    }
    plain
}
