//! One file on its way: what is here, what is asked, who has it, who waits.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::fellows::Swarm;
use super::places::Places;
use super::streams::Streams;
use super::turns::{OVERDUE, Place};
use super::{DemandId, Listed, PIECE_MAX_BYTES, RequestId};
use p2pfs_types::extent::{ByteRange, ExtentSet};
use p2pfs_types::id::NodeId;

/// How many holders of one file are kept; offers beyond it are not heard.
pub const HOLDERS_MAX: usize = 64;
/// How many of them have a part at most, or nothing yet: who has all of it always finds a place.
const PARTIAL_HOLDERS_MAX: usize = HOLDERS_MAX - 8;
/// How many ranges of a file are kept of what one holder has, its longest: as many as it can list
/// at one time.
pub const RUNS_MAX: usize = 4096;
/// How long a range that nobody could give is answered with the same failure at once, to whoever
/// asks: another reader of the same bytes must not wait its whole deadline for what was just tried.
/// The kernel's own repeats of one handle's read are answered before, from that handle
/// (`FAILURE_MEMORY` in `fs::handles`).
const REMEMBER_FAILURE: Duration = Duration::from_secs(1);
/// How many such ranges are remembered for one file.
const FAILURES_MAX: usize = 64;
/// The pause before a `Get` is repeated; it doubles up to the other.
const WANTED_MIN: Duration = Duration::from_millis(250);
const WANTED_MAX: Duration = Duration::from_secs(2);
/// How long a node that says it no longer has a file is not asked for it on the catalogue's word,
/// and how long who wants the file then waits for an offer of another.
pub(super) const GONE: Duration = Duration::from_secs(5);

/// What a holder has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Coverage {
    All,
    /// Whole chunks, as those have it who are honest: what begins or ends within a page could be
    /// asked for, and not be kept.
    Part(ExtentSet),
}

impl Coverage {
    /// What either of the two has.
    fn union(&self, more: &Self) -> Self {
        match (self, more) {
            (Self::Part(a), Self::Part(b)) => Self::Part(a.union(b).longest(RUNS_MAX).into()),
            _ => Self::All,
        }
    }

    /// The first bytes of `range` that are covered.
    pub(super) fn first_in(&self, range: ByteRange) -> Option<ByteRange> {
        match self {
            Self::All => Some(range),
            Self::Part(ranges) => ranges.present_in(range).iter().next(),
        }
    }

    /// Whether it has something of `range` that `have` lacks, which that does not all have.
    fn adds_to(&self, have: &ExtentSet, range: ByteRange) -> bool {
        match self {
            Self::All => true,
            Self::Part(ranges) => !ranges.present_in(range).without(have).is_empty(),
        }
    }
}

/// A whole file is wanted.
#[derive(Debug)]
pub(super) struct Filling {
    /// Everything before it is here or asked.
    pub cursor: u64,
    pub since: Instant,
    /// How long to go on without progress.
    pub patience: Duration,
    /// When something was asked for it, the first time since bytes of the file last came.
    pub turn_at: Option<Instant>,
}

impl Filling {
    pub(super) fn new(now: Instant, patience: Duration) -> Self {
        Self {
            cursor: 0,
            since: now,
            patience,
            turn_at: None,
        }
    }
}

/// Of one that said that it has a file no more.
#[derive(Debug)]
struct Gone {
    /// Until when the catalogue is not believed about it, unless it listed the file anew since.
    until: Instant,
    /// Where in its log it last said before that it has the file, as far as was heard.
    listed_at: u64,
}

#[derive(Debug)]
pub(super) struct Fetch {
    pub size_bytes: u64,
    /// Verified and kept.
    have: ExtentSet,
    have_bytes: u64,
    pub asked: Places<RequestId>,
    holders: BTreeMap<NodeId, Coverage>,
    full_holders: usize,
    pub streams: Streams,
    pub swarm: Swarm,
    pub begun: Instant,
    pub filling: Option<Filling>,
    /// All of it came for who wants it whole, who has yet to say that it is stored.
    pub is_being_stored: bool,
    pub waits: Places<DemandId>,
    /// Demands of which some bytes are neither here nor asked of anyone: these are to be asked for.
    pub hungry: BTreeSet<DemandId>,
    /// What its demands count as made since, at the earliest: when the last of them was asked for.
    pub turn_from: u64,
    /// Readers have waited for their turn for long: its next request comes before all others.
    pub overdue: bool,
    /// The last of them that was tried of late in vain, where others follow that were not.
    pub tried: Option<DemandId>,
    /// Where it stands for its demands, its read-ahead and its filling.
    pub places: [Place; 3],
    pub last_used: Instant,
    /// When bytes of it last came from anybody, whole answers or not.
    progress_at: Option<Instant>,
    /// Who gave how much of it, since it began.
    pub received: BTreeMap<NodeId, u64>,
    failures: Vec<(ByteRange, Instant, super::PlanError)>,
    /// Where in their logs holders say that they have all of it.
    listed: BTreeMap<NodeId, u64>,
    /// Who had all of it, said that it has it no more, and was no holder since.
    gone: BTreeMap<NodeId, Gone>,
    wanted_next: Instant,
    wanted_pause: Duration,
    /// Other holders are to be looked for once something of it is wanted for more than a moment.
    pub is_to_get: bool,
    /// Some bytes that are wanted can be asked of nobody who is known: other holders are looked
    /// for.
    pub starved: bool,
    pub lied_to: bool,
    /// The catalogue is being asked whether anybody has what those who had it have no more.
    pub is_looked_up: bool,
}

