//! Order of the files: those that have something to request, and those that wait until one of their
//! holders has room.
//!
//! For each work class a file is ready, parked at all its holders, or idle. Room at a holder
//! readies the files parked there in turn, so an event at one peer does not examine the files of
//! others.
//!
//! Demands are ordered by age, parked or not, so that one read is requested as a whole before the
//! next begins. Without this order, parts of very many reads would exceed memory if the cache has
//! no room, and would evict each other again and again. But after all of one read has been
//! requested, its file counts as newly arrived. The kernel reads ahead by megabytes, and over a
//! slow link a reader of a single page of another file would otherwise wait for all of them. A file
//! that has waited too long this way gets its next part ahead of the others.

use std::collections::BTreeSet;
use std::time::Instant;

use super::{Lane, OVERDUE_PATIENCE, Plan};
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

/// Queue state of a file for one work class, with its queue number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum TurnState {
    #[default]
    Idle,
    Ready(u64),
    WaitingForRoom(u64),
}

/// Queue number of overdue files, before all others.
pub(super) const OVERDUE: u64 = 0;
/// Smallest key among the entries of one number.
const FIRST: ContentKey = ContentKey::new(ContentHash::new([0; 32]), 0);

/// Files in order, the lowest number first.
pub(super) type FileQueue = BTreeSet<(u64, ContentKey)>;

/// Progress of queueing the files parked at a peer since it had room.
#[derive(Clone, Copy, Debug)]
pub(super) struct WakePass {
    /// Next number to queue in each work class.
    next: [u64; 3],
    /// Files parked after the pass began wait for the next pass.
    until: u64,
}

impl Plan {
    /// Queues a file that may have something to request.
    pub(super) fn enqueue(&mut self, content: &ContentKey, class: WorkClass) {
        let Some(fetch) = self.fetches.get_mut(content) else {
            return;
        };
        if class == WorkClass::Demand {
            fetch.scan_cursor = None;
        }
        let number = match class {
            WorkClass::Demand => fetch.demand_queue_number(),
            WorkClass::ReadAhead => Some(self.next_turn),
            WorkClass::Fill => fetch.filling.is_some().then_some(self.next_turn),
        };
        let place = fetch.turn_states[class as usize];
        match (number, place) {
            (None, _) => self.dequeue(content, class),
            (Some(_), TurnState::Ready(_)) if class != WorkClass::Demand => {}
            (Some(number), TurnState::Ready(known)) if number == known => {}
            (Some(number), _) => {
                self.next_turn += 1;
                self.dequeue(content, class);
                self.ready[class as usize].insert((number, *content));
                self.set_turn_state(content, class, TurnState::Ready(number));
            }
        }
    }

    pub(super) fn enqueue_all(&mut self, content: &ContentKey) {
        WORK_CLASSES
            .iter()
            .for_each(|class| self.enqueue(content, *class));
    }

    /// Moves a file ahead of older ones if its first reader has waited long without a byte and
    /// would give up before long. Its reader then progresses like a reader of a slow holder.
    pub(super) fn mark_if_overdue(&mut self, now: Instant, content: &ContentKey) {
        let Some(fetch) = self.fetches.get_mut(content) else {
            return;
        };
        let first = fetch.unissued.first().and_then(|id| self.demands.get(id));
        let Some(first) = first.filter(|_| fetch.asked.is_empty()) else {
            return;
        };
        let own = fetch.last_progress(first.since);
        let is_overdue = own + first.patience * OVERDUE_PATIENCE <= now;
        if is_overdue && !std::mem::replace(&mut fetch.overdue, true) {
            self.enqueue(content, WorkClass::Demand);
        }
    }

    /// Queues an overdue file that is parked at a peer with room, before all other files.
    fn enqueue_overdue(&mut self, node: NodeId) {
        let lane = WorkClass::Demand.lane();
        let peer = self.peers.get(&node);
        let peer = peer.filter(|peer| peer.has_room(lane, peer.piece_bytes(lane)));
        let first = peer.and_then(|peer| peer.parked[WorkClass::Demand as usize].first().copied());
        if let Some((OVERDUE, content)) = first {
            self.enqueue(&content, WorkClass::Demand);
        }
    }

