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
pub(super) enum Want {
    Demand = 0,
    Ahead = 1,
    Fill = 2,
}

pub(super) const WANTS: [Want; 3] = [Want::Demand, Want::Ahead, Want::Fill];

impl Want {
    pub(super) fn lane(self) -> Lane {
        match self {
            Self::Demand => Lane::Urgent,
            Self::Ahead | Self::Fill => Lane::Bulk,
        }
    }
}

/// Queue state of a file for one work class, with its queue number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Place {
    #[default]
    Out,
    Called(u64),
    Parked(u64),
}

/// Queue number of overdue files, before all others.
pub(super) const OVERDUE: u64 = 0;
/// Smallest key among the entries of one number.
const FIRST: ContentKey = ContentKey::new(ContentHash::new([0; 32]), 0);

/// Files in order, the lowest number first.
pub(super) type Line = BTreeSet<(u64, ContentKey)>;

/// Progress of calling up the files parked at a peer since it had room.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pass {
    /// Next number to call up in each work class.
    next: [u64; 3],
    /// Files parked after the pass began wait for the next pass.
    until: u64,
}

impl Plan {
    /// Queues a file that may have something to request.
    pub(super) fn call_up(&mut self, content: &ContentKey, want: Want) {
        let Some(fetch) = self.fetches.get_mut(content) else {
            return;
        };
        if want == Want::Demand {
            fetch.tried = None;
        }
        let number = match want {
            Want::Demand => fetch.demand_number(),
            Want::Ahead => Some(self.next_turn),
            Want::Fill => fetch.filling.is_some().then_some(self.next_turn),
        };
        let place = fetch.places[want as usize];
        match (number, place) {
            (None, _) => self.take_out(content, want),
            (Some(_), Place::Called(_)) if want != Want::Demand => {}
            (Some(number), Place::Called(known)) if number == known => {}
            (Some(number), _) => {
                self.next_turn += 1;
                self.take_out(content, want);
                self.called[want as usize].insert((number, *content));
                self.set_place(content, want, Place::Called(number));
            }
        }
    }

    pub(super) fn call_up_all(&mut self, content: &ContentKey) {
        WANTS.iter().for_each(|want| self.call_up(content, *want));
    }

    /// Moves a file ahead of older ones if its first reader has waited long without a byte and
    /// would give up before long. Its reader then progresses like a reader of a slow holder.
    pub(super) fn bring_forward_if_overdue(&mut self, now: Instant, content: &ContentKey) {
        let Some(fetch) = self.fetches.get_mut(content) else {
            return;
        };
        let first = fetch.hungry.first().and_then(|id| self.demands.get(id));
        let Some(first) = first.filter(|_| fetch.asked.is_empty()) else {
            return;
        };
        let own = fetch.last_progress(first.since);
        let is_overdue = own + first.patience * OVERDUE_PATIENCE <= now;
        if is_overdue && !std::mem::replace(&mut fetch.overdue, true) {
            self.call_up(content, Want::Demand);
        }
    }

    /// Calls up an overdue file that is parked at a peer with room, before all other files.
    fn call_up_overdue(&mut self, node: NodeId) {
        let lane = Want::Demand.lane();
        let peer = self.peers.get(&node);
        let peer = peer.filter(|peer| peer.has_room(lane, peer.piece_bytes(lane)));
        let first = peer.and_then(|peer| peer.parked[Want::Demand as usize].first().copied());
        if let Some((OVERDUE, content)) = first {
            self.call_up(&content, Want::Demand);
        }
    }

    /// Moves a file behind the others after a request. Demands keep their order of age instead.
    pub(super) fn move_to_end(&mut self, content: &ContentKey, want: Want) {
        if let Some(fetch) = self
            .fetches
            .get_mut(content)
            .filter(|_| want == Want::Demand)
        {
            fetch.overdue = false;
        }
        if want != Want::Demand {
            self.take_out(content, want);
        }
        self.call_up(content, want);
    }

    /// Parks a file that cannot request anything until a holder has room or a new holder appears.
    pub(super) fn park(&mut self, content: &ContentKey, want: Want) {
        self.take_out(content, want);
        let Some(fetch) = self.fetches.get(content) else {
            return;
        };
        let number = match want {
            Want::Demand => fetch.demand_number().unwrap_or(self.next_id),
            Want::Ahead | Want::Fill => self.next_turn,
        };
        self.next_turn += 1;
        for node in fetch.holders().keys() {
            if let Some(peer) = self.peers.get_mut(node) {
                peer.parked[want as usize].insert((number, *content));
            }
        }
        self.set_place(content, want, Place::Parked(number));
    }

    /// Removes a file from the queues of one work class.
    pub(super) fn take_out(&mut self, content: &ContentKey, want: Want) {
        let Some(fetch) = self.fetches.get(content) else {
            return;
        };
        match fetch.places[want as usize] {
            Place::Out => return,
            Place::Called(number) => drop(self.called[want as usize].remove(&(number, *content))),
            Place::Parked(number) => {
                for node in fetch.holders().keys() {
                    if let Some(peer) = self.peers.get_mut(node) {
                        peer.parked[want as usize].remove(&(number, *content));
                    }
                }
            }
        }
        self.set_place(content, want, Place::Out);
    }

    pub(super) fn take_out_all(&mut self, content: &ContentKey) {
        WANTS.iter().for_each(|want| self.take_out(content, *want));
    }

    fn set_place(&mut self, content: &ContentKey, want: Want, place: Place) {
        if let Some(fetch) = self.fetches.get_mut(content) {
            fetch.places[want as usize] = place;
        }
    }

    /// Wakes the files parked at a peer that may have room, in turn. The pass also covers demands
    /// that an earlier pass called up in vain.
    pub(super) fn wake(&mut self, node: NodeId) {
        let begun = Pass {
            next: [0; 3],
            until: self.next_turn,
        };
        let pass = self.awake.entry(node).or_insert(begun);
        pass.until = begun.until;
        pass.next[Want::Demand as usize] = 0;
        self.call_up_overdue(node);
    }

    /// Calls up one file that is parked at a peer with room. Returns false if there is none.
    pub(super) fn wake_one(&mut self) -> bool {
        while let Some((node, pass)) = self.awake.first_key_value().map(|(n, p)| (*n, *p)) {
            let first = WANTS
                .iter()
                .find_map(|want| self.parked_next(node, &pass, *want));
            let Some((want, number, content)) = first else {
                self.awake.remove(&node);
                continue;
            };
            if let Some(pass) = self.awake.get_mut(&node) {
                pass.next[want as usize] = number + 1;
            }
            self.call_up(&content, want);
            return true;
        }
        false
    }

    /// Returns the next file of one work class that is parked at a peer, if the peer has room for
    /// it.
    fn parked_next(
        &self,
        node: NodeId,
        pass: &Pass,
        want: Want,
    ) -> Option<(Want, u64, ContentKey)> {
        let peer = self.peers.get(&node)?;
        let lane = want.lane();
        if !peer.has_room(lane, peer.piece_bytes(lane)) {
            return None;
        }
        let from = (pass.next[want as usize], FIRST);
        let (number, content) = peer.parked[want as usize].range(from..).next()?;
        let in_time = want == Want::Demand || *number < pass.until;
        in_time.then_some((want, *number, *content))
    }
}
