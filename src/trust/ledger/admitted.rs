//! Putting a node out with whom it let in.
//!
//! One statement does it: an expulsion that lets nothing stand of what its node has ever said, so
//! that none of its certificates counts. However many nodes a thief has admitted, it takes no more
//! room than one. Whoever has another's certificate too is in by that one.

use std::collections::BTreeMap;

use super::{Certificate, Ledger};
use crate::id::{NodeId, NodeName};
use crate::trust::statement::{Claim, SignedStatement, StatementId};
use crate::trust::{NodeKey, TrustError};

/// How often is looked for what has to be said again.
const LOST_ROUNDS_MAX: usize = 16;

impl Ledger {
    /// Puts a node out with all who are in by its word alone, directly or through others; one that
    /// is out already can be named too. Whom it had put out stays out. Gives what was signed.
    ///
    /// # Errors
    /// [`TrustError::NotAdmin`], [`TrustError::NoMember`] of one that never was any,
    /// [`TrustError::Senior`], [`TrustError::LedgerFull`]; nothing was changed then.
    pub fn expel_with_admitted(
        &mut self,
        key: &NodeKey,
        node: NodeId,
        now_s: u64,
    ) -> Result<Vec<SignedStatement>, TrustError> {
        let name = self.last_name_of(&node).ok_or(TrustError::NoMember)?;
        self.check_expels(key, &node, now_s)?;
        let theirs = self.last_term(&node);
        let over = self.standing.over.get(&node).copied();
        let term = theirs.max(over).ok_or(TrustError::NoMember)?;
        let mut after = self.clone();
        let stands = None;
        let claim = Claim::Expel { node, term, stands };
        let mut stated = vec![after.state(key, claim, now_s)?];
        if !after.counts(&stated[0]) {
            return Err(TrustError::Senior { name });
        }
        // each can let another come to count no more
        for _ in 0..LOST_ROUNDS_MAX {
            let lost = self.expulsions_lost_in(&after);
            if lost.is_empty() {
                break;
            }
            for claim in lost {
                stated.push(after.state(key, claim, now_s)?);
            }
        }
        *self = after;
        Ok(stated)
    }

    /// Who is in by this node's word alone, directly or through others: who would go with it.
    ///
    /// # Errors
    /// As [`Self::expel_with_admitted`].
    pub fn admitted_by_it_alone(
        &self,
        key: &NodeKey,
        node: NodeId,
        now_s: u64,
    ) -> Result<Vec<Certificate>, TrustError> {
        let mut after = self.clone();
        after.expel_with_admitted(key, node, now_s)?;
        let members = self.members().filter(|it| self.is_member(&it.node, now_s));
        let gone = members.filter(|it| it.node != node && after.certificate(&it.node).is_none());
        Ok(gone.cloned().collect())
    }

    /// What put out those who would be in again, or would have again what they had before, since it
    /// was said by nodes that are not heard in `after`: of each node the word that ends most.
    fn expulsions_lost_in(&self, after: &Self) -> Vec<Claim> {
        let mut lost: BTreeMap<NodeId, (bool, u32, Option<StatementId>)> = BTreeMap::new();
        for signed in self.statements.values() {
            let Claim::Expel { node, term, stands } = signed.statement.claim else {
                continue;
            };
            // one that nobody has let in any more has nothing to lose
            let Some(had) = after.last_term(&node) else {
                continue;
            };
            let over = after.standing.over.get(&node).copied().unwrap_or(0);
            let is_void = stands.is_none() && node != signed.statement.by;
            let is_needed = term.min(had) > over || (is_void && !after.is_void(&node, term));
            if self.counts(signed) && !after.counts(signed) && is_needed {
                let word = (is_void, term.min(had), stands);
                let most = lost.entry(node).or_insert(word);
                *most = (*most).max(word);
            }
        }
        let claims = lost.into_iter();
        claims
            .map(|(node, (_, term, stands))| Claim::Expel { node, term, stands })
            .collect()
    }

    /// Whether a word that counts lets nothing stand of what a node has said in this membership.
    fn is_void(&self, who: &NodeId, in_term: u32) -> bool {
        self.statements.values().any(|signed| {
            let is_it = matches!(
                signed.statement.claim,
                Claim::Expel { node, term, stands: None } if node == *who && term >= in_term
            );
            is_it && signed.statement.by != *who && self.counts(signed)
        })
    }

    /// What a node was last called by who admitted it, whether that counts or not.
    pub(super) fn last_name_of(&self, who: &NodeId) -> Option<NodeName> {
        let all = self.statements.values().map(|signed| &signed.statement);
        let named = all.filter_map(|statement| match &statement.claim {
            Claim::Admit { node, name, .. } if node == who => Some((statement.at_s, name)),
            Claim::Found { name } if statement.by == *who => Some((statement.at_s, name)),
            _ => None,
        });
        named.max_by_key(|(at_s, _)| *at_s).map(|it| it.1.clone())
    }

    /// The last term of a node that went out with who had let it in, and whose own membership
    /// nobody has ended. None of a member.
    pub(super) fn fallen_term(&self, who: &NodeId) -> Option<u32> {
        let words = self.words();
        words.fell(who)?;
        let last = words.last_admitted(who)?;
        let over = self.standing.over.get(who).copied().unwrap_or(0);
        (last > over).then_some(last)
    }
}
