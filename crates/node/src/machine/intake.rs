//! The logs of other nodes: verifying their heads, pulling and merging what is newer, and the
//! effects on the own log.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tracing::{Span, debug, debug_span};

use super::events::NodeEvent;
use super::lists::ListPaces;
use super::own_log::OwnLogAccess;
use crate::offence::Offence;
use crate::pulls::{LogPosition, Pulls};
use p2pfs_catalogue::{Applied, CatalogueError, HeadOutcome, LogPart, Pull};
use p2pfs_membership::Cluster;
use p2pfs_proto::trust;
use p2pfs_proto::wire::native::record::SignedHead;
use p2pfs_proto::wire::native::tcp;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::NodeId;

/// How long a content that proved unserved ranks behind the other versions of its names, unless a
/// holder gives it before. A reader then tries it again. It is as long as a peer is shunned for
/// wrong bytes.
pub const UNSERVED_FOR: Duration = p2pfs_fetch::plan::SHUN;

/// Target of the trace events about pulls of logs.
pub(super) const PULL_TARGET: &str = "p2pfs::pull";

/// The logs on their way from other nodes.
pub(super) struct LogExchange {
    pub(super) pulls: Pulls,
    /// Logs that are being merged: by author, the node that sent the part, and its head.
    pub(super) taken_in: BTreeMap<NodeId, (NodeId, SignedHead)>,
    /// Whether another node's log or presence has changed since the last view.
    pub(super) unshown: bool,
    pub(super) list_paces: ListPaces,
}

impl LogExchange {
    pub(super) fn new(pulls: Pulls) -> Self {
        Self {
            pulls,
            taken_in: BTreeMap::new(),
            unshown: false,
            list_paces: ListPaces::default(),
        }
    }
}

/// The handling of heads and logs at one moment, with the parts of the machine that it changes.
/// [`Machine::intake`](super::Machine::intake) returns it.
pub struct LogIntake<'a> {
    pub(super) now: Instant,
    pub(super) me: NodeId,
    pub(super) own: OwnLogAccess<'a>,
    pub(super) cluster: &'a mut Cluster,
    pub(super) logs: &'a mut LogExchange,
}

