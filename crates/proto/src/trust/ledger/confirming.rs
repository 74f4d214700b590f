//! Confirmation that a node left, so that its key can change nothing more.
//!
//! A node that left still has its key, and can sign another farewell with an earlier time. All
//! farewells of a node hold together, so another farewell cannot let a statement stand that the
//! first one ended. But it can end more statements, which undoes expulsions and rotations by the
//! node. The first farewell may also name a statement that no other node has seen. A *confirmation*
//! is an expulsion of the node by a senior that names its farewell. The confirmation prevents both,
//! because a farewell beyond it does not count.
//!
//! A farewell is confirmed either alone, when it and every statement before it are known
//! ([`LedgerSigner::confirm_received`]), or with an expulsion or a rotation, whatever is known
//! ([`LedgerSigner::confirm_farewells`]).

use std::collections::BTreeMap;

use super::Membership;
use super::chains::last_counting;
use super::signer::LedgerSigner;
use crate::trust::statement::{Claim, SignedStatement, StatementId};

impl LedgerSigner<'_> {
    /// Confirms every unconfirmed farewell: states expulsions that end the same memberships and let
    /// stand exactly the statements that stand now. Also confirms open memberships, which are ended
    /// ones for which further statements could become valid, if the node that ended them is no
    /// longer a member. Skips nodes senior to this one, and claims for which the ledger has no
    /// room. Returns the signed statements.
    pub(super) fn confirm_farewells(&mut self) -> Vec<SignedStatement> {
        let me = self.key.node_id();
        let members = &self.ledger.evaluation.members;
        let open = self.ledger.evaluation.open.iter();
        let open = open.filter(|(_, by)| !members.contains_key(by));
        let mut ends: BTreeMap<Membership, Option<StatementId>> =
            open.map(|(it, _)| (*it, None)).collect();
        for membership in &self.ledger.evaluation.unconfirmed {
            // The farewell may also end later memberships. Such a farewell would not count beside a
            // cut of this membership alone, so the last membership is ended too.
            for ended in [*membership, self.last_ended(*membership)] {
                ends.insert(ended, self.farewell_to_confirm(ended));
            }
        }
        ends.retain(|(node, _), _| *node != me);
        let claims = ends.into_iter().map(|((node, term), farewell)| {
            let last = || last_counting(self.ledger, &node, term).unwrap_or(self.ledger.cluster());
            let stands = Some(farewell.unwrap_or_else(last));
            Claim::Expel { node, term, stands }
        });
        let (claims, before) = (claims.collect(), self.ledger.clone());
        let mut stated = self.close(claims);
        if !stated.is_empty() {
            stated.extend(self.restate_outdone(&before));
        }
        stated
    }

    /// Confirms each farewell of which every earlier statement is known, so that no statement of
    /// the node that has not arrived yet is cut off. Skips nodes senior to this one. Returns what
    /// was signed, which is empty if nothing is to be confirmed.
    pub fn confirm_received(&mut self) -> Vec<SignedStatement> {
        let me = self.key.node_id();
        if self.check_admin().is_err() {
            return Vec::new();
        }
        let unconfirmed = self.ledger.evaluation.unconfirmed.iter();
        let claims = unconfirmed
            .filter(|(node, _)| *node != me)
            .filter_map(|membership| {
                let (node, term) = self.last_ended(*membership);
                let stands = Some(self.farewell_to_confirm((node, term))?);
                Some(Claim::Expel { node, term, stands })
            });
        let claims: Vec<Claim> = claims.collect();
        if claims.is_empty() {
            return Vec::new();
        }
        self.close(claims)
    }

    /// States as many of these claims, which end memberships, as the ledger has room for. This can
    /// void earlier expulsions by the ended members: states these again. States nothing if the
    /// ledger has no room for all of them.
    pub(super) fn close(&mut self, claims: Vec<Claim>) -> Vec<SignedStatement> {
        let closed = self.attempt(|before, after| {
            let mut stated = after.state_as_many(claims);
            stated.extend(after.restate_lost_expulsions(before)?);
            Ok(stated)
        });
        closed.unwrap_or_default()
    }

    /// Returns the last membership of a node that is over, if the node is not a member. Otherwise
    /// returns the given membership.
    fn last_ended(&self, (node, term): Membership) -> Membership {
        if self.ledger.certificate(&node).is_some() {
            return (node, term);
        }
        let over = self.ledger.evaluation.over_up_to(&node);
        let last = self
            .ledger
            .evaluation
            .last_term(&node)
            .unwrap_or(term)
            .min(over);
        (node, last.max(term))
    }

    /// Returns the only farewell of a membership, if a cut at it lets stand exactly what stands
    /// now. A node that signed several farewells, or one that skips statements, did not simply
    /// leave.
    fn farewell_to_confirm(&self, (node, term): Membership) -> Option<StatementId> {
        let own = self.ledger.statements.by(&node).map(|(id, _)| id);
        let mut farewells = own.filter(|id| {
            let ends = self.ledger.statements.farewell_term(&node, id);
            self.ledger.evaluation.valid.contains(id) && ends.is_some_and(|it| it >= term)
        });
        let farewell = farewells.next().filter(|_| farewells.next().is_none())?;
        let (mut last, mut next) = (
            None,
            self.ledger.statements.get(&farewell)?.statement.before,
        );
        while let Some(id) = next {
            let statement = &self.ledger.statements.get(&id)?.statement;
            let is_farewell = self.ledger.statements.farewell_term(&node, &id).is_some();
            if statement.by != node || !self.ledger.evaluation.valid.contains(&id) {
                return None;
            }
            if !is_farewell {
                last = last.or(Some(id));
            }
            next = statement.before;
        }
        (last == last_counting(self.ledger, &node, term)).then_some(farewell)
    }
}
