//! Closing of files, and what is cancelled with them.

use std::time::Instant;

use super::fetch::FileFetch;
use super::{Plan, PlanEvent, TakeBackReason};
use p2pfs_types::digest::ContentKey;

impl Plan {
    /// Closes at once the files that have no waiting reader and no fill.
    pub fn close_idle(&mut self) {
        for content in self.files.idle() {
            self.close(&content);
        }
    }

    /// Closes the files other than `kept` that were not used lately, so that their cached bytes may
    /// be evicted for it.
    pub fn shed_idle(&mut self, now: Instant, kept: &ContentKey) {
        for content in self.files.long_idle(now) {
            if content != *kept {
                self.close(&content);
            }
        }
    }

    /// Cancels all requests for a content that cannot exist, and closes it.
    pub fn forget(&mut self, content: &ContentKey) {
        let asked = self.files.get(content).map(|fetch| fetch.asked.ids());
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
        let fetch = self.files.get(content);
        let is_read = |fetch: &&FileFetch| fetch.readers.count() + fetch.streams.established() > 0;
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
        if self.files.remove(content).is_some() {
            self.events.push_back(PlanEvent::Closed(*content));
        }
    }
}
