//! The own log: the facts that are queued for it, the schedule of its heads, and the readers of the
//! own shares. [`OwnLogAccess`] changes it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use super::events::{MachineEvents, NodeEvent};
use super::{PUBLISH_AFTER, PUBLISH_SPACING, UNSAID_MAX};
use crate::names::member_meant;
use p2pfs_catalogue::{Catalogue, CatalogueError};
use p2pfs_content::OwnReaders;
use p2pfs_proto::trust::{NodeKey, TrustView};
use p2pfs_proto::wire::native::record::{
    Entry, Fact, KeepOffer, ShareIndex, SignedHead, Timestamp,
};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::NodeId;
use p2pfs_types::path::SharedPath;

/// The state of the own log outside the catalogue.
pub(super) struct OwnLog {
    /// When to sign the next head.
    pub(super) due: Option<Instant>,
    not_before: Option<Instant>,
    /// Own facts that are not in the log yet. They are recorded together with the next head,
    /// because other nodes cannot pull a log that has more records than its head states.
    pub(super) unsaid: Vec<Fact>,
    /// The newest head, if it was signed before it is due, and is not spread yet.
    unspread: Option<SignedHead>,
    /// The readers of each own share, as configured.
    configured: BTreeMap<ShareIndex, Option<Vec<String>>>,
    readers: Arc<OwnReaders>,
}

impl OwnLog {
    /// Returns the state of a log whose first head is due at once.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            due: Some(now),
            not_before: None,
            unsaid: Vec::new(),
            unspread: None,
            configured: BTreeMap::new(),
            readers: Arc::default(),
        }
    }
}

/// Access to the own log and the parts of the machine that its changes concern.
/// [`Machine::own`](super::Machine::own) returns it.
pub struct OwnLogAccess<'a> {
    pub(super) log: &'a mut OwnLog,
    pub(super) catalogue: &'a mut Catalogue,
    pub(super) key: &'a NodeKey,
    pub(super) trust: &'a TrustView,
    pub(super) events: &'a mut MachineEvents,
}

