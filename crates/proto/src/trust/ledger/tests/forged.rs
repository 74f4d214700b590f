//! Tests of statements that no honest program signs, by keys with the right to make others.

use super::*;

/// Returns a statement that no honest program makes. `by_term` is the membership that it claims.
pub(super) fn forged(ledger: &Ledger, by: u8, by_term: u32, claim: Claim) -> SignedStatement {
    let statement = Statement {
        cluster: ledger.cluster(),
        by: id(by),
        by_term,
        at_s: 1,
        before: last_of(ledger, &id(by)),
        claim,
    };
    statement.sign(&key(by))
}

pub(super) fn admission(node: u8, admin: bool, until_s: Option<u64>, term: u32) -> Claim {
    let (node, name) = (id(node), name(node));
    Claim::Admit {
        node,
        name,
        admin,
        until_s,
        term,
    }
}

pub(super) fn expulsion(node: u8, term: u32) -> Claim {
    let (node, stands) = (id(node), None);
    Claim::Expel { node, term, stands }
}

#[test]
fn an_expelled_node_does_not_return_by_a_membership_it_never_had() {
    for with_admitted in [false, true] {
        let mut ledger = cluster();
        ledger
            .signer(&key(2), 35)
            .admit(id(4), name(4), true)
            .unwrap();
        if !with_admitted {
            drop(ledger.signer(&key(1), 40).expel(id(2)).unwrap())
        } else {
            drop(
                ledger
                    .signer(&key(1), 40)
                    .expel_with_admitted(id(2))
                    .unwrap(),
            )
        }
        let before = members(&ledger);
        for term in [0, 1, 2, 3, u32::MAX] {
            for claim in [
                admission(2, true, None, term),
                admission(9, true, None, 1),
                expulsion(1, term),
                expulsion(3, 1),
            ] {
                ledger.merge([forged(&ledger, 2, term, claim)]);
                assert_eq!(members(&ledger), before, "{term}");
            }
        }
        let chain = [admission(2, true, None, 2), admission(9, true, None, 1)];
        let chain = chain.map(|claim| forged(&ledger, 2, 2, claim));
        ledger.merge(chain);
        assert_eq!(members(&ledger), before);
    }
}

#[test]
fn a_node_readmitted_without_the_right_does_not_regain_it() {
    let mut ledger = cluster();
    ledger.signer(&key(1), 40).expel(id(2)).unwrap();
    ledger
        .signer(&key(1), 50)
        .admit(id(2), name(2), false)
        .unwrap();
    for term in 1..=3 {
        ledger.merge([forged(&ledger, 2, term, admission(9, true, None, 1))]);
        ledger.merge([forged(&ledger, 2, term, admission(2, true, None, term))]);
    }
    assert_eq!(members(&ledger), [1, 2, 3]);
    assert!(!ledger.is_admin(&id(2), 100));
}

#[test]
fn statements_void_in_one_membership_stay_void_after_the_next_ends() {
    let mut ledger = cluster();
    let apart = ledger.clone();
    ledger.signer(&key(1), 40).expel(id(2)).unwrap();
    // The statement seems to be older than that expulsion.
    ledger.merge([forged(&apart, 2, 1, admission(9, true, None, 1))]);
    assert_eq!(members(&ledger), [1, 3]);
    ledger
        .signer(&key(1), 50)
        .admit(id(2), name(2), true)
        .unwrap();
    ledger
        .signer(&key(2), 60)
        .admit(id(5), name(5), false)
        .unwrap();
    ledger.signer(&key(1), 70).expel(id(2)).unwrap();
    assert_eq!(members(&ledger), [1, 3, 5]);
}

#[test]
fn a_certificate_cannot_take_away_what_another_gave() {
    for (admin, until_s) in [(false, None), (false, Some(1)), (true, Some(1))] {
        for term in [0, 1, 2, u32::MAX] {
            let mut ledger = cluster();
            for node in [1, 3] {
                let claim = admission(node, admin, until_s, term);
                ledger.merge([forged(&ledger, 2, 1, claim)]);
            }
            assert_eq!(members(&ledger), [1, 2, 3], "{admin} {until_s:?} {term}");
            assert!(ledger.is_admin(&id(1), 100));
            ledger.signer(&key(1), 50).expel(id(2)).unwrap();
            assert_eq!(members(&ledger), [1, 3], "{admin} {until_s:?} {term}");
        }
    }
}

