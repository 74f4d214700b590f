//! Tests of the expulsion of a node with the nodes that it admitted.

use super::forged::{admission, expulsion, forged};
use super::*;

/// Returns a ledger in which administrator 2 admitted administrator 4, which admitted 5. The
/// founder admitted node 3.
fn let_in() -> Ledger {
    let mut ledger = cluster();
    ledger
        .signer(&key(2), 40)
        .admit(id(4), name(4), true)
        .unwrap();
    ledger
        .signer(&key(4), 41)
        .admit(id(5), name(5), false)
        .unwrap();
    ledger
}

fn named(ledger: &Ledger, node: u8) -> Vec<u8> {
    let found = ledger.admitted_by_it_alone(&key(1), id(node), 100);
    let found: Vec<_> = found.unwrap().iter().map(|it| it.node).collect();
    (1..20).filter(|n| found.contains(&id(*n))).collect()
}

#[test]
fn a_node_admitted_only_by_a_bad_administrator_is_named_and_removed_with_it() {
    let mut ledger = let_in();
    assert_eq!(named(&ledger, 2), [4, 5]);
    assert_eq!((named(&ledger, 4), named(&ledger, 3)), (vec![5], vec![]));
    assert_eq!(members(&ledger), [1, 2, 3, 4, 5], "naming changes nothing");
    let stated = ledger
        .signer(&key(1), 50)
        .expel_with_admitted(id(2))
        .unwrap();
    assert_eq!(stated.len(), 1, "one statement puts out any number");
    assert_eq!(members(&ledger), [1, 3]);
    for n in [2, 4, 5] {
        let word = ledger
            .departed()
            .expulsion(&id(n))
            .expect("who is out is told why");
        assert_eq!(*word, stated[0]);
    }
    for n in [1, 3, 9] {
        assert_eq!(ledger.departed().expulsion(&id(n)), None, "{n}");
    }
}

#[test]
fn a_node_removed_with_a_recently_expelled_one_is_shown_the_expulsion() {
    for n in 6..20 {
        let mut ledger = let_in();
        ledger
            .signer(&key(2), 42)
            .admit(id(n), name(n), false)
            .unwrap();
        let first = ledger.signer(&key(1), 50).expel(id(2)).unwrap();
        let second = ledger
            .signer(&key(1), 50)
            .expel_with_admitted(id(2))
            .unwrap();
        assert_eq!(ledger.departed().expulsion(&id(n)), second.first());
        assert_eq!(ledger.departed().expulsion(&id(2)), second.first());
        assert_ne!(second.first(), first.first());
    }
}

#[test]
fn a_second_certificate_keeps_a_node_in_when_its_first_issuer_is_removed() {
    let mut ledger = let_in();
    ledger
        .signer(&key(1), 60)
        .admit(id(5), name(5), false)
        .unwrap();
    assert_eq!(named(&ledger, 2), [4]);
    ledger
        .signer(&key(1), 70)
        .expel_with_admitted(id(2))
        .unwrap();
    assert_eq!(members(&ledger), [1, 3, 5]);
    // Everything given by a statement that no longer counts is gone: the right and the paths.
    let mut raised = cluster();
    raised
        .signer(&key(2), 40)
        .admit(id(3), name(3), true)
        .unwrap();
    own(&mut raised, 2, "docs", Some(3)).unwrap();
    assert!(raised.is_admin(&id(3), 100));
    raised
        .signer(&key(1), 50)
        .expel_with_admitted(id(2))
        .unwrap();
    assert_eq!(members(&raised), [1, 3]);
    assert!(!raised.is_admin(&id(3), 100));
    assert_eq!(owner(&raised, "docs"), None);
}

#[test]
fn an_expulsion_by_a_bad_administrator_holds_even_when_its_later_statements_fall() {
    let mut ledger = cluster();
    ledger
        .signer(&key(1), 40)
        .admit(id(6), name(6), true)
        .unwrap();
    let apart = ledger.clone();
    ledger.signer(&key(2), 50).expel(id(6)).unwrap();
    ledger.signer(&key(2), 51).expel(id(3)).unwrap();
    // The expelled node continues by itself.
    let mut thief = apart;
    thief
        .signer(&key(6), 52)
        .admit(id(7), name(7), false)
        .unwrap();
    ledger
        .signer(&key(1), 60)
        .expel_with_admitted(id(2))
        .unwrap();
    let met = merged(&ledger, &thief);
    assert_eq!(members(&met), [1]);
}

