//! Evaluation of a ledger: applies the statements of one membership after the other, from the most
//! senior node with the right to admit down. A membership is *heard* when its statements were
//! applied. Start at [`Replay::apply_statements`].

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::chains::Chains;
use super::statement_set::StatementSet;
use super::{
    CHAIN_MAX, Certificate, Evaluation, LastClaim, Membership, PathOwnership, Rotations, Seniority,
};
use crate::trust::statement::{Claim, Statement, StatementId};
use p2pfs_types::id::{EpochId, NodeId};

/// A claim about the cluster's epoch or about the owner of a path.
struct Vote<T> {
    number: u64,
    /// Whether another node expelled the author from the membership in which the claim was made, or
    /// from a later one. A mere confirmation of the author's farewell does not count.
    is_put_out: bool,
    rank: Seniority,
    said: LastClaim<T>,
}

/// A node's statement that it leaves.
struct OwnFarewell {
    id: StatementId,
    /// The membership in which it was made.
    by_term: u32,
    /// The last membership that it ends.
    term: u32,
    stands: Option<StatementId>,
}

/// The cut that one farewell of a node sets on the node's memberships up to `term`.
struct OwnCut {
    id: StatementId,
    term: u32,
    cut: Cutoff,
}

/// The claims on one subject: the epoch, or one path.
struct Votes<T> {
    standing: Vec<Vote<T>>,
    /// Number of claims that stand, or that only their authors' own farewells withdraw. The next
    /// claim gets the number after this one. A farewell does not lower the count, so it never makes
    /// the number of a later claim too high.
    count: u64,
}

/// The limit up to which the statements of an ended membership stand.
#[derive(Clone, Copy)]
struct Cutoff {
    /// The node that set the limit.
    by: NodeId,
    last: Option<StatementId>,
    /// Whether the chain of the statement that the cut names is not completely known here. More
    /// statements can come to stand when the missing ones arrive.
    is_open: bool,
    /// Whether the cut only confirms the node's own farewell: another node set it and named that
    /// farewell.
    is_confirming: bool,
}

/// State of an evaluation from the senior down.
pub(super) struct Replay<'a> {
    statements: &'a StatementSet,
    /// Statements of each node in each of its memberships.
    by: BTreeMap<Membership, Vec<(StatementId, &'a Statement)>>,
    evaluation: Evaluation,
    /// Memberships with the right to admit whose statements were not applied yet.
    waiting: BTreeSet<(Seniority, u32)>,
    heard: BTreeSet<Membership>,
    /// Order of each node's statements.
    chains: Chains,
    /// Farewells of each node that were not applied yet.
    farewells: BTreeMap<NodeId, Vec<OwnFarewell>>,
    /// For each membership that another node ended, the cut by the most senior node that did so. If
    /// a membership has no cut here, the cut of the node's next later membership with one limits
    /// it.
    cut: BTreeMap<Membership, Cutoff>,
    /// Cuts by the farewells of each node. They never extend what a cut by another node lets stand.
    own_cuts: BTreeMap<NodeId, Vec<OwnCut>>,
    certificates: BTreeMap<NodeId, Vec<Certificate>>,
    epochs: Votes<EpochId>,
    owners: BTreeMap<&'a [u8], Votes<Option<Membership>>>,
}

