//! State of one open file: its bytes on this node, its requests in flight, its holders and its
//! readers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::fellows::Swarm;
use super::places::RangeIndex;
use super::queue::{OVERDUE, QueuePosition};
use super::streams::Streams;
use super::{DemandId, Listed, PIECE_MAX_BYTES, RequestId};
use p2pfs_types::extent::{ByteRange, ExtentSet};
use p2pfs_types::id::NodeId;

/// Maximum holders kept for one file. Later offers of new holders are ignored.
pub const HOLDERS_MAX: usize = 64;
/// Maximum holders with at most a part of the file. The rest of the places is for full holders.
const PARTIAL_HOLDERS_MAX: usize = HOLDERS_MAX - 8;
/// Maximum ranges kept of one holder's part of a file, the longest ones. A holder cannot list more
/// at one time.
pub const RUNS_MAX: usize = 4096;
/// How long a range that no peer could give fails again at once, for any reader. Another reader of
/// the same bytes must not wait its whole deadline for a range that was just tried. The kernel's
/// own repeats of a read of one handle are answered earlier, by that handle (`FAILURE_MEMORY` in
/// `fs::handles`).
const REMEMBER_FAILURE: Duration = Duration::from_secs(1);
/// Maximum number of failed ranges remembered for one file.
const FAILURES_MAX: usize = 64;
/// First pause before a `Get` is repeated. It doubles up to [`WANTED_MAX`].
const WANTED_MIN: Duration = Duration::from_millis(250);
const WANTED_MAX: Duration = Duration::from_secs(2);
/// How long the catalogue's listing of a node is ignored after that node reported the file gone. It
/// is also how long a reader of the file then waits for an offer of another node.
pub(super) const GONE: Duration = Duration::from_secs(5);

/// Ranges of a file that a holder has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Coverage {
    All,
    /// Whole chunks. Honest holders have whole chunks only: a range that begins or ends within a
    /// page could be requested, but not kept.
    Part(ExtentSet),
}

impl Coverage {
    /// Returns the ranges that at least one of the two has.
    fn union(&self, more: &Self) -> Self {
        match (self, more) {
            (Self::Part(a), Self::Part(b)) => Self::Part(a.union(b).longest(RUNS_MAX).into()),
            _ => Self::All,
        }
    }

    /// Returns the first covered bytes of `range`.
    pub(super) fn first_in(&self, range: ByteRange) -> Option<ByteRange> {
        match self {
            Self::All => Some(range),
            Self::Part(ranges) => ranges.present_in(range).iter().next(),
        }
    }

    /// Returns whether it has a part of `range` that `have` lacks. `have` must not cover all of
    /// `range`.
    fn adds_to(&self, have: &ExtentSet, range: ByteRange) -> bool {
        match self {
            Self::All => true,
            Self::Part(ranges) => !ranges.present_in(range).without(have).is_empty(),
        }
    }
}

/// State of a fill: the whole file is wanted.
#[derive(Debug)]
pub(super) struct FillState {
    /// Everything before this offset is on this node or in flight.
    pub cursor: u64,
    /// When the fill began.
    pub since: Instant,
    /// How long to go on without progress.
    pub patience: Duration,
    /// When the first request of the fill was sent since bytes of the file last arrived.
    pub turn_at: Option<Instant>,
}

impl FillState {
    pub(super) fn new(now: Instant, patience: Duration) -> Self {
        Self {
            cursor: 0,
            since: now,
            patience,
            turn_at: None,
        }
    }
}

/// Report of a former holder that it no longer has the file.
#[derive(Debug)]
struct GoneReport {
    /// Until when the catalogue's listing of the node is ignored, unless the node listed the file
    /// again since.
    until: Instant,
    /// Sequence number of its last listing of the file before the report, as far as is known.
    listed_at: u64,
}

