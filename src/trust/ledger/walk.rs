//! Who is in, found by going through those who may admit from the senior down.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::{Certificate, Ledger, Rank, Standing};
use crate::id::{EpochId, NodeId};
use crate::trust::statement::{Claim, Statement, StatementId};

/// An epoch by what makes it the cluster's: its number, then the seniority of who made it.
type Rotation = (u64, Reverse<(Rank, StatementId)>, EpochId);
/// An owner, as a member of which term, by what makes it one: the number of the claim, then the
/// seniority of who made it.
type Ownership = (u64, Reverse<(Rank, StatementId)>, Option<(NodeId, u32)>);

/// Going through a ledger from the senior down.
pub(super) struct Walk<'a> {
    ledger: &'a Ledger,
    /// What each node has said.
    by: BTreeMap<NodeId, Vec<(StatementId, &'a Statement)>>,
    standing: Standing,
    /// Those who may admit and were not heard yet.
    waiting: BTreeSet<Rank>,
    heard: BTreeSet<NodeId>,
    /// Of each expelled node: up to which term its word ends, and what of it stands.
    cut: BTreeMap<NodeId, (u32, BTreeSet<StatementId>)>,
    certificates: BTreeMap<NodeId, Vec<Certificate>>,
    epoch: Option<Rotation>,
    owners: BTreeMap<Vec<u8>, Ownership>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(ledger: &'a Ledger) -> Self {
        let mut by: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (id, signed) in &ledger.statements {
            let statement = &signed.statement;
            by.entry(statement.by).or_default().push((*id, statement));
        }
        let mut walk = Self {
            ledger,
            by,
            standing: Standing::default(),
            waiting: BTreeSet::new(),
            heard: BTreeSet::new(),
            cut: BTreeMap::new(),
            certificates: BTreeMap::new(),
            epoch: None,
            owners: BTreeMap::new(),
        };
        let founding = ledger.statements.get(&ledger.cluster).map(|s| &s.statement);
        if let Some(founding) = founding
            && let Claim::Found { name } = &founding.claim
        {
            let rank = (0, founding.at_s, founding.by);
            walk.standing.valid.insert(ledger.cluster);
            walk.certify(Certificate {
                node: founding.by,
                name: name.clone(),
                admin: true,
                since_s: founding.at_s,
                until_s: None,
                by: founding.by,
                term: 1,
                rank,
                id: ledger.cluster,
            });
        }
        walk
    }

    fn certify(&mut self, certificate: Certificate) {
        let node = certificate.node;
        if certificate.admin && !self.heard.contains(&node) {
            self.waiting.insert(certificate.rank);
        }
        self.certificates.entry(node).or_default().push(certificate);
    }

    pub(super) fn pop_senior(&mut self) -> Option<Rank> {
        loop {
            let rank = self.waiting.pop_first()?;
            if self.heard.insert(rank.2) {
                return Some(rank);
            }
        }
    }

    /// Whether a statement of a node counts, as far as seniors have spoken.
    fn stands(&self, id: StatementId, statement: &Statement) -> bool {
        let cut = self.cut.get(&statement.by);
        cut.is_none_or(|(term, kept)| statement.by_term > *term || kept.contains(&id))
    }

    /// Takes in what one who may admit has said.
    pub(super) fn hear(&mut self, admin: &NodeId) {
        let (rank, certificate) = self.senior_certificate(admin);
        self.standing.heard_by.insert(*admin, certificate);
        let said = self.by.remove(admin).unwrap_or_default();
        // who says that it goes says nothing after that
        let standing = |walk: &Self| -> Vec<(StatementId, &'a Statement)> {
            let said = said.iter().copied();
            said.filter(|(id, s)| walk.stands(*id, s)).collect()
        };
        for (id, statement) in standing(self) {
            if let Claim::Expel { node, term, stands } = &statement.claim
                && node == admin
            {
                self.expel(*node, *term, *stands);
                self.standing.valid.insert(id);
            }
        }
        for (id, statement) in standing(self) {
            match &statement.claim {
                Claim::Found { .. } => continue,
                // a senior, which was heard before, or the node itself
                Claim::Expel { node, .. } if self.heard.contains(node) => continue,
                Claim::Expel { node, term, stands } => self.expel(*node, *term, *stands),
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
                Claim::Rotate { epoch, number } => {
                    let this = (*number, Reverse((rank, id)), *epoch);
                    self.epoch = self.epoch.max(Some(this));
                }
                Claim::Own {
                    path,
                    node,
                    term,
                    number,
                } => {
                    let owner = node.map(|node| (node, *term));
                    let this = (*number, Reverse((rank, id)), owner);
                    let last = self.owners.entry(path.clone()).or_insert(this);
                    *last = (*last).max(this);
                }
            }
            self.standing.valid.insert(id);
        }
    }

    /// Which of a node's certificates to admit makes it the most senior.
    fn senior_certificate(&self, node: &NodeId) -> (Rank, StatementId) {
        let certificates = self.certificates.get(node).into_iter().flatten();
        let admin = certificates.filter(|it| it.admin);
        let first = admin.map(|it| (it.rank, it.id)).min();
        first.expect("who is heard has a certificate to admit")
    }

    fn expel(&mut self, node: NodeId, term: u32, stands: Option<StatementId>) {
        let over = self.standing.over.entry(node).or_default();
        *over = (*over).max(term);
        match self.cut.get_mut(&node) {
            // whoever lets nothing stand means all that it has admitted
            Some((cut, kept)) if *cut == term && stands.is_none() => kept.clear(),
            // else the first of those that go furthest
            Some((cut, _)) if *cut >= term => {}
            _ => {
                let kept = self.ledger.back_from(&node, stands);
                self.cut.insert(node, (term, kept));
            }
        }
    }

    /// Those who only go, then who is left.
    pub(super) fn finish(mut self) -> Standing {
        let farewells = self.ledger.statements.iter().filter_map(|(id, signed)| {
            let statement = &signed.statement;
            match &statement.claim {
                Claim::Expel { node, term, .. }
                    if *node == statement.by && !self.heard.contains(node) =>
                {
                    Some((*id, *node, *term))
                }
                _ => None,
            }
        });
        for (id, node, term) in farewells.collect::<Vec<_>>() {
            let over = self.standing.over.entry(node).or_default();
            *over = (*over).max(term);
            self.standing.valid.insert(id);
        }
        for (node, certificates) in self.certificates {
            let over = self.standing.over.get(&node).copied().unwrap_or(0);
            let current = certificates.into_iter().filter(|it| it.term > over);
            // of several the one that says most; the senior's of those that say the same
            let best = current.max_by_key(|it| {
                let until = it.until_s.unwrap_or(u64::MAX);
                (it.term, it.admin, until, Reverse((it.rank, it.id)))
            });
            self.standing.members.extend(best.map(|it| (node, it)));
        }
        // who was put out owns nothing any more, also once it is let in again
        let members = &self.standing.members;
        let owner = |(path, (number, _, owner)): (Vec<u8>, Ownership)| {
            let is_in =
                |(node, term): &(NodeId, u32)| members.get(node).is_some_and(|it| it.term == *term);
            (path, (owner.filter(is_in).map(|(node, _)| node), number))
        };
        self.standing.owners = self.owners.into_iter().map(owner).collect();
        self.standing.epoch = self.epoch.map(|(number, _, epoch)| (epoch, number));
        self.standing
    }
}
