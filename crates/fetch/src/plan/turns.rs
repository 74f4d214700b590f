//! Whose turn it is: the files that have something to ask, and those that wait until one of their
//! holders has room.
//!
//! A file stands in one of three queues for each kind of wish: called up, parked at all of its
//! holders, or nowhere. Room at a holder calls up the files that are parked there in turn, so what
//! happens at one peer costs no look at the files of others.
//!
//! What readers wait for stands in the order of its age, parked or not, so that one read is asked
//! for whole before the next is begun: parts of very many are more than what memory holds where the
//! cache has no room, and would push each other out of it again and again. But a file of which one
//! read was asked for counts as having come then: the kernel reads ahead by megabytes, and over a
//! slow link whoever wants a page of another file would wait until all of that is here. Who has
//! waited for long that way gets a part before the others.

use std::collections::BTreeSet;
use std::time::Instant;

use super::{Lane, OVERDUE_PATIENCE, Plan};
use p2pfs_types::digest::{ContentHash, ContentKey};
use p2pfs_types::id::NodeId;

/// What a file has to ask for, the most urgent first.
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

/// Where a file stands for one kind of wish, and its number there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Place {
    #[default]
    Out,
    Called(u64),
    Parked(u64),
}

/// The number of what is overdue, before all others.
pub(super) const OVERDUE: u64 = 0;
/// Before all others of its number.
const FIRST: ContentKey = ContentKey::new(ContentHash::new([0; 32]), 0);

/// Files in order, the lowest number first.
pub(super) type Line = BTreeSet<(u64, ContentKey)>;

/// How far the files that are parked at a peer were called up since it had room.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pass {
    /// The next number of each kind of wish.
    next: [u64; 3],
    /// Who was parked after it began waits for the next.
    until: u64,
}

impl Plan {
    /// The file may have something to ask: it is looked at before long.
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

    /// Where the first of its readers has waited for long without a byte, and is given up before
    /// long: something of it is asked for before what is older, so that it goes on as a reader of a
    /// slow holder does.
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

    /// A file that is overdue and parked at a peer that has room comes before all that ask.
    fn call_up_overdue(&mut self, node: NodeId) {
        let lane = Want::Demand.lane();
        let peer = self.peers.get(&node);
        let peer = peer.filter(|peer| peer.has_room(lane, peer.piece_bytes(lane)));
        let first = peer.and_then(|peer| peer.parked[Want::Demand as usize].first().copied());
        if let Some((OVERDUE, content)) = first {
            self.call_up(&content, Want::Demand);
        }
    }

    /// It has asked: the others come first now. Demands keep their order of age instead.
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

    /// Nothing can be asked for it until one of its holders has room, or it has other holders.
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

    /// It has nothing to ask.
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

    /// A peer may have room for more: all that is parked there by now is called up in turn, and of
    /// what readers wait for also what was called up already and could not be asked for then.
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

    /// Calls up one file that is parked at a peer that has room; false where there is none.
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

    /// The next file that is parked at a peer for one kind of wish, where the peer has room for it.
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
