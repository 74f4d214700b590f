//! The contents of the requests to other nodes over TCP. [`QuestionTable`] limits their number.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use tracing::debug;

use super::intake::{PULL_TARGET, pull_span};
use super::questions::{QuestionTable, RequestContext};
use crate::pulls::{LogPosition, Pulls};
use p2pfs_catalogue::Catalogue;
use p2pfs_membership::Cluster;
use p2pfs_proto::trust::TrustView;
use p2pfs_proto::wire::native::tcp::Request;
use p2pfs_types::id::NodeId;

/// Number of requests sent at once to a new member.
const NEWCOMER_QUESTIONS: usize = 2;

/// Makes requests to other nodes from the parts of the machine that the requests are about.
pub(super) struct PeerRequests<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) catalogue: &'a Catalogue,
    pub(super) trust: &'a TrustView,
    pub(super) questions: &'a mut QuestionTable,
    pub(super) pulls: &'a mut Pulls,
}

impl PeerRequests<'_> {
    /// Queues the first requests to the new members for which enough slots are free. The other new
    /// members wait.
    pub(super) fn ask_newcomers(&mut self, now: Instant) {
        self.questions.mark_due(now);
        while let Some((node, address)) = self.questions.newcomer(NEWCOMER_QUESTIONS) {
            self.ask_for_trust(node, address, false);
            self.ask_for_heads(node, address);
            self.questions.late.expect(now);
        }
    }

    /// If heads of live members are late, requests the heads that another member knows.
    pub(super) fn ask_for_late_heads(&mut self, now: Instant) {
        if !self.questions.late.is_due(now) {
            return;
        }
        let live: BTreeMap<NodeId, SocketAddr> = self.live().collect();
        let nodes = || live.keys().copied();
        let late: Vec<NodeId> = nodes().filter(|it| self.questions.is_awaited(it)).collect();
        let others = nodes()
            .filter(|it| self.questions.has_answered(it))
            .collect();
        let next = self.questions.late.begin(now, late.into_iter(), &others);
        let Some((node, address)) = next.and_then(|it| live.get_key_value(&it)) else {
            return;
        };
        let request = Request::Heads {
            heads: self.catalogue.logs().heads(),
        };
        let asked = RequestContext::LateHeads { from: *node };
        if !self.questions.ask(*node, *address, request, asked) {
            self.questions.late.fail(now);
        }
    }

    fn live(&self) -> impl Iterator<Item = (NodeId, SocketAddr)> {
        let live = self.cluster.live();
        live.map(|member| (member.node, member.address))
    }

    /// Requests the list of members, the statements and the heads of a member (push-pull). The
    /// requests contain the members and heads that this node knows.
    pub(super) fn ask_push_pull(&mut self, node: NodeId, address: SocketAddr) {
        let request = Request::Members {
            members: self.cluster.export_members(),
        };
        self.questions.ask(
            node,
            address,
            request,
            RequestContext::Members { from: node },
        );
        self.ask_for_trust(node, address, false);
        self.ask_for_heads(node, address);
    }

    /// Sends a member the heads that this node knows, and requests those that are newer there.
    pub(super) fn ask_for_heads(&mut self, node: NodeId, address: SocketAddr) {
        let request = Request::Heads {
            heads: self.catalogue.logs().heads(),
        };
        if self
            .questions
            .ask(node, address, request, RequestContext::Heads { from: node })
        {
            self.questions.forget_newcomer(&node);
        }
    }

    /// Requests the statements and the secret that a member has and this node lacks. With `all`,
    /// the request also contains all statements that this node knows. Does nothing without a
    /// ledger.
    pub(super) fn ask_for_trust(&mut self, node: NodeId, address: SocketAddr, all: bool) {
        if self.trust.has_ledger() {
            let question = self.trust.question(all).into();
            let asked = RequestContext::Trust {
                from: node,
                address,
                told_all: all,
            };
            self.questions
                .ask(node, address, Request::Trust { question }, asked);
        }
    }

    /// Requests the next parts of the logs whose pulls are due. Requests nothing while many
    /// received parts wait to be merged.
    pub(super) fn ask_for_logs(&mut self, now: Instant) {
        let is_due = self.pulls.poll_timeout().is_some_and(|at| at <= now);
        if !is_due || self.catalogue.intake_queue().is_behind() {
            return;
        }
        let members: BTreeMap<NodeId, SocketAddr> = self.live().collect();
        let nodes: Vec<NodeId> = members.keys().copied().collect();
        while let Some(step) = self.pulls.next_step(now, &nodes) {
            let Some(address) = members.get(&step.from).copied() else {
                self.pulls.fail(now, step.author);
                continue;
            };
            if !self.catalogue.logs().is_known(&step.author) {
                // A live node displaced the author.
                self.pulls.finish(step.author);
                continue;
            }
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
            if self.questions.ask(step.from, address, request, asked) {
                pull_span(step.author).in_scope(|| {
                    debug!(target: PULL_TARGET, peer = %step.from, epoch, after, "requested");
                });
            } else {
                self.pulls.fail(now, step.author);
            }
        }
    }
}