#[derive(Debug)]
pub(super) struct Fetch {
    pub size_bytes: u64,
    /// Ranges that are verified and stored.
    have: ExtentSet,
    have_bytes: u64,
    /// Ranges in flight.
    pub asked: RangeIndex<RequestId>,
    holders: BTreeMap<NodeId, Coverage>,
    full_holders: usize,
    pub streams: Streams,
    pub swarm: Swarm,
    pub begun: Instant,
    pub filling: Option<FillState>,
    /// Whether the whole file arrived for a fill that has not reported it stored yet.
    pub is_being_stored: bool,
    /// Ranges of the waiting readers.
    pub waits: RangeIndex<DemandId>,
    /// Demands with bytes that still have to be requested.
    pub unissued: BTreeSet<DemandId>,
    /// Lower bound of the age of its demands: the id assigned when the last demand was fully
    /// requested.
    pub turn_from: u64,
    /// Whether its readers have waited too long for their turn. Its next request then comes first
    /// of all.
    pub overdue: bool,
    /// Last demand tried in vain in the current pass, if later ones are still untried.
    pub scan_cursor: Option<DemandId>,
    pub last_used: Instant,
    /// When bytes of it last arrived from any peer, in whole answers or not.
    progress_at: Option<Instant>,
    /// Bytes received from each peer since the fetch began.
    pub received: BTreeMap<NodeId, u64>,
    failures: Vec<(ByteRange, Instant, super::PlanError)>,
    /// Sequence numbers of the holders' listings of the whole file.
    listed: BTreeMap<NodeId, u64>,
    /// Nodes that had the whole file, reported it gone, and did not become holders again.
    gone: BTreeMap<NodeId, GoneReport>,
    wanted_next: Instant,
    wanted_pause: Duration,
    /// Whether a search for more holders starts once some of it has been wanted for a short time.
    pub is_to_get: bool,
    /// Whether no known peer can be asked for some wanted bytes, so that more holders are looked
    /// for.
    pub starved: bool,
    /// Whether a peer sent wrong bytes of it since the last verified answer.
    pub lied_to: bool,
    /// Whether the catalogue is being asked for new holders after all known ones reported the file
    /// gone.
    pub is_looked_up: bool,
}

impl Fetch {
    /// Returns the queue position of its demands among all files: the age of the oldest one, or its
    /// last turn if that is later. An overdue file comes first.
    pub(super) fn demand_position(&self) -> Option<QueuePosition> {
        let oldest = self.unissued.first()?;
        Some(QueuePosition::At(if self.overdue {
            OVERDUE
        } else {
            oldest.0.max(self.turn_from)
        }))
    }

    /// Removes a demand that has nothing left to request.
    pub(super) fn remove_unissued(&mut self, id: &DemandId) {
        self.unissued.remove(id);
        self.overdue &= !self.unissued.is_empty();
    }

    pub(super) fn new(size_bytes: u64, present: ExtentSet, now: Instant) -> Self {
        Self {
            size_bytes,
            have_bytes: present.len(),
            have: present,
            asked: RangeIndex::default(),
            holders: BTreeMap::new(),
            full_holders: 0,
            streams: Streams::default(),
            swarm: Swarm::default(),
            begun: now,
            filling: None,
            is_being_stored: false,
            waits: RangeIndex::default(),
            unissued: BTreeSet::new(),
            turn_from: 0,
            overdue: false,
            scan_cursor: None,
            last_used: now,
            progress_at: None,
            received: BTreeMap::new(),
            failures: Vec::new(),
            listed: BTreeMap::new(),
            gone: BTreeMap::new(),
            wanted_next: now,
            wanted_pause: WANTED_MIN,
            is_to_get: false,
            starved: false,
            lied_to: false,
            is_looked_up: false,
        }
    }

    /// Returns the first gap within `range` for each partial holder that has such a gap.
    pub(super) fn gaps_in_parts(&self, range: ByteRange) -> Vec<ByteRange> {
        let gap_of = |coverage: &Coverage| match coverage {
            Coverage::Part(ranges) => ranges
                .present_in(range)
                .iter()
                .find_map(|run| self.first_gap(run)),
            Coverage::All => None,
        };
        self.holders().values().filter_map(gap_of).collect()
    }

    /// Records that bytes of it arrived.
    pub(super) fn note_progress(&mut self, now: Instant) {
        self.progress_at = Some(now);
        if let Some(filling) = &mut self.filling {
            filling.turn_at = None;
        }
    }

