//! The logs of other nodes: [`LogIntake`] verifies their heads, schedules the pulls of newer logs,
//! merges the received parts, and recovers the own log if a head shows that its state was lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tracing::{Span, debug, debug_span};

use super::events::NodeEvent;
use super::lists::ListPaces;
use super::own_log::OwnLogAccess;
use crate::not_forgotten::NotForgotten;
use crate::offence::Offence;
use crate::pulls::{LogPosition, Pulls};
use crate::read_watch::ReadEnd;
use p2pfs_catalogue::{Applied, CatalogueError, HeadOutcome, LogPart, Pull, Withholding};
use p2pfs_membership::Cluster;
use p2pfs_proto::trust;
use p2pfs_proto::wire::native::record::SignedHead;
use p2pfs_proto::wire::native::tcp;
use p2pfs_types::digest::ContentKey;
use p2pfs_types::id::NodeId;

/// Maximum time for which a content or a name that its holders did not give ranks behind other
/// versions. Afterwards a reader of such a name may get the content again. A peer is shunned
/// for wrong bytes for the same time.
pub const UNSERVED_FOR: Duration = p2pfs_fetch::plan::SHUN;

/// Target of the trace events about pulls of logs.
pub(super) const PULL_TARGET: &str = "p2pfs::pull";

/// The logs on their way from other nodes.
pub(super) struct LogExchange {
    pub(super) pulls: Pulls,
    /// For each author whose log is being merged, the node that sent the part and the head of the
    /// part.
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

/// The member that sent a head, and how.
#[derive(Clone, Copy, Debug)]
pub(super) enum HeadSender {
    /// The head was in a datagram. The membership has recorded its sender.
    Gossip(NodeId),
    /// The head was in a request or a response over TCP.
    Tcp(NodeId),
}

impl HeadSender {
    fn node(&self) -> NodeId {
        match self {
            Self::Gossip(node) | Self::Tcp(node) => *node,
        }
    }

