//! Statements of this node: each claim becomes the next statement of its chain.

use super::confirming::{all_confirmations, confirmations_of_received};
use super::expelling::{
    check_seniority, ends_of_open_memberships, expulsion_of, senior_refusal, voiding_expulsion_of,
};
use super::last_statement::{last_counting, last_of};
use super::lost::LostClaims;
use super::{DepartureIndex, Ledger};
use crate::trust::statement::{Claim, OWNED_PATH_MAX_BYTES, SignedStatement, Statement};
use crate::trust::{NodeKey, TrustError};
use p2pfs_types::id::{EpochId, NodeId, NodeName};

/// Maximum number of attempts to make a claim decide its subject (the epoch, or the owner of one
/// path). An attempt fails if it makes an earlier claim with the same number count again.
const SAID_MAX: u64 = 64;
/// Maximum number of rounds in which lost expulsions are stated again.
const LOST_ROUNDS_MAX: usize = 16;

/// A node that adds its own statements to a ledger. Made by [`Ledger::signer`].
#[derive(Debug)]
pub struct LedgerSigner<'a> {
    pub(super) ledger: &'a mut Ledger,
    pub(super) key: &'a NodeKey,
    pub(super) now_s: u64,
}

impl LedgerSigner<'_> {
    /// Returns the ledger with the statements signed so far.
    pub fn ledger(&self) -> &Ledger {
        self.ledger
    }

    /// Changes a copy of the ledger, and keeps the copy unless `change` returns an error. `change`
    /// receives the ledger as it was, and the copy.
    fn attempt<T>(
        &mut self,
        change: impl FnOnce(&Ledger, &mut LedgerSigner<'_>) -> Result<T, TrustError>,
    ) -> Result<T, TrustError> {
        let mut after = self.ledger.clone();
        let result = change(self.ledger, &mut self.on(&mut after))?;
        *self.ledger = after;
        Ok(result)
    }

    /// Returns a signer for this node and another ledger.
    fn on<'b>(&'b self, ledger: &'b mut Ledger) -> LedgerSigner<'b> {
        LedgerSigner {
            ledger,
            key: self.key,
            now_s: self.now_s,
        }
    }

    /// Signs a claim as the next statement of this node's chain and takes it in.
    pub(super) fn state(&mut self, claim: Claim) -> Result<SignedStatement, TrustError> {
        let stated = self.state_all([claim])?;
        stated.into_iter().next().ok_or(TrustError::LedgerFull)
    }

    /// Signs several claims as [`Self::state`] does, with one evaluation. After an error, some of
    /// them may be taken in.
    fn state_all(
        &mut self,
        claims: impl IntoIterator<Item = Claim>,
    ) -> Result<Vec<SignedStatement>, TrustError> {
        let (key, now_s) = (self.key, self.now_s);
        let by = key.node_id();
        let certificate = self.ledger.certificate(&by);
        let by_term = certificate.map_or(1, |certificate| certificate.term);
        let mut before = last_of(self.ledger, &by);
        let latest_s = self
            .ledger
            .statements
            .by(&by)
            .map(|(_, statement)| statement.at_s)
            .max();
        let mut latest_s = latest_s.unwrap_or(0);
        let signed = claims.into_iter().map(|claim| {
            // An admission is later than every earlier statement of this node, even if the clock
            // was set back or stands still. So of the nodes that this node admits, the first is the
            // senior.
            let step_s = u64::from(matches!(claim, Claim::Admit { .. }));
            let at_s = now_s.max(latest_s.saturating_add(step_s));
            latest_s = at_s;
            let statement = Statement {
                cluster: self.ledger.cluster(),
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
        if self.ledger.merge(signed.iter().cloned()).len() == signed.len() {
            Ok(signed)
        } else {
            Err(TrustError::LedgerFull)
        }
    }

    /// Signs those of the claims that count afterwards. Takes nothing in after an error.
    fn state_what_counts(
        &mut self,
        mut claims: Vec<Claim>,
    ) -> Result<Vec<SignedStatement>, TrustError> {
        loop {
            let mut after = self.ledger.clone();
            let stated = self.on(&mut after).state_all(claims.iter().cloned())?;
            let said = claims.len();
            let each = claims.into_iter().zip(&stated);
            claims = each
                .filter(|(_, signed)| after.counts(signed))
                .map(|(claim, _)| claim)
                .collect();
            if claims.len() == said {
                *self.ledger = after;
                return Ok(stated);
            }
        }
    }

    /// Makes a member the owner of a path, or removes the owner. Returns the signed statements.
    ///
    /// # Errors
    /// [`TrustError::NotAdmin`], [`TrustError::NobodyMay`], [`TrustError::NoMember`],
    /// [`TrustError::OwnedPath`], [`TrustError::LedgerFull`].
    pub fn own(
        &mut self,
        path: Vec<u8>,
        node: Option<NodeId>,
    ) -> Result<Vec<SignedStatement>, TrustError> {
        self.check_admin()?;
        let term = match node.map(|node| self.ledger.certificate(&node)) {
            Some(certificate) => certificate.ok_or(TrustError::NoMember)?.term,
            None => 0,
        };
        if path.len() > OWNED_PATH_MAX_BYTES {
            return Err(TrustError::OwnedPath);
        }
        let words = |ledger: &Ledger| ledger.evaluation.owners.get(&path).copied();
        let claim = |ledger: &Ledger| Claim::Own {
            path: path.clone(),
            node,
            term,
            number: 1 + words(ledger).map_or(0, |it| it.words),
        };
        let is_so = |ledger: &Ledger| words(ledger).is_some_and(|it| it.node == node);
        self.state_until(claim, is_so)
    }

    /// Makes an epoch the cluster's, and confirms the farewells of nodes that left. Returns the
    /// signed statements.
    ///
    /// # Errors
    /// [`TrustError::NotAdmin`], [`TrustError::NobodyMay`], [`TrustError::LedgerFull`].
    pub fn rotate(&mut self, epoch: EpochId) -> Result<Vec<SignedStatement>, TrustError> {
        self.check_admin()?;
        let claim = |ledger: &Ledger| Claim::Rotate {
            epoch,
            number: 1 + ledger.evaluation.rotations.count,
        };
        let is_so = |ledger: &Ledger| ledger.epoch() == Some(epoch);
        self.attempt(|_, after| {
            // Only members may get the fresh secret. So a node that left must not be able to admit
            // another one by a statement that it held back.
            let mut stated = after.confirm_farewells();
            stated.extend(after.state_until(claim, is_so)?);
            Ok(stated)
        })
    }

    /// Names the epoch of the first secret if no statement names an epoch yet. A node that lost its
    /// secret, or has another one, learns from this statement which secret the others have. The
    /// number is 0, so a rotation that this node does not know of prevails.
    ///
    /// # Errors
    /// Those of [`Self::rotate`].
    pub fn name_epoch(&mut self, epoch: EpochId) -> Result<Vec<SignedStatement>, TrustError> {
        if self.ledger.epoch().is_some() {
            return Ok(Vec::new());
        }
        self.check_admin()?;
        let claim = Claim::Rotate { epoch, number: 0 };
        Ok(vec![self.state(claim)?])
    }

    /// States those of the claims that count. After an error, for example without room, tries again
    /// with the first half of the claims, down to none.
    fn state_as_many(&mut self, mut claims: Vec<Claim>) -> Vec<SignedStatement> {
        loop {
            match self.state_what_counts(claims.clone()) {
                Ok(stated) => return stated,
                Err(_) => claims.truncate(claims.len() / 2),
            }
        }
    }

    /// States the claim until it decides its subject. A further attempt is needed if the statement
    /// makes an older claim with the same number count again.
    fn state_until(
        &mut self,
        claim: impl Fn(&Ledger) -> Claim,
        is_so: impl Fn(&Ledger) -> bool,
    ) -> Result<Vec<SignedStatement>, TrustError> {
        self.attempt(|_, after| {
            let mut stated = Vec::new();
            for _ in 0..SAID_MAX {
                let claim = claim(after.ledger);
                stated.push(after.state(claim)?);
                if is_so(after.ledger) {
                    return Ok(stated);
                }
            }
            Err(TrustError::LedgerFull)
        })
    }

    /// States again the claims that decided their subjects in `before`, still count, and do not
    /// decide them now. This happens to a claim when another claim on its subject no longer counts,
    /// so that its number is above the count, or when its author was expelled. Stops when the
    /// ledger has no room.
    fn restate_outdone(&mut self, before: &Ledger) -> Vec<SignedStatement> {
        let mut stated = Vec::new();
        for _ in 0..SAID_MAX {
            let after = &*self.ledger;
            let claims = LostClaims { before, after }.outdone();
            match self.attempt(|_, after| after.state_all(claims)) {
                Ok(said) if said.is_empty() => break,
                Ok(said) => stated.extend(said),
                Err(_) => break,
            }
        }
        stated
    }

    /// Admits a node. If the node lost its membership because its issuer was expelled, it returns
    /// as a new member: its statements and ownerships that lost their effect do not count again.
    /// Returns the admission, and before it the statement that ends such a lost membership. Both
    /// must reach the other nodes.
    ///
    /// # Errors
    /// Those of [`Ledger::check_admits`], [`TrustError::LedgerFull`], [`TrustError::KeyWorn`]. The
    /// ledger is then unchanged.
    pub fn admit(
        &mut self,
        node: NodeId,
        name: NodeName,
        admin: bool,
    ) -> Result<Vec<SignedStatement>, TrustError> {
        let me = self.key.node_id();
        self.ledger.check_admits(&me, self.now_s)?;
        self.attempt(|before, after| {
            let mut stated = Vec::new();
            if let Some(term) = DepartureIndex::of(before).fallen_term(&node) {
                // Ends the membership that the node lost with its issuer. Of the statements that
                // the node made in it, those that count now are the only ones that ever will,
                // whatever the node signs later.
                let stands = last_counting(before, &node, term);
                stated.push(after.state(Claim::Expel { node, term, stands })?);
            }
            let over = after.ledger.evaluation.over_up_to(&node);
            stated.push(after.state(Claim::Admit {
                node,
                name,
                admin,
                until_s: None,
                term: over.checked_add(1).ok_or(TrustError::KeyWorn)?,
            })?);
            Ok(stated)
        })
    }

    /// Expels a node; a node expels itself to leave. A node that left by itself can be expelled
    /// too: then nothing that it signs afterwards counts. Returns the signed statements, the
    /// expulsion first.
    ///
    /// # Errors
    /// [`TrustError::NotAdmin`], [`TrustError::NobodyMay`], [`TrustError::NoMember`],
    /// [`TrustError::Senior`], [`TrustError::SeniorLeft`], [`TrustError::LedgerFull`].
    pub fn expel(&mut self, node: NodeId) -> Result<Vec<SignedStatement>, TrustError> {
        let me = self.key.node_id();
        let is_own = node == me;
        let claim = expulsion_of(self.ledger, &me, node)?;
        if !is_own {
            self.check_expels(&node)?;
        }
        self.attempt(|before, after| {
            let said = after.state(claim)?;
            if !is_own && !after.ledger.counts(&said) {
                return Err(senior_refusal(before, &node));
            }
            let mut stated = vec![said];
            if !is_own {
                // A dishonest node can sign several successors of one statement, so that its chain
                // of statements has branches. From this expulsion on, only the branch that ends
                // with the named statement counts, so lost expulsions on the others are stated
                // again.
                stated.extend(after.restate_lost_expulsions(before)?);
                // As many as fit, so a full ledger does not prevent the expulsion.
                let open = ends_of_open_memberships(after.ledger, node);
                stated.extend(after.close(open));
                stated.extend(after.confirm_farewells());
                stated.extend(after.restate_outdone(before));
            }
            Ok(stated)
        })
    }

    /// Expels a node with all nodes that are members only through it, directly or through others.
    /// The node may have left already. Nodes that it had expelled stay out. Returns the signed
    /// statements.
    ///
    /// # Errors
    /// [`TrustError::NotAdmin`], [`TrustError::NobodyMay`], [`TrustError::NoMember`] if the node
    /// was never a member, [`TrustError::Senior`], [`TrustError::SeniorLeft`],
    /// [`TrustError::LedgerFull`]. The ledger is then unchanged.
    pub fn expel_with_admitted(
        &mut self,
        node: NodeId,
    ) -> Result<Vec<SignedStatement>, TrustError> {
        self.ledger
            .last_name_of(&node)
            .ok_or(TrustError::NoMember)?;
        self.check_expels(&node)?;
        let claim = voiding_expulsion_of(self.ledger, node)?;
        self.attempt(|before, after| {
            let said = after.state(claim)?;
            if !after.ledger.counts(&said) {
                return Err(senior_refusal(before, &node));
            }
            let mut stated = vec![said];
            stated.extend(after.restate_lost_expulsions(before)?);
            stated.extend(after.confirm_farewells());
            stated.extend(after.restate_outdone(before));
            Ok(stated)
        })
    }

    /// States again those expulsions of `before` that no longer count, so that no expelled node
    /// returns. Leaves out those that would not count.
    fn restate_lost_expulsions(
        &mut self,
        before: &Ledger,
    ) -> Result<Vec<SignedStatement>, TrustError> {
        let mut stated = Vec::new();
        // Each statement can make another expulsion lose its effect.
        for _ in 0..LOST_ROUNDS_MAX {
            let after = &*self.ledger;
            let lost = LostClaims { before, after }.expulsions();
            // This leaves out expulsions of nodes senior to this one.
            let said = self.state_what_counts(lost)?;
            if said.is_empty() {
                break;
            }
            stated.extend(said);
        }
        Ok(stated)
    }

    /// Confirms each farewell of which every earlier statement is known, so that no statement of
    /// the node that has not arrived yet is cut off. Skips nodes senior to this one. Returns what
    /// was signed, which is empty if nothing is to be confirmed.
    pub fn confirm_received(&mut self) -> Vec<SignedStatement> {
        if self.check_admin().is_err() {
            return Vec::new();
        }
        let claims = confirmations_of_received(self.ledger, &self.key.node_id());
        if claims.is_empty() {
            return Vec::new();
        }
        self.close(claims)
    }

    /// Confirms every unconfirmed farewell, and closes open memberships that a former member ended.
    /// Skips nodes senior to this one, and claims for which the ledger has no room. Returns the
    /// signed statements.
    fn confirm_farewells(&mut self) -> Vec<SignedStatement> {
        let claims = all_confirmations(self.ledger, &self.key.node_id());
        let before = self.ledger.clone();
        let mut stated = self.close(claims);
        if !stated.is_empty() {
            stated.extend(self.restate_outdone(&before));
        }
        stated
    }

    /// States as many of these claims, which end memberships, as the ledger has room for. This can
    /// void earlier expulsions by the ended members: states these again. States nothing if the
    /// ledger has no room for all of them.
    fn close(&mut self, claims: Vec<Claim>) -> Vec<SignedStatement> {
        let closed = self.attempt(|before, after| {
            let mut stated = after.state_as_many(claims);
            stated.extend(after.restate_lost_expulsions(before)?);
            Ok(stated)
        });
        closed.unwrap_or_default()
    }

    /// Checks that this node may expel the node.
    fn check_expels(&self, node: &NodeId) -> Result<(), TrustError> {
        self.check_admin()?;
        check_seniority(self.ledger, &self.key.node_id(), node)
    }

    /// Checks that this node may admit and expel.
    fn check_admin(&self) -> Result<(), TrustError> {
        let is_admin = self.ledger.is_admin(&self.key.node_id(), self.now_s);
        let refusal = || self.ledger.not_admin(self.now_s);
        is_admin.then_some(()).ok_or_else(refusal)
    }
}