#[test]
fn a_node_admitted_by_an_expelled_one_can_be_expelled_by_its_former_seniors() {
    let mut ledger = let_in();
    ledger.signer(&key(1), 50).expel(id(2)).unwrap();
    assert_eq!(members(&ledger), [1, 3, 4, 5]);
    assert_eq!(named(&ledger, 2), [4, 5]);
    // A node that it admitted may not expel it, but every senior may.
    let refused = ledger.signer(&key(4), 55).expel_with_admitted(id(2));
    assert!(matches!(refused, Err(TrustError::Senior { .. })));
    assert_eq!(members(&ledger), [1, 3, 4, 5], "nothing was changed");
    let never_in = ledger.signer(&key(1), 55).expel_with_admitted(id(9));
    assert!(matches!(never_in, Err(TrustError::NoMember)));
    ledger
        .signer(&key(1), 60)
        .expel_with_admitted(id(2))
        .unwrap();
    assert_eq!(members(&ledger), [1, 3]);
    // It returns with a new certificate, and its later statements count.
    ledger
        .signer(&key(1), 70)
        .admit(id(2), name(2), true)
        .unwrap();
    assert_eq!(members(&ledger), [1, 2, 3]);
    ledger
        .signer(&key(2), 80)
        .admit(id(4), name(4), false)
        .unwrap();
    assert_eq!(members(&ledger), [1, 2, 3, 4]);
}

#[test]
fn a_removed_and_readmitted_node_restores_no_other_and_owns_nothing() {
    let mut ledger = let_in();
    own(&mut ledger, 1, "docs", Some(4)).unwrap();
    ledger
        .signer(&key(1), 50)
        .expel_with_admitted(id(2))
        .unwrap();
    assert_eq!(members(&ledger), [1, 3]);
    ledger
        .signer(&key(1), 60)
        .admit(id(4), name(4), true)
        .unwrap();
    assert_eq!(members(&ledger), [1, 3, 4], "whom it had let in stays out");
    assert_eq!(owner(&ledger, "docs"), None);
    assert!(ledger.is_admin(&id(4), 100));
    // The order of the statements does not matter.
    let mut backwards: Vec<_> = ledger.statements().cloned().collect();
    backwards[1..].reverse();
    let heard = Ledger::of(backwards).unwrap();
    assert_eq!(members(&heard), [1, 3, 4]);
    // Its later statements count.
    ledger
        .signer(&key(4), 70)
        .admit(id(5), name(5), false)
        .unwrap();
    assert_eq!(members(&ledger), [1, 3, 4, 5]);
    // It can be expelled and return as every other node.
    ledger.signer(&key(1), 80).expel(id(4)).unwrap();
    assert_eq!(members(&ledger), [1, 3, 5]);
    ledger
        .signer(&key(1), 90)
        .admit(id(4), name(4), false)
        .unwrap();
    assert_eq!(members(&ledger), [1, 3, 4, 5]);
}

/// Returns `count` certificates that node 2 signs, for keys that no node has.
pub(super) fn crowd(ledger: &Ledger, count: usize) -> Vec<SignedStatement> {
    let mut all: Vec<SignedStatement> = Vec::new();
    for number in 0..count as u64 {
        let mut node = [7; 32];
        node[..8].copy_from_slice(&number.to_be_bytes());
        let claim = Claim::Admit {
            node: NodeId::new(node),
            name: name(7),
            admin: true,
            until_s: None,
            term: 1,
        };
        let statement = Statement {
            cluster: ledger.cluster(),
            by: id(2),
            by_term: 1,
            at_s: 40,
            before: all.last().map(SignedStatement::id),
            claim,
        };
        all.push(statement.sign(&key(2)));
    }
    all
}

