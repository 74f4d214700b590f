//! The holders of one file: which ranges each has, which nodes lost the file, and when to search
//! for more.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::Listed;
use super::pause::GrowingPause;
use p2pfs_types::extent::{ByteRange, ExtentSet};
use p2pfs_types::id::NodeId;

/// Maximum holders kept for one file. New holders beyond it are ignored, unless the catalogue lists
/// them and not one of the known ones.
pub const HOLDERS_MAX: usize = 64;
/// Number of holders, full ones included, from which on a new partial holder is ignored. The
/// remaining places are for full holders.
const PARTIAL_HOLDERS_MAX: usize = HOLDERS_MAX - 8;
/// Maximum ranges kept for one partial holder. Each answer of a holder lists at most as many. If
/// several answers together list more, the longest ranges are kept.
pub const RUNS_MAX: usize = 4096;
/// Pause between two `Get`s (requests to all nodes for holders of a file) while no known peer can
/// serve the file, and between two surveys of a swarm.
pub(super) const ASK_AGAIN: GrowingPause = GrowingPause {
    first: Duration::from_millis(100),
    most: Duration::from_secs(2),
};
/// How long the catalogue's listing of a node is ignored after that node reported the file gone,
/// unless the node listed the file again. Also the minimum age of a wait that ends because the file
/// is gone at all known holders, and several `Get`s (requests to all nodes) found no other holder.
pub(super) const GONE: Duration = Duration::from_secs(5);

/// Ranges of a file that a holder has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Coverage {
    All,
    /// Ranges of whole chunks; only the last chunk of the file may be shorter. The cache could not
    /// store a range that begins or ends within a page.
    Part(ExtentSet),
}

impl Coverage {
    /// Returns the ranges that at least one of the two has, at most the [`RUNS_MAX`] longest.
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

