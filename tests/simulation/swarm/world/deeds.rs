//! Actions and faults of the nodes of a swarm: they read, fill, die, return and pause.

use std::time::Duration;

use p2pfs_fetch::plan::{Failure, PeerNews, RangeRequest};
use p2pfs_types::extent::ByteRange;
use rand::RngExt;

use super::{Deed, Happening, SILENT_AFTER, WINDOW_BYTES, World, index_of, node_id};
use crate::swarm::node::{Fill, Reader};

impl World {
    pub(super) fn befall(&mut self, index: usize, deed: Deed, touched: &mut Vec<usize>) {
        let now = self.now;
        touched.push(index);
        let node = &mut self.nodes[index];
        match deed {
            Deed::Reads(content) => node.readers.push(Reader::sequential(content)),
            Deed::Copies(content) => {
                let first = node.readers.len();
                node.readers.extend(Reader::copying(content, first));
            }
            Deed::ReadsParts(content, parts) => {
                let parts = parts
                    .iter()
                    .map(|(start, end)| ByteRange::new(*start, *end));
                node.readers.push(Reader::new(content, parts.collect()));
            }
            Deed::Fills(content) => {
                node.fills.push(Fill {
                    content,
                    told: Default::default(),
                    outcome: None,
                });
                node.disk.pinned.insert(content);
                if node.session.is_some() {
                    node.begin_fill(now, node.fills.len() - 1);
                }
            }
            Deed::Cancels => {
                if !node.readers.is_empty() {
                    node.cancel_reader(0);
                }
            }
            Deed::Dies => self.die(index, false, touched),
            Deed::GoesOff => self.die(index, true, touched),
            Deed::Boots => self.boot(index, touched),
            Deed::Pauses(time) => {
                let rate = self.rates[index];
                self.links
                    .set_up(now, index, if time.is_zero() { rate } else { 0.0 });
                if !time.is_zero() {
                    self.later(time, index, Deed::Pauses(Duration::ZERO));
                }
            }
        }
    }

    /// Restarts a node. Its pinned files continue from the cache, and other nodes learn of its
    /// return.
    fn boot(&mut self, index: usize, touched: &mut Vec<usize>) {
        if self.nodes[index].session.is_some() {
            return;
        }
        let (seed, now) = (self.rng.random(), self.now);
        let node = &mut self.nodes[index];
        node.boot(node_id(index), seed, WINDOW_BYTES);
        for fill in 0..node.fills.len() {
            if node.fills[fill].outcome.is_none() {
                node.begin_fill(now, fill);
            }
        }
        for (other, node) in self.nodes.iter_mut().enumerate() {
            if other != index {
                node.tell(|session| {
                    session
                        .plan
                        .record_peer_news(node_id(index), PeerNews::Returned)
                });
                touched.push(other);
            }
        }
    }

    fn die(&mut self, index: usize, is_off: bool, touched: &mut Vec<usize>) {
        let node = &mut self.nodes[index];
        node.session = None;
        node.is_off = is_off;
        for reader in &mut node.readers {
            reader.is_gone |= reader.done_at.is_none();
        }
        self.links.cut(self.now, index);
        self.under_way.retain(|((asker, _), _), _| *asker != index);
        let of_it = |request: &RangeRequest| index_of(&request.node) == index;
        let asked = self.under_way.iter().filter(|(_, request)| of_it(request));
        let asked: Vec<_> = asked.map(|((asker, id), _)| (*asker, *id)).collect();
        for (asker, id) in asked {
            if is_off {
                self.at(self.now + SILENT_AFTER, Happening::Fails(asker, id, 0))
            } else {
                self.fail(asker, id, Failure::Unreachable)
            }
            touched.push(asker.0);
        }
    }
}
