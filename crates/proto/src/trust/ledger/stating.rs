//! Statements of this node: each claim becomes the next statement of its chain.

use super::Ledger;
use crate::trust::statement::{
    Claim, OWNED_PATH_MAX_BYTES, SignedStatement, Statement, StatementId,
};
use crate::trust::{NodeKey, TrustError};
use p2pfs_types::id::{EpochId, NodeId};

/// Maximum number of attempts to make a claim decide its subject. An attempt fails if it makes an
/// earlier claim with the same number count again.
const SAID_MAX: u64 = 64;

impl Ledger {
    /// Signs a claim as the next statement of this node's chain and takes it in.
    pub(super) fn state(
        &mut self,
        key: &NodeKey,
        claim: Claim,
        at_s: u64,
    ) -> Result<SignedStatement, TrustError> {
        let stated = self.state_all(key, [claim], at_s)?;
        stated.into_iter().next().ok_or(TrustError::LedgerFull)
    }

    /// Signs several claims as [`Self::state`] does, with one evaluation. After an error some of
    /// them are taken in.
    pub(super) fn state_all(
        &mut self,
        key: &NodeKey,
        claims: impl IntoIterator<Item = Claim>,
        at_s: u64,
    ) -> Result<Vec<SignedStatement>, TrustError> {
        let by = key.node_id();
        let certificate = self.certificate(&by);
        let by_term = certificate.map_or(1, |certificate| certificate.term);
        let mut before = self.last_of(&by);
        let latest_s = self.by(&by).map(|(_, statement)| statement.at_s).max();
        let mut latest_s = latest_s.unwrap_or(0);
        let signed = claims.into_iter().map(|claim| {
            // An admission is later than every earlier statement of this node, even if the clock
            // was set back or stands still. So the node admitted first is the senior.
            let step_s = u64::from(matches!(claim, Claim::Admit { .. }));
            let at_s = at_s.max(latest_s.saturating_add(step_s));
            latest_s = at_s;
            let statement = Statement {
                cluster: self.cluster,
                by,
                by_term,
                at_s,
                before,
                claim,
            };
            let signed = statement.sign(key);
            before = Some(signed.id());
            signed
        });
        let signed: Vec<_> = signed.collect();
        if self.merge(signed.iter().cloned()).len() == signed.len() {
            Ok(signed)
        } else {
            Err(TrustError::LedgerFull)
        }
    }

    /// Signs those of the claims that count afterwards. Takes nothing in after an error.
    pub(super) fn state_what_counts(
        &mut self,
        key: &NodeKey,
        mut claims: Vec<Claim>,
        at_s: u64,
    ) -> Result<Vec<SignedStatement>, TrustError> {
        loop {
            let mut after = self.clone();
            let stated = after.state_all(key, claims.iter().cloned(), at_s)?;
            let said = claims.len();
            let each = claims.into_iter().zip(&stated);
            claims = each
                .filter(|(_, signed)| after.counts(signed))
                .map(|(claim, _)| claim)
                .collect();
            if claims.len() == said {
                *self = after;
                return Ok(stated);
            }
        }
    }

    /// Makes a member the owner of a path, or removes the owner. Returns the signed statements.
    ///
    /// # Errors
    /// [`TrustError::NotAdmin`], [`TrustError::NoMember`], [`TrustError::OwnedPath`],
    /// [`TrustError::LedgerFull`].
    pub fn own(
        &mut self,
        key: &NodeKey,
        path: Vec<u8>,
        node: Option<NodeId>,
        now_s: u64,
    ) -> Result<Vec<SignedStatement>, TrustError> {
        self.check_admin(key, now_s)?;
        let term = match node.map(|node| self.certificate(&node)) {
            Some(certificate) => certificate.ok_or(TrustError::NoMember)?.term,
            None => 0,
        };
        if path.len() > OWNED_PATH_MAX_BYTES {
            return Err(TrustError::OwnedPath);
        }
        let words = |ledger: &Self| ledger.evaluation.owners.get(&path).copied();
        let claim = |ledger: &Self| Claim::Own {
            path: path.clone(),
            node,
            term,
            number: 1 + words(ledger).map_or(0, |it| it.words),
        };
        let is_so = |ledger: &Self| words(ledger).is_some_and(|it| it.node == node);
        self.state_until(key, now_s, claim, is_so)
    }