    /// Returns whether the holder has a part of `range` that `have` lacks. `have` must not cover
    /// all of `range`.
    fn adds_to(&self, have: &ExtentSet, range: ByteRange) -> bool {
        match self {
            Self::All => true,
            Self::Part(ranges) => !ranges.present_in(range).without(have).is_empty(),
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

/// The holders of one file.
#[derive(Debug)]
pub(super) struct HolderSet {
    holders: BTreeMap<NodeId, Coverage>,
    full: usize,
    /// Sequence numbers of the holders' listings of the whole file.
    listed: BTreeMap<NodeId, u64>,
    /// Nodes that had the whole file, reported it gone, and did not become full holders again.
    gone: BTreeMap<NodeId, GoneReport>,
    next_get_at: Instant,
    get_pause: Duration,
    /// Whether a search for more holders starts shortly after the file is next wanted.
    is_to_get: bool,
    /// Whether no known peer could be asked for some wanted bytes, and no request of the file was
    /// sent since.
    is_starved: bool,
    /// Whether the catalogue is being asked for new holders after all known ones reported the file
    /// gone.
    is_looked_up: bool,
}

impl HolderSet {
    /// Creates an empty set. `is_to_get` is whether to search for more holders than the catalogue
    /// knows.
    pub(super) fn new(now: Instant, is_to_get: bool) -> Self {
        Self {
            holders: BTreeMap::new(),
            full: 0,
            listed: BTreeMap::new(),
            gone: BTreeMap::new(),
            next_get_at: now,
            get_pause: ASK_AGAIN.first,
            is_to_get,
            is_starved: false,
            is_looked_up: false,
        }
    }

    pub(super) fn get(&self, node: &NodeId) -> Option<&Coverage> {
        self.holders.get(node)
    }

    pub(super) fn contains(&self, node: &NodeId) -> bool {
        self.holders.contains_key(node)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&NodeId, &Coverage)> {
        self.holders.iter()
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = &NodeId> {
        self.holders.keys()
    }

    /// Returns the holders of the whole file.
    pub(super) fn full(&self) -> impl Iterator<Item = &NodeId> {
        let full = self.iter().filter(|(_, it)| **it == Coverage::All);
        full.map(|(node, _)| node)
    }

    /// Returns whether a node has the whole file.
    pub(super) fn is_full(&self, node: &NodeId) -> bool {
        self.get(node) == Some(&Coverage::All)
    }

    /// Returns how many holders have the whole file.
    pub(super) fn full_count(&self) -> usize {
        self.full
    }

    /// Returns whether some holder is known to have only a part of the file.
    pub(super) fn has_partial(&self) -> bool {
        self.full < self.holders.len()
    }

    /// Returns the partial holders that have the beginning of a range.
    pub(super) fn partial_with(&self, range: ByteRange) -> impl Iterator<Item = &NodeId> {
        let first = ByteRange::at(range.start, 1);
        let has = move |coverage: &Coverage| match coverage {
            Coverage::Part(ranges) => ranges.contains(first),
            Coverage::All => false,
        };
        let having = self.iter().filter(move |(_, coverage)| has(coverage));
        having.map(|(node, _)| node)
    }

    /// Returns the holders that have a part of `range` that `have` lacks.
    pub(super) fn with_missing(
        &self,
        have: &ExtentSet,
        range: ByteRange,
    ) -> impl Iterator<Item = &NodeId> {
        let adds = move |coverage: &Coverage| coverage.adds_to(have, range);
        let holders = self.holders.iter();
        holders.filter_map(move |(node, coverage)| adds(coverage).then_some(node))
    }

    /// Sets the ranges of a node, or removes it as a holder. Returns its previous ranges.
    fn set(&mut self, node: NodeId, coverage: Option<Coverage>) -> Option<Coverage> {
        let is_full = coverage == Some(Coverage::All);
        let known = match coverage {
            Some(coverage) => self.holders.insert(node, coverage),
            None => self.holders.remove(&node),
        };
        self.full += usize::from(is_full);
        self.full -= usize::from(known == Some(Coverage::All));
        known
    }

    /// Adds a holder or extends its ranges. Returns whether that is news. A new holder is ignored
    /// beyond [`HOLDERS_MAX`] holders, or beyond [`PARTIAL_HOLDERS_MAX`] if it has only a part.
    pub(super) fn add(&mut self, node: NodeId, coverage: Coverage) -> bool {
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
        self.set(node, Some(coverage));
        self.get_pause = ASK_AGAIN.first;
        true
    }

    /// Adds a holder from the catalogue. It is ignored if the node recently reported the file gone,
    /// unless the node listed it again since.
    pub(super) fn add_listed(&mut self, now: Instant, Listed { node, sequence }: Listed) -> bool {
        let is_old = |gone: &GoneReport| gone.until > now && gone.listed_at >= sequence;
        if self.gone.get(&node).is_some_and(is_old) {
            return false;
        }
        let is_news = self.add(node, Coverage::All);
        if self.holders.contains_key(&node) {
            let listed_at = self.listed.entry(node).or_default();
            *listed_at = sequence.max(*listed_at);
        }
        is_news
    }

    /// Removes a holder that no longer has the file. A full holder is remembered as gone; beyond
    /// [`HOLDERS_MAX`] of them, the oldest report is forgotten. The report of a partial holder says
    /// nothing about the ranges that it never had.
    pub(super) fn remove(&mut self, now: Instant, node: NodeId) {
        let listed_at = self.listed.remove(&node).unwrap_or_default();
        if self.set(node, None) == Some(Coverage::All) {
            if self.gone.len() >= HOLDERS_MAX {
                let reports = self.gone.iter();
                let oldest = reports.min_by_key(|(_, gone)| gone.until);
                let oldest = oldest.map(|(node, _)| *node);
                oldest.map(|node| self.gone.remove(&node));
            }
            let until = now + GONE;
            self.gone.insert(node, GoneReport { until, listed_at });
        }
    }

    /// Returns as many holders that are not listed as more than [`HOLDERS_MAX`] would remain with all
    /// listed ones.
    pub(super) fn displaced_by(&self, listed: &[Listed]) -> Vec<NodeId> {
        let listed: BTreeSet<_> = listed.iter().map(|it| it.node).collect();
        let new = listed.iter().filter(|node| !self.contains(node)).count();
        let surplus = (self.holders.len() + new).saturating_sub(HOLDERS_MAX);
        let others = self.nodes().filter(|node| !listed.contains(node));
        others.take(surplus).copied().collect()
    }

    /// Forgets a holder, as if it had never been known.
    pub(super) fn forget(&mut self, node: &NodeId) {
        self.listed.remove(node);
        self.set(*node, None);
    }

    /// Returns whether a full holder recently reported the file gone.
    pub(super) fn was_just_lost(&self, now: Instant) -> bool {
        self.gone.values().any(|gone| gone.until > now)
    }

    /// Returns whether a full holder reported the file gone, none is left, and some of the
    /// `missing` bytes are at no partial holder.
    pub(super) fn is_gone(&self, missing: ExtentSet) -> bool {
        if self.gone.is_empty() {
            return false;
        }
        let mut left = missing;
        for coverage in self.holders.values() {
            let Coverage::Part(part) = coverage else {
                return false;
            };
            let without: Vec<_> = left.iter().map(|run| part.missing_in(run)).collect();
            left = without.iter().flat_map(ExtentSet::iter).collect();
        }
        !left.is_empty()
    }

    /// Returns whether several `Get`s in a row have brought neither a new holder nor new ranges.
    pub(super) fn has_long_asked(&self) -> bool {
        self.get_pause == ASK_AGAIN.most
    }

    /// Starts the next `Get` for holders if it is due. Returns the time of the following one; the
    /// pauses grow. Returns `None` and changes nothing if it is not due yet.
    pub(super) fn take_get_turn(&mut self, now: Instant) -> Option<Instant> {
        if now < self.next_get_at {
            return None;
        }
        self.next_get_at = now + self.get_pause;
        self.get_pause = (self.get_pause * 2).min(ASK_AGAIN.most);
        Some(self.next_get_at)
    }

    /// Returns whether a search for more holders is to start now that the file is wanted. Returns
    /// true once.
    pub(super) fn take_to_get(&mut self) -> bool {
        std::mem::take(&mut self.is_to_get)
    }

    /// Sets whether a search for more holders starts when the file is next wanted.
    pub(super) fn get_later(&mut self, is_to_get: bool) {
        self.is_to_get = is_to_get;
    }

    /// Records whether no known peer can be asked for some wanted bytes.
    pub(super) fn set_starved(&mut self, is_starved: bool) {
        self.is_starved = is_starved;
    }

    /// Returns whether no known peer can be asked for some wanted bytes.
    pub(super) fn is_starved(&self) -> bool {
        self.is_starved || self.holders.is_empty()
    }

    /// Records that the catalogue is asked for new holders.
    pub(super) fn begin_lookup(&mut self) {
        self.is_looked_up = true;
    }

    /// Ends the lookup in the catalogue. Returns whether there was one.
    pub(super) fn end_lookup(&mut self) -> bool {
        std::mem::take(&mut self.is_looked_up)
    }
}
