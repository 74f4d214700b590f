//! Requests to other nodes over TCP, the handling of their responses, and the answers to their
//! requests.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tracing::{Span, debug, debug_span};

use super::heads::newer_than;
use super::{HeadsAnswer, Machine, RequestId};
use crate::offence::Offence;
use crate::pulls::LogPosition;
use p2pfs_catalogue::{Applied, LogPart, Pull};
use p2pfs_membership::ClusterError;
use p2pfs_proto::trust;
use p2pfs_proto::wire::native::record::SignedHead;
use p2pfs_proto::wire::native::tcp::{self, Request, Response};
use p2pfs_types::id::NodeId;

/// Number of requests sent at once to a new member.
const NEWCOMER_QUESTIONS: usize = 2;

/// The kind of a request in flight, with the context for its response.
#[derive(Clone, Copy, Debug)]
pub(super) enum RequestContext {
    Log {
        author: NodeId,
        from: NodeId,
    },
    Heads {
        from: NodeId,
    },
    Members {
        from: NodeId,
    },
    Trust {
        from: NodeId,
        address: SocketAddr,
        told_all: bool,
    },
}

impl RequestContext {
    pub(super) fn is_log(&self) -> bool {
        matches!(self, Self::Log { .. })
    }

    /// Returns the node that received the request.
    pub(super) fn of(&self) -> NodeId {
        match self {
            Self::Log { from, .. }
            | Self::Heads { from }
            | Self::Members { from }
            | Self::Trust { from, .. } => *from,
        }
    }
}

/// How long a live member that did not answer a request for heads is left alone.
const HEADS_RETRY: Duration = Duration::from_secs(1);
/// Number of failed requests for heads after which a live member is not waited for. It answers
/// datagrams but no connection, and the exchange of members asks it again.
const HEADS_TRIES: u32 = 10;

impl Machine {
    /// Handles the response to a request of [`Machine::poll_request`], or `None` if it failed.
    pub fn handle_response(&mut self, now: Instant, id: RequestId, response: Option<Response>) {
        match (self.requests.questions.remove(id), response) {
            (Some(RequestContext::Log { author, from }), Some(Response::Log(part))) => {
                self.pulls.mark_answered(&from);
                self.handle_log_part(now, author, from, part);
            }
            (Some(RequestContext::Log { author, .. }), Some(_)) => self.pulls.fail(now, author),
            (Some(RequestContext::Log { author, .. }), None) => {
                self.pulls.fail_silently(now, author)
            }
            (Some(RequestContext::Heads { from }), response) => {
                if let Some(Response::Heads { heads }) = response {
                    self.receive_heads(now, from, &heads);
                    self.heads.told.insert(from, HeadsAnswer::Arrived);
                } else {
                    self.handle_no_heads(now, from);
                }
            }
            (
                Some(RequestContext::Trust {
                    from,
                    address,
                    told_all,
                }),
                Some(Response::Trust { answer }),
            ) => self.receive_trust(now, (from, address), told_all, &answer),
            (Some(RequestContext::Members { from }), Some(Response::Members { members })) => {
                self.receive_members(now, from, &members);
            }
            _ => {}
        }
        self.advance(now);
    }

    /// Answers a request for members, statements, heads or logs; returns `None` for other requests.
    pub fn answer(&mut self, now: Instant, from: NodeId, request: &Request) -> Option<Response> {
        // A request from before the node's expulsion may be queued here until the secret is
        // rotated.
        let is_member = self.trust.keyring.is_member(&from);
        let response = match request {
            Request::Members { .. }
            | Request::Trust { .. }
            | Request::Heads { .. }
            | Request::Log { .. }
                if !is_member =>
            {
                return Some(Response::NotHere);
            }
            Request::Members { members } => {
                self.receive_members(now, from, members);
                Response::Members {
                    members: self.cluster.export_members(),
                }
            }
            Request::Trust { question } => {
                let (answer, fault) = self.trust.keyring.answer(question);
                self.report_bad_statement(from, fault);
                answer.map_or(Response::NotHere, |answer| Response::Trust {
                    answer: answer.into(),
                })
            }
            Request::Heads { heads } => {
                let news = newer_than(self.catalogue.logs().heads(), heads);
                self.receive_heads(now, from, heads);
                Response::Heads { heads: news }
            }
            Request::Log {
                author,
                epoch,
                after,
            } => self
                .catalogue
                .logs()
                .part(author, *epoch, *after)
                .and_then(encode_part)
                .map_or(Response::NotHere, Response::Log),
            _ => return None,
        };
        self.advance(now);
        Some(response)
    }

