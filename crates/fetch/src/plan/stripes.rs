//! The part of the plan for files that many nodes want: `swarm` decides, and this asks.

use std::time::{Duration, Instant};

use super::fetch::FileFetch;
use super::hedge_policy::SILENT_MIN;
use super::holders::Coverage;
use super::patience::Waiting;
use super::peer::Peer;
use super::schedule::{WORSE_MULTIPLE, WORSE_SLACK};
use super::swarm::{STRIPE_BYTES, SURVEY_MIN, SwarmPolicy};
use super::{Lane, Plan, PlanEvent, RequestId, TakeBackReason, Timer, URGENT_MAX_BYTES};
use p2pfs_types::digest::ContentKey;
use p2pfs_types::extent::{ByteRange, ExtentSet};
use p2pfs_types::id::NodeId;

/// How long a reader waits for a stripe from its owner, in multiples of a full holder's time for a
/// stripe. A queue at a full holder delays all nodes alike.
const STRIPE_PATIENCE_MULTIPLE: u32 = 3;
/// Minimum wait of a reader for a stripe from its owner.
const STRIPE_PATIENCE: Duration = Duration::from_millis(400);
/// Maximum wait of a reader for a stripe from its owner.
const STRIPE_PATIENCE_MAX: Duration = Duration::from_secs(1);
/// Minimum interval between two examinations of the stripes of other nodes.
const STRIPE_AGAIN: Duration = Duration::from_millis(50);
/// Maximum requests of a file examined to see whether all of them are in vain.
const ASKED_SEEN_MAX: usize = 32;
/// Maximum nodes asked by one survey, in rotation.
const SURVEYED_AT_ONCE_MAX: usize = 16;

impl Plan {
    /// Records a node that also wants an open file and will have parts of it soon.
    pub fn fellow(&mut self, now: Instant, content: &ContentKey, node: NodeId) {
        let Some(fetch) = self.files.get(content) else {
            return;
        };
        let known = fetch.swarm.contains(&node);
        if known || node == self.config.me || fetch.is_complete() {
            return;
        }
        if self.peer_or_new(node).is_none() {
            return;
        }
        if let Some(fetch) = self.files.get_mut(content) {
            fetch.add_holder(node, Coverage::Part(ExtentSet::new()));
            // beyond the limit of holders it was not added
            if let Some(coverage) = fetch.holders().get(&node) {
                let is_partial = *coverage != Coverage::All;
                let first = fetch.swarm.add(node, is_partial);
                if first {
                    self.timers
                        .insert((now + SURVEY_MIN, Timer::Survey(*content)));
                }
            }
        }
        self.cancel_foreign_stripes(now, content);
        self.requeue(content);
    }

    /// Cancels requests to full holders for stripes that now belong to other nodes. They were sent
    /// while no other node was known to want the file. A request stays if bytes of it arrived or a
    /// reader needs it next.
    fn cancel_foreign_stripes(&mut self, now: Instant, content: &ContentKey) {
        let me = self.config.me;
        let Some(fetch) = self.files.get(content) else {
            return;
        };
        if !fetch.is_swarm() || fetch.have_bytes() > URGENT_MAX_BYTES {
            return;
        }
        let policy = SwarmPolicy {
            me,
            content,
            file: fetch,
        };
        let is_of_others = |id: &RequestId| {
            let Some(entry) = self.requests.get(*id) else {
                return false;
            };
            let (node, range) = (entry.request.node, entry.request.range);
            self.step();
            entry.arrived_bytes() == 0
                && fetch.holders().is_full(&node)
                && !policy.is_mine(now, range.start / STRIPE_BYTES)
                && !self.is_next_to_be_read(content, range)
        };
        let ids: Vec<_> = fetch.asked.ids().filter(is_of_others).collect();
        ids.into_iter()
            .for_each(|id| self.abandon(id, TakeBackReason::OfAnotherNode));
    }

