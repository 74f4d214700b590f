//! Who is in, found by going through those who may admit from the senior down.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::chains::Chains;
use super::{CHAIN_MAX, Certificate, Ledger, Membership, Owned, Rank, Said, Standing};
use crate::trust::statement::{Claim, Statement, StatementId};
use p2pfs_types::id::{EpochId, NodeId};

/// What makes an epoch or an owner the cluster's.
struct Word<T> {
    number: u64,
    /// Whether another than the node itself has ended the membership in which it was said.
    is_put_out: bool,
    rank: Rank,
    said: Said<T>,
}

/// That a node goes, as it says itself.
struct Farewell {
    id: StatementId,
    /// The membership in which it says so.
    by_term: u32,
    /// The last that it ends.
    term: u32,
    stands: Option<StatementId>,
}

/// Up to where stands what was said in a membership that was ended.
#[derive(Clone, Copy)]
struct Cut {
    /// By whose word.
    by: NodeId,
    last: Option<StatementId>,
    /// Whether it names one that is not known here to the first of all, so that more comes to stand
    /// when it is.
    is_open: bool,
    /// Whether it names the node's own farewell, so that it only confirms it.
    is_confirming: bool,
}

/// Going through a ledger from the senior down.
pub(super) struct Walk<'a> {
    ledger: &'a Ledger,
    /// What each node has said in each of its memberships.
    by: BTreeMap<Membership, Vec<(StatementId, &'a Statement)>>,
    standing: Standing,
    /// Memberships with the right to admit that were not heard yet.
    waiting: BTreeSet<(Rank, u32)>,
    heard: BTreeSet<Membership>,
    /// The order of what each has said.
    chains: Chains,
    /// That they go, as each node says of itself.
    farewells: BTreeMap<NodeId, Vec<Farewell>>,
    /// Cuts by other nodes, for each ended membership. They also limit earlier memberships that no
    /// other cut limits. The most senior node that ended a membership sets its cut.
    cut: BTreeMap<Membership, Cut>,
    /// Cuts by the node's own farewells. They never extend what a cut by another node lets stand.
    own_cut: BTreeMap<Membership, Cut>,
    certificates: BTreeMap<NodeId, Vec<Certificate>>,
    epochs: Vec<Word<EpochId>>,
    owners: BTreeMap<&'a [u8], Vec<Word<Option<Membership>>>>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(ledger: &'a Ledger) -> Self {
        let mut by: BTreeMap<_, Vec<_>> = BTreeMap::new();
        let mut farewells: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (id, signed) in &ledger.statements {
            let statement = &signed.statement;
            if let Claim::Expel { node, term, stands } = statement.claim
                && node == statement.by
            {
                farewells.entry(node).or_default().push(Farewell {
                    id: *id,
                    by_term: statement.by_term,
                    term,
                    stands,
                });
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
            chains: Chains::of(ledger.all()),
            farewells,
            cut: BTreeMap::new(),
            own_cut: BTreeMap::new(),
            certificates: BTreeMap::new(),
            epochs: Vec::new(),
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

    /// One that is further from the founding than a node can show does not count, nor does one of
    /// no membership: the first is number 1. The right to admit is given for good or not at all.
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

    /// Returns the cuts that limit a membership, as far as seniors have spoken. They hold together:
    /// a statement counts only if each of them lets it stand.
    fn cuts(&self, (by, term): Membership) -> impl Iterator<Item = &Cut> {
        let behind = (by, term)..=(by, u32::MAX);
        let others = self.cut.range(behind.clone()).next();
        let ended = others.map(|(ended, _)| *ended);
        // a farewell from a later membership adds nothing to a cut by another node
        let is_in_time = move |own: &Membership| ended.is_none_or(|ended| *own <= ended);
        // every farewell, however the node numbered it: the next one may be signed after its end
        let own = self.own_cut.range(behind);
        let own = own.filter(move |(own, _)| is_in_time(own));
        others.into_iter().chain(own).map(|(_, cut)| cut)
    }

    /// Whether nothing stands of what a node has said in a membership.
    fn is_void(&self, (by, term): Membership) -> bool {
        let void = self.standing.void.get(&by);
        void.is_some_and(|void| term <= *void)
    }

    /// Returns the cut that lets stand what both do: up to where the chains part that they name.
    fn meet(&self, one: Cut, other: Cut) -> Cut {
        let mut last = one.last;
        while let Some(id) = last
            && other.last.is_none_or(|it| !self.chains.is_up_to(&id, &it))
        {
            let signed = self.ledger.statements.get(&id);
            last = signed.and_then(|signed| signed.statement.before);
        }
        Cut {
            by: one.by,
            last,
            is_open: one.is_open && other.is_open,
            is_confirming: one.is_confirming && other.is_confirming,
        }
    }

    /// Returns the one cut that limits a membership, as far as seniors have spoken.
    fn limit(&self, membership: Membership) -> Option<Cut> {
        let cuts = self.cuts(membership).copied();
        cuts.reduce(|one, other| self.meet(one, other))
    }

    /// Whether a statement in a membership with this limit counts.
    fn stands(&self, id: &StatementId, membership: Membership, limit: Option<Cut>) -> bool {
        let is_kept = |cut: Cut| cut.last.is_some_and(|last| self.chains.is_up_to(id, &last));
        !self.is_void(membership) && limit.is_none_or(is_kept)
    }

    /// By whose word more can come to stand of what was said in a membership that is over.
    fn is_open(&self, membership: Membership) -> Option<NodeId> {
        let mut cuts = self.cuts(membership).peekable();
        let by = cuts.peek().map(|cut| cut.by)?;
        let is_open = !self.is_void(membership) && cuts.all(|cut| cut.is_open);
        is_open.then_some(by)
    }

    /// Whether only the node's own farewells limit a membership.
    fn is_unconfirmed(&self, (by, term): Membership) -> bool {
        let mut cuts = self.cuts((by, term)).peekable();
        !self.is_void((by, term)) && cuts.peek().is_some() && cuts.all(|cut| cut.by == by)
    }

    /// Whether a word that a node's memberships are over up to this one speaks of a senior's: of
    /// one that was heard before and goes on, or of none but such as are over already.
    fn is_senior(&self, node: &NodeId, up_to_term: u32) -> bool {
        let over = self.standing.over_up_to(node);
        let mut heard = self.heard.range((*node, 0)..=(*node, up_to_term));
        heard.any(|(_, term)| *term > over || up_to_term <= over)
    }

    /// Takes in what one who may admit has said in this membership, and nothing that it says to
    /// have said in one that it never had.
    pub(super) fn hear(&mut self, membership: Membership) {
        let (admin, _) = &membership;
        let (rank, certificate) = self.senior_certificate(&membership);
        self.standing.heard_by.insert(membership, certificate);
        // who says that it goes says nothing after that, in whatever membership
        self.take_farewells(admin);
        let mut others = self.cut.range(membership..=(*admin, u32::MAX));
        let is_put_out = others.any(|(_, cut)| !cut.is_confirming);
        let limit = self.limit(membership);
        let said = self.by.remove(&membership).unwrap_or_default();
        for (id, statement) in said {
            if !self.stands(&id, membership, limit) {
                continue;
            }
            match &statement.claim {
                Claim::Found { .. } => continue,
                // that it goes was heard before all else
                Claim::Expel { node, .. } if node == admin => continue,
                Claim::Expel { node, term, .. } if self.is_senior(node, *term) => continue,
                Claim::Expel { node, term, stands } => {
                    self.end((*node, *term), *admin, *stands);
                    if stands.is_none() {
                        self.void(id, (*node, *term));
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
                Claim::Rotate { epoch, number } => self.epochs.push(Word {
                    number: *number,
                    is_put_out,
                    rank,
                    said: Said { id, what: *epoch },
                }),
                Claim::Own {
                    path,
                    node,
                    term,
                    number,
                } => {
                    let what = node.map(|node| (node, *term));
                    self.owners.entry(path).or_default().push(Word {
                        number: *number,
                        is_put_out,
                        rank,
                        said: Said { id, what },
                    });
                }
            }
            self.standing.valid.insert(id);
        }
    }

    /// Nothing stands of what a node has said up to this membership: of what was not heard yet.
    fn void(&mut self, id: StatementId, (node, term): Membership) {
        let void = self.standing.void.entry(node).or_default();
        *void = (*void).max(term);
        if self.heard.range((node, 0)..=(node, term)).next().is_none() {
            self.standing.voiding.insert(id);
        }
    }

    /// Which of the certificates to admit makes a membership the most senior.
    fn senior_certificate(&self, (node, term): &Membership) -> (Rank, StatementId) {
        let certificates = self.certificates.get(node).into_iter().flatten();
        let admin = certificates.filter(|it| it.admin && it.term == *term);
        let first = admin.map(|it| (it.rank, it.id)).min();
        first.expect("who is heard has a certificate to admit")
    }

    /// Applies all farewells of a node when it is heard for the first time. A farewell beyond a
    /// senior's cut is ignored.
    fn take_farewells(&mut self, node: &NodeId) {
        let mut farewells = self.farewells.remove(node).unwrap_or_default();
        farewells.retain(|it| {
            let membership = (*node, it.by_term.min(it.term));
            self.stands(&it.id, membership, self.limit(membership))
        });
        for Farewell {
            id, term, stands, ..
        } in farewells
        {
            self.end((*node, term), *node, stands);
            self.standing.valid.insert(id);
        }
    }

    /// Ends the memberships of a node up to this one. Of other nodes, the most senior sets the cuts
    /// of a membership. All its statements on that membership hold together, and so do all
    /// farewells. Otherwise the hash of a statement would decide which one holds.
    fn end(&mut self, (node, term): Membership, by: NodeId, stands: Option<StatementId>) {
        self.standing.end(node, term);
        let signed = stands.map(|last| self.ledger.statements.get(&last));
        // one that is another's is known to be none of its own
        let of = signed.map(|signed| signed.map(|signed| signed.statement.by));
        let last = stands.filter(|_| of == Some(Some(node)));
        let is_whole = |last: &StatementId| self.chains.whole_length(last).is_some();
        let is_open = of == Some(None) || last.is_some_and(|last| !is_whole(&last));
        let farewell = stands.and_then(|last| self.ledger.ends_own(&node, &last));
        let ends = Cut {
            by,
            last,
            is_open,
            is_confirming: by != node && farewell.is_some_and(|it| it >= term),
        };
        let cuts = if by == node { &self.own_cut } else { &self.cut };
        let cut = match cuts.get(&(node, term)) {
            None => ends,
            Some(first) if first.by == by => self.meet(*first, ends),
            Some(_) => return,
        };
        if by == node {
            self.own_cut.insert((node, term), cut)
        } else {
            self.cut.insert((node, term), cut)
        };
    }

    /// Those who only go, then who is left.
    pub(super) fn finish(mut self) -> Standing {
        let heard = self.heard.iter();
        let open = heard.filter_map(|it| Some((*it, self.is_open(*it)?)));
        self.standing.open = open.collect();
        let heard = self.heard.iter().copied();
        self.standing.unconfirmed = heard.filter(|it| self.is_unconfirmed(*it)).collect();
        for (node, farewells) in std::mem::take(&mut self.farewells) {
            for Farewell { id, term, .. } in farewells {
                self.standing.end(node, term);
                self.standing.valid.insert(id);
            }
        }
        self.standing.epoch = last_word(&self.epochs);
        self.standing.rotations = self.epochs.len() as u64;
        for (node, certificates) in std::mem::take(&mut self.certificates) {
            let over = self.standing.over_up_to(&node);
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
        let is_in = |owner: &Membership| self.standing.is_in(owner);
        let owners = self.owners.into_iter().map(|(path, words)| {
            let said = last_word(&words);
            let owner = said.and_then(|said| said.what).filter(is_in);
            let node = owner.map(|(node, _)| node);
            let words = words.len() as u64;
            (path.to_vec(), Owned { node, said, words })
        });
        self.standing.owners = owners.collect();
        self.standing
    }
}

/// Which of several words counts: one of a node that nobody has put out rather than of one that
/// others have, which may have said it for later; then of the highest number, then of the senior.
/// Who has left since by itself stays where it was: the others went by its word. As many numbers
/// there can be as words stand, since each takes the one behind these: a higher one would undo what
/// is said later.
fn last_word<T: Copy>(words: &[Word<T>]) -> Option<Said<T>> {
    let can_be = words
        .iter()
        .filter(|word| word.number <= words.len() as u64);
    let last = can_be.max_by_key(|word| {
        let first = Reverse((word.rank, word.said.id));
        (!word.is_put_out, word.number, first)
    });
    last.map(|word| word.said)
}