    /// Returns when bytes of it last arrived since `since`, or `since` itself.
    pub(super) fn last_progress(&self, since: Instant) -> Instant {
        self.progress_at.map_or(since, |at| at.max(since))
    }

    pub(super) fn whole(&self) -> ByteRange {
        ByteRange::new(0, self.size_bytes)
    }

    pub(super) fn have(&self) -> &ExtentSet {
        &self.have
    }

    /// Returns the holders that have a part of what is missing of a range.
    pub(super) fn holders_of(&self, range: ByteRange) -> impl Iterator<Item = &NodeId> {
        let adds = move |coverage: &Coverage| coverage.adds_to(&self.have, range);
        let holders = self.holders.iter();
        holders.filter_map(move |(node, coverage)| adds(coverage).then_some(node))
    }

    pub(super) fn have_bytes(&self) -> u64 {
        self.have_bytes
    }

    pub(super) fn gain(&mut self, range: ByteRange) {
        self.have_bytes += self.have.missing_in(range).len();
        self.have.insert(range);
    }

    pub(super) fn lose(&mut self, range: ByteRange) {
        self.have_bytes -= self.have.present_in(range).len();
        self.have.remove(range);
    }

    pub(super) fn is_complete(&self) -> bool {
        self.have_bytes == self.size_bytes
    }

    pub(super) fn is_idle(&self) -> bool {
        let is_wanted_whole = self.filling.is_some() || self.is_being_stored;
        self.waits.is_empty() && self.asked.is_empty() && !is_wanted_whole
    }

    pub(super) fn holders(&self) -> &BTreeMap<NodeId, Coverage> {
        &self.holders
    }

    /// Returns how many holders have the whole file.
    pub(super) fn full_holders(&self) -> usize {
        self.full_holders
    }

    /// Returns whether some holder is known to have only a part of the file.
    pub(super) fn has_partial_holders(&self) -> bool {
        self.full_holders < self.holders.len()
    }

    /// Sets the ranges of a node, or removes it as a holder. Returns its previous ranges.
    fn set_holder(&mut self, node: NodeId, coverage: Option<Coverage>) -> Option<Coverage> {
        let is_full = coverage == Some(Coverage::All);
        self.swarm
            .note_partial(&node, coverage.is_some() && !is_full);
        let known = match coverage {
            Some(coverage) => self.holders.insert(node, coverage),
            None => self.holders.remove(&node),
        };
        self.full_holders += usize::from(is_full);
        self.full_holders -= usize::from(known == Some(Coverage::All));
        known
    }

    /// Returns whether a fill has everything that it lacks in flight.
    pub(super) fn has_rest_in_flight(&self) -> bool {
        let cursor = self.filling.as_ref().map(|filling| filling.cursor);
        cursor.is_some_and(|cursor| cursor >= self.size_bytes)
    }

    /// Returns the first run of `range` that still has to be requested.
    pub(super) fn first_gap(&self, range: ByteRange) -> Option<ByteRange> {
        let mut at = range.start;
        while at < range.end {
            if let Some(run) = self.have.run_at(at) {
                at = run.end;
                continue;
            }
            let block = ByteRange::new(at, range.end).first_grain(PIECE_MAX_BYTES);
            let missing = self.have.missing_in(block);
            for run in missing.iter() {
                if let Some(gap) = self.asked.first_free(run) {
                    return Some(gap);
                }
            }
            at = block.end;
        }
        None
    }

    /// Adds a holder or extends its ranges. Returns whether that is news. A new holder is ignored
    /// beyond [`HOLDERS_MAX`] holders, or beyond [`PARTIAL_HOLDERS_MAX`] if it has only a part.
    pub(super) fn add_holder(&mut self, node: NodeId, coverage: Coverage) -> bool {
        let known = self.holders.get(&node);
        let most = match coverage {
            Coverage::All => HOLDERS_MAX,
            Coverage::Part(_) => PARTIAL_HOLDERS_MAX,
        };
        if known.is_none() && self.holders.len() >= most {
            return false;
        }
        let nothing = Coverage::Part(ExtentSet::new());
        let coverage = known.unwrap_or(&nothing).union(&coverage);
        if known == Some(&coverage) {
            return false;
        }
        if coverage == Coverage::All {
            self.gone.remove(&node);
        }
        self.set_holder(node, Some(coverage));
        self.failures.clear();
        self.wanted_pause = WANTED_MIN;
        true
    }

