//! Who is in, found by going through those who may admit from the senior down.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::{CHAIN_MAX, Certificate, Ledger, Membership, Rank, Standing};
use crate::id::{EpochId, NodeId};
use crate::trust::statement::{Claim, Statement, StatementId};

/// An epoch by what makes it the cluster's: its number, then the seniority of who made it.
type Rotation = (u64, Reverse<(Rank, StatementId)>, EpochId);
/// An owner, as a member of which term, by what makes it one: the number of the claim, then the
/// seniority of who made it.
type Ownership = (u64, Reverse<(Rank, StatementId)>, Option<Membership>);

/// Going through a ledger from the senior down.
pub(super) struct Walk<'a> {
    ledger: &'a Ledger,
    /// What each node has said in each of its memberships.
    by: BTreeMap<Membership, Vec<(StatementId, &'a Statement)>>,
    standing: Standing,
    /// Memberships with the right to admit that were not heard yet.
    waiting: BTreeSet<(Rank, u32)>,
    heard: BTreeSet<Membership>,
    /// Of each membership that was ended: what stands of what was said in it, and in those before
    /// it that nothing else has ended.
    cut: BTreeMap<Membership, BTreeSet<StatementId>>,
    certificates: BTreeMap<NodeId, Vec<Certificate>>,
    epoch: Option<Rotation>,
    owners: BTreeMap<Vec<u8>, Ownership>,
    /// How many statements make an epoch the cluster's, and how many speak of each path: as many
    /// numbers there can be, since each takes the one behind the last. A higher one would leave
    /// none for whoever speaks next.
    rotations: u64,
    words_on: BTreeMap<&'a [u8], u64>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(ledger: &'a Ledger) -> Self {
        let mut by: BTreeMap<_, Vec<_>> = BTreeMap::new();
        let (mut rotations, mut words_on) = (0, BTreeMap::new());
        for (id, signed) in &ledger.statements {
            let statement = &signed.statement;
            match &statement.claim {
                Claim::Rotate { .. } => rotations += 1,
                Claim::Own { path, .. } => *words_on.entry(&path[..]).or_default() += 1,
                _ => {}
            }
            let membership = (statement.by, statement.by_term);
            by.entry(membership).or_default().push((*id, statement));
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
            rotations,
            words_on,
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

    /// One that is further from the founding than a node can show does not count, nor does one of
    /// no membership: the first is number 1.
    fn certify(&mut self, certificate: Certificate) {
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

    /// Whether a statement of a node counts, as far as seniors have spoken.
    fn stands(&self, id: StatementId, statement: &Statement) -> bool {
        let ended = (statement.by, statement.by_term)..=(statement.by, u32::MAX);
        let cut = self.cut.range(ended).next();
        cut.is_none_or(|(_, kept)| kept.contains(&id))
    }

    /// Whether a word that a node's memberships are over up to this one speaks of a senior's: of
    /// one that was heard before and goes on, or of none but such as are over already.
    fn is_senior(&self, node: &NodeId, up_to_term: u32) -> bool {
        let over = self.standing.over.get(node).copied().unwrap_or(0);
        let mut heard = self.heard.range((*node, 0)..=(*node, up_to_term));
        heard.any(|(_, term)| *term > over || up_to_term <= over)
    }

    /// Takes in what one who may admit has said in this membership, and nothing that it says to
    /// have said in one that it never had.
    pub(super) fn hear(&mut self, membership: Membership) {
        let (admin, _) = &membership;
        let (rank, certificate) = self.senior_certificate(&membership);
        self.standing.heard_by.insert(membership, certificate);
        let said = self.by.remove(&membership).unwrap_or_default();
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
                // that it goes was heard before all else
                Claim::Expel { node, .. } if node == admin => continue,
                Claim::Expel { node, term, .. } if self.is_senior(node, *term) => continue,
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
                Claim::Rotate { number, .. } if *number > self.rotations => continue,
                Claim::Rotate { epoch, number } => {
                    let this = (*number, Reverse((rank, id)), *epoch);
                    self.epoch = self.epoch.max(Some(this));
                }
                Claim::Own { path, number, .. } if *number > self.words_on[&path[..]] => continue,
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

    /// Which of the certificates to admit makes a membership the most senior.
    fn senior_certificate(&self, (node, term): &Membership) -> (Rank, StatementId) {
        let certificates = self.certificates.get(node).into_iter().flatten();
        let admin = certificates.filter(|it| it.admin && it.term == *term);
        let first = admin.map(|it| (it.rank, it.id)).min();
        first.expect("who is heard has a certificate to admit")
    }

    fn expel(&mut self, node: NodeId, term: u32, stands: Option<StatementId>) {
        let over = self.standing.over.entry(node).or_default();
        *over = (*over).max(term);
        let ledger = self.ledger;
        // the first word on it holds, but whoever lets nothing stand means all that it has said
        match stands {
            None => {
                self.cut.insert((node, term), BTreeSet::new());
                let before = self.cut.range_mut((node, 0)..(node, term));
                before.for_each(|(_, kept)| kept.clear());
            }
            stands => {
                let kept = || ledger.back_from(&node, stands);
                self.cut.entry((node, term)).or_insert_with(kept);
            }
        }
    }

    /// Those who only go, then who is left.
    pub(super) fn finish(mut self) -> Standing {
        let farewells = self.ledger.statements.iter().filter_map(|(id, signed)| {
            let statement = &signed.statement;
            match &statement.claim {
                Claim::Expel { node, term, .. } if *node == statement.by => {
                    let is_heard = self.heard.contains(&(*node, statement.by_term));
                    (!is_heard).then_some((*id, *node, *term))
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
            let last = certificates.iter().map(|it| it.term).max();
            self.standing.last_terms.insert(node, last.unwrap_or(0));
            let current = certificates.into_iter().filter(|it| it.term > over);
            // of several the one that says most, so that nobody takes by one what another gave; the
            // first membership of those that say the same, and then the senior's
            let best = current.max_by_key(|it| {
                let until = it.until_s.unwrap_or(u64::MAX);
                (until, it.admin, Reverse((it.term, it.rank, it.id)))
            });
            self.standing.members.extend(best.map(|it| (node, it)));
        }
        // who was put out owns nothing any more, also once it is let in again
        let members = &self.standing.members;
        let owner = |(path, (number, _, owner)): (Vec<u8>, Ownership)| {
            let is_in =
                |(node, term): &Membership| members.get(node).is_some_and(|it| it.term == *term);
            (path, (owner.filter(is_in).map(|(node, _)| node), number))
        };
        self.standing.owners = self.owners.into_iter().map(owner).collect();
        self.standing.epoch = self.epoch.map(|(number, _, epoch)| (epoch, number));
        self.standing
    }
}
