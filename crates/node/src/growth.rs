//! Proves that a new version of a file begins with all bytes of an older one.
//!
//! The bytes of a short old version are fetched as part of the new version, and hashed. For a longer
//! one, the 64 KiB at its end are fetched. Their proof in the hash tree of the new version also
//! contains the hashes of all bytes before, and gives the hash of the old version.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::content::NodeContent;
use super::fixed::FixedVersion;
use p2pfs_fs::{Content, FileVersion, GrowthReply, ReadNow};
use p2pfs_types::digest::{ContentHash, ContentKey, begins_with, last_leaf};
use p2pfs_types::extent::{ByteRange, CHUNK_BYTES};

/// Maximum time for a proof. All changes of the namespace wait for it on the mount, so it is below
/// the second after which a new namespace is shown anyway. A far holder needs two round trips.
const PROOF_LIMIT: Duration = Duration::from_millis(750);
/// Interval of the checks whether fetched bytes are in the cache. They are there after about 2 ms.
const STORED_CHECK: Duration = Duration::from_millis(2);

impl NodeContent {
    /// Proves a growth on a blocking thread. Drops `reply` if there is none.
    pub(super) fn check_growth_later(
        self: Arc<Self>,
        newer: FileVersion,
        older: FileVersion,
        reply: GrowthReply,
    ) {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || reply(self.begins_with(&newer, &older)));
        }
    }

    fn begins_with(&self, newer: &FileVersion, older: &FileVersion) -> bool {
        if older.size_bytes == 0 {
            return true;
        }
        let until = Instant::now() + PROOF_LIMIT;
        let Ok(version) = self.open_fixed(newer) else {
            return false;
        };
        if older.size_bytes <= CHUNK_BYTES {
            let bytes = self.bytes_until(&version, ByteRange::new(0, older.size_bytes), until);
            return bytes.is_some_and(|bytes| ContentHash::of(&bytes) == older.hash);
        }
        let leaf = last_leaf(older.size_bytes);
        // The cache encodes proofs of whole chunks only.
        let around = leaf.align_out(CHUNK_BYTES, newer.size_bytes);
        if self.bytes_until(&version, around, until).is_none() {
            return false;
        }
        let [content, start] =
            [newer, older].map(|file| ContentKey::new(file.hash, file.size_bytes));
        while version.is_cacheable() && Instant::now() < until {
            if let Some(encoded) = version.encode(leaf) {
                return begins_with(&content, &start, &encoded).unwrap_or(false);
            }
            std::thread::sleep(STORED_CHECK);
        }
        false
    }

    fn bytes_until(
        &self,
        version: &FixedVersion,
        range: ByteRange,
        until: Instant,
    ) -> Option<Bytes> {
        let mut local = vec![0; usize::try_from(range.len()).ok()?];
        if let ReadNow::Done(length) = version.read_local(&self.shares, range.start, &mut local)
            && length == local.len()
        {
            return Some(local.into());
        }
        let (sender, received) = mpsc::sync_channel(1);
        let reply = move |result| {
            // The proof may have stopped waiting.
            let _late = sender.send(result);
        };
        let ticket = self.fetch(version, range, false, Box::new(reply));
        let left = until.saturating_duration_since(Instant::now());
        match received.recv_timeout(left) {
            Ok(result) => result.ok(),
            Err(_) => {
                self.cancel(ticket);
                None
            }
        }
    }
}
