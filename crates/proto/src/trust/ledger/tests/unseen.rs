//! Tests of statements that were named but never shown.

use super::forged::{admission, any_word, expulsion, forged};
use super::*;

/// Returns an expulsion or a farewell that names this statement as the last one that stands.
fn ends(node: u8, term: u32, last: &SignedStatement) -> Claim {
    Claim::Expel {
        node: id(node),
        term,
        stands: Some(last.id()),
    }
}

/// Returns a ledger in which node 2 admitted administrator 4, and one of the two named an unseen
/// statement as the last one of 4. That statement admits 9.
fn hidden(by: u8) -> (Ledger, SignedStatement) {
    let mut ledger = cluster();
    ledger
        .signer(&key(2), 35)
        .admit(id(4), name(4), true)
        .unwrap();
    let held_back = forged(&ledger, 4, 1, admission(9, true, None, 1));
    ledger.merge([forged(&ledger, by, 1, ends(4, 1, &held_back))]);
    assert_eq!(members(&ledger), [1, 2, 3]);
    (ledger, held_back)
}

#[test]
fn a_named_but_unseen_statement_admits_no_node_after_the_expulsion() {
    for by in [2, 4] {
        let (mut ledger, held_back) = hidden(by);
        let stated = ledger.signer(&key(1), 50).expel(id(2)).unwrap();
        assert_eq!(
            stated.len(),
            2,
            "the word on 2, and the end of what 4 could say"
        );
        for statements in [
            vec![held_back.clone()],
            ledger.statements().cloned().collect(),
        ] {
            let mut heard = ledger.clone();
            heard.merge(statements);
            heard.merge([held_back.clone()]);
            assert_eq!(members(&heard), [1, 3], "{by}");
        }
        // A node that receives it first gets the same result.
        let mut first = Ledger::of(cluster().statements().cloned().collect()).unwrap();
        first.merge(ledger.statements().skip(1).cloned().chain([held_back]));
        assert_eq!(members(&first), [1, 3], "{by}");
    }
}

#[test]
fn an_unseen_statement_admits_no_node_through_those_admitted_further_down() {
    let mut ledger = cluster();
    ledger
        .signer(&key(2), 35)
        .admit(id(4), name(4), true)
        .unwrap();
    ledger
        .signer(&key(4), 36)
        .admit(id(6), name(6), true)
        .unwrap();
    let held_back = forged(&ledger, 6, 1, admission(9, true, None, 1));
    ledger.merge([forged(&ledger, 6, 1, ends(6, 1, &held_back))]);
    ledger.signer(&key(1), 50).expel(id(2)).unwrap();
    ledger.merge([held_back]);
    assert_eq!(members(&ledger), [1, 3, 4]);
}

#[test]
fn an_unseen_statement_of_an_earlier_membership_admits_no_node() {
    let mut ledger = cluster();
    ledger
        .signer(&key(1), 35)
        .admit(id(4), name(4), true)
        .unwrap();
    let held_back = forged(&ledger, 4, 1, admission(9, true, None, 1));
    ledger.merge([forged(&ledger, 2, 1, ends(4, 1, &held_back))]);
    ledger
        .signer(&key(1), 40)
        .admit(id(4), name(4), true)
        .unwrap();
    ledger
        .signer(&key(4), 41)
        .admit(id(5), name(5), false)
        .unwrap();
    ledger.signer(&key(1), 50).expel(id(4)).unwrap();
    ledger.signer(&key(1), 51).expel(id(2)).unwrap();
    ledger.merge([held_back]);
    assert_eq!(members(&ledger), [1, 3, 5]);
}

#[test]
fn a_repeated_statement_names_nothing_unseen() {
    let mut ledger = cluster();
    ledger
        .signer(&key(1), 35)
        .admit(id(4), name(4), true)
        .unwrap();
    let held_back = forged(&ledger, 4, 1, admission(9, true, None, 1));
    ledger.merge([forged(&ledger, 2, 1, ends(4, 1, &held_back))]);
    assert_eq!(members(&ledger), [1, 2, 3]);
    let stated = ledger
        .signer(&key(1), 50)
        .expel_with_admitted(id(2))
        .unwrap();
    assert_eq!(stated.len(), 2, "4 stays out");
    ledger.merge([held_back]);
    assert_eq!(members(&ledger), [1, 3]);
}

