//! Shares with readers: resolving the configured names, and applying the result.

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
    /// Sets the readers of a share of this node by names and keys; `None` means all nodes. Names
    /// are resolved again when the membership changes.
    pub fn set_readers(&mut self, now: Instant, share: ShareIndex, readers: Option<Vec<String>>) {
        self.readers.configured.insert(share, readers);
        self.follow_readers(now);
    }

    /// Applies the readers of all shares, as the configured names resolve now.
    pub(super) fn follow_readers(&mut self, now: Instant) {
        let mut has_changed = false;
        let mut all = OwnReaders::new();
        for (share, readers) in &self.readers.configured {
            let meant = readers.as_ref().map(|readers| {
                let nodes = readers.iter();
                let nodes = nodes.filter_map(|setting| member_meant(&self.trust.keyring, setting));
                nodes.collect::<BTreeSet<NodeId>>()
            });
            match self.catalogue.reader_lists().set(*share, meant.as_ref()) {
                Ok(is_news) => has_changed |= is_news,
                Err(_) => self.counters.refused_facts += 1,
            }
            all.extend(meant.map(|meant| (*share, meant)));
        }
        self.readers.meant = Arc::new(all);
        if has_changed {
            self.publish_soon(now);
        }
    }

    /// Returns the readers of each own share. The log may not contain the latest change yet.
    pub fn own_readers(&self) -> &Arc<OwnReaders> {
        &self.readers.meant
    }

    /// Records some of the entries whose readers changed and returns whether more are left.
    pub(super) fn restate(&mut self, now: Instant) -> bool {
        if !self.catalogue.own().is_restating() {
            return false;
        }
        let has_more = self.catalogue.reader_lists().restate();
        self.publish_soon(now);
        has_more
    }

    /// Schedules a head if cached contents became private or public. The next head no longer
    /// announces private ones, though this node still lists them itself, and announces the others
    /// again.
    pub(super) fn review_haves(&mut self, now: Instant) {
        if self.catalogue.own().has_haves_to_review() {
            self.publish_soon(now);
        }
    }

    /// Asks only the readers of private contents for them.
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
                // If it is gone, it is asked again next time.
                let _gone = self.cluster.send(now, node, body.clone());
            }
        }
    }
}
