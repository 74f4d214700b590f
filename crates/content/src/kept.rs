//! Files that are proven to other nodes, kept open between the requests for them.
//!
//! An open file of the cache is not evicted, and an open file of a share keeps its disk from being
//! unmounted. So a file is closed soon after the last request. Only a deleted file of a share stays
//! open for longer: a remote reader may still have it open, and its bytes may be nowhere else.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lru::LruCache;

use super::error::ProofError;
use p2pfs_cache::CacheFile;
use p2pfs_share::ShareFile;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::extent::{ByteRange, ExtentSet};
use p2pfs_types::pool::PiecePool;

/// Maximum files kept open.
pub(super) const KEPT_MAX: NonZeroUsize = NonZeroUsize::new(64).unwrap();
/// How long a file stays open after the last request.
const OPENED_FOR: Duration = Duration::from_secs(5);
/// How long a file stays open if its end was among the last requests: its reader is done. The same
/// holds for a file that was only offered, since most offers lead to no request.
const ENDED_FOR: Duration = Duration::from_secs(1);

/// How long a deleted shared file stays open beyond the time for other files.
const NAMELESS_FOR: Duration = Duration::from_secs(60);
/// Maximum disk space of all deleted files that are kept open. Their deletion was meant to free
/// this space.
const NAMELESS_BUDGET_BYTES: u64 = 1 << 30;

/// An open file whose bytes can be proven.
#[derive(Clone)]
pub(super) enum ProvableFile {
    Cached(CacheFile),
    Shared(ShareFile),
}

/// Purpose for which a provable file is opened.
#[derive(Clone, Copy)]
pub(super) enum Purpose {
    /// Proof of a range.
    Range(ByteRange),
    /// Telling another node which ranges are here.
    Offer,
}

impl Purpose {
    /// Returns whether no further request is likely.
    fn is_last(self, size_bytes: u64) -> bool {
        match self {
            Self::Range(range) => range.end >= size_bytes,
            Self::Offer => true,
        }
    }
}

impl ProvableFile {
    pub(super) fn size_bytes(&self) -> u64 {
        match self {
            Self::Cached(file) => file.size_bytes(),
            Self::Shared(file) => file.size_bytes(),
        }
    }

    /// Returns whether it is a shared file that was deleted. Touches the disk. Blocking.
    pub(super) fn is_nameless(&self) -> bool {
        match self {
            Self::Cached(_) => false,
            Self::Shared(file) => file.is_nameless(),
        }
    }

    /// Returns whether a new open would find the same file. One system call. Blocking.
    pub(super) fn is_current(&self) -> bool {
        match self {
            Self::Cached(_) => true,
            Self::Shared(file) => file.is_current(),
        }
    }

    /// Returns the ranges that can be proven.
    pub(super) fn ranges(&self) -> ExtentSet {
        match self {
            Self::Cached(file) => file.offered(),
            Self::Shared(file) => ExtentSet::of(ByteRange::new(0, file.size_bytes())),
        }
    }

    pub(super) fn is_whole(&self) -> bool {
        match self {
            Self::Cached(file) => file.is_complete(),
            Self::Shared(_) => true,
        }
    }

    /// Returns the range with its proof. Reads and hashes. Blocking.
    pub(super) fn encode(&self, range: ByteRange, pool: &PiecePool) -> Result<Bytes, ProofError> {
        match self {
            Self::Cached(file) => Ok(file.encode(range, pool)?),
            Self::Shared(file) => Ok(file.encode(range, pool)?),
        }
    }

    /// Returns the range with its proof if that needs no waiting and nothing is wrong.
    pub(super) fn encode_at_once(&self, range: ByteRange, pool: &PiecePool) -> Option<Bytes> {
        match self {
            Self::Cached(file) => file.encode_at_once(range, pool),
            Self::Shared(file) => file.encode_at_once(range, pool),
        }
    }
}

pub(super) struct KeptFiles {
    files: LruCache<ContentHash, (ProvableFile, RequestTimes)>,
    nameless: DeletedFiles<ProvableFile>,
    /// Whether a task is responsible for closing old files.
    pub swept: bool,
}

