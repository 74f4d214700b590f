//! One node of a swarm: its machine, its disk and its readers.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use p2pfs_fetch::TransferError;
use p2pfs_fetch::plan::{DemandId, PlanConfig, RequestId};
use p2pfs_fetch::session::{Cached, FillId, FillProgress, OpenOutcome, Owner, Read, Session};
use p2pfs_types::digest::{ContentHash, ContentKey};
use p2pfs_types::extent::ByteRange;
use p2pfs_types::id::NodeId;

use crate::swarm::disk::Disk;

/// How long a read waits: the default.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Length of the kernel's largest read.
pub(super) const READ_BYTES: u64 = 128 << 10;

/// Bytes that a command requests in one step when it copies a whole file, and the number of
/// concurrent steps (`node::api::reader`).
const STEP_BYTES: u64 = 1 << 20;
const STEPS_AT_ONCE: usize = 4;

/// The session's handles in a swarm: readers, fills and questions by number.
pub(super) struct InSwarm;

impl Owner for InSwarm {
    type ReadHandle = usize;
    type FillHandle = (usize, Rc<Cell<u64>>);
    type File = ();
    type Question = RequestId;

    fn tell((_, told): &Self::FillHandle, progress: FillProgress) {
        assert!(progress.ready_bytes >= told.get(), "a fill went backwards");
        told.set(progress.ready_bytes);
    }
}

/// How a node treats requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Manner {
    #[default]
    Honest,
    /// Sends proofs with one changed byte.
    Liar,
    /// Accepts requests and never answers. Its connections stay open.
    Mute,
}

/// One program that reads.
pub(super) struct Reader {
    pub content: ContentKey,
    reads: Vec<ByteRange>,
    at: usize,
    /// Index of the first of several readers that read a file in turns.
    first_of_turns: Option<usize>,
    pub waits: Option<(Option<DemandId>, Instant)>,
    pub longest_wait: Duration,
    pub errors: Vec<TransferError>,
    /// When its first read was answered.
    pub first_at: Option<Instant>,
    pub done_at: Option<Instant>,
    /// The reader or its node ended before it had finished.
    pub is_gone: bool,
}

impl Reader {
    pub(super) fn new(content: ContentKey, reads: Vec<ByteRange>) -> Self {
        Self {
            content,
            reads,
            at: 0,
            first_of_turns: None,
            waits: None,
            longest_wait: Duration::ZERO,
            errors: vec![],
            first_at: None,
            done_at: None,
            is_gone: false,
        }
    }

    pub(super) fn sequential(content: ContentKey) -> Self {
        let size = content.size_bytes;
        let starts = (0..size).step_by(READ_BYTES as usize);
        let reads = starts.map(|start| ByteRange::new(start, (start + READ_BYTES).min(size)));
        Self::new(content, reads.collect())
    }

    /// Returns the readers of a command that copies a whole file: one for each concurrent step.
    /// `first` is the index of the first reader.
    pub(super) fn copying(content: ContentKey, first: usize) -> impl Iterator<Item = Self> {
        let size = content.size_bytes;
        (0..STEPS_AT_ONCE as u64).map(move |turn| {
            let starts = (turn * STEP_BYTES..size).step_by(STEPS_AT_ONCE * STEP_BYTES as usize);
            let steps = starts.map(|start| ByteRange::new(start, (start + STEP_BYTES).min(size)));
            Self {
                first_of_turns: Some(first),
                ..Self::new(content, steps.collect())
            }
        })
    }

    /// Returns whether it read its content from beginning to end.
    pub(super) fn is_whole(&self) -> bool {
        let read: u64 = self.reads.iter().map(ByteRange::len).sum();
        read == self.content.size_bytes && self.done_at.is_some()
    }

    pub(super) fn range(&self) -> Option<ByteRange> {
        self.reads.get(self.at).copied()
    }

    fn is_at_work(&self) -> bool {
        self.waits.is_none() && self.done_at.is_none() && !self.is_gone
    }

    /// Records the end of a read.
    pub(super) fn end(&mut self, now: Instant, error: Option<TransferError>) {
        if let Some((_, since)) = self.waits.take() {
            self.longest_wait = self.longest_wait.max(now - since);
        }
        if error.is_none() {
            self.first_at.get_or_insert(now);
        }
        self.errors.extend(error);
        self.at += 1;
    }
}

/// A whole file to fetch, across restarts.
pub(super) struct Fill {
    pub content: ContentKey,
    pub told: Rc<Cell<u64>>,
    pub outcome: Option<(Instant, Result<(), TransferError>)>,
}

/// Costs of a machine: maxima over its calls, and all requested bytes.
#[derive(Default)]
pub(super) struct Cost {
    pub most_steps: u64,
    pub most_in_flight_bytes: u64,
    pub most_sends_in_a_second: u64,
    pub requested_bytes: u64,
    second: u64,
    sends: u64,
}

impl Cost {
    pub(super) fn note_send(&mut self, second: u64, bytes: u64) {
        self.requested_bytes += bytes;
        self.sends = if second == self.second { self.sends } else { 0 } + 1;
        self.second = second;
        self.most_sends_in_a_second = self.most_sends_in_a_second.max(self.sends);
    }
}

