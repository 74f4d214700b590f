//! Claims of one member about others, and which of them this node believes.
//!
//! Any member may claim that another one does not answer, or is gone. Either claim makes a living
//! member at most a suspect. If other members call a member gone, the roster asks that member
//! itself, and declares it down soon if it does not answer.

use foca::{Incarnation, State};

use super::engine::Update;
use super::{Blame, Roster};
use crate::event::Offence;
use crate::identity::{MemberLife, is_beyond};
use p2pfs_proto::wire::native::udp::{Contact, Signature, SignedContact};
use p2pfs_types::id::NodeId;

/// Incarnation of a suspicion that a node can contradict only with its next life.
const LAST_INCARNATION: Incarnation = Incarnation::MAX;

/// The claims in one packet or one member list.
pub(super) struct Hearsay {
    /// All claims, as the teller made them.
    told: Vec<Update>,
    /// The claims about members, each reduced to the knowledge that its teller can have.
    pub(super) believed: Vec<Update>,
    /// The offence that a claim revealed.
    pub(super) blame: Blame,
}

impl Hearsay {
    /// Examines claims. Believes those about lives of members that their nodes signed, and
    /// remembers these lives. Skips lives that are over or come without a signature. If a life is
    /// forged, blames the teller, and does not examine the remaining claims. If a life is ahead of
    /// the clock, blames the node of that life.
    pub(super) fn examine(
        roster: &Roster,
        teller: NodeId,
        signed: &[(Update, Signature)],
        is_member: impl Fn(&NodeId) -> bool,
    ) -> Self {
        let (vouchers, me) = (&roster.vouchers, roster.engine.me());
        let mut hearsay = Self {
            told: signed.iter().map(|(update, _)| update.clone()).collect(),
            believed: Vec::new(),
            blame: None,
        };
        let of_members = signed
            .iter()
            .filter(|(update, _)| is_member(&update.id().0.node));
        for (update, signature) in of_members {
            let life = SignedContact {
                contact: update.id().0,
                signature: *signature,
            };
            // A later life makes claims about an earlier one of another node irrelevant.
            let is_other = life.contact.node != me.0.node;
            let is_over = is_other && vouchers.is_over(&life.contact);
            // A teller that has lost a signature sends zeros.
            if *signature == Signature::default() || is_over {
                continue;
            }
            match vouchers.check_life(&life) {
                Ok(()) => {
                    vouchers.remember(teller, life);
                    let known = roster.live.get(&life.contact.node);
                    hearsay.believed.extend(reduced(update, &me, known));
                }
                // Each forgery costs the verification of a signature.
                Err(what @ Offence::SpeaksForOthers) => {
                    hearsay.blame = Some((teller, what));
                    break;
                }
                Err(what @ Offence::AheadOfClock) => {
                    hearsay.blame = Some((life.contact.node, what));
                }
            }
        }
        hearsay
    }

    /// Returns whether every claim is believed as it was told.
    pub(super) fn is_all_believed(&self) -> bool {
        self.believed == self.told
    }

    /// Returns the latest believed life of the node of `me` that is beyond `me` ([`is_beyond`]).
    pub(super) fn later_self(&self, me: &Contact) -> Option<Contact> {
        let lives = self.believed.iter().map(|update| update.id().0);
        lives
            .filter(|life| life.node == me.node && is_beyond(life, me))
            .max_by_key(|life| life.generation)
    }

    /// Returns whether a claim about this node's present life `me` forces it into its next one.
    pub(super) fn forces_next_life(&self, me: &MemberLife) -> bool {
        let suspicions = self
            .believed
            .iter()
            .filter(|update| update.id() == me && update.state() == State::Suspect);
        suspicions
            .map(|update| update.incarnation())
            .any(|incarnation| incarnation == LAST_INCARNATION)
    }

    /// Drops the believed claims about a node.
    pub(super) fn drop_claims_about(&mut self, node: &NodeId) {
        self.believed.retain(|update| update.id().0.node != *node);
    }