    pub(super) fn ask_for_heads(&mut self, node: NodeId, address: SocketAddr) {
        let request = Request::Heads {
            heads: self.catalogue.logs().heads(),
        };
        if self.ask(node, address, request, RequestContext::Heads { from: node }) {
            self.requests.questions.forget_newcomer(&node);
        }
    }

    /// Returns whether a live member has told its heads, or is not waited for.
    pub(super) fn has_told(&self, node: &NodeId) -> bool {
        match self.heads.told.get(node) {
            Some(HeadsAnswer::Arrived) => true,
            Some(HeadsAnswer::Failed { tries }) => *tries >= HEADS_TRIES,
            None => false,
        }
    }

    /// Asks a live member again that did not answer. An earlier answer stays one.
    fn handle_no_heads(&mut self, now: Instant, from: NodeId) {
        let before = match self.heads.told.get(&from) {
            Some(HeadsAnswer::Arrived) => return,
            Some(HeadsAnswer::Failed { tries }) => *tries,
            None => 0,
        };
        let Some(address) = self.address_of(&from) else {
            return;
        };
        let tries = before + 1;
        self.heads.told.insert(from, HeadsAnswer::Failed { tries });
        if tries < HEADS_TRIES {
            self.requests
                .questions
                .ask_again(from, address, now + HEADS_RETRY);
        }
    }

    /// Sends the first requests to new members, as far as there is room. The rest follows when
    /// other requests are answered.
    pub(super) fn ask_newcomers(&mut self, now: Instant) {
        self.requests.questions.mark_due(now);
        while let Some((node, address)) = self.requests.questions.newcomer(NEWCOMER_QUESTIONS) {
            self.ask_for_trust(node, address, false);
            self.ask_for_heads(node, address);
        }
    }

    pub(super) fn ask_push_pull(&mut self, node: NodeId, address: SocketAddr) {
        let request = Request::Members {
            members: self.cluster.export_members(),
        };
        self.ask(
            node,
            address,
            request,
            RequestContext::Members { from: node },
        );
        self.ask_for_trust(node, address, false);
        self.ask_for_heads(node, address);
    }

    pub(super) fn ask_for_logs(&mut self, now: Instant) {
        let is_due = self.pulls.poll_timeout().is_some_and(|at| at <= now);
        if !is_due || self.catalogue.intake_queue().is_behind() {
            return;
        }
        let members: BTreeMap<NodeId, SocketAddr> = self
            .cluster
            .live()
            .map(|member| (member.node, member.address))
            .collect();
        let nodes: Vec<NodeId> = members.keys().copied().collect();
        while let Some(step) = self.pulls.next_step(now, &nodes) {
            let Some(address) = members.get(&step.from).copied() else {
                self.pulls.fail(now, step.author);
                continue;
            };
            let LogPosition { epoch, after } = step.position;
            let request = Request::Log {
                author: step.author,
                epoch,
                after,
            };
            let asked = RequestContext::Log {
                author: step.author,
                from: step.from,
            };
            if self.ask(step.from, address, request, asked) {
                pull_span(step.author).in_scope(|| {
                    debug!(target: PULL_TARGET, peer = %step.from, epoch, after, "requested");
                });
            } else {
                self.pulls.fail(now, step.author);
            }
        }
    }