impl<'a> Replay<'a> {
    pub(super) fn new(statements: &'a StatementSet) -> Self {
        let mut by: BTreeMap<_, Vec<_>> = BTreeMap::new();
        let mut farewells: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (id, signed) in statements.iter() {
            let statement = &signed.statement;
            if let Claim::Expel { node, term, stands } = statement.claim
                && node == statement.by
            {
                farewells.entry(node).or_default().push(OwnFarewell {
                    id: *id,
                    by_term: statement.by_term,
                    term,
                    stands,
                });
            }
            let membership = (statement.by, statement.by_term);
            by.entry(membership).or_default().push((*id, statement));
        }
        let mut replay = Self {
            statements,
            by,
            evaluation: Evaluation::default(),
            waiting: BTreeSet::new(),
            heard: BTreeSet::new(),
            chains: Chains::of(
                statements
                    .iter()
                    .map(|(id, signed)| (*id, &signed.statement)),
            ),
            farewells,
            cut: BTreeMap::new(),
            own_cuts: BTreeMap::new(),
            certificates: BTreeMap::new(),
            epochs: Votes::default(),
            owners: BTreeMap::new(),
        };
        let cluster = statements.cluster();
        let founding = statements.get(&cluster).map(|s| &s.statement);
        if let Some(founding) = founding
            && let Claim::Found { name } = &founding.claim
        {
            let rank = (0, founding.at_s, founding.by);
            replay.evaluation.valid.insert(cluster);
            replay.certify(Certificate {
                node: founding.by,
                name: name.clone(),
                admin: true,
                since_s: founding.at_s,
                until_s: None,
                by: founding.by,
                term: 1,
                rank,
                id: cluster,
            });
        }
        replay
    }

    /// Records a certificate. Ignores one that is further from the founding than a chain can show,
    /// and one for membership 0, because the first membership is number 1. A certificate with an
    /// end never gives the right to admit.
    fn certify(&mut self, mut certificate: Certificate) {
        certificate.admin &= certificate.until_s.is_none();
        let Certificate {
            node, term, rank, ..
        } = certificate;
        if rank.0 >= CHAIN_MAX || term == 0 {
            return;
        }
        if certificate.admin && !self.heard.contains(&(node, term)) {
            self.waiting.insert((rank, term));
        }
        self.certificates.entry(node).or_default().push(certificate);
    }

    pub(super) fn pop_senior(&mut self) -> Option<Membership> {
        loop {
            let ((_, _, node), term) = self.waiting.pop_first()?;
            if self.heard.insert((node, term)) {
                return Some((node, term));
            }
        }
    }

    /// Returns the cut by another node that limits a membership, according to the seniors heard so
    /// far, and the last membership that this cut ends.
    fn cut_by_others(&self, (by, term): Membership) -> Option<(u32, &Cutoff)> {
        let mut behind = self.cut.range((by, term)..=(by, u32::MAX));
        behind.next().map(|((_, ended), cut)| (*ended, cut))
    }

    /// Returns the cuts that limit a membership, according to the seniors heard so far. They hold
    /// together: a statement counts only if each of them lets it stand.
    fn cuts(&self, (by, term): Membership) -> impl Iterator<Item = &Cutoff> {
        let others = self.cut_by_others((by, term));
        // If another node's expulsion cuts this membership too, a farewell counts only under two
        // conditions: it ends no membership after those that the expulsion ends, and it is itself a
        // statement that the expulsion lets stand.
        let is_in_time = move |own: &OwnCut| {
            others.is_none_or(|(ended, cut)| own.term <= ended && self.is_kept(&own.id, cut))
        };
        // Each farewell that ends this membership counts, not only the one with this term: after
        // the end of this membership, the node may sign one with a higher term.
        let own = self.own_cuts.get(&by).into_iter().flatten();
        let own = own.filter(move |own| own.term >= term && is_in_time(own));
        let others = others.into_iter().map(|(_, cut)| cut);
        others.chain(own.map(|own| &own.cut))
    }

    /// Returns whether a cut lets a statement stand.
    fn is_kept(&self, id: &StatementId, cut: &Cutoff) -> bool {
        cut.last.is_some_and(|last| self.chains.is_up_to(id, &last))
    }

    /// Returns whether all statements of a node in this membership are void, unless they were
    /// applied already.
    fn is_void(&self, (by, term): Membership) -> bool {
        let void = self.evaluation.void.get(&by);
        void.is_some_and(|void| term <= *void)
    }

    /// Returns the cut that lets stand only what both let stand, up to the point where their chains
    /// part.
    fn intersect(&self, one: Cutoff, other: Cutoff) -> Cutoff {
        let mut last = one.last;
        while let Some(id) = last
            && other.last.is_none_or(|it| !self.chains.is_up_to(&id, &it))
        {
            let signed = self.statements.get(&id);
            last = signed.and_then(|signed| signed.statement.before);
        }
        Cutoff {
            by: one.by,
            last,
            is_open: one.is_open && other.is_open,
            is_confirming: one.is_confirming && other.is_confirming,
        }
    }