impl LogIntake<'_> {
    /// Signs the own log and spreads its head. Nothing is sent if nothing changed.
    pub(super) fn publish_head(&mut self) {
        if let Some(signed) = self.own.sign(self.now) {
            self.spread(&signed);
        }
    }

    fn spread(&mut self, signed: &SignedHead) {
        let bytes = postcard::to_stdvec(signed).expect("a head always encodes");
        // A head that the cluster already has is not spread again. No head is too long, which a
        // test of its own ensures.
        let _held = self.cluster.set_head(
            self.now,
            signed.head.author,
            signed.head.rank(),
            bytes.into(),
        );
    }

    pub(super) fn handle_head_bytes(&mut self, bytes: &[u8]) {
        match postcard::from_bytes::<SignedHead>(bytes) {
            Ok(signed) => {
                self.handle_head(&signed, None);
            }
            Err(_) => self.own.events.counters.bad_heads += 1,
        }
    }

    /// Handles a list of heads, at most one of each author. It stops at the first forged head,
    /// because each costs the check of a signature.
    pub(super) fn receive_heads(&mut self, from: NodeId, heads: &[SignedHead]) {
        let mut authors = BTreeSet::new();
        let first = |signed: &&SignedHead| authors.insert(signed.head.author);
        let mut heads = heads.iter().filter(first);
        let _forged = heads.find(|signed| !self.handle_head(signed, Some(from)));
    }

    /// Handles a head from any source. Returns false if it is forged, that is, if its author's
    /// signature is invalid.
    pub(super) fn handle_head(&mut self, signed: &SignedHead, from: Option<NodeId>) -> bool {
        let author = signed.head.author;
        if author != self.me && !self.own.keyring.is_member(&author) {
            self.own.events.counters.refused_heads += 1;
            return true;
        }
        match self.own.catalogue.logs().head_of(&author) {
            Some(held) if held == signed => {
                self.spread(signed);
                return true;
            }
            // Genuine or not, it is not newer.
            Some(held) if held.head.rank() > signed.head.rank() => return true,
            _ => {}
        }
        if !trust::verify(&author, &signed.head.signed_bytes(), &signed.signature) {
            self.own.events.counters.bad_heads += 1;
            if let Some(from) = from {
                self.own
                    .events
                    .report_offence(from, Offence::SpeaksForOthers);
            }
            return false;
        }
        self.apply_head(signed, from);
        true
    }

    /// Applies a head that its author signed.
    fn apply_head(&mut self, signed: &SignedHead, from: Option<NodeId>) {
        let author = signed.head.author;
        match self.own.catalogue.handle_head(signed) {
            HeadOutcome::Known => {}
            HeadOutcome::Pull(pull) => self.want_log(pull, from),
            HeadOutcome::CopiedKey { author } => {
                if author == self.me {
                    self.handle_other_own_log(signed.head.epoch);
                }
                return;
            }
            HeadOutcome::OwnStateLost { epoch } => {
                self.own.recover(self.now, epoch);
                return;
            }
            HeadOutcome::Refused(error) => {
                self.own.events.counters.refused_heads += 1;
                if matches!(error, CatalogueError::TooManyRecords { .. }) {
                    self.own
                        .events
                        .report_offence(author, Offence::ListsTooMuch);
                }
                return;
            }
        }
        if author != self.me {
            self.spread(signed);
        }
    }

    /// Handles another log of this node that is as new as this one. After a disk was restored this
    /// happens once, and the recovery puts all later facts above both logs. If it repeats, another
    /// machine uses the same key.
    fn handle_other_own_log(&mut self, epoch_heard: u64) {
        if self.own.catalogue.own().can_recover() {
            self.own.recover(self.now, epoch_heard);
        } else if !self.cluster.is_copied(&self.me) {
            self.own.events.push(NodeEvent::CopiedKey {
                node: self.me,
                addresses: Vec::new(),
            });
        }
    }

    fn want_log(&mut self, pull: Pull, from: Option<NodeId>) {
        let position = LogPosition {
            epoch: pull.epoch,
            after: pull.after,
        };
        self.logs.pulls.want(self.now, pull.author, position, from);
    }

    /// Handles a part of a log. Returns whether it should be merged now.
    pub(super) fn handle_log_part(
        &mut self,
        author: NodeId,
        from: NodeId,
        part: tcp::LogPart,
    ) -> bool {
        if !self.own.keyring.is_member(&author) {
            // The author was expelled while its log was in transfer.
            self.logs.pulls.finish(author);
            return false;
        }
        pull_span(author).in_scope(|| {
            let bytes = part.records.len();
            debug!(target: PULL_TARGET, peer = %from, bytes, "a part arrived");
        });
        let Some(part) = decode_part(author, part) else {
            self.own.events.counters.bad_parts += 1;
            self.own.events.report_offence(from, Offence::BadLog);
            self.logs.pulls.fail(self.now, author);
            return false;
        };
        let paces = &mut self.logs.list_paces;
        if !paces.try_take(self.now, author, &self.me, &part.records) {
            // The author's rate limit may have recovered by the retry.
            self.own
                .events
                .report_offence(author, Offence::ListsReadersTooFast);
            self.logs.pulls.fail(self.now, author);
            return false;
        }
        let head = part.head.clone();
        match self.own.catalogue.intake().begin(author, part) {
            Ok(Some(applied)) => self.handle_applied((author, from), &head, applied),
            Ok(None) => {
                self.logs.taken_in.entry(author).or_insert((from, head));
                // With other logs queued, it waits for `sweep`, so that a view can be taken in
                // between.
                return self.logs.taken_in.len() == 1;
            }
            Err(error) => {
                self.own.events.counters.bad_parts += 1;
                self.own.events.report_bad_part(author, from, &error);
                self.logs.pulls.fail(self.now, author);
            }
        }
        false
    }

    /// Handles that the received parts of a log are merged.
    pub(super) fn handle_merged(&mut self, author: NodeId, applied: Applied) {
        if let Some((from, head)) = self.logs.taken_in.remove(&author) {
            self.handle_applied((author, from), &head, applied);
        }
        self.report_dropped_logs();
    }

    /// Handles the result of merging a part of a log.
    fn handle_applied(
        &mut self,
        (author, from): (NodeId, NodeId),
        head: &SignedHead,
        applied: Applied,
    ) {
        self.logs.unshown = true;
        pull_span(author).in_scope(|| {
            let outcome = match &applied {
                Applied::More(_) => "merged, with more to come",
                Applied::Compacted(_) => "the author compacted its log, more to come",
                Applied::Complete => "merged, and complete",
                Applied::Mismatch { .. } => "the log does not match its head",
                Applied::OverBudget => "the log has no room",
            };
            debug!(target: PULL_TARGET, peer = %from, "{outcome}");
        });
        match applied {
            Applied::More(pull) | Applied::Compacted(pull) => {
                self.logs.pulls.advance(self.now, author, position_of(pull));
            }
            Applied::Complete => {
                self.logs.pulls.finish(author);
                self.handle_head(head, Some(from));
            }
            Applied::Mismatch { retry } => {
                self.own.events.counters.bad_parts += 1;
                match retry {
                    Some(pull) => self.logs.pulls.restart(self.now, author, position_of(pull)),
                    None => {
                        // After its last retry, an honest log matches its head.
                        self.own.events.report_offence(from, Offence::BadLog);
                        self.logs.pulls.finish(author);
                    }
                }
            }
            // `advance` reports it.
            Applied::OverBudget => {}
        }
    }

    /// Reports the authors of dropped logs and delays the next pull of these logs. Reports nodes
    /// that date files ahead.
    pub(super) fn report_dropped_logs(&mut self) {
        while let Some(dropped) = self.own.catalogue.poll_dropped() {
            match Offence::of_dropped(dropped.why) {
                Some(offence) => {
                    self.logs.pulls.postpone(self.now, dropped.author);
                    self.own.events.report_offence(dropped.author, offence);
                }
                None => self.logs.pulls.finish(dropped.author),
            }
        }
        while let Some(node) = self.own.catalogue.poll_dated_ahead() {
            if node != self.me {
                self.own.events.report_offence(node, Offence::DatesAhead);
            }
        }
    }

    pub(super) fn set_live(&mut self, node: NodeId, is_live: bool) {
        // Its known entries enter or leave the next view.
        self.logs.unshown = true;
        if self.own.catalogue.set_live(node, is_live).is_err() {
            self.own.events.counters.refused_heads += 1;
        }
    }

    /// Ranks a content behind the other versions of its names, because its holders answered no
    /// request for it or sent wrong bytes. Reports its authors if such a version exists.
    pub fn mark_unserved(&mut self, hash: ContentHash) {
        let at_fault = self
            .own
            .catalogue
            .unserved()
            .mark(hash, self.now + UNSERVED_FOR);
        let me = self.me;
        for author in at_fault.into_iter().filter(|author| *author != me) {
            self.own
                .events
                .report_offence(author, Offence::GivesNothing);
        }
    }

    /// Forgets the listings of a node that is not here until it returns, even if other nodes have
    /// them. Returns false if the node is here or unknown.
    pub fn forget_node(&mut self, node: &NodeId) -> bool {
        let is_here = *node == self.me || self.cluster.live().any(|member| member.node == *node);
        let is_known = self.own.catalogue.logs().head_of(node).is_some();
        if is_here || !is_known {
            return false;
        }
        self.logs.pulls.finish(*node);
        self.own.catalogue.forget_until_back(node);
        true
    }

    pub(super) fn forget_log(&mut self, author: &NodeId) {
        self.logs.pulls.finish(*author);
        self.own.catalogue.forget(author);
    }
}

pub(super) fn pull_span(author: NodeId) -> Span {
    debug_span!(target: PULL_TARGET, "pull", %author)
}

fn position_of(pull: Pull) -> LogPosition {
    LogPosition {
        epoch: pull.epoch,
        after: pull.after,
    }
}

/// Decodes a part of a log. It is valid only under a head signed by its author.
fn decode_part(author: NodeId, part: tcp::LogPart) -> Option<LogPart> {
    let head = &part.head;
    let genuine = head.head.author == author
        && trust::verify(&author, &head.head.signed_bytes(), &head.signature);
    let records = tcp::unpack_records(&part.records).ok()?;
    genuine.then_some(LogPart {
        head: part.head,
        fresh: part.fresh,
        records,
        last: part.last,
    })
}
