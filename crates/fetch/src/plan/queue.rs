//! Order of the files: those that have something to request, and those that wait until one of their
//! holders has room.
//!
//! For each work class a file is ready, parked at all its holders, or idle. If a holder gets room,
//! the files parked at it become ready in turn. So an event at one peer costs no examination of the
//! files of other peers.
//!
//! Files with demands are ordered by the age of the demand, parked or not, so that mostly one read
//! is requested as a whole before the next begins. Without this order, and without room in the
//! cache, parts of very many reads would fill the memory and evict each other before any read is
//! complete. Once all of one read has been requested, its file goes behind the other files, as if
//! it had just arrived. Otherwise, over a slow link, the reader of a single page of another file
//! would wait for all the megabytes that the kernel reads ahead. A file that has waited too long
//! for its turn gets its next part ahead of the others.

use std::collections::{BTreeMap, BTreeSet};

use super::Lane;
use p2pfs_types::digest::{ContentHash, ContentKey};
use p2pfs_types::id::NodeId;

/// Work class of a file's requests, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WorkClass {
    Demand = 0,
    ReadAhead = 1,
    Fill = 2,
}

pub(super) const WORK_CLASSES: [WorkClass; 3] =
    [WorkClass::Demand, WorkClass::ReadAhead, WorkClass::Fill];

impl WorkClass {
    pub(super) fn lane(self) -> Lane {
        match self {
            Self::Demand => Lane::Urgent,
            Self::ReadAhead | Self::Fill => Lane::Bulk,
        }
    }
}

/// Position of a file in the order of a work class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QueuePosition {
    /// Before all other files, because it is overdue. Its number is 0.
    First,
    /// By this number, the lowest first.
    At(u64),
    /// Behind all other files. A file that is ready already keeps its position.
    Last,
}

impl QueuePosition {
    /// Returns the queue number of the position. `last` is the next free number.
    fn number(self, last: u64) -> u64 {
        match self {
            Self::First => 0,
            Self::At(number) => number,
            Self::Last => last,
        }
    }
}

/// Queue state of a file for one work class, with its queue number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum QueueState {
    #[default]
    Idle,
    Ready(u64),
    /// Parked at these peers.
    WaitingForRoom(u64, Vec<NodeId>),
}

/// Files in order, the lowest number first.
type FileQueue = BTreeSet<(u64, ContentKey)>;

/// Progress of making the files parked at a peer ready, after the peer had room again.
#[derive(Clone, Copy, Debug)]
struct WakePass {
    /// Lowest queue number still to examine in each work class.
    next: [u64; 3],
    /// Files with this queue number or a higher one wait for the next pass, except those with
    /// demands.
    until: u64,
}

/// Order of the files; see the module documentation.
#[derive(Debug, Default)]
pub(super) struct ReadyQueue {
    states: BTreeMap<ContentKey, [QueueState; 3]>,
    /// Files that have something to request, one queue for each work class.
    ready: [FileQueue; 3],
    /// Files that wait for room at a peer, one queue for each work class.
    parked: BTreeMap<NodeId, [FileQueue; 3]>,
    /// Peers that may have room for files parked at them.
    awake: BTreeMap<NodeId, WakePass>,
    next_number: u64,
}

impl ReadyQueue {
    /// Returns the first ready file of a work class.
    pub(super) fn first(&self, class: WorkClass) -> Option<ContentKey> {
        let (_, content) = self.ready[class as usize].first()?;
        Some(*content)
    }

    /// Makes a file ready.
    pub(super) fn enqueue(
        &mut self,
        content: &ContentKey,
        class: WorkClass,
        position: QueuePosition,
    ) {
        let states = self.states.entry(*content).or_default();
        let number = match (position, &states[class as usize]) {
            (QueuePosition::Last, QueueState::Ready(known)) => *known,
            _ => position.number(self.next_number),
        };
        if states[class as usize] == QueueState::Ready(number) {
            return;
        }
        self.next_number += 1;
        self.dequeue(content, class);
        self.ready[class as usize].insert((number, *content));
        self.set_state(content, class, QueueState::Ready(number));
    }