#[test]
fn an_issuer_is_expelled_however_many_nodes_named_unseen_statements() {
    let mut ledger = cluster();
    let mut all = Vec::new();
    for n in 40..100 {
        ledger.merge([forged(&ledger, 2, 1, admission(n, true, None, 1))]);
        let held_back = forged(&ledger, n, 1, admission(9, true, None, 1));
        ledger.merge([forged(&ledger, n, 1, ends(n, 1, &held_back))]);
        all.push(held_back);
    }
    let stated = ledger.signer(&key(1), 50).expel(id(2)).unwrap();
    assert_eq!(stated.len(), 61);
    ledger.merge(all);
    assert_eq!(members(&ledger), [1, 3]);
}

#[test]
fn nothing_more_is_stated_about_a_node_whose_statements_are_all_known() {
    let mut ledger = cluster();
    ledger
        .signer(&key(2), 35)
        .admit(id(4), name(4), true)
        .unwrap();
    ledger
        .signer(&key(4), 36)
        .admit(id(5), name(5), false)
        .unwrap();
    ledger.signer(&key(4), 40).expel(id(4)).unwrap();
    ledger.merge([forged(&ledger, 2, 1, expulsion(7, 1))]);
    let stated = ledger.signer(&key(1), 50).expel(id(2)).unwrap();
    let confirmed = stated.iter().filter(|it| ledger.confirms(it)).count();
    assert_eq!((stated.len(), confirmed), (2, 1));
    assert_eq!(members(&ledger), [1, 3, 5]);
    assert!(ledger.departed().has_resigned(&id(4)));
}

/// Node 2 admitted 4 and then expelled it, in one of two branches of its chain.
#[test]
fn a_node_expelled_before_its_issuer_forked_stays_out_after_the_expulsion() {
    let mut ledger = cluster();
    ledger
        .signer(&key(2), 35)
        .admit(id(4), name(4), true)
        .unwrap();
    let mut apart = ledger.clone();
    ledger.signer(&key(2), 40).expel(id(4)).unwrap();
    for number in 0..3 {
        apart
            .signer(&key(2), 41 + number)
            .own(b"docs".to_vec(), Some(id(3)))
            .unwrap();
    }
    let mut met = merged(&ledger, &apart);
    assert_eq!(members(&met), [1, 2, 3]);
    met.signer(&key(1), 50).expel(id(2)).unwrap();
    assert_eq!(members(&met), [1, 3]);
}

#[test]
fn a_node_expelled_and_readmitted_by_one_is_removed_with_it() {
    let mut ledger = cluster();
    for claim in [admission(3, false, None, 2), expulsion(3, 1)] {
        ledger.merge([forged(&ledger, 2, 1, claim)]);
    }
    assert_eq!(members(&ledger), [1, 2, 3]);
    let would = ledger.admitted_by_it_alone(&key(1), id(2), 50).unwrap();
    assert_eq!(would.iter().map(|it| it.node).collect::<Vec<_>>(), [id(3)]);
    ledger
        .signer(&key(1), 50)
        .expel_with_admitted(id(2))
        .unwrap();
    assert_eq!(members(&ledger), [1]);
}

/// A claim, whether it is held back, and which held-back one is named as the last that stands.
type Said = ((u8, u32, Claim), bool, Option<usize>);

