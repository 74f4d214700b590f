//! Limit of bytes per second.
//!
//! Urgent bytes, which a reader waits for, pass at once and are paid for afterwards by other bytes.
//! The sum stays within the limit, and a reader never queues behind background transfers such as
//! fills.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::sleep_until;

pub(crate) use p2pfs_fetch::plan::SMALL_BYTES;
use p2pfs_types::bucket::TokenBucket;
use p2pfs_types::extent::CHUNK_BYTES;

/// Bytes that may pass at once after a pause, as time at the limit: enough for the largest request
/// at a slow limit.
const BURST: Duration = Duration::from_millis(500);
/// Time by which urgent bytes may overdraw the limit, beyond the burst. Beyond it they wait too.
const OVERDRAFT: Duration = Duration::from_millis(3500);

/// Urgent transfers of up to [`SMALL_BYTES`] bypass the queue even when the limit is overdrawn.
/// They may use at most 1/`SMALL_SHARE` of the limit. Otherwise readers of many small parts could
/// starve the others.
const SMALL_SHARE: u64 = 4;
/// Bytes of that share that may pass at once, as time.
const SMALL_BURST: Duration = Duration::from_secs(1);

/// Maximum duration of one background transfer at the limit. A larger one would delay everything
/// behind it by its whole duration.
const PART_MAX: Duration = Duration::from_secs(1);

/// Limit in bytes per second. Clones share the limit.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    inner: Arc<PaceInner>,
}

#[derive(Debug, Default)]
struct PaceInner {
    /// `None` if there is no limit.
    limit: Mutex<Option<PaceLimit>>,
    /// Queues of urgent and of other transfers. One transfer of each queue waits for its bytes at a
    /// time; the others wait in order.
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
        let overdraft = if urgent { OVERDRAFT } else { Duration::ZERO };
        self.all.pass(bytes, overdraft, now)
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
            // refunds a little too much if the bytes passed by the main limit, at little cost to
            // others
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
    /// waits for them.
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
    /// whether it did.
    pub fn pass_small(&self, bytes: u64) -> bool {
        let mut limit = self.inner.limit.lock();
        let limit = limit.as_mut();
        limit.is_some_and(|limit| limit.pass_small(Instant::now(), bytes))
    }

    /// Refunds bytes that were let pass recently and not transferred after all.
    pub fn give_back(&self, bytes: u64) {
        if let Some(limit) = self.inner.limit.lock().as_mut() {
            limit.give_back(bytes);
        }
    }

    /// Returns whether background bytes are too many for one transfer. A chunk never is.
    pub fn is_too_much(&self, bytes: u64) -> bool {
        let most = |bytes_per_s: u64| (bytes_per_s as f64 * PART_MAX.as_secs_f64()) as u64;
        let limit = self.bytes_per_s().map(most);
        limit.is_some_and(|most| bytes > most.max(CHUNK_BYTES))
    }

    /// Waits until the bytes may pass. If the future is dropped, nothing passes.
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
        assert!(pace.pass_at_once(MIB, false));
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
        assert_eq!(limit.pass(now, 2 * MIB, false), Ok(()));
        assert!(limit.pass(now, 1, false).is_err(), "no reader waits for it");
        assert_eq!(limit.pass(now, MIB, true), Ok(()));
        let later = now + Duration::from_secs(2);
        assert!(
            limit.pass(later, 1, false).is_err(),
            "three seconds are owed"
        );
        assert_eq!(limit.pass(now + Duration::from_secs(3), 1, false), Ok(()));
        for _ in 0..3 {
            let _passed = limit.pass(now, MIB, true);
        }
        assert!(
            limit.pass(now, MIB, true).is_err(),
            "urgent bytes are limited too"
        );
    }

    #[test]
    fn bulk_passes_in_parts_of_a_second_and_a_chunk_always_passes() {
        let pace = Pace::default();
        assert!(!pace.is_too_much(u64::MAX), "there is no limit");
        for (limit, most) in [(4 * MIB, 4 * MIB), (1, CHUNK_BYTES)] {
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
