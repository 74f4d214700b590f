//! State of one open file: its bytes on this node, its requests in flight, its holders and its
//! readers.

use std::time::Instant;

use super::holders::{Coverage, HolderSet};
use super::patience::Waiting;
use super::presence::PresentBytes;
use super::range_index::RangeIndex;
use super::readers::ReaderSet;
use super::streams::Streams;
use super::suppliers::SupplierSet;
use super::swarm::Swarm;
use super::{Listed, PIECE_MAX_BYTES, PlanError, RECENT, RequestId, STREAMS_MAX};
use p2pfs_types::extent::{ByteRange, ExtentSet};
use p2pfs_types::id::NodeId;

/// State of a fill: the whole file is wanted.
#[derive(Debug)]
pub(super) struct FillState {
    /// Everything before this offset is on this node or in flight.
    pub cursor: u64,
    pub waiting: Waiting,
    /// When the fill sent its first request after bytes of the file last arrived. `None` if it has
    /// sent none since.
    pub turn_at: Option<Instant>,
}

impl FillState {
    pub(super) fn new(waiting: Waiting) -> Self {
        Self {
            cursor: 0,
            waiting,
            turn_at: None,
        }
    }
}

/// Whether the whole file is wanted.
#[derive(Debug, Default)]
pub(super) enum FillWish {
    #[default]
    None,
    Wanted(FillState),
    /// The whole file has arrived for a fill. The owner has not reported yet whether it is stored.
    BeingStored,
}

/// Recent failures of one file, at most [`STREAMS_MAX`]. For [`RECENT`], a range that no peer could
/// give fails again at once, for any reader. Without this, another reader of the same bytes would
/// wait its whole deadline for a range that was just tried.
#[derive(Debug, Default)]
pub(super) struct FailureMemory {
    ranges: Vec<(ByteRange, Instant, PlanError)>,
    /// Whether a peer sent wrong bytes since the last verified answer.
    pub is_lied_to: bool,
}

impl FailureMemory {
    /// Remembers the failure of a range for [`RECENT`], unless [`STREAMS_MAX`] others are
    /// remembered.
    pub(super) fn remember(&mut self, now: Instant, range: ByteRange, why: PlanError) {
        self.ranges.retain(|(_, until, _)| *until > now);
        if self.ranges.len() < STREAMS_MAX {
            self.ranges.push((range, now + RECENT, why));
        }
    }

    /// Returns the remembered failure of any part of a range.
    pub(super) fn of(&self, now: Instant, range: ByteRange) -> Option<PlanError> {
        let hit = |(failed, until, _): &&(ByteRange, Instant, PlanError)| {
            *until > now && !failed.intersection(&range).is_empty()
        };
        self.ranges.iter().find(hit).map(|(.., why)| why.clone())
    }
}

/// State of one open file.
#[derive(Debug)]
pub(super) struct FileFetch {
    pub size_bytes: u64,
    pub presence: PresentBytes,
    /// Ranges in flight.
    pub asked: RangeIndex<RequestId>,
    holders: HolderSet,
    pub readers: ReaderSet,
    pub streams: Streams,
    pub swarm: Swarm,
    pub fill: FillWish,
    pub failures: FailureMemory,
    pub times: FileTimes,
    pub suppliers: SupplierSet,
}

/// Times in the life of an open file.
#[derive(Debug)]
pub(super) struct FileTimes {
    pub begun: Instant,
    pub last_used: Instant,
    /// When bytes of the file last arrived from any peer, in complete answers or not.
    progress_at: Option<Instant>,
}

impl FileTimes {
    /// Returns when bytes of the file last arrived, or else when it was opened.
    pub(super) fn progressed_or_begun_at(&self) -> Instant {
        self.progress_at.map_or(self.begun, |at| at.max(self.begun))
    }
}

impl FileFetch {
    pub(super) fn new(size_bytes: u64, present: ExtentSet, now: Instant) -> Self {
        // a file that fits into one answer needs no further holders
        let is_to_get = size_bytes > PIECE_MAX_BYTES && present.len() != size_bytes;
        Self {
            size_bytes,
            presence: PresentBytes::new(size_bytes, present),
            asked: RangeIndex::default(),
            holders: HolderSet::new(now, is_to_get),
            readers: ReaderSet::default(),
            streams: Streams::default(),
            swarm: Swarm::default(),
            fill: FillWish::default(),
            failures: FailureMemory::default(),
            times: FileTimes {
                begun: now,
                last_used: now,
                progress_at: None,
            },
            suppliers: SupplierSet::default(),
        }
    }

    /// Returns the fill, if the whole file is wanted and not here yet.
    pub(super) fn filling(&self) -> Option<&FillState> {
        match &self.fill {
            FillWish::Wanted(filling) => Some(filling),
            FillWish::None | FillWish::BeingStored => None,
        }
    }

    /// Returns the fill for a change; see [`FileFetch::filling`].
    pub(super) fn filling_mut(&mut self) -> Option<&mut FillState> {
        match &mut self.fill {
            FillWish::Wanted(filling) => Some(filling),
            FillWish::None | FillWish::BeingStored => None,
        }
    }

    /// Returns, for each partial holder, the first gap within the part of `range` that it has.
    pub(super) fn gaps_in_parts(&self, range: ByteRange) -> Vec<ByteRange> {
        let gap_of = |coverage: &Coverage| match coverage {
            Coverage::Part(ranges) => ranges
                .present_in(range)
                .iter()
                .find_map(|run| self.first_gap(run)),
            Coverage::All => None,
        };
        let holders = self.holders.iter();
        holders
            .filter_map(|(_, coverage)| gap_of(coverage))
            .collect()
    }

