//! Of several shares with one folder the last one stands, however the folder is spelled: else a
//! start and a reload would each decide by the order in which they come to be shared.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::settings::ShareSettings;
use crate::files::without_links_above;

/// How long disks are waited for, all together: whoever starts or reloads waits meanwhile.
const DISKS_WITHIN: Duration = Duration::from_secs(3);
/// What each has of that at least, so that one that stands still does not hide what others say.
const DISK_WITHIN: Duration = Duration::from_millis(200);

/// Those that stand, in their order, and what is to be told of the others.
pub(super) fn standing(shares: Vec<ShareSettings>) -> (Vec<ShareSettings>, Vec<String>) {
    if shares.len() < 2 {
        return (shares, Vec::new());
    }
    let until = Instant::now() + DISKS_WITHIN;
    let names: Vec<PathBuf> = shares.iter().map(|it| name(&it.dir, until)).collect();
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
    let also = match dir.as_os_str() == by.as_os_str() {
        true => String::new(),
        false => format!(", also named {}", by.display()),
    };
    let dir = dir.display();
    format!("share.dir: {dir} is there twice{also}: the later one stands; take the earlier out")
}

/// One name for all spellings of a folder, which a disk that stands still keeps from nobody.
pub fn folder_name(dir: &Path) -> PathBuf {
    name(dir, Instant::now())
}

/// One name for all spellings of a folder: as the disk calls it, where that says so in time.
fn name(dir: &Path, until: Instant) -> PathBuf {
    let (asked, answer) = mpsc::channel();
    let of_thread = dir.to_owned();
    let asking = move || {
        let plain = without_dots(&of_thread);
        let real = of_thread.canonicalize();
        // nobody waits any more where the disk was late
        let _heard = asked.send(real.unwrap_or_else(|_| without_links_above(&plain)));
    };
    // where no thread begins, nobody answers either
    let _begun = thread::Builder::new()
        .name("share-name".to_owned())
        .spawn(asking);
    let left = until.saturating_duration_since(Instant::now());
    let named = answer.recv_timeout(left.max(DISK_WITHIN));
    named.unwrap_or_else(|_| without_dots(dir))
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