    /// Adds a holder from the catalogue. It is ignored if the node recently reported the file gone,
    /// unless the node listed it again since.
    pub(super) fn add_listed_holder(
        &mut self,
        now: Instant,
        Listed { node, sequence }: Listed,
    ) -> bool {
        let is_old = |gone: &GoneReport| gone.until > now && gone.listed_at >= sequence;
        if self.gone.get(&node).is_some_and(is_old) {
            return false;
        }
        let is_news = self.add_holder(node, Coverage::All);
        if self.holders.contains_key(&node) {
            let listed_at = self.listed.entry(node).or_default();
            *listed_at = sequence.max(*listed_at);
        }
        is_news
    }

    /// Removes a holder that no longer has the file. The report of a partial holder says nothing
    /// about the other ranges.
    pub(super) fn remove_holder(&mut self, now: Instant, node: NodeId) {
        let listed_at = self.listed.remove(&node).unwrap_or_default();
        if self.set_holder(node, None) == Some(Coverage::All) {
            if self.gone.len() >= HOLDERS_MAX {
                self.gone.pop_first();
            }
            let until = now + GONE;
            self.gone.insert(node, GoneReport { until, listed_at });
        }
    }

    /// Returns whether a full holder recently reported the file gone.
    pub(super) fn was_just_lost(&self, now: Instant) -> bool {
        self.gone.values().any(|gone| gone.until > now)
    }

    /// Returns whether [`Fetch::is_gone_in`] holds and a full holder reported the file gone
    /// recently.
    pub(super) fn is_just_gone_in(&self, now: Instant, range: ByteRange) -> bool {
        self.was_just_lost(now) && self.is_gone_in(range)
    }

    /// Returns whether every full holder has reported the file gone and some of this range is
    /// neither on this node nor at a partial holder. Other readers of that range wait for the same
    /// bytes.
    pub(super) fn is_gone_in(&self, range: ByteRange) -> bool {
        if self.gone.is_empty() {
            return false;
        }
        let mut left = self.have.missing_in(range);
        for coverage in self.holders.values() {
            let Coverage::Part(part) = coverage else {
                return false;
            };
            let without: Vec<_> = left.iter().map(|run| part.missing_in(run)).collect();
            left = without.iter().flat_map(ExtentSet::iter).collect();
        }
        !left.is_empty()
    }

    pub(super) fn remember_failure(
        &mut self,
        now: Instant,
        range: ByteRange,
        why: super::PlanError,
    ) {
        self.failures.retain(|(_, until, _)| *until > now);
        if self.failures.len() < FAILURES_MAX {
            self.failures.push((range, now + REMEMBER_FAILURE, why));
        }
    }

    pub(super) fn remembered_failure(
        &self,
        now: Instant,
        range: ByteRange,
    ) -> Option<super::PlanError> {
        let hit = |(failed, until, _): &&(ByteRange, Instant, super::PlanError)| {
            *until > now && !failed.intersection(&range).is_empty()
        };
        self.failures.iter().find(hit).map(|(.., why)| why.clone())
    }

    /// Returns whether several `Get`s have brought no new holder.
    pub(super) fn has_long_asked(&self) -> bool {
        self.wanted_pause == WANTED_MAX
    }

    /// Starts the next `Get` for holders if it is due. Returns the time of the following one, after
    /// a longer pause. Returns `None` and changes nothing if it is not due yet.
    pub(super) fn take_get_turn(&mut self, now: Instant) -> Option<Instant> {
        if now < self.wanted_next {
            return None;
        }
        self.wanted_next = now + self.wanted_pause;
        self.wanted_pause = (self.wanted_pause * 2).min(WANTED_MAX);
        Some(self.wanted_next)
    }
}

#[cfg(test)]
mod tests;
