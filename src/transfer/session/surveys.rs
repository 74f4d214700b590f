//! Questions to single nodes what they have of a content: one at a time for each of both, so that
//! who does not answer is not asked again and again.

use std::collections::btree_map::Entry;
use std::net::SocketAddr;
use std::time::Instant;

use super::{Owner, Session};
use crate::digest::{ContentHash, ContentKey};
use crate::extent::ByteRange;
use crate::id::NodeId;
use crate::transfer::plan::{Failure, Offer};
use crate::wire::native::tcp::Response;

impl<O: Owner> Session<O> {
    pub(super) fn survey(
        &mut self,
        now: Instant,
        node: NodeId,
        address: SocketAddr,
        hash: ContentHash,
    ) {
        if let Entry::Vacant(place) = self.surveyed.entry((node, hash)) {
            place.insert(now);
            self.actions.surveys.push((node, address, hash));
        }
    }

    /// A node that was asked for it says all that it has of a content, or does not.
    pub fn holdings(
        &mut self,
        now: Instant,
        (node, address): (NodeId, SocketAddr),
        hash: ContentHash,
        answer: Result<Response, Failure>,
    ) {
        let since = self.surveyed.remove(&(node, hash));
        let (ranges, size_bytes) = match answer {
            Ok(Response::Holdings { ranges, size_bytes }) => (ranges, size_bytes),
            Err(Failure::Unreachable) => {
                return self.plan.unreachable(now, node, since.unwrap_or(now));
            }
            Ok(_) | Err(_) => return,
        };
        let content = ContentKey::new(hash, size_bytes);
        let offer = Offer {
            node,
            content,
            all: ranges.contains(ByteRange::new(0, size_bytes)),
            ranges,
            load: 0,
        };
        self.hear_offer(now, &offer);
        self.plan.offer(now, &offer);
        self.note_address(&content, node, address);
    }
}
