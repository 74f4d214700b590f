//! Messages between the nodes of a swarm: requests, answers, offers, and introductions.

use std::time::Duration;

use bytes::Bytes;
use p2pfs_fetch::plan::{Failure, Offer, RangeRequest, RequestId};
use p2pfs_fetch::session::{Accepted, verify};
use p2pfs_proto::wire::native::tcp::Response;
use p2pfs_types::digest::{ContentHash, ContentKey};

use super::{Asker, Happening, SILENT_AFTER, World, address_of, index_of, line_of, node_id};
use crate::fluid::Arrival;
use crate::swarm::node::Manner;

impl World {
    /// Delivers a request to its node.
    pub(super) fn reach(&mut self, asker: Asker, id: RequestId) {
        let Some(request) = self.under_way.get(&(asker, id)).copied() else {
            return;
        };
        let server = index_of(&request.node);
        let node = &mut self.nodes[server];
        let is_silent = node.is_off || node.manner == Manner::Mute;
        if node.session.is_none() || is_silent {
            let after = if is_silent {
                SILENT_AFTER
            } else {
                Duration::ZERO
            };
            return self.at(self.now + after, Happening::Fails(asker, id, 0));
        }
        let hash = request.content.hash;
        node.askers.entry(hash).or_default().insert(asker.0);
        let lies = node.manner == Manner::Liar;
        if !lies && !node.disk.has(&request.content, request.range) {
            return self.at(self.now, Happening::Fails(asker, id, 1));
        }
        let line = line_of(asker.0, &request);
        self.links.send(self.now, line, id.0, request.range.len());
    }

    pub(super) fn fail(&mut self, asker: Asker, id: RequestId, failure: Failure) {
        if let Some(request) = self.under_way.remove(&(asker, id)) {
            let now = self.now;
            self.nodes[asker.0].tell(|session| session.failed(now, &request, failure));
        }
    }

    pub(super) fn arrive(&mut self, arrival: &Arrival<usize>) {
        let (server, index, _) = arrival.line;
        let (id, now) = (RequestId(arrival.id), self.now);
        let node = &mut self.nodes[index];
        node.received_bytes += arrival.bytes;
        node.tell(|session| {
            session
                .plan
                .arrived(now, node_id(server), id, arrival.bytes)
        });
        let asker = (index, node.life);
        if !arrival.whole {
            return;
        }
        let Some(request) = self.under_way.remove(&(asker, id)) else {
            return;
        };
        let lies = self.nodes[server].manner == Manner::Liar;
        let proof = self.proof(&request, lies);
        let node = &mut self.nodes[index];
        match verify(&request, proof) {
            Ok(verified) => {
                let accepted = node.tell(|session| session.accept(now, &request, &verified));
                if accepted == Some(Accepted::Store(())) {
                    node.store(now, request.content, verified.range);
                }
            }
            Err(failure) => {
                assert!(lies, "an honest answer was not believed");
                *node.lies.entry(request.node).or_default() += 1;
                node.tell(|session| session.failed(now, &request, failure));
            }
        }
    }

    fn proof(&mut self, request: &RangeRequest, lies: bool) -> Bytes {
        let (content, range) = (request.content, request.range);
        let library = &self.library;
        let true_size = library.get(&content.hash).size_bytes();
        if content.size_bytes != true_size {
            let proof = library
                .get(&content.hash)
                .prove_as(content.size_bytes, range);
            return proof.unwrap_or_else(|| vec![7; range.len() as usize].into());
        }
        let known = self.proofs.entry((content, range.start, range.end));
        let proof = known.or_insert_with(|| library.get(&content.hash).prove(range));
        if !lies {
            return proof.clone();
        }
        let mut wrong = proof.to_vec();
        let middle = wrong.len() / 2;
        wrong[middle] ^= 0x40;
        wrong.into()
    }

    pub(super) fn survey(&mut self, index: usize, of: usize, content: ContentKey) {
        let answer = if self.nodes[of].session.is_some() {
            Ok(Response::Holdings {
                ranges: self.nodes[of].disk.offered(&content),
                size_bytes: content.size_bytes,
            })
        } else {
            Err(Failure::Unreachable)
        };
        let (now, from) = (self.now, (node_id(of), address_of(of)));
        self.nodes[index].tell(|session| session.holdings(now, from, content.hash, answer));
    }

    /// Tells a node that another looks for a content. Unless it is mute, it sends an offer.
    pub(super) fn hear(&mut self, index: usize, from: usize, hash: ContentHash) {
        let (now, asker) = (self.now, (from, self.nodes[from].life));
        let node = &mut self.nodes[index];
        let heard = node.tell(|session| {
            session.add_fellow(now, &hash, node_id(from), address_of(from));
        });
        if heard.is_some() && node.manner != Manner::Mute {
            node.askers.entry(hash).or_default().insert(from);
            let delay = self.delay(index, from);
            self.at(now + delay, Happening::Offered(asker, index, hash));
        }
    }

    /// Tells a node the ranges of another, and which nodes asked that one for the content.
    pub(super) fn offer(&mut self, index: usize, of: usize, hash: ContentHash) {
        let now = self.now;
        let content = ContentKey::new(hash, self.library.get(&hash).size_bytes());
        let giver = &self.nodes[of];
        let ranges = giver.disk.offered(&content);
        let askers = giver.askers.get(&hash).cloned().unwrap_or_default();
        let all = giver.disk.is_complete(&content);
        let is_running = giver.session.is_some();
        let node = &mut self.nodes[index];
        for asker in askers.into_iter().filter(|asker| *asker != index) {
            node.tell(|s| s.add_fellow(now, &hash, node_id(asker), address_of(asker)));
        }
        if is_running && (all || !ranges.is_empty()) {
            let offer = Offer {
                node: node_id(of),
                content,
                all,
                ranges,
                load: 0,
            };
            node.tell(|session| session.record_offer(now, &offer, address_of(of)));
        }
    }
}