    /// Makes an epoch the cluster's, and confirms the farewells of nodes that left. Returns the
    /// signed statements.
    ///
    /// # Errors
    /// [`TrustError::NotAdmin`], [`TrustError::LedgerFull`].
    pub fn rotate(
        &mut self,
        key: &NodeKey,
        epoch: EpochId,
        now_s: u64,
    ) -> Result<Vec<SignedStatement>, TrustError> {
        self.check_admin(key, now_s)?;
        let claim = |ledger: &Self| Claim::Rotate {
            epoch,
            number: 1 + ledger.evaluation.rotations,
        };
        let is_so = |ledger: &Self| ledger.epoch() == Some(epoch);
        let mut after = self.clone();
        // Only members may get the fresh secret. So a node that left must not be able to admit
        // another one by a statement that it held back.
        let mut stated = after.confirm_farewells(key, now_s);
        stated.extend(after.state_until(key, now_s, claim, is_so)?);
        *self = after;
        Ok(stated)
    }

    /// Names the epoch of the first secret if no statement names an epoch yet. A node that lost its
    /// secret, or has another one, learns from this statement which secret the others have. The
    /// number is 0, so a rotation that this node does not know of prevails.
    ///
    /// # Errors
    /// Those of [`Self::rotate`].
    pub fn name_epoch(
        &mut self,
        key: &NodeKey,
        epoch: EpochId,
        now_s: u64,
    ) -> Result<Vec<SignedStatement>, TrustError> {
        if self.epoch().is_some() {
            return Ok(Vec::new());
        }
        self.check_admin(key, now_s)?;
        let claim = Claim::Rotate { epoch, number: 0 };
        Ok(vec![self.state(key, claim, now_s)?])
    }

    /// States those of the claims that count. If the ledger has no room for them, tries again with
    /// the first half of the claims, down to none.
    pub(super) fn state_as_many(
        &mut self,
        key: &NodeKey,
        mut claims: Vec<Claim>,
        at_s: u64,
    ) -> Vec<SignedStatement> {
        loop {
            match self.state_what_counts(key, claims.clone(), at_s) {
                Ok(stated) => return stated,
                Err(_) => claims.truncate(claims.len() / 2),
            }
        }
    }

    /// States the claim until it decides its subject. A further attempt is needed if the statement
    /// makes an older claim with the same number count again.
    fn state_until(
        &mut self,
        key: &NodeKey,
        now_s: u64,
        claim: impl Fn(&Self) -> Claim,
        is_so: impl Fn(&Self) -> bool,
    ) -> Result<Vec<SignedStatement>, TrustError> {
        let (mut after, mut stated) = (self.clone(), Vec::new());
        for _ in 0..SAID_MAX {
            let claim = claim(&after);
            stated.push(after.state(key, claim, now_s)?);
            if is_so(&after) {
                *self = after;
                return Ok(stated);
            }
        }
        Err(TrustError::LedgerFull)
    }

    /// States again the claims that decided their subjects in `before`, still count, and do not
    /// decide them now. This happens to a claim when another claim on its subject no longer counts,
    /// so that its number is above the count, or when its author was expelled. Stops when the
    /// ledger has no room.
    pub(super) fn restate_outdone(
        &mut self,
        before: &Self,
        key: &NodeKey,
        now_s: u64,
    ) -> Vec<SignedStatement> {
        let mut stated = Vec::new();
        for _ in 0..SAID_MAX {
            let mut after = self.clone();
            match after.state_all(key, self.outdone_of(before), now_s) {
                Ok(said) if said.is_empty() => break,
                Ok(said) => stated.extend(said),
                Err(_) => break,
            }
            *self = after;
        }
        stated
    }

    /// Returns the claims that decided their subjects in `before`, still count, and do not decide
    /// them now. Each has the number that is next now.
    fn outdone_of(&self, before: &Self) -> Vec<Claim> {
        let (now, then) = (&self.evaluation, &before.evaluation);
        let counts = |id: &StatementId| now.valid.contains(id);
        let mut outdone = Vec::new();
        if let Some(said) = then.epoch
            && counts(&said.id)
            && self.epoch() != Some(said.what)
        {
            outdone.push(Claim::Rotate {
                epoch: said.what,
                number: 1 + now.rotations,
            });
        }
        for (path, owned) in &then.owners {
            let Some(said) = owned.said.filter(|said| counts(&said.id)) else {
                continue;
            };
            let owner = said.what.filter(|it| now.is_in(it));
            let node = owner.map(|(node, _)| node);
            let on_it = now.owners.get(path);
            if on_it.is_none_or(|on_it| on_it.node != node) {
                outdone.push(Claim::Own {
                    path: path.clone(),
                    node,
                    term: owner.map_or(0, |(_, term)| term),
                    number: 1 + on_it.map_or(0, |on_it| on_it.words),
                });
            }
        }
        outdone
    }
}
