//! What arrives over proven links, and what follows from it.

use super::*;
use crate::wire::native::udp::Contact;
use links::{Arrival, Introduction};

impl Cluster {
    pub(super) fn receive(&mut self, now: Instant, arrival: Arrival) {
        match arrival {
            Arrival::Proven(introduction) => self.meet(now, introduction),
            // another process with our key says nothing that counts
            Arrival::Frame { from, .. } if from.node == self.links.me().node => {}
            Arrival::Frame {
                from,
                address,
                frame,
            } => self.hear(now, from, address, frame),
        }
    }

    fn meet(&mut self, now: Instant, peer: Introduction) {
        let me = self.links.me();
        if peer.who.node == me.node {
            if self.copied_key_reports.take(1, now) {
                self.events.push_back(Event::CopiedKey {
                    address: peer.address,
                });
            }
            return;
        }
        if self.leaving.is_some() {
            return;
        }
        if me.address.ip().is_unspecified() && !peer.reached.ip().is_unspecified() {
            let port = me.address.port();
            let address = SocketAddr::new(links::canonical(peer.reached).ip(), port);
            self.roster.move_to(now, address);
        }
        if let Some(known) = peer.known {
            self.outlive(now, known);
        }
        if let Some(round_trip) = peer.round_trip {
            self.roster.measured(peer.who.node, round_trip);
        }
        if peer.greeted && self.roster.live().get(&peer.who.node) != Some(&peer.who) {
            self.roster.announce(now, peer.who);
        }
    }

    fn hear(&mut self, now: Instant, from: Contact, address: SocketAddr, frame: Frame) {
        match frame {
            Frame::Message(body) => {
                if self.links.take_message(address, now) {
                    self.tell(Event::Message {
                        from: from.node,
                        body,
                    });
                }
            }
            Frame::Swim(_) | Frame::Outlived { .. } | Frame::Rumors(_)
                if self.leaving.is_some() => {}
            Frame::Swim(packet) => self.hear_swim(now, from, address, &packet),
            Frame::Outlived { generation } => {
                if self.outlive(now, generation) {
                    self.roster.announce(now, from);
                }
            }
            Frame::Rumors(rumors) => {
                if self.links.take_message(address, now) {
                    rumors
                        .into_iter()
                        .for_each(|rumor| self.hear_rumor(now, rumor));
                }
            }
            // the links have dealt with these
            Frame::Hello { .. }
            | Frame::HelloReply { .. }
            | Frame::Challenge { .. }
            | Frame::Nothing => {}
        }
    }

    fn hear_swim(&mut self, now: Instant, from: Contact, address: SocketAddr, packet: &[u8]) {
        let counters = &mut self.links.counters;
        if let Err(generation) = self.roster.handle_packet(now, from.node, packet, counters) {
            self.links
                .send(now, address, Frame::Outlived { generation });
        }
    }

    fn hear_rumor(&mut self, now: Instant, rumor: Rumor) {
        match rumor {
            Rumor::Head {
                author,
                rank,
                bytes,
            } => {
                if self.rumors.is_news(author, rank, &bytes) {
                    self.tell(Event::Head {
                        author,
                        rank,
                        bytes,
                    });
                }
            }
            Rumor::Departure { who, how } => self.hear_departure(now, who, how),
        }
    }

    /// Goes on after a later life of this node that someone knows; false where there is none, or
    /// where it happened too often lately.
    pub(super) fn outlive(&mut self, now: Instant, known: Generation) -> bool {
        if known <= self.links.me().generation {
            return false;
        }
        self.contradict(now, known)
    }

    /// Goes on after `known`; false where that happened too often lately.
    pub(super) fn contradict(&mut self, now: Instant, known: Generation) -> bool {
        if !self.roster.take_renewal(now) {
            self.links.counters.too_many_renewals += 1;
            return false;
        }
        self.roster.outlive(now, known);
        true
    }
}