impl Fetch {
    /// The place of its demands among those of all files: by their age, or since its last turn
    /// where that is later, but for what is overdue.
    pub(super) fn demand_number(&self) -> Option<u64> {
        let oldest = self.hungry.first()?;
        Some(if self.overdue {
            OVERDUE
        } else {
            oldest.0.max(self.turn_from)
        })
    }

    /// Nothing is to be asked for a demand, or no more.
    pub(super) fn no_longer_hungry(&mut self, id: &DemandId) {
        self.hungry.remove(id);
        self.overdue &= !self.hungry.is_empty();
    }

    pub(super) fn new(size_bytes: u64, present: ExtentSet, now: Instant) -> Self {
        Self {
            size_bytes,
            have_bytes: present.len(),
            have: present,
            asked: Places::default(),
            holders: BTreeMap::new(),
            full_holders: 0,
            streams: Streams::default(),
            swarm: Swarm::default(),
            begun: now,
            filling: None,
            is_being_stored: false,
            waits: Places::default(),
            hungry: BTreeSet::new(),
            turn_from: 0,
            overdue: false,
            tried: None,
            places: [Place::Out; 3],
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

    /// The first gap in a range that each holder of some parts of it has something of.
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

    /// Bytes of it came.
    pub(super) fn note_progress(&mut self, now: Instant) {
        self.progress_at = Some(now);
        if let Some(filling) = &mut self.filling {
            filling.turn_at = None;
        }
    }

    /// When bytes of it last came for one who waits since then, or since when that is.
    pub(super) fn last_progress(&self, since: Instant) -> Instant {
        self.progress_at.map_or(since, |at| at.max(since))
    }

    pub(super) fn whole(&self) -> ByteRange {
        ByteRange::new(0, self.size_bytes)
    }

    pub(super) fn have(&self) -> &ExtentSet {
        &self.have
    }

    /// The holders that have something of what is missing of a range.
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

    /// How many of them have all of it.
    pub(super) fn full_holders(&self) -> usize {
        self.full_holders
    }

    /// Whether some holder is known to have but a part of it.
    pub(super) fn has_partial_holders(&self) -> bool {
        self.full_holders < self.holders.len()
    }

    /// Sets what a node has, or that it is no holder any more; gives what was known of it.
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

    /// Whether it is filled, and all that is left is asked.
    pub(super) fn is_filled_but_for_what_is_asked(&self) -> bool {
        let cursor = self.filling.as_ref().map(|filling| filling.cursor);
        cursor.is_some_and(|cursor| cursor >= self.size_bytes)
    }

    /// The first run of `range` that is neither here nor asked.
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

    /// Adds a holder, or what more it has; says whether that brings anything new. Beyond
    /// [`HOLDERS_MAX`] holders, or [`PARTIAL_HOLDERS_MAX`] where it has but a part, it is not kept.
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

    /// What the catalogue says: not news about a node that said otherwise a moment ago, unless
    /// that listed the file anew since then.
    pub(super) fn add_listed_holder(
        &mut self,
        now: Instant,
        Listed { node, sequence }: Listed,
    ) -> bool {
        let is_old = |gone: &Gone| gone.until > now && gone.listed_at >= sequence;
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

    /// A node has it no more. Of one that had but a part that says nothing of the rest.
    pub(super) fn remove_holder(&mut self, now: Instant, node: NodeId) {
        let listed_at = self.listed.remove(&node).unwrap_or_default();
        if self.set_holder(node, None) == Some(Coverage::All) {
            if self.gone.len() >= HOLDERS_MAX {
                self.gone.pop_first();
            }
            let until = now + GONE;
            self.gone.insert(node, Gone { until, listed_at });
        }
    }

    /// Whether one that had all of it said a moment ago that it has it no more.
    pub(super) fn was_just_lost(&self, now: Instant) -> bool {
        self.gone.values().any(|gone| gone.until > now)
    }

    /// As [`Fetch::is_gone_in`], by the word of one that said so a moment ago.
    pub(super) fn is_just_gone_in(&self, now: Instant, range: ByteRange) -> bool {
        self.was_just_lost(now) && self.is_gone_in(range)
    }

    /// Whether all who had all of it said that they have it no more, and something of this range
    /// is neither here nor with anybody who has a part: others who read it wait for the same.
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

    /// Whether others were looked for with a `Get` several times, and nobody new has offered it.
    pub(super) fn has_long_asked(&self) -> bool {
        self.wanted_pause == WANTED_MAX
    }

    /// Takes the turn to look for holders with a `Get`, if it is time. The time of the next one,
    /// each pause being longer; none where it is not time yet, and then nothing has changed.
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