    /// Returns the intersection of all cuts that limit a membership, according to the seniors heard
    /// so far.
    fn limit(&self, membership: Membership) -> Option<Cutoff> {
        let cuts = self.cuts(membership).copied();
        cuts.reduce(|one, other| self.intersect(one, other))
    }

    /// Returns whether a statement in a membership with this limit counts.
    fn stands(&self, id: &StatementId, membership: Membership, limit: Option<Cutoff>) -> bool {
        !self.is_void(membership) && limit.is_none_or(|cut| self.is_kept(id, &cut))
    }

    /// Returns the node that set the cut of an ended membership, if more statements of the
    /// membership can come to stand.
    fn is_open(&self, membership: Membership) -> Option<NodeId> {
        let mut cuts = self.cuts(membership).peekable();
        let by = cuts.peek().map(|cut| cut.by)?;
        let is_open = !self.is_void(membership) && cuts.all(|cut| cut.is_open);
        is_open.then_some(by)
    }

    /// Returns whether only the node's own farewells limit a membership.
    fn is_unconfirmed(&self, (by, term): Membership) -> bool {
        let mut cuts = self.cuts((by, term)).peekable();
        !self.is_void((by, term)) && cuts.peek().is_some() && cuts.all(|cut| cut.by == by)
    }

    /// Returns whether an expulsion of `node` up to `up_to_term` concerns a senior of the issuer.
    /// This requires that one of these memberships was heard before, and that it goes on or that
    /// seniors have ended all memberships up to `up_to_term` already.
    fn is_senior(&self, node: &NodeId, up_to_term: u32) -> bool {
        let (over, closed) = (self.evaluation.over_up_to(node), self.closed_up_to(node));
        let mut heard = self.heard.range((*node, 0)..=(*node, up_to_term));
        heard.any(|(_, term)| *term > over || up_to_term <= closed)
    }

    /// Returns the last membership of `node` that seniors of the current issuer ended. A farewell
    /// counts here only for memberships that were heard, which are senior to the issuer. A later
    /// membership can still be ended by the issuer, whatever the farewell says.
    fn closed_up_to(&self, node: &NodeId) -> u32 {
        let memberships = (*node, 0)..=(*node, u32::MAX);
        let by_others = self.cut.range(memberships.clone()).next_back();
        let left = self.own_cuts.get(node).into_iter().flatten();
        let left = left.map(|own| own.term).max().unwrap_or(0);
        let mut heard = self.heard.range(memberships).rev();
        let left = heard.find(|(_, term)| *term <= left);
        let ended = by_others.map(|((_, term), _)| *term);
        ended.max(left.map(|(_, term)| *term)).unwrap_or(0)
    }

