//! The reasons why admitted nodes have stopped being members.

use std::collections::{BTreeMap, BTreeSet};

use super::{Ledger, Membership};
use crate::trust::statement::{Claim, SignedStatement, StatementId};
use p2pfs_types::id::NodeId;

/// Rank of a statement about one node; the highest one is reported. Compares the last membership
/// that the statement ends, then whether another node made the statement, then whether the
/// statement voids, then its time. A statement that voids is also the reason for the nodes that the
/// expelled node had admitted, so it ranks above one that does not void.
type DepartureRank = (u32, bool, bool, u64);

/// The nodes that are former members, and the statement by which each is out. [`Ledger::departed`]
/// returns them.
#[derive(Debug)]
pub struct DepartedNodes {
    /// Includes nodes without a known admission.
    by_node: BTreeMap<NodeId, DepartedNode>,
    statements: BTreeMap<StatementId, SignedStatement>,
}

/// One former member.
#[derive(Debug)]
struct DepartedNode {
    /// Statement by which the node is out.
    statement: StatementId,
    /// Whether the node founded the cluster, or any statement admits it.
    was_admitted: bool,
}

impl DepartedNodes {
    pub(super) fn of(ledger: &Ledger) -> Self {
        let index = DepartureIndex::of(ledger);
        let founder = ledger.statements.founder();
        let named: BTreeSet<_> = index.admitted.keys().chain(index.about.keys()).collect();
        let named = named.into_iter().chain([&founder]);
        let members = &ledger.evaluation.members;
        let mut departed = Self {
            by_node: BTreeMap::new(),
            statements: BTreeMap::new(),
        };
        for node in named.filter(|node| !members.contains_key(node)) {
            let Some(signed) = index.out(node) else {
                continue;
            };
            let statement = signed.id();
            let was_admitted = index.admitted.contains_key(node) || *node == founder;
            let entry = departed.statements.entry(statement);
            entry.or_insert_with(|| signed.clone());
            let out = DepartedNode {
                statement,
                was_admitted,
            };
            departed.by_node.insert(*node, out);
        }
        departed
    }

    /// Returns the statement by which a node is a former member. It is about the node or about an
    /// issuer of the node's certificates. Returns none for a member.
    pub fn expulsion(&self, node: &NodeId) -> Option<&SignedStatement> {
        self.statements.get(&self.by_node.get(node)?.statement)
    }

    /// Returns whether a node is a former member because it left by itself (by its farewell).
    pub fn has_resigned(&self, node: &NodeId) -> bool {
        let expulsion = self.expulsion(node);
        expulsion.is_some_and(|it| it.statement.by == *node && it.subject() == Some(*node))
    }

    /// Returns the nodes that were admitted, and the founder, as far as they are former members.
    /// Each has the statement by which it is out, which is about the node or an issuer of its
    /// certificates. Sorted by time.
    pub fn by_time(&self) -> Vec<(NodeId, &SignedStatement)> {
        let admitted = self.by_node.iter().filter(|(_, it)| it.was_admitted);
        let mut gone: Vec<_> = admitted
            .filter_map(|(node, it)| {
                Some((*node, it.statement, self.statements.get(&it.statement)?))
            })
            .collect();
        gone.sort_by_key(|(node, id, signed)| (signed.statement.at_s, *id, *node));
        gone.into_iter()
            .map(|(node, _, signed)| (node, signed))
            .collect()
    }
}

/// Returns all expulsions and farewells that count.
pub(in crate::trust) fn counting_expulsions(ledger: &Ledger) -> BTreeSet<StatementId> {
    let each = ledger.statements.iter().filter(|(id, signed)| {
        let is_one = matches!(signed.statement.claim, Claim::Expel { .. });
        is_one && ledger.evaluation.valid.contains(id)
    });
    each.map(|(id, _)| *id).collect()
}

/// Statements on the departure and the admission of each node.
pub(in crate::trust) struct DepartureIndex<'a> {
    ledger: &'a Ledger,
    /// The statement of the highest rank on each node's departure.
    about: BTreeMap<NodeId, (DepartureRank, &'a SignedStatement)>,
    /// The latest statement by another node that voids the node's statements.
    void: BTreeMap<NodeId, &'a SignedStatement>,
    /// Issuer and membership of each certificate of a node, whether it counts or not.
    admitted: BTreeMap<NodeId, Vec<(NodeId, u32)>>,
    /// Memberships of each node by certificates that count, or that counted until an issuer's
    /// statements were voided.
    was_in: BTreeMap<NodeId, BTreeSet<u32>>,
}

