//! Limit of bytes per second.
//!
//! A reader waits for urgent bytes. They may overdraw the limit by `OVERDRAFT`, and later bytes
//! wait until that is paid off. So the long-term rate stays within the limit, and a reader waits
//! less for background transfers such as fills.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::sleep_until;

pub(crate) use p2pfs_fetch::plan::SMALL_BYTES;
use p2pfs_types::bucket::TokenBucket;
use p2pfs_types::extent::CHUNK_BYTES;

/// Bytes that may pass at once after a pause, as time at the limit. Together with [`OVERDRAFT`] it
/// is a quarter of a second, so a program that measures the rate once a second sees about the
/// limit. A transfer that may pass does so as a whole, however large it is.
const BURST: Duration = Duration::from_millis(125);
/// How far urgent bytes may overdraw the limit beyond [`BURST`], as time at the limit. If the debt
/// is larger, urgent bytes wait too.
const OVERDRAFT: Duration = Duration::from_millis(125);
/// Minimum of the overdraft in bytes: one chunk. It applies if the limit is so slow that
/// [`OVERDRAFT`] allows less. Without it, a reader would wait for a whole background transfer.
const OVERDRAFT_MIN_BYTES: u64 = CHUNK_BYTES;

/// Urgent transfers of up to [`SMALL_BYTES`] may pass however far the limit is overdrawn, at
/// 1/`SMALL_SHARE` of its rate. At the full rate, readers of many small parts could starve all
/// other transfers.
const SMALL_SHARE: u64 = 4;
/// Bytes of the share of small urgent transfers that may pass at once, as time at the rate of the
/// share.
const SMALL_BURST: Duration = Duration::from_millis(250);

/// Maximum size of one background transfer, as time at the limit, but at least one chunk. A larger
/// one would delay everything behind it by its whole duration.
const PART_MAX: Duration = Duration::from_millis(250);

/// Limit in bytes per second. Clones share the limit.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    inner: Arc<PaceInner>,
}

#[derive(Debug, Default)]
struct PaceInner {
    /// `None` if there is no limit.
    limit: Mutex<Option<PaceLimit>>,
    /// Queue of the background transfers (index 0) and queue of the urgent ones (index 1). Only the
    /// first transfer of a queue waits for the limit. The others wait in order for the one before
    /// them.
    lines: [tokio::sync::Mutex<()>; 2],
    changed: Notify,
}

#[derive(Debug)]
struct PaceLimit {
    bytes_per_s: u64,
    all: TokenBucket,
    /// The share of small urgent transfers.
    small: TokenBucket,
}

impl PaceLimit {
    fn new(bytes_per_s: u64, now: Instant) -> Self {
        let small_per_s = bytes_per_s / SMALL_SHARE;
        Self {
            bytes_per_s,
            all: TokenBucket::bytes_per_second(bytes_per_s, BURST, now),
            small: TokenBucket::bytes_per_second(small_per_s, SMALL_BURST, now),
        }
    }

    /// Lets bytes pass, or returns how long they have to wait.
    fn pass(&mut self, now: Instant, bytes: u64, urgent: bool) -> Result<(), Duration> {
        let overdraft = if urgent {
            self.overdraft()
        } else {
            Duration::ZERO
        };
        self.all.pass(bytes, overdraft, now)
    }

    fn overdraft(&self) -> Duration {
        let least_s = OVERDRAFT_MIN_BYTES as f64 / self.bytes_per_s.max(1) as f64;
        OVERDRAFT.max(Duration::from_secs_f64(least_s))
    }

    /// Lets small bytes pass if their share allows it. Returns whether it did.
    fn pass_small(&mut self, now: Instant, bytes: u64) -> bool {
        let passes = bytes <= SMALL_BYTES && self.small.pass(bytes, Duration::ZERO, now).is_ok();
        if passes {
            self.all.charge(bytes, now);
        }
        passes
    }

    fn give_back(&mut self, bytes: u64) {
        self.all.refund(bytes);
        if bytes <= SMALL_BYTES {
            // bytes that passed without using the share of small ones are refunded to it too, which
            // costs the other transfers little
            self.small.refund(bytes);
        }
    }
}

