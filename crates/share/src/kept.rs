//! The bytes of small files that were just written, kept for a while after they were replaced.
//!
//! What points to other things is small, is replaced often, and is read elsewhere at that moment: a
//! git reference, an index, a list of packages. Its old version is gone from the disk with the
//! rename that replaces it, while other nodes still list it. So what is hashed whole in memory
//! stays there, the least recently written going first.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lru::LruCache;
use rustix::fs::{MemfdFlags, memfd_create};

use p2pfs_types::digest::ContentHash;

/// All bytes together.
pub(super) const KEPT_BUDGET_BYTES: usize = 16 << 20;
/// For how long a version is given that no name shows any more: as long as a reader may wait.
pub(super) const KEPT_FOR: Duration = Duration::from_secs(60);
/// What an entry costs beside its bytes; so many empty files fit no more than that.
const ENTRY_BYTES: usize = 128;

struct Entry {
    bytes: Arc<[u8]>,
    /// Since when no name shows it.
    gone: Option<Instant>,
}

/// The bytes by their hash.
pub(super) struct Kept {
    entries: LruCache<ContentHash, Entry>,
    total_bytes: usize,
}

impl Kept {
    pub(super) fn new() -> Self {
        Self {
            entries: LruCache::unbounded(),
            total_bytes: 0,
        }
    }

    /// Keeps what a name shows from now on.
    pub(super) fn put(&mut self, hash: ContentHash, bytes: Arc<[u8]>) {
        self.forget(&hash);
        self.total_bytes += bytes.len() + ENTRY_BYTES;
        self.entries.put(hash, Entry { bytes, gone: None });
        while self.total_bytes > KEPT_BUDGET_BYTES {
            let Some((_, oldest)) = self.entries.pop_lru() else {
                return;
            };
            self.total_bytes -= oldest.bytes.len() + ENTRY_BYTES;
        }
    }

    /// A name shows it, or none does any more.
    pub(super) fn note_shown(&mut self, hash: &ContentHash, shown: bool, now: Instant) {
        if let Some(entry) = self.entries.peek_mut(hash) {
            entry.gone = (!shown).then_some(now);
        }
    }

    /// Others may not have it any more.
    pub(super) fn forget(&mut self, hash: &ContentHash) {
        if let Some(entry) = self.entries.pop(hash) {
            self.total_bytes -= entry.bytes.len() + ENTRY_BYTES;
        }
    }

    /// Forgets everything: a share, or a directory of one, is offered no more.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.total_bytes = 0;
    }

    /// The bytes, where they are still given.
    pub(super) fn get(&mut self, hash: &ContentHash, now: Instant) -> Option<Arc<[u8]>> {
        let entry = self.entries.peek(hash)?;
        if entry.gone.is_some_and(|since| now - since >= KEPT_FOR) {
            self.forget(hash);
            return None;
        }
        Some(entry.bytes.clone())
    }
}

/// A file in memory, which is served as one on the disk is.
pub(super) fn in_memory(bytes: &[u8]) -> io::Result<File> {
    let file = memfd_create("p2pfs-kept", MemfdFlags::CLOEXEC)?;
    let mut file = File::from(file);
    file.write_all(bytes)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(kept: &mut Kept, number: u8, length: usize) -> ContentHash {
        let bytes = vec![number; length];
        let hash = ContentHash::of(&bytes);
        kept.put(hash, bytes.into());
        hash
    }

    #[test]
    fn what_was_replaced_is_given_for_a_while_and_no_longer() {
        let (mut kept, now) = (Kept::new(), Instant::now());
        let hash = put(&mut kept, 1, 100);
        assert!(
            kept.get(&hash, now + 10 * KEPT_FOR).is_some(),
            "a name shows it"
        );
        kept.note_shown(&hash, false, now);
        assert!(kept.get(&hash, now + KEPT_FOR / 2).is_some());
        kept.note_shown(&hash, true, now);
        kept.note_shown(&hash, false, now + KEPT_FOR);
        assert!(kept.get(&hash, now + KEPT_FOR * 3 / 2).is_some());
        assert!(kept.get(&hash, now + KEPT_FOR * 2).is_none());
        assert_eq!(kept.total_bytes, 0);
    }

    #[test]
    fn the_budget_holds_for_large_files_and_for_empty_ones() {
        let (mut kept, now) = (Kept::new(), Instant::now());
        let first = put(&mut kept, 1, 1 << 20);
        for number in 2..=40 {
            put(&mut kept, number, 1 << 20);
            put(&mut kept, number, usize::from(number));
            assert!(kept.total_bytes <= KEPT_BUDGET_BYTES);
        }
        assert!(kept.get(&first, now).is_none());
    }
}