impl KeptFiles {
    pub(super) fn new() -> Self {
        Self {
            files: LruCache::new(KEPT_MAX),
            nameless: DeletedFiles::default(),
            swept: false,
        }
    }

    /// Returns the open file of a content, and records the request unless the file is kept as a
    /// deleted one.
    pub(super) fn get(
        &mut self,
        now: Instant,
        hash: &ContentHash,
        purpose: Purpose,
    ) -> Option<ProvableFile> {
        match self.files.get_mut(hash) {
            Some((source, questions)) => {
                questions.note(now, purpose.is_last(source.size_bytes()));
                Some(source.clone())
            }
            None => self.nameless.get(hash).cloned(),
        }
    }

    /// Keeps a file open. Returns the file that gives way, which the caller drops without a lock. A
    /// file that was opened for an offer gives way itself if there is no room, so that offers close
    /// no file that is being read.
    #[must_use]
    pub(super) fn put(
        &mut self,
        now: Instant,
        hash: ContentHash,
        source: ProvableFile,
        purpose: Purpose,
    ) -> Option<ProvableFile> {
        if matches!(purpose, Purpose::Offer) && self.files.len() >= KEPT_MAX.get() {
            return Some(source);
        }
        let mut questions = RequestTimes::new(now);
        questions.note(now, purpose.is_last(source.size_bytes()));
        self.files
            .push(hash, (source, questions))
            .map(|(_, (source, _))| source)
    }

    #[must_use]
    pub(super) fn remove(&mut self, hash: &ContentHash) -> Option<ProvableFile> {
        let nameless = self.nameless.remove(hash);
        self.files.pop(hash).map(|(source, _)| source).or(nameless)
    }

    /// Keeps files that were deleted while they were open. Returns those that are not kept.
    #[must_use]
    pub(super) fn retain_deleted(
        &mut self,
        now: Instant,
        lost: Vec<(ContentHash, ProvableFile)>,
    ) -> Vec<ProvableFile> {
        let keep = |(hash, source): (ContentHash, ProvableFile)| {
            let size_bytes = source.size_bytes();
            self.nameless.put(now, hash, source, size_bytes)
        };
        lost.into_iter().filter_map(keep).collect()
    }

    /// Removes the deleted files that were kept long enough.
    #[must_use]
    pub(super) fn remove_expired_deleted(&mut self, now: Instant) -> Vec<ProvableFile> {
        self.nameless.remove_expired(now)
    }

    /// Removes the files without recent requests.
    #[must_use]
    pub(super) fn remove_expired(&mut self, now: Instant) -> Vec<(ContentHash, ProvableFile)> {
        let is_old = |(_, (_, questions)): &(&ContentHash, &(ProvableFile, RequestTimes))| {
            questions.kept_until() <= now
        };
        let old: Vec<ContentHash> = self.files.iter().filter(is_old).map(|it| *it.0).collect();
        let closed = old.into_iter().map(|hash| (hash, self.files.pop(&hash)));
        closed
            .filter_map(|(hash, file)| Some((hash, file?.0)))
            .collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty() && self.nameless.kept.is_empty()
    }

    /// Returns whether the caller must start a task that closes files without recent requests: a
    /// file is open and no such task runs. The task counts as running from now on.
    pub(super) fn begins_sweep(&mut self) -> bool {
        !self.is_empty() && !std::mem::replace(&mut self.swept, true)
    }
}

/// Times of the requests for a file.
struct RequestTimes {
    last: Instant,
    /// When the end of the file was last requested.
    about_end: Option<Instant>,
}

impl RequestTimes {
    fn new(now: Instant) -> Self {
        Self {
            last: now,
            about_end: None,
        }
    }

    fn note(&mut self, now: Instant, about_end: bool) {
        self.last = now;
        if about_end {
            self.about_end = Some(now);
        }
    }

    /// Returns until when the file stays open. A sequential reader's last requests arrive together
    /// and in any order, so it is done if the end was requested shortly before the last request.
    fn kept_until(&self) -> Instant {
        let is_last = |end: Instant| self.last.saturating_duration_since(end) < ENDED_FOR;
        if self.about_end.is_some_and(is_last) {
            self.last + ENDED_FOR
        } else {
            self.last + OPENED_FOR
        }
    }
}