#[test]
fn a_postdated_certificate_restores_no_expelled_node() {
    let mut ledger = cluster();
    for (node, admin) in [(3, true), (4, false), (5, true)] {
        for term in [1, 2, 7] {
            ledger.merge([forged(&ledger, 2, 1, admission(node, admin, None, term))]);
        }
    }
    for node in [3, 4, 5] {
        ledger.signer(&key(1), 50).expel(id(node)).unwrap();
    }
    assert_eq!(members(&ledger), [1, 2]);
    // They can be admitted again.
    for node in [3, 4, 5] {
        ledger
            .signer(&key(1), 60)
            .admit(id(node), name(node), false)
            .unwrap();
    }
    assert_eq!(members(&ledger), [1, 2, 3, 4, 5]);
    assert!(!ledger.is_admin(&id(5), 100));
}

#[test]
fn a_key_that_can_no_longer_be_admitted_is_reported_as_such() {
    let mut ledger = cluster();
    ledger.merge([forged(&ledger, 2, 1, admission(9, false, None, u32::MAX))]);
    ledger.signer(&key(1), 50).expel(id(9)).unwrap();
    assert_eq!(members(&ledger), [1, 2, 3]);
    let before = ledger.digest();
    let refused = ledger.signer(&key(1), 60).admit(id(9), name(9), false);
    assert!(matches!(refused, Err(TrustError::KeyWorn)));
    assert_eq!(ledger.digest(), before);
}

#[test]
fn only_a_visible_member_may_admit() {
    let mut ledger = cluster();
    ledger.merge([forged(&ledger, 2, 1, admission(9, true, None, 0))]);
    ledger.merge([forged(&ledger, 9, 0, admission(10, true, None, 1))]);
    ledger.merge([forged(&ledger, 9, 1, admission(10, true, None, 1))]);
    assert_eq!(members(&ledger), [1, 2, 3]);
}

#[test]
fn certificates_from_far_down_block_no_path_to_the_founding() {
    let mut ledger = cluster();
    let below: Vec<u8> = [2].into_iter().chain(100..130).collect();
    for pair in below.windows(2) {
        ledger.merge([forged(
            &ledger,
            pair[0],
            1,
            admission(pair[1], true, None, 1),
        )]);
    }
    for by in &below {
        for (node, term) in [(1, 1), (1, 2), (2, 2), (3, 1), (3, 2)] {
            ledger.merge([forged(&ledger, *by, 1, admission(node, true, None, term))]);
        }
    }
    for node in 1..=3 {
        let alone = Ledger::of(ledger.chain(&id(node))).unwrap();
        assert!(alone.is_member(&id(node), 100), "{node}");
    }
    ledger
        .signer(&key(1), 50)
        .admit(id(4), name(4), false)
        .unwrap();
    ledger
        .signer(&key(2), 50)
        .admit(id(5), name(5), false)
        .unwrap();
    ledger.signer(&key(1), 60).expel(id(2)).unwrap();
    assert!(ledger.is_member(&id(5), 100));
}

#[test]
fn a_senior_ends_a_later_membership_of_a_node_admitted_before_it() {
    let mut ledger = Ledger::found(&key(1), name(1), 10);
    ledger
        .signer(&key(1), 20)
        .admit(id(2), name(2), true)
        .unwrap();
    ledger
        .signer(&key(1), 30)
        .admit(id(3), name(3), true)
        .unwrap();
    ledger.signer(&key(1), 40).expel(id(2)).unwrap();
    ledger
        .signer(&key(1), 50)
        .admit(id(2), name(2), true)
        .unwrap();
    ledger.signer(&key(3), 60).expel(id(2)).unwrap();
    assert_eq!(members(&ledger), [1, 3]);
    // No node can void the statements of a founder that has left.
    ledger.signer(&key(1), 70).expel(id(1)).unwrap();
    ledger.merge([forged(&ledger, 3, 1, expulsion(1, 1))]);
    ledger.merge([forged(&ledger, 3, 1, expulsion(1, 9))]);
    assert_eq!(members(&ledger), [3]);
}

#[test]
fn a_complete_cutoff_by_a_senior_is_not_weakened_by_a_juniors_partial_one() {
    let mut ledger = Ledger::found(&key(1), name(1), 10);
    ledger
        .signer(&key(1), 20)
        .admit(id(2), name(2), true)
        .unwrap();
    ledger
        .signer(&key(1), 30)
        .admit(id(3), name(3), true)
        .unwrap();
    ledger
        .signer(&key(3), 40)
        .admit(id(4), name(4), false)
        .unwrap();
    ledger.merge([forged(&ledger, 2, 1, admission(3, false, None, 2))]);
    let stands = last_of(&ledger, &id(3));
    ledger
        .signer(&key(1), 50)
        .expel_with_admitted(id(3))
        .unwrap();
    assert_eq!(members(&ledger), [1, 2]);
    for term in [1, 2, 3] {
        let node = id(3);
        let claim = Claim::Expel { node, term, stands };
        ledger.merge([forged(&ledger, 2, 1, claim)]);
        assert_eq!(members(&ledger), [1, 2]);
    }
}

