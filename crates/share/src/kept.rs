//! Contents of small files that were just written, kept for a while after they were replaced.
//!
//! Files that point to others (a git reference, an index, a list of packages) are small, are
//! replaced often, and are read by other nodes just when they are replaced. The rename that
//! replaces such a file removes its old version from the disk while other nodes still list that
//! version. So the bytes of a small file stay in memory after it was hashed. Of all contents, the
//! one that was added first is evicted first.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lru::LruCache;
use rustix::fs::{MemfdFlags, memfd_create};

use p2pfs_types::digest::ContentHash;

/// Maximum bytes of all contents together.
pub(super) const KEPT_BUDGET_BYTES: usize = 16 << 20;
/// How long a content is served after no name has it: as long as a reader may wait.
pub(super) const KEPT_FOR: Duration = Duration::from_secs(60);
/// Bytes counted for each entry besides its content. They bound the number of empty files.
const ENTRY_BYTES: usize = 128;

struct KeptContent {
    bytes: Arc<[u8]>,
    /// When the last name with this content went away.
    gone: Option<Instant>,
}

/// Contents by hash.
pub(super) struct ReplacedContents {
    entries: LruCache<ContentHash, KeptContent>,
    total_bytes: usize,
}

impl ReplacedContents {
    pub(super) fn new() -> Self {
        Self {
            entries: LruCache::unbounded(),
            total_bytes: 0,
        }
    }

    /// Keeps a content that a name has from now on.
    pub(super) fn put(&mut self, hash: ContentHash, bytes: Arc<[u8]>) {
        self.forget(&hash);
        self.total_bytes += bytes.len() + ENTRY_BYTES;
        self.entries.put(hash, KeptContent { bytes, gone: None });
        while self.total_bytes > KEPT_BUDGET_BYTES {
            let Some((_, oldest)) = self.entries.pop_lru() else {
                return;
            };
            self.total_bytes -= oldest.bytes.len() + ENTRY_BYTES;
        }
    }

    /// Records whether a name has the content.
    pub(super) fn record_shown(&mut self, hash: &ContentHash, shown: bool, now: Instant) {
        if let Some(entry) = self.entries.peek_mut(hash) {
            entry.gone = (!shown).then_some(now);
        }
    }

    /// Discards a content that other nodes may no longer read.
    pub(super) fn forget(&mut self, hash: &ContentHash) {
        if let Some(entry) = self.entries.pop(hash) {
            self.total_bytes -= entry.bytes.len() + ENTRY_BYTES;
        }
    }

    /// Discards everything, because a share or a directory of one is no longer shared.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.total_bytes = 0;
    }

    /// Returns a content if it is still served.
    pub(super) fn get(&mut self, hash: &ContentHash, now: Instant) -> Option<Arc<[u8]>> {
        let entry = self.entries.peek(hash)?;
        if entry.gone.is_some_and(|since| now - since >= KEPT_FOR) {
            self.forget(hash);
            return None;
        }
        Some(entry.bytes.clone())
    }
}

/// Creates an in-memory file with these bytes. It is served like a file on the disk.
pub(super) fn in_memory(bytes: &[u8]) -> io::Result<File> {
    let file = memfd_create("p2pfs-kept", MemfdFlags::CLOEXEC)?;
    let mut file = File::from(file);
    file.write_all(bytes)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(kept: &mut ReplacedContents, number: u8, length: usize) -> ContentHash {
        let bytes = vec![number; length];
        let hash = ContentHash::of(&bytes);
        kept.put(hash, bytes.into());
        hash
    }

    #[test]
    fn replaced_contents_are_served_for_a_limited_time() {
        let (mut kept, now) = (ReplacedContents::new(), Instant::now());
        let hash = put(&mut kept, 1, 100);
        assert!(
            kept.get(&hash, now + 10 * KEPT_FOR).is_some(),
            "a name shows it"
        );
        kept.record_shown(&hash, false, now);
        assert!(kept.get(&hash, now + KEPT_FOR / 2).is_some());
        kept.record_shown(&hash, true, now);
        kept.record_shown(&hash, false, now + KEPT_FOR);
        assert!(kept.get(&hash, now + KEPT_FOR * 3 / 2).is_some());
        assert!(kept.get(&hash, now + KEPT_FOR * 2).is_none());
        assert_eq!(kept.total_bytes, 0);
    }

    #[test]
    fn the_budget_limits_large_and_empty_files() {
        let (mut kept, now) = (ReplacedContents::new(), Instant::now());
        let first = put(&mut kept, 1, 1 << 20);
        for number in 2..=40 {
            put(&mut kept, number, 1 << 20);
            put(&mut kept, number, usize::from(number));
            assert!(kept.total_bytes <= KEPT_BUDGET_BYTES);
        }
        assert!(kept.get(&first, now).is_none());
    }
}
