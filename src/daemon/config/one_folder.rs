//! Of several shares with one folder the last one stands, however the folder is spelled: else a
//! start and a reload would each decide by the order in which they come to be shared.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::settings::ShareSettings;
use p2pfs_types::files::without_links_above;

/// How long disks are waited for, all together: whoever starts or reloads waits meanwhile.
const DISKS_WITHIN: Duration = Duration::from_secs(1);

/// Those that stand, in their order, and what is to be told of the others.
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
    // paths are equal with and without a slash at their end
    let also = if dir.as_os_str() == by.as_os_str() {
        String::new()
    } else {
        format!(", also named {}", by.display())
    };
    let dir = dir.display();
    format!("share.dir: {dir} is there twice{also}: the later one stands; take the earlier out")
}

/// One name for all spellings of each of these folders: as its disk calls it, where that says so
/// in time, else as it is written. Waits for a second at most.
pub fn folder_names(dirs: Vec<PathBuf>) -> Vec<PathBuf> {
    let mut names: Vec<PathBuf> = dirs.iter().map(|dir| without_dots(dir)).collect();
    let until = Instant::now() + DISKS_WITHIN;
    let (asked, answers) = mpsc::channel();
    let asking = move || {
        for dir in dirs {
            let real = dir.canonicalize();
            let real = real.unwrap_or_else(|_| without_links_above(&without_dots(&dir)));
            if asked.send(real).is_err() {
                // nobody waits any more: a disk was late
                return;
            }
        }
    };
    // where no thread begins, nobody answers either
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

/// The path without `.` and `..`, as it is written.
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