#[test]
fn departed_nodes_are_reported_with_their_expulsion_and_readmitted_ones_are_not() {
    let mut ledger = let_in();
    let departed = |ledger: &Ledger| -> Vec<(u8, u8)> {
        let number = |node: NodeId| (1..20).find(|n| id(*n) == node).unwrap();
        let each = ledger.departed().by_time().into_iter();
        each.map(|(who, word)| (number(who), number(word.subject().unwrap())))
            .collect()
    };
    assert_eq!(departed(&ledger), []);
    ledger.signer(&key(3), 45).expel(id(3)).unwrap();
    ledger
        .signer(&key(1), 50)
        .expel_with_admitted(id(2))
        .unwrap();
    let mut gone = departed(&ledger);
    gone.sort_unstable();
    assert_eq!(gone, [(2, 2), (3, 3), (4, 2), (5, 2)]);
    ledger
        .signer(&key(1), 60)
        .admit(id(5), name(5), false)
        .unwrap();
    ledger
        .signer(&key(1), 61)
        .admit(id(3), name(3), false)
        .unwrap();
    let mut gone = departed(&ledger);
    gone.sort_unstable();
    assert_eq!(gone, [(2, 2), (4, 2)]);
}

#[test]
fn thousands_admitted_by_a_bad_administrator_are_removed_by_one_statement() {
    let mut ledger = cluster();
    ledger.merge(crowd(&ledger, STATEMENTS_PER_ADMIN_MAX));
    assert!(ledger.members().count() > STATEMENTS_PER_ADMIN_MAX);
    ledger
        .signer(&key(1), 50)
        .expel_with_admitted(id(2))
        .unwrap();
    assert_eq!(members(&ledger), [1, 3]);
    assert_eq!(ledger.members().count(), 2);
}

#[test]
fn a_ledger_filled_by_bad_administrators_has_room_for_the_founders_expulsion() {
    let mut ledger = cluster();
    let one = crowd(&ledger, 1).remove(0);
    for n in ledger.statements.len() as u32..STATEMENTS_OF_OTHERS_MAX as u32 {
        ledger.statements.insert(variant(&one, n));
    }
    let full = ledger.signer(&key(2), 50).admit(id(5), name(5), true);
    assert!(matches!(full, Err(TrustError::LedgerFull)));
    ledger
        .signer(&key(1), 60)
        .expel_with_admitted(id(2))
        .unwrap();
    ledger.signer(&key(1), 60).rotate(EpochId([1; 8])).unwrap();
    ledger
        .signer(&key(1), 70)
        .admit(id(5), name(5), true)
        .unwrap();
    assert_eq!(members(&ledger), [1, 3, 5]);
}

#[test]
fn a_removed_node_stays_out_when_its_issuer_is_readmitted_and_leaves_again() {
    for by_itself in [true, false] {
        let mut ledger = let_in();
        ledger
            .signer(&key(1), 50)
            .expel_with_admitted(id(2))
            .unwrap();
        assert_eq!(members(&ledger), [1, 3]);
        ledger
            .signer(&key(1), 60)
            .admit(id(2), name(2), true)
            .unwrap();
        let gone = |ledger: &Ledger| -> Vec<NodeId> {
            ledger.departed().by_time().iter().map(|it| it.0).collect()
        };
        let out = gone(&ledger);
        assert!(out.contains(&id(4)) && out.contains(&id(5)) && out.len() == 2);
        let by = if by_itself { 2 } else { 1 };
        ledger.signer(&key(by), 70).expel(id(2)).unwrap();
        assert_eq!(members(&ledger), [1, 3]);
        assert_eq!(gone(&ledger).len(), 3);
    }
}

#[test]
fn a_node_that_left_and_was_removed_with_its_second_issuer_counts_as_expelled() {
    let mut ledger = cluster();
    ledger.signer(&key(3), 40).expel(id(3)).unwrap();
    assert!(ledger.departed().has_resigned(&id(3)));
    ledger
        .signer(&key(2), 50)
        .admit(id(3), name(3), false)
        .unwrap();
    assert!(!ledger.departed().has_resigned(&id(3)));
    ledger
        .signer(&key(1), 60)
        .expel_with_admitted(id(2))
        .unwrap();
    assert_eq!(members(&ledger), [1]);
    let word = ledger.departed().expulsion(&id(3)).unwrap();
    assert_eq!((word.statement.by, word.subject()), (id(1), Some(id(2))));
    assert!(!ledger.departed().has_resigned(&id(3)));
}