/// Certificates by issuer and the issuer's membership: the admitted membership, and whether it may
/// admit.
type IssuedCertificates = BTreeMap<Membership, Vec<(Membership, bool)>>;

impl<'a> DepartureIndex<'a> {
    pub(in crate::trust) fn of(ledger: &'a Ledger) -> Self {
        let mut index = Self {
            ledger,
            about: BTreeMap::new(),
            void: BTreeMap::new(),
            admitted: BTreeMap::new(),
            was_in: BTreeMap::new(),
        };
        let mut without_effect = IssuedCertificates::new();
        for (id, signed) in ledger.statements.iter() {
            let (by, by_term) = (signed.statement.by, signed.statement.by_term);
            let counts = ledger.evaluation.valid.contains(id);
            match &signed.statement.claim {
                Claim::Admit {
                    node, term, admin, ..
                } => {
                    index.admitted.entry(*node).or_default().push((by, *term));
                    if counts {
                        index.was_in.entry(*node).or_default().insert(*term);
                    } else {
                        let issued = without_effect.entry((by, by_term)).or_default();
                        issued.push(((*node, *term), *admin));
                    }
                }
                // The reason of the departure is the farewell, and not this confirmation of it.
                Claim::Expel { .. } if ledger.confirms(signed) => {}
                Claim::Expel { .. } if counts => index.record_expulsion(*id, signed),
                _ => {}
            }
        }
        index.record_fallen(without_effect);
        index
    }

    /// Adds to `was_in` the memberships by certificates that no longer count because their issuer's
    /// statements were voided. Continues with the certificates that the nodes so admitted had
    /// issued. Skips other certificates without effect.
    fn record_fallen(&mut self, mut issued: IssuedCertificates) {
        let heard = &self.ledger.evaluation.heard_by;
        let is_void = |(by, term): &Membership| {
            let void = self.ledger.evaluation.void.get(by);
            void.is_some_and(|void| term <= void)
        };
        let fell = issued.keys().filter(|it| is_void(it));
        let mut next: Vec<_> = fell.copied().collect();
        while let Some(issuer) = next.pop() {
            for ((node, term), admin) in issued.remove(&issuer).unwrap_or_default() {
                self.was_in.entry(node).or_default().insert(term);
                if admin && !heard.contains_key(&(node, term)) {
                    next.push((node, term));
                }
            }
        }
    }

    /// Records an expulsion that counts.
    fn record_expulsion(&mut self, id: StatementId, signed: &'a SignedStatement) {
        let statement = &signed.statement;
        let Claim::Expel { node, term, .. } = &statement.claim else {
            return;
        };
        // An expulsion cannot end more memberships than there were.
        let had = self.ledger.evaluation.last_term(node).unwrap_or(u32::MAX);
        let is_anothers = statement.by != *node;
        let is_void = self.ledger.evaluation.voiding.contains(&id);
        let order = ((*term).min(had), is_anothers, is_void, statement.at_s);
        let most = self.about.entry(*node).or_insert((order, signed));
        if order > most.0 {
            *most = (order, signed);
        }
        if is_void {
            let last = self.void.entry(*node).or_insert(signed);
            if statement.at_s > last.statement.at_s {
                *last = signed;
            }
        }
    }

    /// Returns a node's last plausible membership by a certificate of any issuer. Memberships are
    /// numbered without gaps, so a number behind a gap is not plausible.
    pub(super) fn last_admitted(&self, node: &NodeId) -> Option<u32> {
        let admitted = self.admitted.get(node).into_iter().flatten();
        let terms = admitted.map(|(_, term)| *term).collect();
        self.last_of(node, &terms)
    }

    /// Returns the last plausible membership of `terms`: the last that follows the ended ones
    /// without a gap, otherwise the last of `terms` that ended.
    fn last_of(&self, who: &NodeId, terms: &BTreeSet<u32>) -> Option<u32> {
        let over = self.ledger.evaluation.over_up_to(who);
        let last = terms.range(..=over).next_back().copied();
        let behind = (over.saturating_add(1)..=u32::MAX).take_while(|term| terms.contains(term));
        behind.last().or(last)
    }