/// Deleted files that are kept open, the oldest first.
struct DeletedFiles<S> {
    kept: VecDeque<(Instant, ContentHash, S, u64)>,
    total_bytes: u64,
}

impl<S> Default for DeletedFiles<S> {
    fn default() -> Self {
        Self {
            kept: VecDeque::new(),
            total_bytes: 0,
        }
    }
}

impl<S> DeletedFiles<S> {
    /// Keeps a file. Returns it if there is no room for it or the content is kept already.
    fn put(&mut self, now: Instant, hash: ContentHash, source: S, size_bytes: u64) -> Option<S> {
        let room_bytes = NAMELESS_BUDGET_BYTES - self.total_bytes;
        let is_full = size_bytes > room_bytes || self.kept.len() >= KEPT_MAX.get();
        if is_full || self.get(&hash).is_some() {
            return Some(source);
        }
        self.total_bytes += size_bytes;
        self.kept.push_back((now, hash, source, size_bytes));
        None
    }

    fn get(&self, hash: &ContentHash) -> Option<&S> {
        let found = self.kept.iter().find(|kept| kept.1 == *hash);
        found.map(|kept| &kept.2)
    }

    fn remove(&mut self, hash: &ContentHash) -> Option<S> {
        let at = self.kept.iter().position(|kept| kept.1 == *hash)?;
        let (_, _, source, size_bytes) = self.kept.remove(at)?;
        self.total_bytes -= size_bytes;
        Some(source)
    }

    fn remove_expired(&mut self, now: Instant) -> Vec<S> {
        let is_old = |since: Instant| now.saturating_duration_since(since) >= NAMELESS_FOR;
        let mut old = Vec::new();
        while let Some((_, _, source, size_bytes)) = self.kept.pop_front_if(|it| is_old(it.0)) {
            self.total_bytes -= size_bytes;
            old.push(source);
        }
        old
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fully_read_file_is_closed_sooner_than_one_being_read() {
        let begin = Instant::now();
        let mut questions = RequestTimes::new(begin);
        questions.note(begin, false);
        assert_eq!(questions.kept_until(), begin + OPENED_FOR, "in the middle");
        questions.note(begin, true);
        assert_eq!(questions.kept_until(), begin + ENDED_FOR);
        let beside = begin + ENDED_FOR / 2;
        questions.note(beside, false);
        assert_eq!(questions.kept_until(), beside + ENDED_FOR, "out of order");
        let again = begin + 2 * ENDED_FOR;
        questions.note(again, false);
        assert_eq!(questions.kept_until(), again + OPENED_FOR, "read once more");
    }

    #[test]
    fn a_file_that_lost_its_name_is_retained_within_time_and_budget() {
        let (mut nameless, now) = (DeletedFiles::default(), Instant::now());
        let [one, two, three] = [1, 2, 3].map(|byte| ContentHash::new([byte; 32]));
        assert_eq!(nameless.put(now, one, 'a', 1000), None);
        assert_eq!(nameless.put(now, one, 'b', 1000), Some('b'), "it is there");
        let too_much = NAMELESS_BUDGET_BYTES - 999;
        assert_eq!(nameless.put(now, two, 'c', too_much), Some('c'));
        let later = now + NAMELESS_FOR / 2;
        assert_eq!(nameless.put(later, two, 'd', too_much - 1), None);
        assert_eq!(nameless.get(&one), Some(&'a'));
        assert_eq!(nameless.remove_expired(now + NAMELESS_FOR), ['a']);
        assert_eq!((nameless.get(&one), nameless.get(&two)), (None, Some(&'d')));
        assert_eq!(nameless.put(later, three, 'e', 1000), None);
        assert_eq!(nameless.remove(&two), Some('d'));
        assert_eq!(nameless.remove_expired(later + NAMELESS_FOR), ['e']);
        assert_eq!(nameless.total_bytes, 0);
    }
}