    /// Removes the believed claims about nodes that are not members here, and returns them. Nodes
    /// for which `is_known` returns true are members.
    pub(super) fn take_candidates(&mut self, is_known: impl Fn(&NodeId) -> bool) -> Vec<Update> {
        let is_new = |update: &mut Update| !is_known(&update.id().0.node);
        self.believed.extract_if(.., is_new).collect()
    }

    /// Returns the lives that the teller calls over.
    pub(super) fn lives_called_over(&self) -> impl Iterator<Item = Contact> {
        let over = self.told.iter().filter(|it| it.state() == State::Down);
        over.map(|it| it.id().0)
    }

    /// Returns the nodes other than `me` that the teller calls gone.
    pub(super) fn called_gone(&self, me: NodeId) -> impl Iterator<Item = NodeId> {
        let gone = self.lives_called_over().map(|life| life.node);
        gone.filter(move |node| *node != me)
    }
}

/// Returns a claim reduced to the knowledge that its teller can have. A claim against this node's
/// present life `me` becomes a suspicion. The claim that another node is gone becomes a suspicion
/// if this node counts the other node as live, in that life or an earlier one (`known`). Otherwise
/// returns `None`: if such a claim were passed on, members would keep reminding each other of nodes
/// that are gone.
fn reduced(told: &Update, me: &MemberLife, known: Option<&Contact>) -> Option<Update> {
    let (life, incarnation) = (*told.id(), told.incarnation());
    let suspected = |incarnation| Update::new(life, incarnation, State::Suspect);
    if life == *me && told.state() != State::Alive {
        // After a suspicion of the last incarnation but one, a contradiction would need the last.
        // No higher one would be left to contradict a further suspicion, however old. So the
        // suspicion is raised to the last incarnation, which ends this life at once.
        return Some(suspected(if incarnation >= LAST_INCARNATION - 1 {
            LAST_INCARNATION
        } else {
            incarnation
        }));
    }
    if told.state() != State::Down || life.0.node == me.0.node {
        return Some(told.clone());
    }
    let lives = known.is_some_and(|known| known.generation <= life.0.generation);
    lives.then(|| suspected(incarnation))
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2pfs_types::id::Generation;

    fn life(n: u8, generation: u64) -> MemberLife {
        MemberLife(Contact {
            node: NodeId::new([n; 32]),
            address: ([10, 0, 0, n], 1378).into(),
            generation: Generation(generation),
        })
    }

    #[test]
    fn a_claimed_end_makes_a_living_node_a_suspect_and_is_nothing_about_another() {
        let me = life(1, 5);
        let down = Update::down(life(2, 7));
        let suspect = Some(Update::new(life(2, 7), 0, State::Suspect));
        for (known, believed) in [(7, suspect.clone()), (6, suspect), (8, None)] {
            let known = life(2, known).0;
            assert_eq!(reduced(&down, &me, Some(&known)), believed, "{known:?}");
        }
        assert_eq!(reduced(&down, &me, None), None);
        let alive = Update::alive(life(2, 7));
        assert_eq!(reduced(&alive, &me, None), Some(alive));
    }

    #[test]
    fn a_claim_against_this_life_is_a_suspicion_that_can_be_contradicted() {
        let me = life(1, 5);
        let last = LAST_INCARNATION;
        for (told, believed) in [(0, 0), (last - 2, last - 2), (last - 1, last), (last, last)] {
            for state in [State::Suspect, State::Down] {
                let claim = Update::new(me, told, state);
                let suspicion = Update::new(me, believed, State::Suspect);
                assert_eq!(reduced(&claim, &me, None), Some(suspicion));
            }
        }
        // An earlier life of this node may be over.
        let earlier = Update::down(life(1, 4));
        assert_eq!(reduced(&earlier, &me, None), Some(earlier));
    }
}