impl Pace {
    /// Sets the limit in bytes per second. `None` removes it.
    pub fn set(&self, bytes_per_s: Option<u64>) {
        let limit = |bytes_per_s| PaceLimit::new(bytes_per_s, Instant::now());
        *self.inner.limit.lock() = bytes_per_s.map(limit);
        self.inner.changed.notify_waiters();
    }

    /// Returns the limit in bytes per second.
    pub fn bytes_per_s(&self) -> Option<u64> {
        let limit = self.inner.limit.lock();
        limit.as_ref().map(|limit| limit.bytes_per_s)
    }

    /// Lets bytes pass if they need not wait. Returns whether it did. `urgent` means that a reader
    /// waits for the bytes. Background bytes that are too many for one transfer
    /// ([`Pace::is_too_much`]) never pass.
    pub fn pass_at_once(&self, bytes: u64, urgent: bool) -> bool {
        if !urgent && self.is_too_much(bytes) {
            return false;
        }
        let now = Instant::now();
        let mut limit = self.inner.limit.lock();
        limit.as_mut().is_none_or(|limit| {
            limit.pass(now, bytes, urgent).is_ok() || urgent && limit.pass_small(now, bytes)
        })
    }

    /// Lets small urgent bytes pass ahead of all waiting ones if their share allows it. Returns
    /// whether it did, and false if there is no limit.
    pub fn pass_small(&self, bytes: u64) -> bool {
        let mut limit = self.inner.limit.lock();
        let limit = limit.as_mut();
        limit.is_some_and(|limit| limit.pass_small(Instant::now(), bytes))
    }

    /// Returns a guard for bytes that have passed. It refunds them if they are not transferred.
    pub fn passed(&self, bytes: u64) -> PassedBytes {
        PassedBytes {
            begun: self.bytes_per_s().map(|_| Arc::default()),
            pace: self.clone(),
            bytes,
        }
    }

    /// Refunds bytes that passed recently and were not transferred after all.
    pub fn give_back(&self, bytes: u64) {
        if let Some(limit) = self.inner.limit.lock().as_mut() {
            limit.give_back(bytes);
        }
    }

    /// Returns whether background bytes are too many for one transfer. Up to one chunk they never
    /// are.
    pub fn is_too_much(&self, bytes: u64) -> bool {
        let most = |bytes_per_s: u64| (bytes_per_s as f64 * PART_MAX.as_secs_f64()) as u64;
        let limit = self.bytes_per_s().map(most);
        limit.is_some_and(|most| bytes > most.max(CHUNK_BYTES))
    }

    /// Waits until the bytes may pass, as [`Self::pass`] does. Returns the guard of
    /// [`Self::passed`].
    pub async fn charge(&self, bytes: u64, urgent: bool) -> PassedBytes {
        self.pass(bytes, urgent).await;
        self.passed(bytes)
    }

    /// Waits until the bytes may pass. If the future is dropped before, no bytes are charged.
    pub async fn pass(&self, bytes: u64, urgent: bool) {
        let is_free = self.bytes_per_s().is_none();
        if is_free || urgent && self.pass_at_once(bytes, true) {
            return;
        }
        let _in_line = self.inner.lines[usize::from(urgent)].lock().await;
        loop {
            let changed = self.inner.changed.notified();
            let passed = {
                let mut limit = self.inner.limit.lock();
                limit
                    .as_mut()
                    .map_or(Ok(()), |limit| limit.pass(Instant::now(), bytes, urgent))
            };
            let Err(wait) = passed else { return };
            tokio::select! {
                () = sleep_until((Instant::now() + wait).into()) => {}
                () = changed => {}
            }
        }
    }
}

/// Bytes that passed a limit and whose transfer has not ended. Dropping it refunds them, unless
/// some of them are known to have arrived. Then the rest arrives too, even if the transfer is
/// cancelled.
#[must_use]
#[derive(Debug)]
pub struct PassedBytes {
    pace: Pace,
    bytes: u64,
    /// Whether bytes of the transfer have arrived. `None` without a limit.
    begun: Option<Arc<AtomicBool>>,
}

