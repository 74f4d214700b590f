//! The membership of the cluster: statements of members, and their effects.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::seq::IteratorRandom;

use super::answers::RequestContext;
use super::{Machine, NodeEvent};
use crate::names::certified_names;
use p2pfs_proto::trust::Keyring;
use p2pfs_proto::wire::native::tcp::Request;
use p2pfs_types::id::NodeId;
use p2pfs_types::path::SharedPath;

/// Delay until another member is asked for a secret that the last one did not give.
const SECRET_RETRY: Duration = Duration::from_secs(1);

impl Machine {
    /// Sets the time of the wall clock, or `None` if it is not believable.
    pub fn set_clock(&mut self, unix_s: Option<u64>) {
        self.cluster.set_clock(unix_s);
        if let Some(now_s) = unix_s {
            self.catalogue.set_clock(now_s.cast_signed());
        }
    }

    /// Returns the secrets and the ledger of this node's membership.
    pub fn keyring(&self) -> &Keyring {
        &self.trust.keyring
    }

    /// Applies the current keyring after it was changed by a command.
    pub fn membership_changed(&mut self, now: Instant) {
        self.advance(now);
    }

    /// Handles that a knocked address belongs to a member. Both nodes then exchange their knowledge
    /// of the membership.
    pub fn knocked(&mut self, now: Instant, node: NodeId, address: SocketAddr) {
        self.follow_membership(now);
        self.ask_for_trust(node, address, false);
        self.cluster.hint(now, address);
        self.advance(now);
    }

    /// Forgets the listings of a node that is not here until it returns, even if other nodes have
    /// them. Returns false if the node is here or unknown.
    pub fn forget_node(&mut self, node: &NodeId) -> bool {
        let is_here = *node == self.me || self.cluster.live().any(|member| member.node == *node);
        let is_known = self.catalogue.logs().head_of(node).is_some();
        if is_here || !is_known {
            return false;
        }
        self.pulls.finish(*node);
        self.catalogue.forget_until_back(node);
        true
    }

    fn forget_log(&mut self, author: &NodeId) {
        self.pulls.finish(*author);
        self.catalogue.forget(author);
    }

    /// Applies a changed keyring: spreads new statements, removes former members, and asks for a
    /// missing secret.
    pub(super) fn follow_membership(&mut self, now: Instant) {
        let revision = self.trust.keyring.revision();
        if revision == self.trust.seen_revision {
            return;
        }
        self.trust.seen_revision = revision;
        if !self.trust.keyring.has_ledger() {
            return;
        }
        // if the disk refuses it, the next change of the ledger tries again
        let _unsaid = self.trust.keyring.confirm_departures(&self.trust.key);
        self.trust.seen_revision = self.trust.keyring.revision();
        for statement in self.trust.keyring.take_news() {
            self.cluster
                .spread_statement(now, statement.encode().into());
            // The farewell that it confirms was already reported.
            if !self.trust.keyring.confirms(&statement) {
                self.push_event(NodeEvent::Stated(Box::new(statement)));
            }
        }
        self.cluster.enforce_membership(now);
        self.catalogue
            .set_certified_names(certified_names(&self.trust.keyring));
        self.follow_owners();
        self.follow_readers(now);
        for author in self.catalogue.logs().authors() {
            if !self.trust.keyring.is_member(&author) {
                self.set_live(author, false);
                self.forget_log(&author);
            }
        }
        if self.trust.keyring.wanted_epoch().is_some() {
            self.trust.secret_due.get_or_insert(now);
        }
        self.push_event(NodeEvent::MembershipChanged);
    }

    /// Applies the owners of paths in the ledger.
    pub(super) fn follow_owners(&mut self) {
        let owners = self.trust.keyring.owners().into_iter();
        let sound = owners.filter_map(|(path, node)| Some((SharedPath::new(path).ok()?, node)));
        self.catalogue.set_owners(sound.collect());
    }

    /// Asks a random member for the secret of the epoch that the ledger names.
    pub(super) fn ask_for_secret(&mut self, now: Instant) {
        if self.trust.secret_due.is_none_or(|due| now < due) {
            return;
        }
        self.trust.secret_due = None;
        if self.trust.keyring.wanted_epoch().is_none() {
            return;
        }
        self.trust.secret_due = Some(now + SECRET_RETRY);
        let member = self.cluster.live().choose(&mut self.rng);
        if let Some(member) = member {
            self.ask_for_trust(member.node, member.address, false);
        }
    }

    /// Asks a member for its statements. With `all` the request also contains all that is known
    /// here.
    pub(super) fn ask_for_trust(&mut self, node: NodeId, address: SocketAddr, all: bool) {
        if self.trust.keyring.has_ledger() {
            let question = self.trust.keyring.question(all).into();
            let asked = RequestContext::Trust {
                from: node,
                address,
                told_all: all,
            };
            self.ask(node, address, Request::Trust { question }, asked);
        }
    }

    pub(super) fn receive_trust(
        &mut self,
        now: Instant,
        (from, address): (NodeId, SocketAddr),
        told_all: bool,
        answer: &[u8],
    ) {
        let (lacks_some, fault) = self.trust.keyring.receive_answer(answer);
        self.report_bad_statement(from, fault);
        if lacks_some && !told_all {
            self.ask_for_trust(from, address, true);
        }
        self.follow_membership(now);
    }

    pub(super) fn receive_statement(&mut self, now: Instant, from: NodeId, bytes: &[u8]) {
        let fault = self.trust.keyring.receive_news(bytes);
        self.report_bad_statement(from, fault);
        self.follow_membership(now);
        if self.trust.keyring.wanted_epoch().is_some()
            && let Some(address) = self.address_of(&from)
        {
            self.ask_for_trust(from, address, false);
        }
    }
}
