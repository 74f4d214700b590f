//! Heads: signing the own one, verifying those of others, and the effects of a newer one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::{Machine, NodeEvent, PUBLISH_AFTER, PUBLISH_SPACING, UNSAID_MAX};
use crate::offence::Offence;
use crate::published::MemberReport;
use crate::pulls::LogPosition;
use p2pfs_catalogue::{CatalogueError, HeadOutcome, Pull};
use p2pfs_membership::MemberStatus;
use p2pfs_proto::trust;
use p2pfs_proto::wire::native::record::{Fact, SignedHead};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::NodeId;

/// Returns the heads of `ours` that are newer than in `theirs` or missing there.
pub(super) fn newer_than(ours: Vec<SignedHead>, theirs: &[SignedHead]) -> Vec<SignedHead> {
    let known: BTreeMap<NodeId, (u64, u64)> = theirs
        .iter()
        .map(|signed| (signed.head.author, signed.head.rank()))
        .collect();
    let is_news = |signed: &SignedHead| {
        known
            .get(&signed.head.author)
            .is_none_or(|at| *at < signed.head.rank())
    };
    ours.into_iter().filter(is_news).collect()
}

impl Machine {
    /// Records that the cache has this complete content, or no longer has it if `size_bytes` is
    /// `None`.
    pub fn set_have(&mut self, now: Instant, hash: ContentHash, size_bytes: Option<u64>) {
        self.queue_own_fact(
            now,
            match size_bytes {
                Some(size_bytes) => Fact::Have { hash, size_bytes },
                None => Fact::HaveNot { hash },
            },
        );
    }

    /// Aligns the own log with the complete contents of the cache, after a start or lost cache
    /// events.
    pub fn align_haves(&mut self, now: Instant, complete: &[(ContentHash, u64)]) {
        self.record_own();
        let held: BTreeMap<ContentHash, u64> = complete.iter().copied().collect();
        let said: Vec<ContentHash> = self.catalogue.own().haves().map(|(hash, _)| hash).collect();
        for hash in said.iter().filter(|hash| !held.contains_key(hash)) {
            self.set_have(now, *hash, None);
        }
        for (hash, size_bytes) in complete {
            self.set_have(now, *hash, Some(*size_bytes));
        }
    }

    /// Queues an own fact, to be recorded with the next head.
    pub(super) fn queue_own_fact(&mut self, now: Instant, fact: Fact) {
        self.heads.unsaid.push(fact);
        if self.heads.unsaid.len() >= UNSAID_MAX {
            self.record_own();
        }
        self.publish_soon(now);
    }

    /// Records all queued facts in the log.
    pub(super) fn record_own(&mut self) {
        for fact in std::mem::take(&mut self.heads.unsaid) {
            let mut own = self.catalogue.own_mut();
            let recorded = match fact {
                Fact::Entry { share, path, entry } => own.put(share, &path, entry),
                Fact::Removed { share, path } => Ok(own.remove(share, &path)),
                Fact::Have { hash, size_bytes } => own.have(hash, size_bytes),
                Fact::HaveNot { hash } => Ok(own.have_not(hash)),
                // Only the catalogue makes sealed entries.
                Fact::Readers { .. } | Fact::Sealed { .. } | Fact::SealedRemoved { .. } => {
                    Ok(false)
                }
            };
            if recorded.is_err() {
                self.counters.refused_facts += 1;
                if self.counters.refused_facts == 1 {
                    self.push_event(NodeEvent::NamesRefused);
                }
            }
        }
        // Haves that found no room in the log are announced after the next start.
        let _full = self.catalogue.own_mut().review_haves();
    }

    /// Schedules a head for changed own facts.
    pub(super) fn publish_soon(&mut self, now: Instant) {
        let soonest = now + PUBLISH_AFTER;
        let due = self
            .heads
            .publish
            .not_before
            .map_or(soonest, |after| after.max(soonest));
        self.heads.publish.due.get_or_insert(due);
    }

    /// Records the queued facts, signs the log and spreads its head. Nothing is sent if nothing
    /// changed.
    pub(super) fn publish_head(&mut self, now: Instant) {
        self.heads.publish.due = None;
        self.record_own();
        if !self.catalogue.own().needs_signature() {
            return;
        }
        self.heads.publish.not_before = Some(now + PUBLISH_SPACING);
        let head = self.catalogue.own().head();
        let signature = self.trust.key.sign(&head.signed_bytes());
        let signed = SignedHead { head, signature };
        self.catalogue.own_mut().sign(signed.clone());
        self.spread(now, &signed);
    }

    fn spread(&mut self, now: Instant, signed: &SignedHead) {
        let bytes = postcard::to_stdvec(signed).expect("a head always encodes");
        // A head that the cluster already has is not spread again. No head is too long, which a
        // test of its own ensures.
        let _held =
            self.cluster
                .set_head(now, signed.head.author, signed.head.rank(), bytes.into());
    }