    pub(super) fn ask(
        &mut self,
        node: NodeId,
        address: SocketAddr,
        request: Request,
        asked: RequestContext,
    ) -> bool {
        self.requests.questions.ask(node, address, request, asked)
    }

    fn receive_members(&mut self, now: Instant, from: NodeId, members: &[u8]) {
        let offence = match self.cluster.merge_members(now, members) {
            Ok(()) => return,
            Err(ClusterError::ForgedMemberList) => Offence::SpeaksForOthers,
            Err(_) => Offence::Garbage,
        };
        self.counters.bad_member_lists += 1;
        self.report_offence(from, offence);
    }

    pub(super) fn handle_log_part(
        &mut self,
        now: Instant,
        author: NodeId,
        from: NodeId,
        part: tcp::LogPart,
    ) {
        if !self.trust.keyring.is_member(&author) {
            // The author was expelled while its log was in transfer.
            return self.pulls.finish(author);
        }
        pull_span(author).in_scope(|| {
            let bytes = part.records.len();
            debug!(target: PULL_TARGET, peer = %from, bytes, "a part arrived");
        });
        let Some(part) = decode_part(author, part) else {
            self.counters.bad_parts += 1;
            self.report_offence(from, Offence::BadLog);
            self.pulls.fail(now, author);
            return;
        };
        let paces = &mut self.requests.list_paces;
        if !paces.try_take(now, author, &self.me, &part.records) {
            // The author's rate limit may have recovered by the retry.
            self.report_offence(author, Offence::ListsReadersTooFast);
            return self.pulls.fail(now, author);
        }
        let head = part.head.clone();
        match self.catalogue.intake().begin(author, part) {
            Ok(Some(applied)) => self.handle_applied(now, (author, from), &head, applied),
            Ok(None) => {
                self.taken_in.entry(author).or_insert((from, head));
                // With other logs queued, it waits for `sweep`, so that a view can be taken in
                // between.
                if self.taken_in.len() == 1 {
                    self.merge_step(now);
                }
            }
            Err(error) => {
                self.counters.bad_parts += 1;
                self.report_bad_part(author, from, &error);
                self.pulls.fail(now, author);
            }
        }
    }

    /// Merges one step of the received logs and returns whether there was any.
    pub(super) fn merge_step(&mut self, now: Instant) -> bool {
        let was_there = self.catalogue.intake().take_turn();
        while let Some((author, applied)) = self.catalogue.intake().poll_applied() {
            if let Some((from, head)) = self.taken_in.remove(&author) {
                self.handle_applied(now, (author, from), &head, applied);
            }
            self.report_dropped_logs(now);
            self.ask_for_logs(now);
        }
        was_there
    }

    /// Handles the result of merging a part of a log.
    fn handle_applied(
        &mut self,
        now: Instant,
        (author, from): (NodeId, NodeId),
        head: &SignedHead,
        applied: Applied,
    ) {
        self.heads.unshown = true;
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
                self.pulls.advance(now, author, position_of(pull));
            }
            Applied::Complete => {
                self.pulls.finish(author);
                self.handle_head(now, head, Some(from));
            }
            Applied::Mismatch { retry } => {
                self.counters.bad_parts += 1;
                match retry {
                    Some(pull) => self.pulls.restart(now, author, position_of(pull)),
                    None => {
                        // After its last retry, an honest log matches its head.
                        self.report_offence(from, Offence::BadLog);
                        self.pulls.finish(author);
                    }
                }
            }
            // `advance` reports it.
            Applied::OverBudget => {}
        }
    }
}

/// Target of the trace events about pulls of logs.
const PULL_TARGET: &str = "p2pfs::pull";

fn pull_span(author: NodeId) -> Span {
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

fn encode_part(part: LogPart) -> Option<tcp::LogPart> {
    let packed = tcp::pack_records(&part.records).ok()?;
    // Records that do not fit are requested next, after the last one that did.
    let last = part.last && packed.count == part.records.len();
    Some(tcp::LogPart {
        head: part.head,
        fresh: part.fresh,
        records: packed.bytes,
        last,
    })
}