#[test]
fn a_node_that_declared_its_leave_states_nothing_more_in_any_membership() {
    let goes = |node: u8, term| {
        let (node, stands) = (id(node), None);
        Claim::Expel { node, term, stands }
    };
    for (by_term, term) in [(77, 1), (77, 77), (2, 2), (1, 1)] {
        let mut ledger = cluster();
        ledger.merge([forged(&ledger, 2, 1, admission(2, true, None, 2))]);
        ledger.merge([forged(&ledger, 2, by_term, goes(2, term))]);
        ledger.merge([forged(&ledger, 2, 1, admission(9, true, None, 1))]);
        ledger.merge([forged(&ledger, 2, 1, goes(3, 1))]);
        if !ledger.is_member(&id(2), 100) {
            assert_eq!(members(&ledger), [1, 3], "{by_term} {term}");
        }
        // It does not remove the nodes that it had admitted either, since it is already out.
        let mut ledger = cluster();
        ledger
            .signer(&key(2), 40)
            .admit(id(5), name(5), false)
            .unwrap();
        ledger.signer(&key(1), 50).expel(id(2)).unwrap();
        ledger.merge([forged(&ledger, 2, by_term, goes(2, term))]);
        assert_eq!(members(&ledger), [1, 3, 5], "{by_term} {term}");
    }
}

#[test]
fn a_statement_withheld_until_after_the_expulsion_does_not_stand() {
    let mut ledger = cluster();
    let held_back = forged(&ledger, 2, 1, admission(2, true, None, 9));
    let shown = Statement {
        cluster: ledger.cluster(),
        by: id(2),
        by_term: 1,
        at_s: 1,
        before: Some(held_back.id()),
        claim: admission(9, true, None, 1),
    };
    ledger.merge([shown.sign(&key(2))]);
    ledger.signer(&key(1), 50).expel(id(2)).unwrap();
    ledger.merge([held_back]);
    assert_eq!(members(&ledger), [1, 3]);
}

#[test]
fn a_removed_node_cannot_choose_its_own_reason() {
    // After its expulsion it states that it left.
    let mut ledger = cluster();
    ledger.signer(&key(1), 50).expel(id(3)).unwrap();
    for term in [1, 2, 77] {
        ledger.merge([forged(&ledger, 3, term, expulsion(3, term))]);
        assert!(!ledger.departed().has_resigned(&id(3)), "{term}");
    }
    // It states that it was admitted again.
    let mut ledger = cluster();
    ledger.signer(&key(1), 50).expel(id(2)).unwrap();
    for term in [2, 3, 9, u32::MAX] {
        ledger.merge([forged(&ledger, 2, 1, admission(2, true, None, term))]);
        let word = ledger.departed().expulsion(&id(2)).unwrap();
        assert_eq!(word.statement.by, id(1), "{term}");
        assert_eq!(ledger.departed().by_time().len(), 1);
    }
    // A node that is out cannot prevent another one's return.
    let mut ledger = cluster();
    ledger.signer(&key(3), 40).expel(id(3)).unwrap();
    ledger
        .signer(&key(1), 50)
        .expel_with_admitted(id(2))
        .unwrap();
    ledger.merge([forged(&ledger, 2, 1, admission(3, false, None, u32::MAX))]);
    assert!(ledger.departed().has_resigned(&id(3)));
    ledger
        .signer(&key(1), 60)
        .admit(id(3), name(3), false)
        .unwrap();
    assert_eq!(members(&ledger), [1, 3]);
}

#[test]
fn an_expired_right_is_void() {
    let mut ledger = cluster();
    ledger.merge([forged(&ledger, 2, 1, admission(9, false, None, 1))]);
    ledger.merge([forged(&ledger, 2, 1, admission(9, true, Some(1), 1))]);
    ledger.merge([forged(&ledger, 9, 1, admission(10, true, None, 1))]);
    assert!(!ledger.is_admin(&id(9), 100) && !ledger.is_member(&id(10), 100));
}

#[test]
fn an_expulsion_without_effect_is_refused() {
    let mut ledger = cluster();
    ledger
        .signer(&key(1), 40)
        .admit(id(4), name(4), true)
        .unwrap();
    ledger
        .signer(&key(4), 50)
        .admit(id(5), name(5), true)
        .unwrap();
    ledger.merge([forged(&ledger, 2, 1, admission(9, true, None, 2))]);
    ledger.merge([forged(&ledger, 9, 2, admission(9, true, None, 1))]);
    let before = ledger.digest();
    match ledger.signer(&key(5), 60).expel(id(9)) {
        Ok(said) => assert!(ledger.counts(&said[0]) && !ledger.is_member(&id(9), 100)),
        Err(error) => {
            assert!(matches!(error, TrustError::Senior { .. }));
            assert_eq!(ledger.digest(), before);
        }
    }
}