    fn over_tcp(&self) -> Option<NodeId> {
        match self {
            Self::Gossip(_) => None,
            Self::Tcp(node) => Some(*node),
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
    /// Signs the own log and spreads its head, if the log changed.
    pub(super) fn publish_head(&mut self) {
        if let Some(signed) = self.own.sign(self.now) {
            self.spread(&signed, None);
        }
    }

    /// Spreads a head. `from` is the node that sent it over TCP.
    fn spread(&mut self, signed: &SignedHead, from: Option<NodeId>) {
        let bytes = postcard::to_stdvec(signed).expect("a head always encodes");
        let (author, rank, bytes) = (signed.head.author, signed.head.rank(), Bytes::from(bytes));
        if let Some(from) = from {
            self.cluster
                .record_head_sender(from, author, rank, bytes.clone());
        }
        // `set_head` ignores a head that it has already. No head is too long for it, which a test
        // ensures.
        let _held = self.cluster.set_head(self.now, author, rank, bytes);
    }

    pub(super) fn handle_head_bytes(&mut self, from: NodeId, bytes: &[u8]) {
        match postcard::from_bytes::<SignedHead>(bytes) {
            Ok(signed) => {
                self.handle_head(&signed, HeadSender::Gossip(from));
            }
            Err(_) => self.own.events.counters.bad_heads += 1,
        }
    }

    /// Handles the first head of each author in a list. Stops at the first forged head, because
    /// each forged head costs the check of a signature.
    pub(super) fn receive_heads(&mut self, from: NodeId, heads: &[SignedHead]) {
        let mut authors = BTreeSet::new();
        let first = |signed: &&SignedHead| authors.insert(signed.head.author);
        let mut heads = heads.iter().filter(first);
        let _forged = heads.find(|signed| !self.handle_head(signed, HeadSender::Tcp(from)));
    }

    /// Handles a head. Returns false if the author's signature was checked and is invalid. The signature is not
    /// checked for a head of a non-member, the known head, or an older one.
    pub(super) fn handle_head(&mut self, signed: &SignedHead, from: HeadSender) -> bool {
        let author = signed.head.author;
        if author != self.me && !self.own.trust.is_member(&author) {
            self.own.events.counters.refused_heads += 1;
            return true;
        }
        match self.own.catalogue.logs().head_of(&author) {
            Some(held) if held == signed => {
                self.spread(signed, from.over_tcp());
                return true;
            }
            // The head is older than the known one, whether its signature is valid or not.
            Some(held) if held.head.rank() > signed.head.rank() => return true,
            _ => {}
        }
        if !trust::verify(&author, &signed.head.signed_bytes(), &signed.signature) {
            self.own.events.counters.bad_heads += 1;
            if let Some(from) = from.over_tcp() {
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
    fn apply_head(&mut self, signed: &SignedHead, from: HeadSender) {
        let author = signed.head.author;
        match self.own.catalogue.handle_told_head(signed, from.node()) {
            HeadOutcome::Known => {}
            HeadOutcome::Pull(pull) => self.want_log(pull, from.over_tcp()),
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
            self.spread(signed, from.over_tcp());
        }
    }

    /// Handles a head that this node's key signed for a different log as new as the own one. A disk
    /// restored from a backup causes this once, and the recovery ranks all later facts above both
    /// logs. If it repeats too often, another machine uses the same key.
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

    /// Handles a part of `author`'s log that `from` sent. Returns whether the caller should merge a
    /// step of the log now.
    pub(super) fn handle_log_part(
        &mut self,
        author: NodeId,
        from: NodeId,
        part: tcp::LogPart,
    ) -> bool {
        if !self.own.trust.is_member(&author) {
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
            // The log is requested again later, when the author may be within its rate limit again.
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
                // If other logs are queued, `Machine::sweep` merges the log later, so that a view
                // can be taken between two logs.
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

    /// Handles the outcome of a queued part of a log.
    pub(super) fn handle_merged(&mut self, author: NodeId, applied: Applied) {
        if let Some((from, head)) = self.logs.taken_in.remove(&author) {
            self.handle_applied((author, from), &head, applied);
        }
        self.report_dropped_logs();
    }

    /// Handles the outcome of a part of a log: continues, restarts or ends the pull.
    /// [`Self::report_dropped_logs`] handles a log over budget.
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
                self.handle_head(head, HeadSender::Tcp(from));
            }
            Applied::Mismatch { retry } => {
                self.own.events.counters.bad_parts += 1;
                match retry {
                    Some(pull) => self.logs.pulls.restart(self.now, author, position_of(pull)),
                    None => {
                        // The log of an honest node matches its head at the latest after the last
                        // retry.
                        self.own.events.report_offence(from, Offence::BadLog);
                        self.logs.pulls.finish(author);
                    }
                }
            }
            Applied::OverBudget => {}
        }
    }

    /// Reports the authors whose logs were dropped because they exceeded a budget, and delays the
    /// next pull of these logs. Ends the pulls of logs that were dropped because their authors are
    /// gone. Reports nodes that date files ahead of the clock.
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
        while let Some((node, ahead_s)) = self.own.catalogue.poll_dated_ahead() {
            if node != self.me {
                let offence = Offence::DatesAhead { ahead_s };
                self.own.events.report_offence(node, offence);
            }
        }
    }

    pub(super) fn set_live(&mut self, node: NodeId, is_live: bool) {
        // The known entries of the node enter or leave the next view.
        self.logs.unshown = true;
        if self.own.catalogue.set_live(node, is_live).is_err() {
            self.own.events.counters.refused_heads += 1;
        }
    }

    /// Ranks a content that no holder served behind the other versions of its names, for
    /// [`UNSERVED_FOR`] at most. Reports the authors that list the content under a name with
    /// another version, unless the other version is unserved too.
    pub fn mark_unserved(&mut self, content: ContentKey) {
        let until = self.now + UNSERVED_FOR;
        let at_fault = self.own.catalogue.unserved().mark(content, until);
        self.report_withholders(at_fault);
    }

    /// Ranks all versions of a node that sent wrong bytes behind those of others, for as long as
    /// the node is shunned. Without this, its next versions would keep their names: it is asked for
    /// nothing, so no read proves that they cannot be had.
    pub fn mark_shunned(&mut self, node: NodeId) {
        let until = self.now + UNSERVED_FOR;
        self.own.catalogue.unserved().shun(node, until);
    }

    /// Applies the end of a reader's wait to the ranking of versions, for [`UNSERVED_FOR`] at most.
    /// Reports the authors that leave readers without their versions of a name that has another
    /// version.
    pub fn record_read(&mut self, end: &ReadEnd) {
        match end {
            ReadEnd::Served {
                content,
                givers,
                given,
                path,
            } => {
                let unserved = &mut self.own.catalogue.unserved();
                unserved.clear(content, givers, *given);
                if let Some(path) = path {
                    unserved.clear_name(path, givers, *given);
                }
            }
            ReadEnd::Withheld {
                content,
                how,
                version,
            } => {
                if *how == Withholding::Silent {
                    self.mark_unserved(*content);
                }
                if let Some(version) = version {
                    let until = self.now + UNSERVED_FOR;
                    let unserved = &mut self.own.catalogue.unserved();
                    let at_fault = unserved.withhold(version, self.now, until);
                    self.report_withholders(at_fault);
                }
            }
        }
    }

    fn report_withholders(&mut self, at_fault: Vec<NodeId>) {
        let me = self.me;
        for author in at_fault.into_iter().filter(|author| *author != me) {
            self.own
                .events
                .report_offence(author, Offence::GivesNothing);
        }
    }

    /// Forgets the log of a node that is not live, and does not pull it from other nodes until the
    /// node is live again or has a newer head.
    ///
    /// # Errors
    /// [`NotForgotten`] if the node is live, or none of its heads is known.
    pub fn forget_node(&mut self, node: &NodeId) -> Result<(), NotForgotten> {
        if *node == self.me {
            return Err(NotForgotten::Own);
        }
        if self.cluster.live().any(|member| member.node == *node) {
            let mut members = self.cluster.members().into_iter();
            let status = members.find(|it| it.member.node == *node);
            let state = status.map(|it| it.state).unwrap_or_default();
            return Err(NotForgotten::Live(state));
        }
        if self.own.catalogue.logs().head_of(node).is_none() {
            return Err(NotForgotten::Unlisted);
        }
        self.logs.pulls.finish(*node);
        self.own.catalogue.forget_until_back(node);
        Ok(())
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

/// Decodes a part of `author`'s log. Returns `None` if the head is not signed by `author`, or if
/// the records do not decode.
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