    /// Records that bytes of the file arrived from a node.
    pub(super) fn record_progress(&mut self, now: Instant, node: &NodeId) {
        self.times.progress_at = Some(now);
        self.suppliers.record_answer(now, node);
        if let Some(filling) = self.filling_mut() {
            filling.turn_at = None;
        }
    }

    /// Returns `waiting`, a wait for bytes of this file, with the last progress of the file as that
    /// of the wait.
    pub(super) fn progress_of(&self, waiting: Waiting) -> Waiting {
        waiting.progressed(self.times.progress_at)
    }

    pub(super) fn whole(&self) -> ByteRange {
        ByteRange::new(0, self.size_bytes)
    }

    pub(super) fn is_idle(&self) -> bool {
        let is_wanted_whole = !matches!(self.fill, FillWish::None);
        self.readers.is_empty() && self.asked.is_empty() && !is_wanted_whole
    }

    pub(super) fn holders(&self) -> &HolderSet {
        &self.holders
    }

    /// Returns the holders, to change the state of the search for more. Only the methods of the
    /// file add and remove holders.
    pub(super) fn holders_mut(&mut self) -> &mut HolderSet {
        &mut self.holders
    }

    /// Returns whether other nodes are known to want the file, and with this node outnumber the
    /// full holders.
    pub(super) fn is_swarm(&self) -> bool {
        self.swarm.is_active(self.holders.full_count())
    }

    /// Returns the holders that have some of the missing bytes of a range.
    pub(super) fn holders_of(&self, range: ByteRange) -> impl Iterator<Item = &NodeId> {
        self.holders.with_missing(self.presence.here(), range)
    }

    /// Adds a holder or extends its ranges. Returns whether that is news.
    pub(super) fn add_holder(&mut self, node: NodeId, coverage: Coverage) -> bool {
        let is_news = self.holders.add(node, coverage);
        self.note_holder(node, is_news);
        is_news
    }

    /// Adds a holder from the catalogue. Returns whether that is news.
    pub(super) fn add_listed_holder(&mut self, now: Instant, listed: Listed) -> bool {
        let is_news = self.holders.add_listed(now, listed);
        self.note_holder(listed.node, is_news);
        is_news
    }

    /// Forgets as many holders that the catalogue does not list as new listed ones need places.
    /// Otherwise the holders that were known first would hide all others for as long as the file is
    /// in use.
    pub(super) fn make_room_for(&mut self, listed: &[Listed]) {
        for node in self.holders.displaced_by(listed) {
            self.swarm.record_partial(&node, false);
            self.holders.forget(&node);
        }
    }

    fn note_holder(&mut self, node: NodeId, is_news: bool) {
        if is_news {
            self.failures.ranges.clear();
            let is_partial = !self.holders.is_full(&node);
            self.swarm.record_partial(&node, is_partial);
        }
    }

    /// Records at the swarm which ranges a node has, after its offer.
    pub(super) fn record_ranges(&mut self, node: &NodeId) {
        if let Some(Coverage::Part(ranges)) = self.holders.get(node) {
            self.swarm.record_ranges(node, ranges);
        }
    }

    /// Removes a holder that no longer has the file.
    pub(super) fn remove_holder(&mut self, now: Instant, node: NodeId) {
        self.swarm.record_partial(&node, false);
        self.holders.remove(now, node);
    }

    /// Returns whether [`FileFetch::is_gone_in`] holds and a full holder reported the file gone
    /// recently.
    pub(super) fn is_just_gone_in(&self, now: Instant, range: ByteRange) -> bool {
        self.holders.was_just_lost(now) && self.is_gone_in(range)
    }

    /// Returns whether every full holder has reported the file gone, and at least some of this
    /// range is neither on this node nor at a partial holder. False if no full holder has reported
    /// it.
    pub(super) fn is_gone_in(&self, range: ByteRange) -> bool {
        self.holders.is_gone(self.presence.here().missing_in(range))
    }

    /// Returns the error for a range that did not arrive.
    pub(super) fn reason(&self, range: ByteRange) -> PlanError {
        if self.failures.is_lied_to {
            PlanError::OnlyLiars
        } else if self.is_gone_in(range) {
            PlanError::Gone
        } else if self.holders.is_starved() {
            PlanError::NoHolder
        } else {
            PlanError::TimedOut
        }
    }

    /// Returns whether a fill has everything that it lacks in flight.
    pub(super) fn has_rest_in_flight(&self) -> bool {
        let cursor = self.filling().map(|filling| filling.cursor);
        cursor.is_some_and(|cursor| cursor >= self.size_bytes)
    }

    /// Returns the first run of `range`, within one block of [`PIECE_MAX_BYTES`], that is neither
    /// on this node nor in flight.
    pub(super) fn first_gap(&self, range: ByteRange) -> Option<ByteRange> {
        self.first_gap_from(0, range)
    }

    /// Like [`Self::first_gap`], but the blocks are counted from `origin`.
    pub(super) fn first_gap_from(&self, origin: u64, range: ByteRange) -> Option<ByteRange> {
        let mut at = range.start;
        while at < range.end {
            if let Some(run) = self.presence.here().run_at(at) {
                at = run.end;
                continue;
            }
            let block = ByteRange::new(at, range.end);
            let block = block.first_grain_from(origin, PIECE_MAX_BYTES);
            let missing = self.presence.here().missing_in(block);
            for run in missing.iter() {
                if let Some(gap) = self.asked.first_free(run) {
                    return Some(gap);
                }
            }
            at = block.end;
        }
        None
    }
}

#[cfg(test)]
mod tests;
