//! Shares that are for some nodes alone: whom the written names mean, and what follows from that.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::Machine;
use crate::names::member_meant;
use crate::published::OwnReaders;
use p2pfs_proto::wire::native::record::ShareIndex;
use p2pfs_proto::wire::native::udp::Message;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::NodeId;

impl Machine {
    /// Says who reads a share of this node from now on: those whom these names and keys mean, and
    /// who that is follows the membership; or all.
    pub fn set_readers(&mut self, now: Instant, share: ShareIndex, readers: Option<Vec<String>>) {
        self.readers.insert(share, readers);
        self.follow_readers(now);
    }

    /// Holds to who reads what, as the names and the membership are now.
    pub(super) fn follow_readers(&mut self, now: Instant) {
        let mut has_changed = false;
        let mut all = OwnReaders::new();
        for (share, readers) in &self.readers {
            let meant = readers.as_ref().map(|readers| {
                let nodes = readers.iter();
                let nodes = nodes.filter_map(|setting| member_meant(&self.keyring, setting));
                nodes.collect::<BTreeSet<NodeId>>()
            });
            match self.catalogue.set_readers(*share, meant.as_ref()) {
                Ok(is_news) => has_changed |= is_news,
                Err(_) => self.counters.refused_facts += 1,
            }
            all.extend(meant.map(|meant| (*share, meant)));
        }
        self.readers_meant = Arc::new(all);
        if has_changed {
            self.publish_soon(now);
        }
    }

    /// Who reads which of the own shares, which the log may not say yet.
    pub fn own_readers(&self) -> &Arc<OwnReaders> {
        &self.readers_meant
    }

    /// Says some of what other nodes read from now on; whether there is more.
    pub(super) fn restate(&mut self, now: Instant) -> bool {
        if !self.catalogue.is_restating() {
            return false;
        }
        let has_more = self.catalogue.restate();
        self.publish_soon(now);
        has_more
    }

    /// What is cached here and private since is said no more with the next head, though this node
    /// itself goes on to list it; what is private no more is said.
    pub(super) fn review_haves(&mut self, now: Instant) {
        if self.catalogue.has_haves_to_review() {
            self.publish_soon(now);
        }
    }

    /// Asks those who read private contents for them, and nobody else.
    pub(super) fn ask_readers(&mut self, now: Instant, hashes: &[ContentHash]) {
        for hash in hashes {
            let question = Message::Get {
                hashes: vec![*hash],
            };
            let Ok(body) = question.encode().map(Bytes::from) else {
                continue;
            };
            let readers = self.catalogue.readers_of(hash).into_iter();
            for node in readers.filter(|node| *node != self.me) {
                // one that is not there is asked again with the next
                let _gone = self.cluster.send(now, node, body.clone());
            }
        }
    }
}