impl PassedBytes {
    /// Refunds what is above `bytes`.
    pub(crate) fn reduce_to(&mut self, bytes: u64) {
        self.pace.give_back(self.bytes.saturating_sub(bytes));
        self.bytes = self.bytes.min(bytes);
    }

    /// Returns a callback for the number of bytes of the transfer that have just arrived. `None`
    /// if there is no limit to refund to.
    pub(crate) fn on_bytes(&self) -> Option<impl Fn(u64) + Send + Sync + 'static> {
        let begun = self.begun.clone()?;
        Some(move |bytes| {
            if bytes > 0 {
                begun.store(true, Ordering::Relaxed);
            }
        })
    }

    /// Keeps the charge of some of the bytes, because they were transferred.
    pub fn count_transferred(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Keeps the charge, because the bytes were transferred.
    pub fn mark_transferred(mut self) {
        self.bytes = 0;
    }
}

impl Drop for PassedBytes {
    fn drop(&mut self) {
        let has_begun = |begun: &Arc<AtomicBool>| begun.load(Ordering::Relaxed);
        if self.bytes > 0 && !self.begun.as_ref().is_some_and(has_begun) {
            self.pace.give_back(self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn an_unsent_transfer_costs_nothing() {
        let pace = Pace::default();
        pace.give_back(MIB);
        pace.set(Some(MIB));
        for _ in 0..10 {
            assert!(pace.pass_at_once(MIB, true));
            pace.give_back(MIB);
        }
        assert!(pace.pass_at_once(MIB / 4, false));
    }

    #[test]
    fn a_dropped_transfer_is_refunded_unless_its_bytes_arrive() {
        const PART: u64 = MIB / 4;
        let pace = Pace::default();
        pace.set(Some(MIB));
        assert!(pace.pass_at_once(PART, true));
        let mut fewer = pace.passed(PART);
        fewer.reduce_to(PART / 2);
        drop(fewer);
        assert!(pace.pass_at_once(PART, false), "all of it is refunded");
        let begun = pace.passed(PART);
        let on_bytes = begun.on_bytes().unwrap();
        on_bytes(1);
        drop(begun);
        assert!(!pace.pass_at_once(1, false), "its rest arrives");
        pace.set(Some(MIB));
        assert!(pace.pass_at_once(PART, false));
        pace.passed(PART).mark_transferred();
        assert!(!pace.pass_at_once(1, false), "it was transferred");
    }

    #[test]
    fn an_unsent_small_transfer_leaves_its_share_to_the_next() {
        let pace = Pace::default();
        pace.set(Some(1024));
        assert!(pace.pass_at_once(64 * 1024, false));
        for _ in 0..10 {
            assert!(pace.pass_at_once(SMALL_BYTES, true));
            pace.give_back(SMALL_BYTES);
        }
    }

    #[test]
    fn urgent_transfers_go_first_and_the_rest_pays_for_them() {
        let now = Instant::now();
        let mut limit = PaceLimit::new(MIB, now);
        assert_eq!(limit.pass(now, MIB / 4, false), Ok(()));
        assert!(limit.pass(now, 1, false).is_err(), "no reader waits for it");
        assert_eq!(limit.pass(now, MIB, true), Ok(()));
        let later = now + Duration::from_secs(1);
        assert!(
            limit.pass(later, 1, false).is_err(),
            "more than a second is owed"
        );
        let paid = now + Duration::from_millis(1250);
        assert_eq!(limit.pass(paid, 1, false), Ok(()));
        for _ in 0..3 {
            let _passed = limit.pass(now, MIB, true);
        }
        assert!(
            limit.pass(now, MIB, true).is_err(),
            "urgent bytes are limited too"
        );
    }

    #[test]
    fn bulk_passes_in_parts_of_a_quarter_of_a_second_and_a_chunk_always_passes() {
        let pace = Pace::default();
        assert!(!pace.is_too_much(u64::MAX), "there is no limit");
        for (limit, most) in [(4 * MIB, MIB), (1, CHUNK_BYTES)] {
            pace.set(Some(limit));
            assert!(!pace.is_too_much(most));
            assert!(pace.is_too_much(most + 1));
            assert!(!pace.pass_at_once(most + 1, false));
            assert!(pace.pass_at_once(most + 1, true), "somebody waits for it");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_urgent_transfer_waits_behind_no_bulk() {
        let pace = Pace::default();
        pace.set(Some(MIB));
        pace.pass(5 * MIB, true).await;
        let filling = tokio::spawn({
            let pace = pace.clone();
            async move { pace.pass(1, false).await }
        });
        tokio::task::yield_now().await;
        pace.pass(1, true).await;
        assert!(!filling.is_finished());
    }

    /// Lets requests of `part_bytes` pass for `seconds`, and returns the most that passed at once.
    fn most_at_once(limit: &mut PaceLimit, begun: Instant, part_bytes: u64, seconds: u64) -> u64 {
        let mut most = 0;
        for at in 0..seconds * 1000 {
            let now = begun + Duration::from_millis(at);
            let mut passed = 0;
            while limit.pass(now, part_bytes, true).is_ok() {
                passed += part_bytes;
            }
            most = most.max(passed);
        }
        most
    }

    #[test]
    fn a_quarter_of_a_second_and_one_request_pass_at_once_at_any_limit() {
        let begun = Instant::now();
        let part_bytes = MIB / 8;
        for bytes_per_s in [64 << 10, 2 * MIB, 100 * MIB] {
            let mut limit = PaceLimit::new(bytes_per_s, begun);
            let most = most_at_once(&mut limit, begun, part_bytes, 3);
            let allowed = (bytes_per_s / 4).max(CHUNK_BYTES + bytes_per_s / 8) + part_bytes;
            assert!(most <= allowed, "{most} of {bytes_per_s}");
            assert!(most >= part_bytes, "{most} of {bytes_per_s}");
        }
    }

    #[test]
    fn a_large_limit_is_used_in_full_by_a_caller_that_comes_every_tenth_of_a_second() {
        let begun = Instant::now();
        let mut limit = PaceLimit::new(100 * MIB, begun);
        let mut passed = 0;
        for at in 0..100 {
            let now = begun + Duration::from_millis(at * 100);
            while limit.pass(now, MIB, true).is_ok() {
                passed += MIB;
            }
        }
        assert!(passed >= 990 * MIB, "{passed}");
    }

    #[test]
    fn a_small_file_waits_behind_no_read_ahead() {
        let pace = Pace::default();
        pace.set(Some(64 << 10));
        while pace.pass_at_once(128 << 10, true) {}
        assert!(pace.pass_at_once(5000, true));
        assert!(!pace.pass_at_once(SMALL_BYTES + 1, true));
        assert!(!pace.pass_at_once(5000, false), "nobody waits for it");
    }

    #[test]
    fn many_small_reads_leave_most_of_the_limit_to_others() {
        let begun = Instant::now();
        let mut limit = PaceLimit::new(MIB, begun);
        let (mut small, mut large) = (0, 0);
        for at in 0..60_000 {
            let now = begun + Duration::from_millis(at);
            while limit.pass_small(now, 4096) {
                small += 4096;
            }
            while limit.pass(now, MIB / 8, true).is_ok() {
                large += MIB / 8;
            }
        }
        let seconds = 60 + (BURST + OVERDRAFT).as_secs() + 1;
        assert!(small + large <= seconds * MIB, "{small} and {large}");
        assert!(large >= 60 * MIB * 2 / 3, "{large}");
        assert!(small >= 60 * MIB / 5, "{small}");
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_transfers_continue_when_the_limit_is_lifted() {
        let pace = Pace::default();
        assert!(pace.pass_at_once(u64::MAX, true));
        pace.set(Some(1));
        pace.pass(1 << 30, false).await;
        let waiting = tokio::spawn({
            let pace = pace.clone();
            async move { pace.pass(1, false).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        pace.set(None);
        waiting.await.unwrap();
        assert_eq!(pace.bytes_per_s(), None);
    }
}
