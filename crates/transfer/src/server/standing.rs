//! Refusal of contents on hung disks.
//!
//! If many contents of one disk are stuck, the whole disk counts as hung. No other request for its
//! contents is started until some of the stuck ones end, since each would block a thread for as
//! long as the disk hangs.

use std::collections::BTreeSet;
use std::time::Duration;

use p2pfs_content::ContentStore;
use p2pfs_types::digest::ContentHash;

/// How long a disk may deliver nothing before it is reported. A disk that was spun down is usually
/// ready within this time.
pub(super) const WORTH_A_WORD: Duration = Duration::from_secs(10);
/// Number of stuck contents of one disk from which the disk counts as hung. More contents may be
/// started before the first one counts as stuck.
const STANDING_OF_DISK_MAX: usize = 16;

/// Returns whether the disk of a content hangs, because many of the `stuck` contents are on it.
/// Never blocks.
pub(super) fn is_on_hung_disk(
    contents: &ContentStore,
    stuck: &BTreeSet<ContentHash>,
    hash: &ContentHash,
) -> bool {
    if stuck.len() < STANDING_OF_DISK_MAX {
        return false;
    }
    let disk = contents.disk_of(hash);
    let mut of_disk = stuck.iter().filter(|it| contents.disk_of(it) == disk);
    of_disk.nth(STANDING_OF_DISK_MAX - 1).is_some()
}

#[cfg(test)]
mod tests;
