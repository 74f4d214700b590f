//! The files that are being served, kept open between the questions of one reader.
//!
//! An open file of the cache is not evicted, so nothing stays open long after the last question.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;

use crate::cache::{CacheError, CacheFile};
use crate::digest::ContentHash;
use crate::extent::{ByteRange, ExtentSet};
use crate::share::{ShareError, ShareFile};

/// How many files are kept open.
const OPENED_MAX: NonZeroUsize = NonZeroUsize::new(64).unwrap();
/// For how long after the last question.
pub(super) const OPENED_FOR: Duration = Duration::from_secs(5);

/// Where bytes are served from.
#[derive(Clone)]
pub(super) enum Source {
    Cached(CacheFile),
    Shared(ShareFile),
}

/// Why a range cannot be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unserved {
    /// The content is not here any more.
    Gone,
    /// This part of it is not here.
    NotHere,
}

impl Source {
    pub fn size_bytes(&self) -> u64 {
        match self {
            Self::Cached(file) => file.size_bytes(),
            Self::Shared(file) => file.size_bytes(),
        }
    }

    /// What may be asked of it.
    pub fn ranges(&self) -> ExtentSet {
        match self {
            Self::Cached(file) => file.offered(),
            Self::Shared(file) => ExtentSet::of(ByteRange::new(0, file.size_bytes())),
        }
    }

    pub fn is_whole(&self) -> bool {
        match self {
            Self::Cached(file) => file.is_complete(),
            Self::Shared(_) => true,
        }
    }

    /// The range with its proof. Blocking: reads and hashes.
    pub fn encode(&self, range: ByteRange) -> Result<Vec<u8>, Unserved> {
        match self {
            Self::Cached(file) => file.encode(range).map_err(|error| match error {
                CacheError::Damaged { .. } => Unserved::Gone,
                _ => Unserved::NotHere,
            }),
            Self::Shared(file) => file.encode(range).map_err(|error| match error {
                ShareError::Gone => Unserved::Gone,
                _ => Unserved::NotHere,
            }),
        }
    }

    /// The same where nothing must be waited for and nothing is wrong; else nothing.
    pub fn encode_at_once(&self, range: ByteRange) -> Option<Vec<u8>> {
        match self {
            Self::Cached(file) => file.encode_at_once(range),
            Self::Shared(file) => file.encode_at_once(range),
        }
    }
}

pub(super) struct Opened {
    files: LruCache<ContentHash, (Source, Instant)>,
    /// Whether someone sees to it that old files are closed.
    pub swept: bool,
}

impl Opened {
    pub fn new() -> Self {
        Self {
            files: LruCache::new(OPENED_MAX),
            swept: false,
        }
    }

    pub fn get(&mut self, now: Instant, hash: &ContentHash) -> Option<Source> {
        let (source, used) = self.files.get_mut(hash)?;
        *used = now;
        Some(source.clone())
    }

    /// Gives what had to be closed for it, to be dropped without a lock.
    #[must_use]
    pub fn put(&mut self, now: Instant, hash: ContentHash, source: Source) -> Option<Source> {
        self.files
            .push(hash, (source, now))
            .map(|(_, (source, _))| source)
    }

    #[must_use]
    pub fn remove(&mut self, hash: &ContentHash) -> Option<Source> {
        self.files.pop(hash).map(|(source, _)| source)
    }

    /// Takes out what was not asked for lately.
    #[must_use]
    pub fn take_old(&mut self, now: Instant) -> Vec<Source> {
        let mut old = Vec::new();
        while let Some((_, (_, used))) = self.files.peek_lru() {
            if now.saturating_duration_since(*used) < OPENED_FOR {
                break;
            }
            old.extend(self.files.pop_lru().map(|(_, (source, _))| source));
        }
        old
    }

    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }
}