/// The cost of each statement is bounded whatever the others are. With 4,000 statements it once was
/// half a second for each.
#[test]
fn thousands_of_cutoffs_on_thousands_of_statements_are_applied_in_one_turn() {
    let mut ledger = cluster();
    let chain = |by: u8, claims: &mut dyn Iterator<Item = Claim>| {
        let (mut before, mut all) = (None, Vec::new());
        for claim in claims {
            let statement = Statement {
                cluster: cluster().cluster(),
                by: id(by),
                by_term: 1,
                at_s: 1,
                before,
                claim,
            };
            let signed = statement.sign(&key(by));
            before = Some(signed.id());
            all.push(signed);
        }
        all
    };
    let epoch = EpochId([6; 8]);
    ledger.merge([forged(&ledger, 2, 1, admission(9, true, None, 1))]);
    let said = chain(
        9,
        &mut (1..1500).map(|number| Claim::Rotate { epoch, number }),
    );
    let ends: Vec<_> = (1..1500)
        .map(|term| Claim::Expel {
            node: id(9),
            term,
            stands: Some(said[said.len() - term as usize].id()),
        })
        .collect();
    ledger.merge(said);
    ledger.merge(chain(2, &mut ends.into_iter()));
    assert_eq!(members(&ledger), [1, 2, 3]);
}

/// Returns a claim of any kind, about any node and any membership.
fn any_claim() -> impl Strategy<Value = Claim> {
    let (who, term) = (1u8..7, 0u32..4);
    let until = prop_oneof![Just(None), Just(Some(1)), Just(Some(200))];
    let admitted = (who.clone(), any::<bool>(), until, term.clone());
    prop_oneof![
        admitted.prop_map(|(node, admin, until_s, term)| admission(node, admin, until_s, term)),
        (who, term).prop_map(|(node, term)| expulsion(node, term)),
        prop_oneof![0u64..8, any::<u64>()].prop_map(|number| Claim::Rotate {
            epoch: EpochId([5; 8]),
            number
        }),
    ]
}

/// Returns any claim, with its issuer and the issuer's membership.
pub(super) fn any_word() -> impl Strategy<Value = (u8, u32, Claim)> {
    (2u8..7, 0u32..4, any_claim())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn the_founder_and_its_expulsions_hold_whatever_others_sign(
        before in prop::collection::vec(any_word(), 0..12),
        bad in 2u8..7,
        after in prop::collection::vec((0u32..4, any_claim()), 0..12),
    ) {
        let mut ledger = cluster();
        for (by, by_term, claim) in before {
            ledger.merge([forged(&ledger, by, by_term, claim)]);
        }
        prop_assert!(ledger.is_admin(&id(1), 100));
        for member in ledger.members() {
            let alone = Ledger::of(ledger.chain(&member.node));
            prop_assert!(alone.is_some_and(|it| it.certificate(&member.node).is_some()));
        }
        if ledger.signer(&key(1), 50).expel_with_admitted(id(bad)).is_err() {
            prop_assert!(ledger.certificate(&id(bad)).is_none());
            return Ok(());
        }
        prop_assert!(ledger.certificate(&id(bad)).is_none());
        let standing = members(&ledger);
        for (by_term, claim) in after {
            // It may state that it leaves.
            let is_farewell = matches!(&claim, Claim::Expel { node, .. } if *node == id(bad));
            if !is_farewell {
                ledger.merge([forged(&ledger, bad, by_term, claim)]);
            }
        }
        prop_assert_eq!(members(&ledger), standing);
        ledger.signer(&key(1), 60).rotate(EpochId([9; 8])).unwrap();
        prop_assert_eq!(ledger.epoch(), Some(EpochId([9; 8])));
    }
}

#[test]
fn a_nodes_farewell_adds_nothing_to_what_its_expulsion_leaves_standing() {
    let mut ledger = cluster();
    let said = |before, claim| {
        let statement = Statement {
            cluster: cluster().cluster(),
            by: id(2),
            by_term: 1,
            at_s: 1,
            before,
            claim,
        };
        statement.sign(&key(2))
    };
    let held_back = said(None, admission(9, true, None, 1));
    let again = said(Some(held_back.id()), admission(2, true, None, 2));
    let farewell = Claim::Expel {
        node: id(2),
        term: 1,
        stands: Some(again.id()),
    };
    ledger.merge([again, said(None, farewell)]);
    ledger.signer(&key(1), 50).expel(id(2)).unwrap();
    ledger.merge([held_back]);
    assert_eq!(members(&ledger), [1, 3]);
}
