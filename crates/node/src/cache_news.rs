//! Cache events for the event loop, and the full list that replaces events that were lost.

use std::sync::mpsc as std_mpsc;

use tokio::sync::mpsc;
use tracing::debug;

use p2pfs_content::cache::{Cache, CacheEvent};
use p2pfs_types::digest::ContentHash;

/// Maximum number of cache events queued for the event loop.
const CACHE_EVENTS_MAX: usize = 4096;

/// One message about the cache for the event loop.
#[derive(Debug)]
pub(super) enum CacheNews {
    Event(CacheEvent),
    /// All complete contents with their sizes in bytes, sent after events were lost.
    Complete(Vec<(ContentHash, u64)>),
}

/// A source that can say how many events were lost and which contents are complete.
pub(super) trait CacheSource: Send + 'static {
    fn events_lost(&self) -> u64;
    fn complete(&self) -> Vec<(ContentHash, u64)>;
}

impl CacheSource for Cache {
    fn events_lost(&self) -> u64 {
        Cache::events_lost(self)
    }

    fn complete(&self) -> Vec<(ContentHash, u64)> {
        Cache::complete(self)
    }
}

/// Starts a thread that forwards cache events to the event loop. The loop cannot read them itself,
/// because waiting at the cache's channel blocks. If the cache has lost events, the thread sends
/// the list of complete contents after the next event and those queued behind it. Later events
/// follow the list.
pub(super) fn forward_events(
    events: std_mpsc::Receiver<CacheEvent>,
    cache: impl CacheSource,
) -> mpsc::Receiver<CacheNews> {
    let (to, from) = mpsc::channel(CACHE_EVENTS_MAX);
    let forward = move || {
        let mut lost = 0;
        while let Ok(event) = events.recv() {
            let mut next = Some(event);
            while let Some(event) = next {
                debug!(target: "p2pfs::cache", "{event:?}");
                if to.blocking_send(CacheNews::Event(event)).is_err() {
                    return;
                }
                next = events.try_recv().ok();
            }
            let lost_now = cache.events_lost();
            if std::mem::replace(&mut lost, lost_now) != lost_now
                && to
                    .blocking_send(CacheNews::Complete(cache.complete()))
                    .is_err()
            {
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name("cache-events".to_owned())
        .spawn(forward)
        .expect("a process that just started can start a thread");
    from
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    struct Lossy(Arc<AtomicU64>);

    impl CacheSource for Lossy {
        fn events_lost(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }

        fn complete(&self) -> Vec<(ContentHash, u64)> {
            vec![(ContentHash::of(b"left"), 4)]
        }
    }

    #[test]
    fn lost_cache_events_are_replaced_by_a_report_of_the_content() {
        let lost = Arc::new(AtomicU64::new(0));
        let (tell, events) = std_mpsc::sync_channel(8);
        let mut told = forward_events(events, Lossy(lost.clone()));
        let mut is_event = || match told.blocking_recv().unwrap() {
            CacheNews::Event(_) => true,
            CacheNews::Complete(complete) => {
                assert_eq!(complete, [(ContentHash::of(b"left"), 4)]);
                false
            }
        };
        tell.send(CacheEvent::DiskRecovered).unwrap();
        assert!(is_event());
        lost.store(3, Ordering::Relaxed);
        for _ in 0..2 {
            tell.send(CacheEvent::DiskRecovered).unwrap();
        }
        while is_event() {}
        // the list is sent once for each loss
        tell.send(CacheEvent::DiskRecovered).unwrap();
        drop(tell);
        let mut rest = std::iter::from_fn(|| told.blocking_recv());
        assert!(rest.all(|news| matches!(news, CacheNews::Event(_))));
    }
}