pub(super) struct Node {
    pub session: Option<Session<InSwarm>>,
    pub life: u64,
    /// The machine is off, so no connection is refused.
    pub is_off: bool,
    pub manner: Manner,
    /// This node's share of the delay to any other node.
    pub delay: Duration,
    pub disk: Disk,
    pub readers: Vec<Reader>,
    pub fills: Vec<Fill>,
    pub cost: Cost,
    /// Number of wrong answers by sender.
    pub lies: BTreeMap<NodeId, u64>,
    pub shunned: BTreeSet<NodeId>,
    pub received_bytes: u64,
    /// Recent askers by content.
    pub askers: BTreeMap<ContentHash, BTreeSet<usize>>,
}

impl Node {
    pub(super) fn new(delay: Duration, budget_bytes: u64) -> Self {
        Self {
            session: None,
            life: 0,
            is_off: false,
            manner: Manner::Honest,
            delay,
            disk: Disk::new(budget_bytes),
            readers: vec![],
            fills: vec![],
            cost: Cost::default(),
            lies: BTreeMap::new(),
            shunned: BTreeSet::new(),
            received_bytes: 0,
            askers: BTreeMap::new(),
        }
    }

    pub(super) fn boot(&mut self, me: NodeId, seed: u64, window_bytes: u64) {
        let config = PlanConfig {
            me,
            ..PlanConfig::default()
        };
        self.life += 1;
        self.is_off = false;
        self.session = Some(Session::new(config, seed, window_bytes));
        self.askers.clear();
        self.lies.clear();
    }

    /// Calls the machine and records the cost of the call.
    pub(super) fn tell<R>(&mut self, tell: impl FnOnce(&mut Session<InSwarm>) -> R) -> Option<R> {
        let session = self.session.as_mut()?;
        let before = session.plan.steps();
        let result = tell(session);
        self.cost.most_steps = self.cost.most_steps.max(session.plan.steps() - before);
        let in_flight = session.plan.requests().bytes();
        self.cost.most_in_flight_bytes = self.cost.most_in_flight_bytes.max(in_flight);
        Some(result)
    }

    /// Begins the fetch of a content, unless it has begun.
    fn open(&mut self, now: Instant, content: ContentKey) -> Result<(), TransferError> {
        let cached = Cached {
            file: Some(()),
            on_disk: self.disk.present(&content),
            is_complete: self.disk.is_complete(&content),
        };
        let opened = self.tell(|session| match session.open(now, content)? {
            OpenOutcome::NotBegun => session.begin(now, content, cached),
            OpenOutcome::Cached(()) | OpenOutcome::Uncached => Ok(()),
        });
        opened.expect("it runs")
    }

    pub(super) fn begin_fill(&mut self, now: Instant, index: usize) {
        let content = self.fills[index].content;
        let present = self.disk.present(&content);
        if let Err(why) = self.open(now, content) {
            self.fills[index].outcome = Some((now, Err(why)));
            return;
        }
        self.fills[index].told.set(0);
        let filler = (index, self.fills[index].told.clone());
        let id = FillId(index as u64);
        self.tell(|session| session.fill(now, content, (id, filler), PATIENCE, || present));
    }

    /// Advances a reader until it waits. Returns whether it did anything.
    pub(super) fn step_reader(&mut self, now: Instant, index: usize) -> bool {
        let mut acted = false;
        while self.readers[index].is_at_work() && self.is_at_turn(index) {
            acted = true;
            let content = self.readers[index].content;
            let Some(range) = self.readers[index].range() else {
                self.readers[index].done_at = Some(now);
                return acted;
            };
            if self.disk.has(&content, range) {
                self.tell(|session| session.plan.record_read(now, &content, range));
                self.readers[index].at += 1;
                continue;
            }
            if let Err(why) = self.open(now, content) {
                self.readers[index].end(now, Some(why));
                continue;
            }
            let read = Read::new(content, range, now + PATIENCE, index);
            self.readers[index].waits = Some((None, now));
            let id = self.tell(|session| session.read(now, read));
            self.readers[index].waits = Some((id.flatten(), now));
        }
        acted
    }

    /// Returns whether all earlier steps, except those that may run concurrently, have been read.
    fn is_at_turn(&self, index: usize) -> bool {
        let Some(first) = self.readers[index].first_of_turns else {
            return true;
        };
        let at = self.readers[index].at;
        let before = &self.readers[first..index];
        let behind = &self.readers[index..first + STEPS_AT_ONCE];
        before.iter().all(|one| one.at >= at) && behind.iter().all(|one| one.at + 1 >= at)
    }

    /// Ends a reader in the middle of a read.
    pub(super) fn cancel_reader(&mut self, index: usize) {
        let reader = &mut self.readers[index];
        reader.is_gone = true;
        if let Some((Some(id), _)) = reader.waits.take() {
            self.tell(|session| session.cancel(id));
        }
    }

    /// Returns whether all readers and fills here have ended.
    pub(super) fn is_through(&self) -> bool {
        let read = |reader: &Reader| reader.is_gone || reader.done_at.is_some();
        let filled = |fill: &Fill| fill.outcome.is_some();
        self.readers.iter().all(read) && self.fills.iter().all(filled)
    }
}