    pub(super) fn handle_head_bytes(&mut self, now: Instant, bytes: &[u8]) {
        match postcard::from_bytes::<SignedHead>(bytes) {
            Ok(signed) => {
                self.handle_head(now, &signed, None);
            }
            Err(_) => self.counters.bad_heads += 1,
        }
    }

    /// Handles a list of heads, at most one of each author. It stops at the first forged head,
    /// because each costs the check of a signature.
    pub(super) fn receive_heads(&mut self, now: Instant, from: NodeId, heads: &[SignedHead]) {
        let mut authors = BTreeSet::new();
        let first = |signed: &&SignedHead| authors.insert(signed.head.author);
        let mut heads = heads.iter().filter(first);
        let _forged = heads.find(|signed| !self.handle_head(now, signed, Some(from)));
    }

    /// Handles a head from any source. Returns false if it is forged, that is, if its author's
    /// signature is invalid.
    pub(super) fn handle_head(
        &mut self,
        now: Instant,
        signed: &SignedHead,
        from: Option<NodeId>,
    ) -> bool {
        let author = signed.head.author;
        if author != self.me && !self.trust.keyring.is_member(&author) {
            self.counters.refused_heads += 1;
            return true;
        }
        match self.catalogue.logs().head_of(&author) {
            Some(held) if held == signed => {
                self.spread(now, signed);
                return true;
            }
            // Genuine or not, it is not newer.
            Some(held) if held.head.rank() > signed.head.rank() => return true,
            _ => {}
        }
        if !trust::verify(&author, &signed.head.signed_bytes(), &signed.signature) {
            self.counters.bad_heads += 1;
            if let Some(from) = from {
                self.report_offence(from, Offence::SpeaksForOthers);
            }
            return false;
        }
        self.apply_head(now, signed, from);
        true
    }

    /// Applies a head that its author signed.
    fn apply_head(&mut self, now: Instant, signed: &SignedHead, from: Option<NodeId>) {
        let author = signed.head.author;
        match self.catalogue.handle_head(signed) {
            HeadOutcome::Known => {}
            HeadOutcome::Pull(pull) => self.want_log(now, pull, from),
            HeadOutcome::CopiedKey { author } => {
                if author == self.me {
                    self.handle_other_own_log(now, signed.head.epoch);
                }
                return;
            }
            HeadOutcome::OwnStateLost { epoch } => {
                self.recover(now, epoch);
                return;
            }
            HeadOutcome::Refused(error) => {
                self.counters.refused_heads += 1;
                if matches!(error, CatalogueError::TooManyRecords { .. }) {
                    self.report_offence(author, Offence::ListsTooMuch);
                }
                return;
            }
        }
        if author != self.me {
            self.spread(now, signed);
        }
    }

    /// Handles another log of this node that is as new as this one. After a disk was restored this
    /// happens once, and the recovery puts all later facts above both logs. If it repeats, another
    /// machine uses the same key.
    fn handle_other_own_log(&mut self, now: Instant, epoch_heard: u64) {
        if self.catalogue.own().can_recover() {
            self.recover(now, epoch_heard);
        } else if !self.cluster.is_copied(&self.me) {
            self.push_event(NodeEvent::CopiedKey {
                node: self.me,
                addresses: Vec::new(),
            });
        }
    }

    /// Handles the end of a copied key. If it is the own key, the last facts of the other machine
    /// may rank above ours. Any member knows them, so one is asked.
    pub(super) fn handle_copy_gone(&mut self, node: NodeId) {
        self.push_event(NodeEvent::CopyGone { node });
        if node == self.me {
            self.catalogue.own_mut().forget_recoveries();
            let member = self.cluster.live().next();
            if let Some(member) = member {
                self.ask_for_heads(member.node, member.address);
            }
        }
    }

    fn recover(&mut self, now: Instant, epoch_heard: u64) {
        self.catalogue.own_mut().recover(epoch_heard);
        self.publish_soon(now);
    }

    /// Returns every known node with the number of entries in its log. `is_read` says whether all
    /// that the node has announced is here and in the last view.
    pub fn member_reports(&self) -> Vec<MemberReport> {
        let is_all_taken = self.taken_in.is_empty() && !self.pulls.is_any_coming();
        let is_all_read = is_all_taken && !(self.heads.unshown && self.catalogue.is_dirty());
        let report = |status: MemberStatus| {
            let node = &status.member.node;
            let head = self.catalogue.logs().head_of(node);
            MemberReport {
                entries: head.map_or(0, |signed| signed.head.count),
                is_read: is_all_read && self.has_told(node),
                status,
            }
        };
        self.members().into_iter().map(report).collect()
    }

    pub(super) fn want_log(&mut self, now: Instant, pull: Pull, from: Option<NodeId>) {
        let position = LogPosition {
            epoch: pull.epoch,
            after: pull.after,
        };
        self.pulls.want(now, pull.author, position, from);
    }
}
