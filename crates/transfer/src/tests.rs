//! Shared parts of the tests: contents, and caches that hold them.

mod network;

use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::client::{Fetcher, ReadReply};
use p2pfs_cache::faults::{Faults, cache_in_boot, cache_that_can_halt};
use p2pfs_cache::{Cache, CacheConfig, CachedBytes, Stored};
use p2pfs_content::ContentStore;
use p2pfs_content::sample::store_of_cache;
use p2pfs_fetch::TransferError;
use p2pfs_fetch::session::Read;
use p2pfs_proto::wire::native::tcp::RANGE_MAX_BYTES;
use p2pfs_types::digest;
pub(crate) use p2pfs_types::digest::sample::Content;
use p2pfs_types::extent::ByteRange;

/// Longer than anything here takes. A test waits for it only if it fails.
pub(crate) const LONG: Duration = Duration::from_secs(400);

pub(crate) struct TestCache {
    pub cache: Cache,
    pub store: ContentStore,
    dir: tempfile::TempDir,
}

impl TestCache {
    pub(crate) fn new(budget_bytes: u64) -> Self {
        Self::opened(budget_bytes, |config| Cache::open(config).unwrap()).0
    }

    /// Creates a cache on a disk that can be halted.
    pub(crate) fn that_can_halt(budget_bytes: u64) -> (Self, std::sync::Arc<Faults>) {
        Self::opened(budget_bytes, cache_that_can_halt)
    }

    /// Creates a cache that `stock` filled before a power cut, with nothing surely on the disk.
    pub(crate) fn after_a_power_cut(budget_bytes: u64, stock: impl FnOnce(&Self)) -> Self {
        let before = |config| (cache_in_boot(config, "before"), ());
        let (cut, ()) = Self::opened(budget_bytes, before);
        stock(&cut);
        let Self { cache, store, dir } = cut;
        drop((cache, store));
        let config = config(&dir, budget_bytes);
        Self::of(cache_in_boot(config, "after"), dir)
    }

    fn opened<T>(budget_bytes: u64, open: impl FnOnce(CacheConfig) -> (Cache, T)) -> (Self, T) {
        let dir = tempfile::tempdir().unwrap();
        let (cache, beside) = open(config(&dir, budget_bytes));
        (Self::of(cache, dir), beside)
    }

    fn of(cache: Cache, dir: tempfile::TempDir) -> Self {
        let store = store_of_cache(cache.clone());
        Self { cache, store, dir }
    }

    /// Stores a part of a content.
    pub(crate) fn stock(&self, content: &Content, range: ByteRange) {
        let file = self.cache.file(content.hash(), content.size()).unwrap();
        let mut at = range.start;
        while at < range.end {
            let piece = ByteRange::new(at, (at + RANGE_MAX_BYTES).min(range.end));
            let proof = content.encode(piece);
            let verified =
                digest::decode(content.hash(), content.size(), piece, proof.into()).unwrap();
            assert_eq!(file.store(&verified).unwrap(), Stored::Kept);
            at = piece.end;
        }
    }

    /// Opens the data file of a content, to damage it as a disk may.
    pub(crate) fn data_file(&self, content: &Content) -> std::fs::File {
        let hex = content.hash().to_string();
        let path = format!("cache/{}/{hex}.data", &hex[..2]);
        let mut options = std::fs::File::options();
        options
            .write(true)
            .open(self.dir.path().join(path))
            .unwrap()
    }

    pub(crate) fn stock_all(&self, content: &Content) {
        self.stock(content, ByteRange::new(0, content.size()));
    }
}

fn config(dir: &tempfile::TempDir, budget_bytes: u64) -> CacheConfig {
    CacheConfig {
        dir: dir.path().join("cache"),
        budget_bytes,
        floor_bytes: 0,
    }
}

/// Receiver of a read's result.
pub(crate) type Outcome = mpsc::Receiver<Result<Bytes, TransferError>>;

pub(crate) fn reply() -> (ReadReply, Outcome) {
    let (sender, receiver) = mpsc::channel();
    (
        Box::new(move |outcome| drop(sender.send(outcome))),
        receiver,
    )
}

/// Reads as a thread of the mount does. Must be called where blocking is allowed.
pub(crate) fn read_now(
    fetcher: &Fetcher,
    content: &Content,
    range: ByteRange,
) -> Result<Bytes, TransferError> {
    let (reply, outcome) = reply();
    let deadline = Instant::now() + LONG / 2;
    fetcher.read(Read::new(content.key(), range, deadline, reply));
    outcome.recv_timeout(LONG).expect("a read ends")
}

/// Reads a whole file sequentially, and compares it.
pub(crate) fn read_through(fetcher: &Fetcher, content: &Content, step: u64) {
    let mut at = 0;
    while at < content.size() {
        let range = ByteRange::new(at, (at + step).min(content.size()));
        let bytes = read_now(fetcher, content, range).unwrap();
        assert!(bytes == content.part(range), "wrong bytes at {at}");
        at = range.end;
    }
}
