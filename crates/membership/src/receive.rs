//! Handling of frames that arrive over proven links.

use super::copies::Spoken;
use super::event::Offence;
use super::identity::is_beyond;
use super::*;
use links::{Arrival, Introduction};
use p2pfs_proto::wire::native::udp::{Contact, SignedContact};
use roster::PacketRefusal;

impl Cluster {
    pub(super) fn receive(&mut self, now: Instant, arrival: Arrival) {
        match arrival {
            Arrival::Proven(it) => {
                let spoken = Spoken {
                    salt: it.salt,
                    address: it.address,
                    challenged: Some(it.challenged),
                };
                self.record_speaker(now, it.who.node, spoken);
                self.handle_introduction(now, it);
            }
            Arrival::Frame {
                from,
                salt,
                address,
                frame,
            } => {
                if !self.admission.offenders.is_heard(now, &from.node) {
                    self.links.counters.excess.flooding += 1;
                    return;
                }
                let farewell = farewell_of(&frame, &from.node);
                match farewell {
                    Some(_) => self.speaker_left(now, from.node, salt),
                    None => {
                        let spoken = Spoken {
                            salt,
                            address,
                            challenged: None,
                        };
                        self.record_speaker(now, from.node, spoken);
                    }
                }
                if from.node != self.links.me().node {
                    self.roster.record_arrival(now, from.node);
                    self.handle_frame(now, from, address, frame);
                    self.review_route(&from.node);
                } else if let Some(farewell) = farewell {
                    // Other frames of another process with this node's key are ignored.
                    self.handle_rumor(now, from.node, farewell);
                }
            }
        }
    }

    /// Changes the address at which others reach this node.
    pub fn move_to(&mut self, now: Instant, address: SocketAddr) {
        if self.absences.leaving.is_none() && self.links.me().address != address {
            self.roster.move_to(now, address);
            self.settle(now);
            // This node is probably in another network now, in which seeds may be reachable at
            // once.
            self.seeds.start_over(now);
        }
    }

    fn handle_introduction(&mut self, now: Instant, peer: Introduction) {
        let me = self.links.me();
        if peer.who.node == me.node || self.absences.leaving.is_some() {
            return;
        }
        if me.address.ip().is_unspecified() && !peer.reached.ip().is_unspecified() {
            let port = me.address.port();
            let address = SocketAddr::new(canonical(peer.reached).ip(), port);
            self.roster.move_to(now, address);
        }
        if let Some(known) = &peer.known {
            self.outlive(now, peer.who.node, known);
        }
        if let Some(round_trip) = peer.round_trip {
            self.roster.record_round_trip(peer.who.node, round_trip);
        }
        if peer.greeted && self.roster.live().get(&peer.who.node) != Some(&peer.who) {
            self.roster.announce(now, peer.who);
        }
        self.reach.record_own(&me, peer.reached);
        self.meet_elsewhere(now, &peer);
        self.review_route(&peer.who.node);
    }

    fn handle_frame(&mut self, now: Instant, from: Contact, address: SocketAddr, frame: Frame) {
        match frame {
            Frame::Message(body) => {
                if self.links.take_message(address, now) {
                    self.push_bounded(Event::Message {
                        from: from.node,
                        body,
                    });
                }
            }
            Frame::Swim(_) | Frame::Outlived { .. } | Frame::Rumors(_)
                if self.absences.leaving.is_some() => {}
            Frame::Life(life) if life.contact.node == from.node => {
                match self.admission.vouchers.check_life(&life) {
                    Ok(()) => {
                        self.admission.vouchers.remember(life);
                        self.links.renew(address, life.contact);
                    }
                    Err(what) => self.record_offence(now, from.node, what),
                }
            }
            Frame::Unintroduced => {
                let life = self.admission.vouchers.sign(self.links.me());
                self.links.send(now, address, Frame::Life(life));
            }
            Frame::Swim(packet) => self.handle_swim(now, from, address, &packet),
            Frame::Outlived { known } => {
                self.roster.refused_by(now, &from.node);
                if self.outlive(now, from.node, &known) {
                    self.roster.announce(now, from);
                }
            }
            Frame::Rumors(rumors) => {
                if self.links.take_message(address, now) {
                    for rumor in rumors {
                        if self.admission.offenders.is_heard(now, &from.node) {
                            self.handle_rumor(now, from.node, rumor);
                        }
                    }
                }
            }
            // The links have handled these frames. The life of another node than the sender is
            // ignored.
            Frame::Hello { .. }
            | Frame::HelloReply { .. }
            | Frame::Challenge { .. }
            | Frame::Life(_)
            | Frame::Nothing => {}
        }
    }

