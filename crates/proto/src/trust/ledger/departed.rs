//! Why one that was let in is no member any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Ledger, Membership};
use crate::trust::statement::{Claim, SignedStatement, StatementId};
use p2pfs_types::id::NodeId;

/// Of several words about one node the one that says most: the last membership that it ends, of
/// these another's rather than its own, then one that lets nothing stand, which whom the node had
/// let in must see too, then the last.
type Order = (u32, bool, bool, u64);

/// By which word each node is out that is no member, also one of whose coming nothing is known.
pub(super) type Gone = BTreeMap<NodeId, StatementId>;

/// What is said of the going of each node, and of its coming.
pub(super) struct Words<'a> {
    ledger: &'a Ledger,
    /// What counts most.
    about: BTreeMap<NodeId, (Order, &'a SignedStatement)>,
    /// The last of another's by which nothing stands of what the node has said.
    void: BTreeMap<NodeId, &'a SignedStatement>,
    /// Who ever admitted each node to which membership, whether that counts or not.
    admitted: BTreeMap<NodeId, Vec<(NodeId, u32)>>,
    /// The memberships of these for which each node was in, as far as that can be told.
    was_in: BTreeMap<NodeId, BTreeSet<u32>>,
}

/// Certificates of one issuer in one membership of it: for whom, and whether to admit.
type Issued = BTreeMap<Membership, Vec<(Membership, bool)>>;

impl<'a> Words<'a> {
    fn of(ledger: &'a Ledger) -> Self {
        let mut words = Self {
            ledger,
            about: BTreeMap::new(),
            void: BTreeMap::new(),
            admitted: BTreeMap::new(),
            was_in: BTreeMap::new(),
        };
        let mut without_effect = Issued::new();
        for (id, signed) in &ledger.statements {
            let (by, by_term) = (signed.statement.by, signed.statement.by_term);
            let counts = ledger.standing.valid.contains(id);
            match &signed.statement.claim {
                Claim::Admit {
                    node, term, admin, ..
                } => {
                    words.admitted.entry(*node).or_default().push((by, *term));
                    if counts {
                        words.was_in.entry(*node).or_default().insert(*term);
                    } else {
                        let issued = without_effect.entry((by, by_term)).or_default();
                        issued.push(((*node, *term), *admin));
                    }
                }
                // the farewell that it confirms is the reason
                Claim::Expel { .. } if ledger.confirms(signed) => {}
                Claim::Expel { .. } if counts => words.note(*id, signed),
                _ => {}
            }
        }
        words.note_fallen(without_effect);
        words
    }

    /// Notes who was in by certificates that count no more since nothing stands of what their
    /// issuer has said, or since it fell itself. One that was said by who was out already let
    /// nobody in.
    fn note_fallen(&mut self, mut issued: Issued) {
        let heard = &self.ledger.standing.heard_by;
        let is_void = |(by, term): &Membership| {
            let void = self.ledger.standing.void.get(by);
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

    /// Notes an expulsion that counts.
    fn note(&mut self, id: StatementId, signed: &'a SignedStatement) {
        let statement = &signed.statement;
        let Claim::Expel { node, term, .. } = &statement.claim else {
            return;
        };
        // nobody ends more memberships than there were
        let had = self.ledger.last_term(node).unwrap_or(u32::MAX);
        let is_anothers = statement.by != *node;
        let is_void = self.ledger.standing.voiding.contains(&id);
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
    pub(super) fn last_admitted(&self, who: &NodeId) -> Option<u32> {
        let admitted = self.admitted.get(who).into_iter().flatten();
        let terms = admitted.map(|(_, term)| *term).collect();
        self.last_of(who, &terms)
    }

    /// Of these memberships the last that there can have been.
    fn last_of(&self, who: &NodeId, terms: &BTreeSet<u32>) -> Option<u32> {
        let over = self.ledger.standing.over_up_to(who);
        let last = terms.range(..=over).next_back().copied();
        let behind = (over.saturating_add(1)..=u32::MAX).take_while(|term| terms.contains(term));
        behind.last().or(last)
    }

    /// The word by which a node is out: about itself, or about who had let it in.
    fn out(&self, who: &NodeId) -> Option<&'a SignedStatement> {
        let own = self.about.get(who).filter(|_| self.ledger.is_expelled(who));
        let own_word = own.map(|(_, signed)| *signed);
        let was_in = self.was_in.get(who);
        let last = was_in.and_then(|terms| self.last_of(who, terms));
        // one that was let in again since is out by another's word, and that it goes says nobody
        // who fell
        let had = self.ledger.last_term(who);
        let is_so = own.is_some_and(|((term, is_anothers, ..), _)| {
            last <= Some(*term) && (*is_anothers || last <= had)
        });
        if is_so {
            own_word
        } else {
            self.fell(who).or(own_word)
        }
    }

    /// The same of everybody.
    fn all_out(&self) -> Gone {
        let founder = [&self.ledger.founder];
        let named: BTreeSet<_> = self.admitted.keys().chain(self.about.keys()).collect();
        let named = named.into_iter().chain(founder);
        let members = &self.ledger.standing.members;
        let out = named.filter(|who| !members.contains_key(who));
        out.filter_map(|who| Some((*who, self.out(who)?.id())))
            .collect()
    }

    /// The word by which those are out whose certificate counts no more, so that this node's does
    /// not either; none of a member, and of one that nobody ever admitted.
    pub(super) fn fell(&self, who: &NodeId) -> Option<&'a SignedStatement> {
        if self.ledger.standing.members.contains_key(who) {
            return None;
        }
        let issuers = self.issuers(who);
        // also of one that is in again: what it had said before counts no more
        let void = issuers.iter().find_map(|issuer| self.void.get(issuer));
        let about = || issuers.iter().find_map(|issuer| self.about.get(issuer));
        void.copied().or_else(|| about().map(|(_, signed)| *signed))
    }

    /// Who ever let a node in, directly or through others, the last to be met first.
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
}

impl Ledger {
    pub(super) fn words(&self) -> Words<'_> {
        Words::of(self)
    }