    /// Parks a file that cannot request anything until one of these peers has room.
    pub(super) fn park(
        &mut self,
        content: &ContentKey,
        class: WorkClass,
        position: QueuePosition,
        nodes: Vec<NodeId>,
    ) {
        self.dequeue(content, class);
        let number = position.number(self.next_number);
        self.next_number += 1;
        for node in &nodes {
            let queues = self.parked.entry(*node).or_default();
            queues[class as usize].insert((number, *content));
        }
        self.set_state(content, class, QueueState::WaitingForRoom(number, nodes));
    }

    /// Removes a file from the queues of one work class.
    pub(super) fn dequeue(&mut self, content: &ContentKey, class: WorkClass) {
        let Some(states) = self.states.get_mut(content) else {
            return;
        };
        match std::mem::take(&mut states[class as usize]) {
            QueueState::Idle => {}
            QueueState::Ready(number) => {
                self.ready[class as usize].remove(&(number, *content));
            }
            QueueState::WaitingForRoom(number, nodes) => {
                for node in nodes {
                    self.unpark(node, class, (number, *content));
                }
            }
        }
    }

    fn unpark(&mut self, node: NodeId, class: WorkClass, entry: (u64, ContentKey)) {
        if let Some(queues) = self.parked.get_mut(&node) {
            queues[class as usize].remove(&entry);
            if queues.iter().all(FileQueue::is_empty) {
                self.parked.remove(&node);
            }
        }
    }

    fn set_state(&mut self, content: &ContentKey, class: WorkClass, state: QueueState) {
        let states = self.states.entry(*content).or_default();
        states[class as usize] = state;
    }

    /// Removes a file that is closed.
    pub(super) fn remove(&mut self, content: &ContentKey) {
        for class in WORK_CLASSES {
            self.dequeue(content, class);
        }
        self.states.remove(content);
    }

    /// Returns whether any file is parked at a peer.
    pub(super) fn has_parked(&self, node: &NodeId) -> bool {
        self.parked.contains_key(node)
    }

    /// Forgets a peer at which no file is parked.
    pub(super) fn forget_peer(&mut self, node: &NodeId) {
        self.awake.remove(node);
    }

    /// Starts a pass over the files parked at a peer that may have room. If one is under way,
    /// extends it, and examines the demands from the first one again.
    pub(super) fn wake(&mut self, node: NodeId) {
        let until = self.next_number;
        let begun = WakePass {
            next: [0; 3],
            until,
        };
        let pass = self.awake.entry(node).or_insert(begun);
        pass.until = until;
        pass.next[WorkClass::Demand as usize] = 0;
    }

    /// Returns the overdue file that is parked at a peer, if there is one.
    pub(super) fn overdue_at(&self, node: &NodeId) -> Option<ContentKey> {
        let demands = &self.parked.get(node)?[WorkClass::Demand as usize];
        let (number, content) = demands.first()?;
        // the number of QueuePosition::First
        (*number == 0).then_some(*content)
    }

    /// Returns the next file that is parked at a woken peer with room, for the caller to queue.
    pub(super) fn next_woken(
        &mut self,
        has_room: impl Fn(&NodeId, Lane) -> bool,
    ) -> Option<(ContentKey, WorkClass)> {
        while let Some((node, pass)) = self.awake.first_key_value().map(|(n, p)| (*n, *p)) {
            let first = WORK_CLASSES.iter().find_map(|class| {
                let (number, content) = self.parked_next(&node, &pass, *class)?;
                has_room(&node, class.lane()).then_some((*class, number, content))
            });
            let Some((class, number, content)) = first else {
                self.awake.remove(&node);
                continue;
            };
            if let Some(pass) = self.awake.get_mut(&node) {
                pass.next[class as usize] = number + 1;
            }
            return Some((content, class));
        }
        None
    }

    /// Returns the next file of one work class that is parked at a peer.
    fn parked_next(
        &self,
        node: &NodeId,
        pass: &WakePass,
        class: WorkClass,
    ) -> Option<(u64, ContentKey)> {
        let first = ContentKey::new(ContentHash::new([0; 32]), 0);
        let from = (pass.next[class as usize], first);
        let queues = self.parked.get(node)?;
        let (number, content) = queues[class as usize].range(from..).next()?;
        let in_time = class == WorkClass::Demand || *number < pass.until;
        in_time.then_some((*number, *content))
    }
}