    fn handle_swim(&mut self, now: Instant, from: Contact, address: SocketAddr, packet: &[u8]) {
        let counters = &mut self.links.counters;
        let keyring = &self.admission.keyring;
        let is_member = |node: &NodeId| keyring.is_member(node);
        let (roster, from_node) = (&mut self.roster, from.node);
        match roster.handle_packet(now, from_node, packet, is_member, counters) {
            Ok(None) => {}
            Ok(Some((who, what))) => self.record_offence(now, who, what),
            Err(PacketRefusal::Outlived(known)) => {
                self.links
                    .send(now, address, Frame::Outlived { known: *known });
            }
            Err(PacketRefusal::Unintroduced) => self.links.send(now, address, Frame::Unintroduced),
        }
    }

    fn handle_rumor(&mut self, now: Instant, from: NodeId, rumor: Rumor) {
        match rumor {
            Rumor::Head(head) => {
                if self.admission.keyring.is_member(&head.author)
                    && self.spreading.rumors.is_news(&head)
                {
                    self.push_bounded(Event::Head(head));
                }
            }
            Rumor::Statement(bytes) => {
                if self.spreading.rumors.is_unheard_statement(&bytes) {
                    self.push_bounded(Event::Statement { from, bytes });
                }
            }
            // A farewell that changes nothing is not worth the verification of a signature.
            Rumor::Departure(departure) if !self.is_news_of(&departure) => {}
            Rumor::Departure(departure) => {
                if Vouchers::is_departure(&departure) {
                    self.handle_departure(now, departure)
                } else {
                    self.record_offence(now, from, Offence::SpeaksForOthers)
                }
            }
        }
    }

    /// Counts an offence. Reports each pair of member and kind once.
    fn record_offence(&mut self, now: Instant, who: NodeId, what: Offence) {
        self.links.counters.count(what.into());
        if self.admission.offenders.record(now, who, what) {
            self.push_bounded(Event::Offended { node: who, what });
        }
    }

    /// Continues with the generation after `known`, a life of this node that `teller` reported.
    /// Returns false if `known` is not beyond the present life, if its signature or generation is
    /// refused, or if this node was renewed too often recently.
    pub(super) fn outlive(&mut self, now: Instant, teller: NodeId, known: &SignedContact) -> bool {
        let (me, heard) = (self.links.me(), known.contact);
        if heard.node != me.node || !is_beyond(&heard, &me) {
            return false;
        }
        if let Err(what) = self.admission.vouchers.check_life(known) {
            if what == Offence::SpeaksForOthers {
                self.record_offence(now, teller, what);
            }
            return false;
        }
        let contradicts = self.contradict(now, heard.generation);
        self.record_later_life(now, &heard, contradicts);
        contradicts
    }

    /// Continues with the generation after `known`. Returns false if this node was renewed too
    /// often recently.
    pub(super) fn contradict(&mut self, now: Instant, known: Generation) -> bool {
        if !self.roster.take_renewal(now) {
            self.links.counters.excess.too_many_renewals += 1;
            return false;
        }
        self.roster.outlive(now, known);
        true
    }
}

/// Returns the node's own farewell in a frame, if there is one.
fn farewell_of(frame: &Frame, from: &NodeId) -> Option<Rumor> {
    let Frame::Rumors(rumors) = frame else {
        return None;
    };
    let mut rumors = rumors.iter();
    let own = rumors.find(|it| matches!(it, Rumor::Departure(it) if it.who.node == *from));
    own.cloned()
}