#[test]
fn a_founder_that_left_and_was_readmitted_can_be_expelled_like_others() {
    for admin in [false, true] {
        let mut ledger = cluster();
        ledger.signer(&key(1), 40).expel(id(1)).unwrap();
        ledger
            .signer(&key(2), 50)
            .admit(id(1), name(1), admin)
            .unwrap();
        assert_eq!(members(&ledger), [1, 2, 3]);
        ledger.signer(&key(2), 60).expel(id(1)).unwrap();
        assert_eq!(members(&ledger), [2, 3], "whom it had let in stays");
        assert_eq!(ledger.departed().by_time().len(), 1);
    }
}

#[test]
fn without_any_administrator_left_none_is_named() {
    let mut ledger = cluster();
    let refused = ledger.check_admits(&id(3), 100);
    assert!(matches!(refused, Err(TrustError::NotAdmin)));
    ledger.signer(&key(1), 40).expel(id(1)).unwrap();
    ledger.signer(&key(2), 40).expel(id(2)).unwrap();
    let refused = ledger.check_admits(&id(3), 100);
    assert!(matches!(refused, Err(TrustError::NobodyMay)));
}

#[test]
fn a_node_admitted_before_an_expulsion_is_removed_even_after_its_issuers_return() {
    for by in [1, 2] {
        let mut ledger = cluster();
        ledger
            .signer(&key(1), 35)
            .admit(id(4), name(4), true)
            .unwrap();
        ledger
            .signer(&key(4), 40)
            .admit(id(5), name(5), false)
            .unwrap();
        ledger.signer(&key(by), 50).expel(id(4)).unwrap();
        ledger
            .signer(&key(1), 60)
            .admit(id(4), name(4), true)
            .unwrap();
        ledger
            .signer(&key(1), 70)
            .expel_with_admitted(id(4))
            .unwrap();
        assert_eq!(members(&ledger), [1, 2, 3]);
    }
}

#[test]
fn a_node_expelled_by_a_removed_one_regains_nothing_of_its_past() {
    // Its right.
    let mut ledger = cluster();
    ledger
        .signer(&key(1), 35)
        .admit(id(4), name(4), true)
        .unwrap();
    ledger.signer(&key(2), 40).expel(id(4)).unwrap();
    ledger
        .signer(&key(1), 50)
        .admit(id(4), name(4), false)
        .unwrap();
    ledger
        .signer(&key(1), 60)
        .expel_with_admitted(id(2))
        .unwrap();
    assert_eq!(members(&ledger), [1, 3, 4]);
    assert!(!ledger.is_admin(&id(4), 100));
    // The nodes that it had admitted.
    let mut ledger = cluster();
    ledger
        .signer(&key(1), 35)
        .admit(id(4), name(4), true)
        .unwrap();
    ledger
        .signer(&key(4), 36)
        .admit(id(5), name(5), false)
        .unwrap();
    ledger.signer(&key(1), 40).expel(id(4)).unwrap();
    assert_eq!(members(&ledger), [1, 2, 3, 5]);
    ledger
        .signer(&key(2), 50)
        .expel_with_admitted(id(4))
        .unwrap();
    assert_eq!(members(&ledger), [1, 2, 3]);
    ledger
        .signer(&key(1), 60)
        .expel_with_admitted(id(2))
        .unwrap();
    assert_eq!(members(&ledger), [1, 3]);
}

#[test]
fn a_node_that_fell_with_a_readmitted_one_is_explained_and_restores_no_other() {
    let mut ledger = cluster();
    let mut apart = ledger.clone();
    apart
        .signer(&key(2), 40)
        .admit(id(5), name(5), true)
        .unwrap();
    apart
        .signer(&key(5), 41)
        .admit(id(6), name(6), false)
        .unwrap();
    ledger.signer(&key(1), 50).expel(id(2)).unwrap();
    ledger
        .signer(&key(1), 60)
        .admit(id(2), name(2), true)
        .unwrap();
    let mut met = merged(&ledger, &apart);
    assert_eq!(members(&met), [1, 2, 3]);
    assert!(met.departed().expulsion(&id(5)).is_some());
    met.signer(&key(1), 70).admit(id(5), name(5), true).unwrap();
    assert_eq!(members(&met), [1, 2, 3, 5]);
}

#[test]
fn an_expelling_node_that_is_removed_excludes_no_node_forever() {
    let mut ledger = cluster();
    ledger.merge([forged(&ledger, 2, 1, expulsion(3, u32::MAX))]);
    assert_eq!(members(&ledger), [1, 2]);
    ledger
        .signer(&key(1), 50)
        .expel_with_admitted(id(2))
        .unwrap();
    assert_eq!(members(&ledger), [1], "whom it put out stays out");
    ledger
        .signer(&key(1), 60)
        .admit(id(3), name(3), false)
        .unwrap();
    assert_eq!(members(&ledger), [1, 3]);
}