    /// The word by which a node is no member any more: its own or another's, about itself or about
    /// who admitted it. None of a member.
    pub fn expulsion(&self, who: &NodeId) -> Option<&SignedStatement> {
        let word = self.gone().get(who)?;
        self.statements.get(word)
    }

    /// Who is out, and by which word. All statements are gone through once for each change of them,
    /// however many ask: whoever lists the members asks for each of those who are out.
    pub(super) fn gone(&self) -> &Gone {
        let gone = &self.standing.gone;
        gone.get_or_init(|| Arc::new(self.words().all_out()))
    }

    /// The words that whoever lets a node in again has to know: all of others on the last
    /// membership that it had, and where it was let in to a later one, also by what does not count,
    /// all on whoever ever let it in. None of a member, and of one that went by itself.
    pub fn words_against(&self, who: &NodeId) -> BTreeSet<StatementId> {
        if self.standing.members.contains_key(who) {
            return BTreeSet::new();
        }
        let words = self.words();
        let had = self.last_term(who).unwrap_or(0);
        let fell = words.last_admitted(who).is_some_and(|last| last > had);
        let issuers = if fell { words.issuers(who) } else { Vec::new() };
        let issuers: BTreeSet<_> = issuers.into_iter().collect();
        let each = self.statements.iter().filter(|(id, signed)| {
            let Claim::Expel { node, term, .. } = &signed.statement.claim else {
                return false;
            };
            let is_anothers = signed.statement.by != *who && !self.confirms(signed);
            let is_on_it = node == who && is_anothers && *term >= had;
            self.standing.valid.contains(id) && (is_on_it || issuers.contains(node))
        });
        each.map(|(id, _)| *id).collect()
    }

    /// All words that put somebody out, or say that it goes.
    pub fn expulsions(&self) -> BTreeSet<StatementId> {
        let each = self.statements.iter().filter(|(id, signed)| {
            let is_one = matches!(signed.statement.claim, Claim::Expel { .. });
            is_one && self.standing.valid.contains(id)
        });
        each.map(|(id, _)| *id).collect()
    }

    /// Whether a node that is no member any more went by its own word.
    pub fn has_resigned(&self, who: &NodeId) -> bool {
        let word = self
            .expulsion(who)
            .map(|word| (word.statement.by, word.subject()));
        word == Some((*who, Some(*who)))
    }

    /// Who was let in and is no member, and the word by which that is so: about the node itself, or
    /// about who had let it in. By time.
    pub fn departed(&self) -> Vec<(NodeId, SignedStatement)> {
        let let_in = self.all().filter_map(|(_, it)| match &it.claim {
            Claim::Admit { node, .. } => Some(*node),
            _ => None,
        });
        let let_in: BTreeSet<_> = let_in.chain([self.founder]).collect();
        let gone = self.gone().iter().filter(|(who, _)| let_in.contains(who));
        let gone = gone.filter_map(|(who, word)| Some((*who, self.statements.get(word)?.clone())));
        let mut gone: Vec<_> = gone.collect();
        gone.sort_by_cached_key(|(who, word)| (word.statement.at_s, word.id(), *who));
        gone
    }
}