fn any_said() -> impl Strategy<Value = Vec<Said>> {
    let named = prop::option::weighted(0.8, 0usize..8);
    prop::collection::vec((any_word(), any::<bool>(), named), 0..24)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn after_all_are_expelled_no_withheld_statement_admits_a_node(
        said in any_said(),
        first in 2u8..7,
        with_admitted in any::<bool>(),
    ) {
        let mut ledger = cluster();
        let mut held_back: Vec<SignedStatement> = Vec::new();
        for ((by, by_term, mut claim), is_held_back, named) in said {
            if let Claim::Expel { stands, .. } = &mut claim {
                let last = named.filter(|_| !held_back.is_empty());
                *stands = last.map(|it| held_back[it % held_back.len()].id());
            }
            let signed = forged(&ledger, by, by_term, claim);
            if is_held_back { held_back.push(signed) } else { drop(ledger.merge([signed])) }
        }
        // All others are members by its statements.
        prop_assume!(ledger.certificate(&id(2)).is_some());
        for node in (first..7).chain(2..first) {
            if ledger.certificate(&id(node)).is_some() {
                if with_admitted && node == first { drop(ledger.signer(&key(1), 50).expel_with_admitted(id(node)).unwrap()) } else { drop(ledger.signer(&key(1), 50).expel(id(node)).unwrap()) }
            }
        }
        prop_assert_eq!(ledger.members().count(), 1);
        ledger.merge(held_back);
        prop_assert_eq!(ledger.members().count(), 1);
    }
}

/// A claim, whether it forks the chain, and what an expulsion lets stand: everything that is known,
/// nothing of that membership, or nothing at all.
type Forked = ((u8, u32, Claim), bool, u8);

fn forged_all(said: Vec<Forked>) -> Ledger {
    let mut ledger = cluster();
    for ((by, by_term, mut claim), is_fork, standing) in said {
        if let Claim::Expel { node, stands, .. } = &mut claim {
            *stands = match standing {
                0 => last_of(&ledger, node),
                1 => Some(ledger.cluster()),
                _ => None,
            };
        }
        let mut signed = forged(&ledger, by, by_term, claim);
        if is_fork {
            signed.statement.before = None;
            signed = signed.statement.sign(&key(by));
        }
        ledger.merge([signed]);
    }
    ledger
}

/// Returns whether a statement that counts ends this membership.
fn is_ended(ledger: &Ledger, who: NodeId, in_term: u32) -> bool {
    let counting = ledger.evaluation.valid.iter();
    let counting = counting.filter_map(|id| ledger.statements.get(id));
    counting.into_iter().any(|it| match it.statement.claim {
        Claim::Expel { node, term, .. } => node == who && term >= in_term,
        _ => false,
    })
}

fn all_in(ledger: &Ledger) -> BTreeSet<NodeId> {
    ledger.members().map(|it| it.node).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn an_expulsion_admits_no_node_and_removes_only_those_below_it(
        said in prop::collection::vec((any_word(), any::<bool>(), 0u8..3), 0..16),
        bad in 2u8..7,
        by in 1u8..3,
    ) {
        let by = if by == bad { 1 } else { by };
        let ledger = forged_all(said);
        let before = all_in(&ledger);
        let mut plain = ledger.clone();
        if plain.signer(&key(by), 50).expel(id(bad)).is_ok() {
            let after = all_in(&plain);
            prop_assert!(after.is_subset(&before) && !after.contains(&id(bad)));
        }
        let mut with = ledger.clone();
        if with.signer(&key(by), 50).expel_with_admitted(id(bad)).is_ok() {
            let after = all_in(&with);
            prop_assert!(after.is_subset(&before) && !after.contains(&id(bad)));
            // That expulsion alone, without any repeated statement.
            let term = with.evaluation.over_up_to(&id(bad));
            let mut alone = ledger.clone();
            alone.signer(&key(by), 50).state(expulsion(bad, term)).unwrap();
            // Excludes nodes that one of the lost statements had expelled.
            let stays = |it: &&Certificate| {
                before.contains(&it.node) && !is_ended(&ledger, it.node, it.term)
            };
            let stay: BTreeSet<_> = alone.members().filter(stays).map(|it| it.node).collect();
            prop_assert!(stay.is_subset(&after), "{:?} {:?}", stay, after);
        }
    }
}