impl OwnLogAccess<'_> {
    /// Records the current entry of a name in the own shares.
    pub fn put(&mut self, now: Instant, share: ShareIndex, path: SharedPath, entry: Entry) {
        self.queue(now, Fact::Entry { share, path, entry });
    }

    /// Records that a name in the own shares is gone.
    pub fn remove(&mut self, now: Instant, share: ShareIndex, path: &SharedPath) {
        let path = path.clone();
        self.queue(now, Fact::Removed { share, path });
    }

    /// Records whether the replacements and deletions of other nodes count in a share of this node.
    pub fn terms(&mut self, now: Instant, share: ShareIndex, open: bool) {
        self.queue(now, Fact::Terms { share, open });
    }

    /// Records the offer of this node to keep files.
    pub fn keeps(&mut self, now: Instant, offer: KeepOffer) {
        self.queue(now, Fact::Keeps(offer));
    }

    /// Records that versions of a path with these contents are deleted, in addition to those of an
    /// earlier deletion of this node. `time` is the time of the wall clock. Returns whether the
    /// namespace may have changed.
    ///
    /// # Errors
    /// Those of [`OwnLog::delete`](p2pfs_catalogue::OwnLog::delete). Then nothing was recorded.
    pub fn gone(
        &mut self,
        now: Instant,
        time: Timestamp,
        path: &SharedPath,
        replaces: Vec<ContentHash>,
    ) -> Result<bool, CatalogueError> {
        self.record();
        let mut own = self.catalogue.own_mut();
        let is_changed = own.delete(path, replaces, time)?;
        if is_changed {
            // A program may delete many files one after the other. Without a new head, no other node
            // could pull the log in the meantime.
            self.sign_current();
            self.publish_soon(now);
        }
        Ok(is_changed)
    }

    /// Withdraws the deletion of versions of a path with these contents by this node. Returns
    /// whether the namespace may have changed.
    ///
    /// # Errors
    /// Those of [`OwnLog::delete`](p2pfs_catalogue::OwnLog::delete). Then nothing was recorded.
    pub fn withdraw_deletion(
        &mut self,
        now: Instant,
        path: &SharedPath,
        contents: &[ContentHash],
    ) -> Result<bool, CatalogueError> {
        self.record();
        let is_changed = self.catalogue.own_mut().withdraw_deletion(path, contents)?;
        if is_changed {
            self.publish_soon(now);
        }
        Ok(is_changed)
    }

    /// Records that the cache has this complete content, or no longer has it if `size_bytes` is
    /// `None`.
    pub fn set_have(&mut self, now: Instant, hash: ContentHash, size_bytes: Option<u64>) {
        self.queue(
            now,
            match size_bytes {
                Some(size_bytes) => Fact::Have { hash, size_bytes },
                None => Fact::HaveNot { hash },
            },
        );
    }

    /// Makes the announcements of cached contents in the own log match the cache. `complete` has
    /// all complete contents of the cache with their sizes.
    pub fn align_haves(&mut self, now: Instant, complete: &[(ContentHash, u64)]) {
        self.record();
        let held: BTreeMap<ContentHash, u64> = complete.iter().copied().collect();
        let said: Vec<ContentHash> = self.catalogue.own().haves().map(|(hash, _)| hash).collect();
        for hash in said.iter().filter(|hash| !held.contains_key(hash)) {
            self.set_have(now, *hash, None);
        }
        for (hash, size_bytes) in complete {
            self.set_have(now, *hash, Some(*size_bytes));
        }
    }

    /// Sets the readers of a share of this node. `readers` has names and keys of nodes, and `None`
    /// means all nodes. Names are resolved again when the membership changes. The list applies to
    /// no entry whose removal was queued before.
    pub fn set_readers(&mut self, now: Instant, share: ShareIndex, readers: Option<Vec<String>>) {
        self.record();
        self.log.configured.insert(share, readers);
        self.follow_readers(now);
    }

    /// Returns the readers of each own share. The log may not contain the latest change yet.
    pub fn readers(&self) -> &Arc<OwnReaders> {
        &self.log.readers
    }

    /// Queues an own fact, to be recorded with the next head.
    pub(super) fn queue(&mut self, now: Instant, fact: Fact) {
        self.log.unsaid.push(fact);
        if self.log.unsaid.len() >= UNSAID_MAX {
            self.record();
        }
        self.publish_soon(now);
    }

    /// Records all queued facts in the log. The next head publishes them.
    pub fn record(&mut self) {
        for fact in std::mem::take(&mut self.log.unsaid) {
            let mut own = self.catalogue.own_mut();
            match fact {
                Fact::Entry { share, path, entry } => {
                    if own.put(share, &path, entry).is_err() {
                        self.count_refused_name();
                    }
                }
                Fact::Removed { share, path } => {
                    own.remove(share, &path);
                }
                Fact::Have { hash, size_bytes } => {
                    let is_refused = own.have(hash, size_bytes).is_err();
                    self.events.counters.refused_haves += u64::from(is_refused);
                }
                Fact::HaveNot { hash } => {
                    own.have_not(hash);
                }
                Fact::Terms { share, open } => {
                    if own.set_open(share, open).is_err() {
                        self.count_refused_name();
                    }
                }
                Fact::Keeps(offer) => {
                    if own.set_keep_offer(offer).is_err() {
                        self.count_refused_name();
                    }
                }
                // Only the catalogue makes reader lists and sealed entries, and deletions are not
                // queued.
                Fact::Readers { .. }
                | Fact::Sealed { .. }
                | Fact::SealedRemoved { .. }
                | Fact::Gone { .. } => {}
            }
        }
        // Cached contents for which the log has no room are not announced.
        let _full = self.catalogue.own_mut().review_haves();
    }

    /// Counts a name that the log has no room for, and reports the first.
    fn count_refused_name(&mut self) {
        self.events.counters.refused_names += 1;
        if self.events.counters.refused_names == 1 {
            self.events.push(NodeEvent::NamesRefused);
        }
    }

    /// Schedules a head for changed own facts.
    pub(super) fn publish_soon(&mut self, now: Instant) {
        let soonest = now + PUBLISH_AFTER;
        let due = self
            .log
            .not_before
            .map_or(soonest, |after| after.max(soonest));
        self.log.due.get_or_insert(due);
    }

    /// Records the queued facts and signs the log. Returns the head, or `None` if it was returned
    /// before.
    pub(super) fn sign(&mut self, now: Instant) -> Option<SignedHead> {
        self.log.due = None;
        self.record();
        if self.catalogue.own().needs_signature() {
            self.sign_current();
        }
        let signed = self.log.unspread.take()?;
        self.log.not_before = Some(now + PUBLISH_SPACING);
        Some(signed)
    }

    /// Signs the current head. [`Self::sign`] returns it when it is due.
    fn sign_current(&mut self) {
        let head = self.catalogue.own().head();
        let signature = self.key.sign(&head.signed_bytes());
        let signed = SignedHead { head, signature };
        self.catalogue.own_mut().sign(signed.clone());
        self.log.unspread = Some(signed);
    }

    /// Resolves the configured readers of all shares to members, and applies the result.
    pub(super) fn follow_readers(&mut self, now: Instant) {
        let mut has_changed = false;
        let mut all = OwnReaders::new();
        for (share, readers) in &self.log.configured {
            let meant = readers.as_ref().map(|readers| {
                let nodes = readers.iter();
                let nodes = nodes.filter_map(|setting| member_meant(self.trust, setting));
                nodes.collect::<BTreeSet<NodeId>>()
            });
            match self.catalogue.reader_lists().set(*share, meant.as_ref()) {
                Ok(is_news) => has_changed |= is_news,
                Err(_) => self.events.counters.refused_lists += 1,
            }
            all.extend(meant.map(|meant| (*share, meant)));
        }
        self.log.readers = Arc::new(all);
        if has_changed {
            self.publish_soon(now);
        }
    }

    /// Records again some of the entries whose readers changed. Returns whether more are left.
    pub(super) fn restate(&mut self, now: Instant) -> bool {
        if !self.catalogue.own().is_restating() {
            return false;
        }
        let has_more = self.catalogue.reader_lists().restate();
        self.publish_soon(now);
        has_more
    }

    /// Schedules a head if cached contents became private or public. With that head, this node
    /// withdraws the announcements of the private contents and announces the public ones again.
    pub(super) fn review_haves(&mut self, now: Instant) {
        if self.catalogue.own().has_haves_to_review() {
            self.publish_soon(now);
        }
    }

    pub(super) fn recover(&mut self, now: Instant, epoch_heard: u64) {
        self.catalogue.own_mut().recover(epoch_heard);
        self.publish_soon(now);
    }
}