    /// Returns whether a range is among the first bytes that a reader waits for.
    fn is_next_to_be_read(&self, content: &ContentKey, range: ByteRange) -> bool {
        let waiting = self.waiting_for(content, range);
        let demands = waiting.iter().filter_map(|id| self.demands.get(id));
        demands
            .filter(|demand| range.start < demand.range.start + URGENT_MAX_BYTES)
            .any(|demand| !self.is_preceded(demand))
    }

    /// Asks the partial holders which ranges they have by now. The faster bytes arrive, the shorter
    /// the interval.
    pub(super) fn survey(&mut self, now: Instant, content: ContentKey) {
        let Some(fetch) = self.files.get_mut(&content) else {
            return;
        };
        let have_bytes = fetch.have_bytes();
        let idle = fetch.is_idle();
        let next = now + fetch.swarm.survey_pace(have_bytes, idle);
        if fetch.is_complete() {
            return;
        }
        self.timers.insert((next, Timer::Survey(content)));
        if idle {
            return;
        }
        let peers = &self.peers;
        let may_be_asked = |node: &NodeId| {
            let peer = peers.get(node);
            peer.is_some_and(|peer| peer.backoff.resting_until(now).is_none())
        };
        let asked = fetch
            .swarm
            .next_surveyed(SURVEYED_AT_ONCE_MAX, may_be_asked);
        let surveys = asked
            .into_iter()
            .map(|node| PlanEvent::Survey(content, node));
        self.events.extend(surveys);
    }

    /// Returns whether full holders may be asked for the beginning of a gap now. `waits_since` is
    /// the time since when a reader waits for it, if one does.
    pub(super) fn may_ask_full_holders(
        &self,
        now: Instant,
        fetch: &FileFetch,
        content: &ContentKey,
        gap: ByteRange,
        waits_since: Option<Instant>,
    ) -> bool {
        if !fetch.is_swarm() {
            return true;
        }
        let owner = self
            .swarm_policy(content, fetch)
            .owner(now, gap.start / STRIPE_BYTES);
        let is_mine = if owner == self.config.me {
            !self.is_at_a_fellow(now, fetch, gap)
        } else {
            self.is_too_slow(fetch, &owner)
        };
        let first_bytes = waits_since.is_some() && fetch.have_bytes() < URGENT_MAX_BYTES;
        if first_bytes || is_mine {
            return true;
        }
        let since = match waits_since {
            Some(since) => since,
            None if self.is_asked_in_vain(now, fetch) => {
                let idle = Waiting::new(fetch.times.begun, STRIPE_PATIENCE);
                fetch.progress_of(idle).progress_at()
            }
            None => return false,
        };
        since + STRIPE_PATIENCE <= now && {
            let waiting = Waiting::new(since, self.stripe_patience(fetch));
            waiting.ends_at() <= now
        }
    }

    /// Returns whether a file has no requests in flight, or only requests to silent peers while a
    /// live full holder exists.
    fn is_asked_in_vain(&self, now: Instant, fetch: &FileFetch) -> bool {
        let in_vain = fetch.asked.ids().take(ASKED_SEEN_MAX).all(|id| {
            self.step();
            let asked = self.requests.get(id);
            let peer = asked.and_then(|it| self.peers.get(&it.request.node));
            peer.is_some_and(Peer::is_silent)
        });
        in_vain && (fetch.asked.is_empty() || self.has_lively_full_holder(now, fetch))
    }

    /// Returns whether a full holder may be asked and is not silent.
    pub(super) fn has_lively_full_holder(&self, now: Instant, fetch: &FileFetch) -> bool {
        fetch.holders().full().any(|node| {
            self.step();
            let peer = self.peers.get(node);
            peer.is_some_and(|it| !it.is_silent() && it.backoff.resting_until(now).is_none())
        })
    }

    /// Returns whether a partial holder has the beginning of a range and is not much slower than
    /// the full holders.
    fn is_at_a_fellow(&self, now: Instant, fetch: &FileFetch, range: ByteRange) -> bool {
        let having = fetch.holders().partial_with(range);
        let lively = having.filter(|node| {
            self.step();
            let peer = self.peers.get(node);
            peer.is_some_and(|peer| peer.is_lively(now, SILENT_MIN))
        });
        let usual = lively.filter_map(|node| self.time_of_a_stripe(node));
        let of_full = self.least_of_full_holders(fetch);
        let bearable = of_full.map(|it| it * WORSE_MULTIPLE + WORSE_SLACK);
        usual
            .min()
            .is_some_and(|it| bearable.is_none_or(|most| it <= most))
    }

