//! Why one that was let in is no member any more.

use std::collections::{BTreeMap, BTreeSet};

use super::Ledger;
use crate::id::NodeId;
use crate::trust::statement::{Claim, SignedStatement, StatementId};

/// Of several words about one node the one that says most: the last membership that it ends, of
/// these another's rather than its own, then one that lets nothing stand, which whom the node had
/// let in must see too, then the last.
type Order = (u32, bool, bool, u64);

/// What is said of the going of each node, and of its coming.
pub(super) struct Words<'a> {
    ledger: &'a Ledger,
    /// What counts most.
    about: BTreeMap<NodeId, (Order, &'a SignedStatement)>,
    /// The last of another's that lets nothing stand of what the node has said.
    void: BTreeMap<NodeId, &'a SignedStatement>,
    /// Who ever admitted each node to which membership, whether that counts or not.
    admitted: BTreeMap<NodeId, Vec<(NodeId, u32)>>,
}

impl<'a> Words<'a> {
    fn of(ledger: &'a Ledger) -> Self {
        let mut words = Self {
            ledger,
            about: BTreeMap::new(),
            void: BTreeMap::new(),
            admitted: BTreeMap::new(),
        };
        for signed in ledger.statements.values() {
            let by = signed.statement.by;
            match &signed.statement.claim {
                Claim::Admit { node, term, .. } => {
                    words.admitted.entry(*node).or_default().push((by, *term));
                }
                Claim::Expel { .. } if ledger.counts(signed) => words.note(signed),
                _ => {}
            }
        }
        words
    }

    /// Notes an expulsion that counts.
    fn note(&mut self, signed: &'a SignedStatement) {
        let statement = &signed.statement;
        let Claim::Expel { node, term, stands } = &statement.claim else {
            return;
        };
        // nobody ends more memberships than there were
        let had = self.ledger.last_term(node).unwrap_or(u32::MAX);
        let is_anothers = statement.by != *node;
        let is_void = stands.is_none();
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

    /// The last membership that a node was admitted to by anybody, of those that there can have
    /// been: each comes behind another.
    pub fn last_admitted(&self, who: &NodeId) -> Option<u32> {
        let over = self.ledger.standing.over_up_to(who);
        let admitted = self.admitted.get(who).into_iter().flatten();
        let terms: BTreeSet<u32> = admitted.map(|(_, term)| *term).collect();
        let last = terms.range(..=over).next_back().copied();
        let behind = (over.saturating_add(1)..).take_while(|term| terms.contains(term));
        behind.last().or(last)
    }

    /// The word by which a node is out: about itself, or about who had let it in.
    fn out(&self, who: &NodeId) -> Option<&'a SignedStatement> {
        let own = self.about.get(who).filter(|_| self.ledger.is_expelled(who));
        let own_word = own.map(|(_, signed)| *signed);
        // one that was let in again since is out by another's word
        match own.is_some_and(|((term, ..), _)| self.last_admitted(who) <= Some(*term)) {
            true => own_word,
            false => self.fell(who).or(own_word),
        }
    }

    /// The word by which those are out whose certificate counts no more, so that this node's does
    /// not either; none of a member, and of one that nobody ever admitted.
    pub fn fell(&self, who: &NodeId) -> Option<&'a SignedStatement> {
        if self.ledger.standing.members.contains_key(who) {
            return None;
        }
        let of = |who: &NodeId| {
            let issuers = self.admitted.get(who).into_iter().flatten();
            issuers.map(|(issuer, _)| *issuer)
        };
        let (mut seen, mut next) = (BTreeSet::new(), of(who).collect::<Vec<_>>());
        let mut other = None;
        while let Some(issuer) = next.pop() {
            // also of one that is in again: what it had said before counts no more
            if let Some(word) = self.void.get(&issuer) {
                return Some(word);
            }
            other = other.or_else(|| self.about.get(&issuer).map(|(_, signed)| *signed));
            if seen.insert(issuer) {
                next.extend(of(&issuer));
            }
        }
        other
    }
}

impl Ledger {
    pub(super) fn words(&self) -> Words<'_> {
        Words::of(self)
    }

    /// The word by which a node is no member any more: its own or another's, about itself or about
    /// who admitted it. None of a member.
    pub fn expulsion(&self, who: &NodeId) -> Option<&SignedStatement> {
        match self.standing.members.contains_key(who) {
            true => None,
            false => self.words().out(who),
        }
    }

    /// Whether a node that is no member any more went by its own word.
    pub fn has_resigned(&self, who: &NodeId) -> bool {
        let word = self
            .expulsion(who)
            .map(|word| (word.statement.by, word.subject()));
        word == Some((*who, Some(*who)))
    }

    /// Up to which statement stands what a node has said in the memberships that are over.
    pub(super) fn stands_of(&self, who: &NodeId) -> Option<StatementId> {
        let ended = self
            .statements
            .values()
            .filter_map(|signed| match &signed.statement.claim {
                Claim::Expel { node, term, stands } if node == who && self.counts(signed) => {
                    Some((*term, *stands))
                }
                _ => None,
            });
        ended.max_by_key(|(term, _)| *term)?.1
    }

    /// Who was let in and is no member, and the word by which that is so: about the node itself, or
    /// about who had let it in. By time.
    pub fn departed(&self) -> Vec<(NodeId, SignedStatement)> {
        let words = self.words();
        let let_in: BTreeSet<_> = words.admitted.keys().chain([&self.founder]).collect();
        let out = let_in
            .into_iter()
            .filter(|who| !self.standing.members.contains_key(who));
        let gone = out.filter_map(|who| Some((*who, words.out(who)?.clone())));
        let mut gone: Vec<_> = gone.collect();
        gone.sort_by_cached_key(|(who, word)| (word.statement.at_s, word.id(), *who));
        gone
    }
}
