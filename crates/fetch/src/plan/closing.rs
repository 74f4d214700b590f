//! Closing of files, and what is cancelled with them.

use std::time::{Duration, Instant};

use super::{FETCHES_KEPT_MAX, FETCHES_MAX, Fetch, Plan, PlanEvent, TakeBackReason};
use p2pfs_types::digest::ContentKey;

/// How long a file stays open unused if others need its room in the cache. It is longer than a
/// reader's pause between two reads.
const SHED_AFTER: Duration = Duration::from_secs(1);

/// Number of files closed together at [`FETCHES_KEPT_MAX`], since the search examines all of them.
const GO_AT_ONCE: usize = FETCHES_KEPT_MAX / 8;

impl Plan {
    /// Returns whether one more file may be opened. If many are open, closes idle files first,
    /// those unused for the longest first.
    pub(super) fn make_room(&mut self) -> bool {
        self.opened += 1;
        let (count, is_due) = (self.fetches.len(), self.opened >= GO_AT_ONCE);
        if count >= FETCHES_KEPT_MAX && (is_due || count >= FETCHES_MAX) {
            self.opened = 0;
            let idle = self.fetches.iter().filter(|(_, fetch)| {
                self.step();
                fetch.is_idle()
            });
            let mut idle: Vec<_> = idle.map(|(name, fetch)| (fetch.last_used, *name)).collect();
            idle.sort_unstable();
            let over = count - (FETCHES_KEPT_MAX - GO_AT_ONCE);
            for (_, content) in idle.into_iter().take(over) {
                self.close(&content);
            }
        }
        self.fetches.len() < FETCHES_MAX
    }

    /// Closes at once the files that have no waiting reader and no fill.
    pub fn close_idle(&mut self) {
        let idle = self.fetches.iter().filter(|(_, fetch)| fetch.is_idle());
        let contents: Vec<ContentKey> = idle.map(|(content, _)| *content).collect();
        contents.iter().for_each(|content| self.close(content));
    }

    /// Closes the files other than `kept` that were not used lately, so that their cached bytes may
    /// be evicted for it.
    pub fn shed_idle(&mut self, now: Instant, kept: &ContentKey) {
        let is_shed = |(content, fetch): &(&ContentKey, &Fetch)| {
            *content != kept && fetch.is_idle() && fetch.last_used + SHED_AFTER <= now
        };
        let shed = self.fetches.iter().filter(is_shed);
        let shed: Vec<_> = shed.map(|(content, _)| *content).collect();
        shed.iter().for_each(|content| self.close(content));
    }

    /// Cancels all requests for a content that cannot exist, and closes it.
    pub fn forget(&mut self, content: &ContentKey) {
        let asked = self.fetches.get(content).map(|fetch| fetch.asked.ids());
        let asked: Vec<_> = asked.into_iter().flatten().collect();
        for id in asked {
            self.take_back(id, TakeBackReason::Unwanted);
        }
        self.close(content);
    }

    /// Ends a fill after its owner has gone. Requests without any arrived bytes are cancelled,
    /// unless a reader uses the file, because the link is for other files now.
    pub fn leave_fill(&mut self, content: &ContentKey) {
        self.cancel_fill(content);
        let fetch = self.fetches.get(content);
        let is_read = |fetch: &&Fetch| fetch.waits.count() + fetch.streams.established() > 0;
        let asked = fetch.filter(|fetch| !is_read(fetch));
        let asked: Vec<_> = asked
            .map(|fetch| fetch.asked.ids().collect())
            .unwrap_or_default();
        for id in asked {
            let entry = self.requests.get(id);
            if entry.is_some_and(|entry| entry.arrived_bytes() == 0) {
                self.take_back(id, TakeBackReason::Unwanted);
            }
        }
    }

    /// Closes a file.
    pub(super) fn close(&mut self, content: &ContentKey) {
        self.queue.remove(content);
        self.forget_streams(content);
        if self.fetches.remove(content).is_some() {
            self.events.push_back(PlanEvent::Closed(*content));
        }
    }
}