    /// Applies the statements that a node made in this membership. The node must have a certificate
    /// for it that gives the right to admit.
    pub(super) fn apply_statements(&mut self, membership: Membership) {
        let (admin, _) = &membership;
        let (rank, certificate) = self.senior_certificate(&membership);
        self.evaluation.heard_by.insert(membership, certificate);
        // A farewell in one membership can limit other memberships too, so all farewells are
        // applied first.
        self.apply_farewells(admin);
        let mut others = self.cut.range(membership..=(*admin, u32::MAX));
        let is_put_out = others.any(|(_, cut)| !cut.is_confirming);
        let limit = self.limit(membership);
        self.record_state(membership);
        let others = self.cut_by_others(membership).map(|(_, cut)| *cut);
        let said = self.by.remove(&membership).unwrap_or_default();
        for (id, statement) in said {
            if self.stands(&id, membership, others) {
                self.count(&statement.claim);
            }
            if !self.stands(&id, membership, limit) {
                continue;
            }
            match &statement.claim {
                Claim::Found { .. } => continue,
                // The node's farewells were applied above.
                Claim::Expel { node, .. } if node == admin => continue,
                Claim::Expel { node, term, .. } if self.is_senior(node, *term) => continue,
                Claim::Expel { node, term, stands } => {
                    self.end((*node, *term), *admin, *stands);
                    if stands.is_none() {
                        self.void_statements(id, (*node, *term));
                    }
                }
                Claim::Admit {
                    node,
                    name,
                    admin: is_admin,
                    until_s,
                    term,
                } => self.certify(Certificate {
                    node: *node,
                    name: name.clone(),
                    admin: *is_admin,
                    since_s: statement.at_s,
                    until_s: *until_s,
                    by: *admin,
                    term: *term,
                    rank: (rank.0 + 1, statement.at_s, *node),
                    id,
                }),
                Claim::Rotate { epoch, number } => self.epochs.standing.push(Vote {
                    number: *number,
                    is_put_out,
                    rank,
                    said: LastClaim { id, what: *epoch },
                }),
                Claim::Own {
                    path,
                    node,
                    term,
                    number,
                } => {
                    let what = node.map(|node| (node, *term));
                    self.owners.entry(path).or_default().standing.push(Vote {
                        number: *number,
                        is_put_out,
                        rank,
                        said: LastClaim { id, what },
                    });
                }
            }
            self.evaluation.valid.insert(id);
        }
    }

    /// Records whether only farewells limit a membership, and whether more of its statements may
    /// come to stand. The answers are final, because later cuts are by juniors and change nothing
    /// about a membership that was heard.
    fn record_state(&mut self, membership: Membership) {
        if let Some(by) = self.is_open(membership) {
            self.evaluation.open.insert(membership, by);
        }
        if self.is_unconfirmed(membership) {
            self.evaluation.unconfirmed.insert(membership);
        }
    }

    /// Counts a claim on the epoch or on the owner of a path in [`Votes::count`].
    fn count(&mut self, claim: &'a Claim) {
        match claim {
            Claim::Rotate { .. } => self.epochs.count += 1,
            Claim::Own { path, .. } => self.owners.entry(path).or_default().count += 1,
            Claim::Found { .. } | Claim::Admit { .. } | Claim::Expel { .. } => {}
        }
    }

    /// Voids all statements of a node up to this membership that were not applied yet. If none of
    /// them was, records the expulsion `id` as voiding.
    fn void_statements(&mut self, id: StatementId, (node, term): Membership) {
        let void = self.evaluation.void.entry(node).or_default();
        *void = (*void).max(term);
        if self.heard.range((node, 0)..=(node, term)).next().is_none() {
            self.evaluation.voiding.insert(id);
        }
    }

    /// Returns the most senior certificate that gives this membership the right to admit.
    fn senior_certificate(&self, (node, term): &Membership) -> (Seniority, StatementId) {
        let certificates = self.certificates.get(node).into_iter().flatten();
        let admin = certificates.filter(|it| it.admin && it.term == *term);
        let first = admin.map(|it| (it.rank, it.id)).min();
        first.expect("who is heard has a certificate to admit")
    }

    /// Applies all farewells of a node, before any other of its statements. Ignores a farewell
    /// beyond a senior's cut.
    fn apply_farewells(&mut self, node: &NodeId) {
        let mut farewells = self.farewells.remove(node).unwrap_or_default();
        farewells.retain(|it| {
            let membership = (*node, it.by_term.min(it.term));
            self.stands(&it.id, membership, self.limit(membership))
        });
        for OwnFarewell {
            id, term, stands, ..
        } in farewells
        {
            self.evaluation.end(*node, term);
            let cut = self.cutoff((*node, term), *node, stands);
            let own = self.own_cuts.entry(*node).or_default();
            own.push(OwnCut { id, term, cut });
            self.evaluation.valid.insert(id);
        }
    }