#[test]
fn a_fallen_and_readmitted_node_removes_and_restores_no_other() {
    // Nodes that it admitted before its first expulsion stay.
    let mut ledger = cluster();
    ledger
        .signer(&key(1), 30)
        .admit(id(4), name(4), true)
        .unwrap();
    ledger
        .signer(&key(4), 31)
        .admit(id(5), name(5), false)
        .unwrap();
    ledger.signer(&key(1), 40).expel(id(4)).unwrap();
    ledger
        .signer(&key(2), 50)
        .admit(id(4), name(4), true)
        .unwrap();
    ledger
        .signer(&key(1), 60)
        .expel_with_admitted(id(2))
        .unwrap();
    assert_eq!(members(&ledger), [1, 3, 5]);
    ledger
        .signer(&key(1), 70)
        .admit(id(4), name(4), false)
        .unwrap();
    assert_eq!(members(&ledger), [1, 3, 4, 5]);
    // Nodes that it admitted before it fell stay out.
    let mut ledger = cluster();
    ledger
        .signer(&key(1), 30)
        .admit(id(6), name(6), true)
        .unwrap();
    let mut apart = ledger.clone();
    ledger
        .signer(&key(2), 40)
        .admit(id(4), name(4), true)
        .unwrap();
    ledger.signer(&key(6), 50).expel(id(4)).unwrap();
    ledger
        .signer(&key(2), 60)
        .admit(id(4), name(4), true)
        .unwrap();
    ledger
        .signer(&key(4), 70)
        .admit(id(5), name(5), false)
        .unwrap();
    apart
        .signer(&key(1), 80)
        .expel_with_admitted(id(2))
        .unwrap();
    apart
        .signer(&key(1), 81)
        .expel_with_admitted(id(6))
        .unwrap();
    apart
        .signer(&key(1), 82)
        .expel_with_admitted(id(3))
        .unwrap();
    let mut met = merged(&ledger, &apart);
    assert_eq!(members(&met), [1]);
    met.signer(&key(1), 90).admit(id(4), name(4), true).unwrap();
    assert_eq!(members(&met), [1, 4]);
}

#[test]
fn each_statement_lost_with_its_author_is_made_again() {
    let mut ledger = cluster();
    ledger
        .signer(&key(1), 30)
        .admit(id(4), name(4), true)
        .unwrap();
    let mut apart = ledger.clone();
    ledger.signer(&key(2), 40).expel(id(4)).unwrap();
    apart
        .signer(&key(4), 40)
        .admit(id(5), name(5), false)
        .unwrap();
    let mut met = merged(&ledger, &apart);
    assert_eq!(members(&met), [1, 2, 3]);
    met.signer(&key(1), 50).admit(id(4), name(4), true).unwrap();
    met.signer(&key(4), 60)
        .admit(id(6), name(6), false)
        .unwrap();
    met.signer(&key(2), 70).expel(id(4)).unwrap();
    let before = members(&met);
    assert!(!before.contains(&5) && !before.contains(&4));
    met.signer(&key(1), 80).expel_with_admitted(id(2)).unwrap();
    assert!(members(&met).iter().all(|it| before.contains(it)));
    // Expelled for all terms by a node that is expelled later, and by the founder: it can be
    // admitted again.
    let mut ledger = cluster();
    ledger
        .signer(&key(1), 30)
        .admit(id(4), name(4), true)
        .unwrap();
    ledger.merge([forged(&ledger, 2, 1, expulsion(4, u32::MAX))]);
    ledger
        .signer(&key(1), 40)
        .expel_with_admitted(id(4))
        .unwrap();
    ledger
        .signer(&key(1), 50)
        .expel_with_admitted(id(2))
        .unwrap();
    ledger
        .signer(&key(1), 60)
        .admit(id(4), name(4), true)
        .unwrap();
    assert_eq!(members(&ledger), [1, 3, 4]);
}

