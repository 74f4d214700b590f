//! Whose turn it is: the files that have something to ask, and those that wait until one of their
//! holders has room.
//!
//! A file stands in one of three queues for each kind of wish: called up, parked at all of its
//! holders, or nowhere. Room at a holder calls up the file that is parked there longest, so what
//! happens at one peer costs no look at the files of others.

use std::collections::BTreeSet;

use super::{Lane, PIECE_MAX_BYTES, Plan};
use crate::digest::ContentKey;
use crate::extent::PAGE_BYTES;
use crate::id::NodeId;

/// What a file has to ask for, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    Demand = 0,
    Ahead = 1,
    Fill = 2,
}

pub(super) const WANTS: [Want; 3] = [Want::Demand, Want::Ahead, Want::Fill];

impl Want {
    pub fn lane(self) -> Lane {
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

/// Files in order, the lowest number first.
pub(super) type Line = BTreeSet<(u64, ContentKey)>;

impl Plan {
    /// The file may have something to ask: it is looked at before long.
    pub(super) fn call_up(&mut self, content: &ContentKey, want: Want) {
        let Some(fetch) = self.fetches.get(content) else {
            return;
        };
        let number = match want {
            Want::Demand => fetch.hungry.first().map(|id| id.0),
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

    /// It has asked: the others come first now. Demands keep their order of age instead.
    pub(super) fn move_to_end(&mut self, content: &ContentKey, want: Want) {
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
        let number = self.next_turn;
        self.next_turn += 1;
        for node in fetch.holders.keys() {
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
                for node in fetch.holders.keys() {
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

    /// A peer may have room for more.
    pub(super) fn wake(&mut self, node: NodeId) {
        self.awake.insert(node);
    }

    /// Calls up one file that is parked at a peer that has room; false where there is none.
    pub(super) fn wake_one(&mut self) -> bool {
        while let Some(node) = self.awake.first().copied() {
            let first = self.peers.get(&node).and_then(|peer| {
                let waits = |want: &Want| {
                    let bytes = match want.lane() {
                        Lane::Urgent => PAGE_BYTES,
                        Lane::Bulk => peer.piece_bytes().min(PIECE_MAX_BYTES),
                    };
                    let roomy = peer.has_room(want.lane(), bytes);
                    let parked = peer.parked[*want as usize].first();
                    parked
                        .filter(|_| roomy)
                        .map(|(_, content)| (*want, *content))
                };
                WANTS.iter().find_map(waits)
            });
            match first {
                Some((want, content)) => {
                    self.call_up(&content, want);
                    return true;
                }
                None => drop(self.awake.remove(&node)),
            }
        }
        false
    }
}