    /// Returns the statement by which a node is out: about itself, or about an issuer of its
    /// certificates.
    fn out(&self, who: &NodeId) -> Option<&'a SignedStatement> {
        let own = self.about.get(who).filter(|_| self.ledger.is_expelled(who));
        let own_word = own.map(|(_, signed)| *signed);
        let was_in = self.was_in.get(who);
        let last = was_in.and_then(|terms| self.last_of(who, terms));
        // `own` is the reason only if it ends the node's last membership. A farewell does not end a
        // membership by a certificate that no longer counts.
        let had = self.ledger.evaluation.last_term(who);
        let is_so = own.is_some_and(|((term, is_anothers, ..), _)| {
            last <= Some(*term) && (*is_anothers || last <= had)
        });
        if is_so {
            own_word
        } else {
            self.removal_of_issuer(who).or(own_word)
        }
    }

    /// Returns a statement by which an issuer of the node's certificates, direct or through others,
    /// is or was out; one that voids is preferred. Returns none for a member and for a node without
    /// such an issuer.
    pub(super) fn removal_of_issuer(&self, who: &NodeId) -> Option<&'a SignedStatement> {
        if self.ledger.evaluation.members.contains_key(who) {
            return None;
        }
        let issuers = self.issuers(who);
        // Applies even if the issuer was admitted again, because its earlier statements stay void.
        let void = issuers.iter().find_map(|issuer| self.void.get(issuer));
        let about = || issuers.iter().find_map(|issuer| self.about.get(issuer));
        void.copied().or_else(|| about().map(|(_, signed)| *signed))
    }

    /// Returns all nodes that ever admitted a node, directly or through others, in the order in
    /// which the search finds them.
    fn issuers(&self, who: &NodeId) -> Vec<NodeId> {
        let of = |who: &NodeId| {
            let issuers = self.admitted.get(who).into_iter().flatten();
            issuers.map(|(issuer, _)| *issuer)
        };
        let (mut all, mut seen) = (Vec::new(), BTreeSet::new());
        let mut next: Vec<_> = of(who).collect();
        while let Some(issuer) = next.pop() {
            if seen.insert(issuer) {
                all.push(issuer);
                next.extend(of(&issuer));
            }
        }
        all
    }

    /// Returns the last membership of a node that lost it because its issuer was expelled, if no
    /// statement ended that membership itself. Returns none for a member.
    pub(super) fn fallen_term(&self, who: &NodeId) -> Option<u32> {
        self.removal_of_issuer(who)?;
        let last = self.last_admitted(who)?;
        let over = self.ledger.evaluation.over_up_to(who);
        (last > over).then_some(last)
    }

    /// Returns the statements that an invitation must know to readmit a node; none for a member.
    /// They are the expulsions by other nodes that end the node's last membership, except those
    /// that only confirm its farewell.
    ///
    /// If the node has a certificate for a later membership that no longer counts, the statements
    /// also include all expulsions and farewells of each node that ever admitted the node, directly
    /// or through others.
    pub(in crate::trust) fn words_against(&self, node: &NodeId) -> BTreeSet<StatementId> {
        if self.ledger.evaluation.members.contains_key(node) {
            return BTreeSet::new();
        }
        let had = self.ledger.evaluation.last_term(node).unwrap_or(0);
        let fell = self.last_admitted(node).is_some_and(|last| last > had);
        let issuers = if fell { self.issuers(node) } else { Vec::new() };
        let issuers: BTreeSet<_> = issuers.into_iter().collect();
        let each = self.ledger.statements.iter().filter(|(id, signed)| {
            let Claim::Expel {
                node: expelled,
                term,
                ..
            } = &signed.statement.claim
            else {
                return false;
            };
            let is_anothers = signed.statement.by != *node && !self.ledger.confirms(signed);
            let is_on_it = expelled == node && is_anothers && *term >= had;
            self.ledger.evaluation.valid.contains(id) && (is_on_it || issuers.contains(expelled))
        });
        each.map(|(id, _)| *id).collect()
    }
}
