//! Fills of whole files: their next request, and how long they wait.

use std::time::Instant;

use super::answers::reason;
use super::queue::WorkClass;
use super::schedule::{HolderChoice, RequestPurpose};
use super::{Decision, Plan, PlanError, PlanEvent, RangeRequest, RequestCause, Timer};
use p2pfs_types::digest::ContentKey;
use p2pfs_types::extent::ByteRange;
use p2pfs_types::id::NodeId;

impl Plan {
    pub(super) fn next_filling(
        &mut self,
        now: Instant,
        content: &ContentKey,
    ) -> Option<RangeRequest> {
        let fetch = self.files.get_mut(content)?;
        let from = fetch.filling().map(|filling| filling.cursor)?;
        let rest = ByteRange::new(from, fetch.size_bytes);
        let first = fetch.first_gap(rest);
        let cursor = first.map_or(fetch.size_bytes, |gap| gap.start);
        if let Some(filling) = fetch.filling_mut() {
            filling.cursor = cursor;
        }
        let Some(first) = first else {
            self.queue.dequeue(content, WorkClass::Fill);
            return None;
        };
        let left_bytes = fetch.size_bytes - fetch.have_bytes();
        let rest = ByteRange::new(cursor, rest.end);
        let fetch = self.files.get(content)?;
        let policy = self.swarm_policy(content, fetch);
        let gaps = policy.gaps_to_try(now, (rest, rest.end));
        for gap in gaps {
            match self.choose(now, content, gap, RequestPurpose::ahead(left_bytes), &[]) {
                HolderChoice::Ask(node, part) => {
                    return Some(self.ask_to_fill(now, node, *content, part));
                }
                HolderChoice::Full | HolderChoice::Reserved => {}
                HolderChoice::Nobody | HolderChoice::InParts => {
                    let elsewhere = self.fill_from_parts(now, content, first.start);
                    if elsewhere.is_some() {
                        return elsewhere;
                    }
                    self.starve(now, content);
                    break;
                }
            }
        }
        self.park(content, WorkClass::Fill);
        None
    }

    /// Fills other gaps from partial holders when no holder has the first gap.
    fn fill_from_parts(
        &mut self,
        now: Instant,
        content: &ContentKey,
        from: u64,
    ) -> Option<RangeRequest> {
        let fetch = self.files.get(content)?;
        let rest = ByteRange::new(from, fetch.size_bytes);
        let left_bytes = fetch.size_bytes - fetch.have_bytes();
        for gap in fetch.gaps_in_parts(rest) {
            let choice = self.choose(now, content, gap, RequestPurpose::ahead(left_bytes), &[]);
            if let HolderChoice::Ask(node, part) = choice {
                return Some(self.ask_to_fill(now, node, *content, part));
            }
        }
        None
    }

    fn ask_to_fill(
        &mut self,
        now: Instant,
        node: NodeId,
        content: ContentKey,
        part: ByteRange,
    ) -> RangeRequest {
        let fetch = self.files.get_mut(&content);
        if let Some(filling) = fetch.and_then(|it| it.filling_mut()) {
            filling.turn_at.get_or_insert(now);
        }
        self.issue(now, node, RequestCause::Fill, content, part)
    }

    /// Gives a fill up, unless its wait goes on. A fill that waits for its turn behind readers
    /// waits as long as the readers are served. However long that takes, its holders are healthy.
    pub(super) fn give_up_filling(&mut self, now: Instant, content: ContentKey) {
        let Some(fetch) = self.files.get(&content) else {
            return;
        };
        let Some(filling) = fetch.filling() else {
            return;
        };
        let waiting = fetch.progress_of(filling.waiting);
        let later = self.patience_deadline(now, (fetch, fetch.whole()), waiting, filling.turn_at);
        if later > now {
            self.timers.insert((later, Timer::FillDeadline(content)));
            return;
        }
        let why = reason(fetch, fetch.whole());
        self.fail_fill(content, why);
    }

    /// Ends a fill without its file.
    pub(super) fn fail_fill(&mut self, content: ContentKey, why: PlanError) {
        self.cancel_fill(&content);
        self.decisions.note(|| Decision::FillGivenUp {
            content,
            why: why.clone(),
        });
        self.events.push_back(PlanEvent::FillFailed(content, why));
    }
}