    /// Moves a file behind the others after a request. Demands keep their order of age instead.
    pub(super) fn move_to_end(&mut self, content: &ContentKey, class: WorkClass) {
        if let Some(fetch) = self
            .fetches
            .get_mut(content)
            .filter(|_| class == WorkClass::Demand)
        {
            fetch.overdue = false;
        }
        if class != WorkClass::Demand {
            self.dequeue(content, class);
        }
        self.enqueue(content, class);
    }

    /// Parks a file that cannot request anything until a holder has room or a new holder appears.
    pub(super) fn park(&mut self, content: &ContentKey, class: WorkClass) {
        self.dequeue(content, class);
        let Some(fetch) = self.fetches.get(content) else {
            return;
        };
        let number = match class {
            WorkClass::Demand => fetch.demand_queue_number().unwrap_or(self.next_id),
            WorkClass::ReadAhead | WorkClass::Fill => self.next_turn,
        };
        self.next_turn += 1;
        for node in fetch.holders().keys() {
            if let Some(peer) = self.peers.get_mut(node) {
                peer.parked[class as usize].insert((number, *content));
            }
        }
        self.set_turn_state(content, class, TurnState::WaitingForRoom(number));
    }

    /// Removes a file from the queues of one work class.
    pub(super) fn dequeue(&mut self, content: &ContentKey, class: WorkClass) {
        let Some(fetch) = self.fetches.get(content) else {
            return;
        };
        match fetch.turn_states[class as usize] {
            TurnState::Idle => return,
            TurnState::Ready(number) => {
                self.ready[class as usize].remove(&(number, *content));
            }
            TurnState::WaitingForRoom(number) => {
                for node in fetch.holders().keys() {
                    if let Some(peer) = self.peers.get_mut(node) {
                        peer.parked[class as usize].remove(&(number, *content));
                    }
                }
            }
        }
        self.set_turn_state(content, class, TurnState::Idle);
    }

    pub(super) fn dequeue_all(&mut self, content: &ContentKey) {
        WORK_CLASSES
            .iter()
            .for_each(|class| self.dequeue(content, *class));
    }

    fn set_turn_state(&mut self, content: &ContentKey, class: WorkClass, place: TurnState) {
        if let Some(fetch) = self.fetches.get_mut(content) {
            fetch.turn_states[class as usize] = place;
        }
    }

    /// Wakes the files parked at a peer that may have room, in turn. The pass also covers demands
    /// that an earlier pass queued in vain.
    pub(super) fn wake(&mut self, node: NodeId) {
        let begun = WakePass {
            next: [0; 3],
            until: self.next_turn,
        };
        let pass = self.awake.entry(node).or_insert(begun);
        pass.until = begun.until;
        pass.next[WorkClass::Demand as usize] = 0;
        self.enqueue_overdue(node);
    }

    /// Queues one file that is parked at a peer with room. Returns false if there is none.
    pub(super) fn wake_one(&mut self) -> bool {
        while let Some((node, pass)) = self.awake.first_key_value().map(|(n, p)| (*n, *p)) {
            let first = WORK_CLASSES
                .iter()
                .find_map(|class| self.parked_next(node, &pass, *class));
            let Some((class, number, content)) = first else {
                self.awake.remove(&node);
                continue;
            };
            if let Some(pass) = self.awake.get_mut(&node) {
                pass.next[class as usize] = number + 1;
            }
            self.enqueue(&content, class);
            return true;
        }
        false
    }

    /// Returns the next file of one work class that is parked at a peer, if the peer has room for
    /// it.
    fn parked_next(
        &self,
        node: NodeId,
        pass: &WakePass,
        class: WorkClass,
    ) -> Option<(WorkClass, u64, ContentKey)> {
        let peer = self.peers.get(&node)?;
        let lane = class.lane();
        if !peer.has_room(lane, peer.piece_bytes(lane)) {
            return None;
        }
        let from = (pass.next[class as usize], FIRST);
        let (number, content) = peer.parked[class as usize].range(from..).next()?;
        let in_time = class == WorkClass::Demand || *number < pass.until;
        in_time.then_some((class, *number, *content))
    }
}