    /// Ends the memberships of a node up to this one. The first node that does so is the most
    /// senior one and sets the cut. Several statements by that node on the membership hold
    /// together. Otherwise the hash of a statement would decide which one holds.
    fn end(&mut self, (node, term): Membership, by: NodeId, stands: Option<StatementId>) {
        self.evaluation.end(node, term);
        let ends = self.cutoff((node, term), by, stands);
        let cut = match self.cut.get(&(node, term)) {
            None => ends,
            Some(first) if first.by == by => self.intersect(*first, ends),
            Some(_) => return,
        };
        self.cut.insert((node, term), cut);
    }

    /// Returns the cut that a statement by `by` sets if it ends the memberships of `node` up to
    /// `term` and names `stands`.
    fn cutoff(&self, (node, term): Membership, by: NodeId, stands: Option<StatementId>) -> Cutoff {
        let signed = stands.map(|last| self.statements.get(&last));
        // If `stands` is a statement of another node, no statement of `node` stands.
        let of = signed.map(|signed| signed.map(|signed| signed.statement.by));
        let last = stands.filter(|_| of == Some(Some(node)));
        let is_whole = |last: &StatementId| self.chains.whole_length(last).is_some();
        let is_open = of == Some(None) || last.is_some_and(|last| !is_whole(&last));
        let farewell = stands.and_then(|last| self.statements.farewell_term(&node, &last));
        Cutoff {
            by,
            last,
            is_open,
            is_confirming: by != node && farewell.is_some_and(|it| it >= term),
        }
    }

    /// Applies the remaining farewells, which are those of nodes without the right to admit.
    /// (`apply_farewells` has applied the others.) Then computes the epoch, the members and the
    /// owners of paths.
    pub(super) fn finish(mut self) -> Evaluation {
        for (node, farewells) in std::mem::take(&mut self.farewells) {
            for OwnFarewell { id, term, .. } in farewells {
                self.evaluation.end(node, term);
                self.evaluation.valid.insert(id);
            }
        }
        self.evaluation.rotations = Rotations {
            last: self.epochs.last_word(),
            count: self.epochs.count,
        };
        for (node, certificates) in std::mem::take(&mut self.certificates) {
            let over = self.evaluation.over_up_to(&node);
            let last = certificates.iter().map(|it| it.term).max();
            self.evaluation.last_terms.insert(node, last.unwrap_or(0));
            let current = certificates.into_iter().filter(|it| it.term > over);
            // Several certificates can count. The one with the latest end and the right to admit
            // wins, so a certificate never takes away what another one gave. Among equal ones the
            // first membership wins, then the certificate of the most senior rank.
            let best = current.max_by_key(|it| {
                let until = it.until_s.unwrap_or(u64::MAX);
                (until, it.admin, Reverse((it.term, it.rank, it.id)))
            });
            self.evaluation.members.extend(best.map(|it| (node, it)));
        }
        // An expelled node loses its ownerships, and a readmission does not restore them.
        let is_in = |owner: &Membership| self.evaluation.is_in(owner);
        let owners = self.owners.into_iter().map(|(path, votes)| {
            let said = votes.last_word();
            let owner = said.and_then(|said| said.what).filter(is_in);
            let node = owner.map(|(node, _)| node);
            let words = votes.count;
            (path.to_vec(), PathOwnership { node, said, words })
        });
        self.evaluation.owners = owners.collect();
        self.evaluation
    }
}

impl<T> Default for Votes<T> {
    fn default() -> Self {
        Self {
            standing: Vec::new(),
            count: 0,
        }
    }
}

impl<T: Copy> Votes<T> {
    /// Returns the claim that decides the subject. Claims of nodes that no other node expelled come
    /// first, because an expelled node may have signed with a high number. Of these the highest
    /// number wins, then the most senior author. The claim of a node that left by itself keeps its
    /// place, because the others relied on it. Each claim takes the next number, so a number above
    /// the count is ignored: it would override later claims.
    fn last_word(&self) -> Option<LastClaim<T>> {
        let can_be = self.standing.iter();
        let can_be = can_be.filter(|word| word.number <= self.count);
        let last = can_be.max_by_key(|word| {
            let first = Reverse((word.rank, word.said.id));
            (!word.is_put_out, word.number, first)
        });
        last.map(|word| word.said)
    }
}