#[test]
fn a_readmitted_node_stays_whatever_its_expelled_issuer_had_stated() {
    for by_term in [1, 2, 3] {
        let mut ledger = cluster();
        ledger
            .signer(&key(2), 40)
            .admit(id(5), name(5), false)
            .unwrap();
        ledger
            .signer(&key(2), 41)
            .admit(id(9), name(9), true)
            .unwrap();
        ledger.signer(&key(9), 42).expel(id(9)).unwrap();
        ledger.signer(&key(1), 50).expel(id(2)).unwrap();
        ledger.merge([forged(&ledger, 2, by_term, expulsion(2, 2))]);
        ledger.merge([forged(&ledger, 9, 1, admission(2, false, None, 3))]);
        ledger
            .signer(&key(1), 60)
            .admit(id(2), name(2), false)
            .unwrap();
        assert_eq!(members(&ledger), [1, 2, 3, 5], "{by_term}");
    }
}

#[test]
fn a_removed_node_takes_down_no_node_admitted_by_one_that_left() {
    for (by, term) in [(1, 1), (1, 2), (1, u32::MAX), (4, 2), (4, u32::MAX)] {
        let mut ledger = cluster();
        ledger
            .signer(&key(2), 20)
            .admit(id(5), name(5), false)
            .unwrap();
        ledger
            .signer(&key(1), 25)
            .admit(id(4), name(4), true)
            .unwrap();
        ledger
            .signer(&key(1), 26)
            .admit(id(6), name(6), true)
            .unwrap();
        ledger.signer(&key(2), 30).expel(id(2)).unwrap();
        ledger.merge([forged(&ledger, 6, 1, expulsion(2, term))]);
        let stated = ledger
            .signer(&key(by), 40)
            .expel_with_admitted(id(6))
            .unwrap();
        // Node 4 is a junior of node 2, so only the founder confirms that node 2 left.
        let confirmed = usize::from(by == 1);
        let expected = (vec![1, 3, 4, 5], 1 + confirmed);
        assert_eq!((members(&ledger), stated.len()), expected);
        ledger
            .signer(&key(1), 50)
            .admit(id(2), name(2), true)
            .unwrap();
        assert_eq!(members(&ledger), [1, 2, 3, 4, 5]);
    }
}

#[test]
fn an_ended_later_membership_stays_ended_and_earlier_statements_stand() {
    let mut ledger = cluster();
    ledger
        .signer(&key(1), 29)
        .admit(id(4), name(4), true)
        .unwrap();
    ledger
        .signer(&key(1), 31)
        .admit(id(6), name(6), true)
        .unwrap();
    ledger
        .signer(&key(2), 40)
        .admit(id(5), name(5), false)
        .unwrap();
    ledger.signer(&key(2), 45).expel(id(2)).unwrap();
    ledger
        .signer(&key(1), 50)
        .admit(id(2), name(2), true)
        .unwrap();
    ledger.merge([forged(&ledger, 6, 1, expulsion(2, 2))]);
    assert_eq!(members(&ledger), [1, 3, 4, 5, 6]);
    for by in [1, 4] {
        let mut ledger = ledger.clone();
        ledger
            .signer(&key(by), 60)
            .expel_with_admitted(id(6))
            .unwrap();
        assert_eq!(members(&ledger), [1, 3, 4, 5], "{by}");
    }
}

/// Each of these expulsions once needed an evaluation of its own.
#[test]
fn hundreds_expelled_by_a_removed_node_are_expelled_again_in_one_turn() {
    let mut ledger = cluster();
    let crowd = crowd(&ledger, 500);
    ledger.merge(crowd.iter().cloned());
    ledger
        .signer(&key(1), 30)
        .admit(id(4), name(4), true)
        .unwrap();
    let mut before = None;
    for admission in crowd {
        let statement = Statement {
            before,
            claim: Claim::Expel {
                node: admission.subject().unwrap(),
                term: 1,
                stands: Some(ledger.cluster()),
            },
            by: id(4),
            ..admission.statement
        };
        let signed = statement.sign(&key(4));
        before = Some(signed.id());
        ledger.statements.insert(signed);
    }
    ledger.evaluation = Evaluation::of(&ledger.statements);
    assert_eq!(ledger.members().count(), 4);
    let stated = ledger
        .signer(&key(1), 50)
        .expel_with_admitted(id(4))
        .unwrap();
    assert_eq!((stated.len(), ledger.members().count()), (501, 3));
}