    /// Returns whether an owner is too slow to help: its stripe would take much longer than the
    /// stripes of all nodes would take from a full holder.
    fn is_too_slow(&self, fetch: &FileFetch, owner: &NodeId) -> bool {
        let among = fetch.swarm.size();
        let of_full = self.least_of_full_holders(fetch);
        let bearable = of_full.map(|it| it * among * WORSE_MULTIPLE + WORSE_SLACK);
        let usual = self.time_of_a_stripe(owner);
        usual.is_some_and(|it| bearable.is_some_and(|most| it > most))
    }

    /// Returns the expected time of a stripe from a node, if that is known.
    fn time_of_a_stripe(&self, node: &NodeId) -> Option<Duration> {
        self.step();
        let peer = self.peers.get(node).filter(|peer| peer.link.is_known())?;
        Some(peer.link.expected(Lane::Bulk, STRIPE_BYTES))
    }

    /// Returns the expected time of a stripe from the fastest full holder.
    fn least_of_full_holders(&self, fetch: &FileFetch) -> Option<Duration> {
        let full = fetch.holders().full();
        full.filter_map(|node| self.time_of_a_stripe(node)).min()
    }

    /// Returns how long to wait for a stripe that belongs to another node.
    fn stripe_patience(&self, fetch: &FileFetch) -> Duration {
        let least = self.least_of_full_holders(fetch).unwrap_or_default();
        (least * STRIPE_PATIENCE_MULTIPLE).clamp(STRIPE_PATIENCE, STRIPE_PATIENCE_MAX)
    }

    /// Schedules another examination after a request was withheld because the stripe belongs to
    /// another node.
    pub(super) fn wait_for_stripe(
        &mut self,
        now: Instant,
        content: &ContentKey,
        waits_since: Option<Instant>,
    ) {
        let due = (waits_since.unwrap_or(now) + STRIPE_PATIENCE).max(now + STRIPE_AGAIN);
        let Some(fetch) = self.files.get_mut(content) else {
            return;
        };
        if fetch.swarm.schedule_stripes(due) {
            self.timers.insert((due, Timer::Stripe(*content)));
        }
    }

    pub(super) fn recheck_stripes(&mut self, content: &ContentKey) {
        if let Some(fetch) = self.files.get_mut(content) {
            fetch.swarm.end_stripes();
        }
        self.enqueue_all(content);
    }

    /// Marks the owner of a stripe as late if a full holder is asked for it instead.
    pub(super) fn mark_if_late(
        &mut self,
        now: Instant,
        content: &ContentKey,
        start: u64,
        asked: NodeId,
    ) {
        let me = self.config.me;
        let Some(fetch) = self.files.get_mut(content) else {
            return;
        };
        let of_full = fetch.holders().is_full(&asked);
        if !of_full || !fetch.is_swarm() || fetch.have_bytes() < URGENT_MAX_BYTES {
            return;
        }
        let policy = SwarmPolicy {
            me,
            content,
            file: fetch,
        };
        let owner = policy.owner(now, start / STRIPE_BYTES);
        fetch.swarm.note_late(now, &owner);
    }

    /// Marks a node of the swarm as late that cannot be reached. Its stripes go to the others.
    pub(super) fn mark_peer_late(&mut self, now: Instant, content: &ContentKey, node: NodeId) {
        if let Some(fetch) = self.files.get_mut(content) {
            fetch.swarm.note_late(now, &node);
        }
    }

    /// Returns the policy for the stripes of a file.
    pub(super) fn swarm_policy<'a>(
        &self,
        content: &'a ContentKey,
        file: &'a FileFetch,
    ) -> SwarmPolicy<'a> {
        let me = self.config.me;
        SwarmPolicy { me, content, file }
    }
}
