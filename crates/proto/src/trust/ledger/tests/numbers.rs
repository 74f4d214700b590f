//! Tests of the statement that decides the owner of a path or the cluster's secret, despite planted
//! numbers.

use super::forged::{admission, any_word, expulsion, forged};
use super::*;

#[test]
fn an_extreme_number_does_not_prevent_a_last_word() {
    let mut ledger = cluster();
    for number in [2, 77, u64::MAX] {
        let epoch = EpochId([6; 8]);
        ledger.merge([forged(&ledger, 2, 1, Claim::Rotate { epoch, number })]);
        let (path, node, term) = (b"docs".to_vec(), Some(id(2)), 1);
        let claim = Claim::Own {
            path,
            node,
            term,
            number,
        };
        ledger.merge([forged(&ledger, 2, 1, claim)]);
    }
    ledger.signer(&key(1), 50).rotate(EpochId([7; 8])).unwrap();
    assert_eq!(ledger.epoch(), Some(EpochId([7; 8])));
    own(&mut ledger, 1, "docs", Some(3)).unwrap();
    assert_eq!(owner(&ledger, "docs"), Some(id(3)));
    ledger.signer(&key(1), 60).expel(id(2)).unwrap();
    ledger.signer(&key(1), 60).rotate(EpochId([8; 8])).unwrap();
    assert_eq!(ledger.epoch(), Some(EpochId([8; 8])));
}

#[test]
fn numbers_planted_earlier_do_not_undo_an_expulsions_statements() {
    for planted in 2..6 {
        let mut ledger = cluster();
        ledger.signer(&key(1), 40).rotate(EpochId([1; 8])).unwrap();
        let (epoch, path) = (EpochId([1; 8]), b"docs".to_vec());
        let rotate = |number| Claim::Rotate { epoch, number };
        let own_nobody = |number| Claim::Own {
            path: path.clone(),
            node: None,
            term: 0,
            number,
        };
        for number in 2..=planted {
            ledger.merge([forged(&ledger, 2, 1, rotate(number))]);
            ledger.merge([forged(&ledger, 2, 1, own_nobody(number))]);
        }
        ledger.signer(&key(1), 50).expel(id(2)).unwrap();
        ledger.signer(&key(1), 50).rotate(EpochId([2; 8])).unwrap();
        own(&mut ledger, 1, "docs", Some(3)).unwrap();
        assert_eq!(ledger.epoch(), Some(EpochId([2; 8])), "{planted}");
        assert_eq!(owner(&ledger, "docs"), Some(id(3)), "{planted}");
    }
}

#[test]
fn statements_of_a_removed_node_make_no_room_for_its_planted_number() {
    let mut ledger = cluster();
    let (old, path) = (EpochId([1; 8]), b"docs".to_vec());
    ledger.signer(&key(1), 40).rotate(old).unwrap();
    let number = 9;
    let planted = Claim::Rotate { epoch: old, number };
    ledger.merge([forged(&ledger, 2, 1, planted.clone())]);
    let (node, term) = (None, 0);
    let nobody = |number| Claim::Own {
        path: path.clone(),
        node,
        term,
        number,
    };
    ledger.merge([forged(&ledger, 2, 1, nobody(9))]);
    ledger.signer(&key(1), 50).expel(id(2)).unwrap();
    ledger.signer(&key(1), 50).rotate(EpochId([2; 8])).unwrap();
    own(&mut ledger, 1, "docs", Some(3)).unwrap();
    for number in 3..20 {
        let epoch = EpochId([6; 8]);
        ledger.merge([forged(&ledger, 2, 1, Claim::Rotate { epoch, number })]);
        ledger.merge([forged(&ledger, 2, 1, nobody(number))]);
        assert_eq!(ledger.epoch(), Some(EpochId([2; 8])));
        assert_eq!(owner(&ledger, "docs"), Some(id(3)));
    }
    for last in 10..24 {
        ledger
            .signer(&key(1), 60)
            .rotate(EpochId([last; 8]))
            .unwrap();
        own(&mut ledger, 1, "docs", Some(1 + 2 * (last % 2))).unwrap();
        assert_eq!(ledger.epoch(), Some(EpochId([last; 8])));
        assert_eq!(owner(&ledger, "docs"), Some(id(1 + 2 * (last % 2))));
    }
}

#[test]
fn a_postdated_certificate_takes_no_path_from_its_owner() {
    let mut ledger = cluster();
    own(&mut ledger, 1, "docs", Some(3)).unwrap();
    ledger.merge([forged(&ledger, 2, 1, admission(3, true, None, 2))]);
    assert_eq!(owner(&ledger, "docs"), Some(id(3)));
}

#[test]
fn an_owner_named_for_a_later_membership_is_void() {
    let mut ledger = cluster();
    let claim = Claim::Own {
        path: b"docs".to_vec(),
        node: Some(id(3)),
        term: 99,
        number: 1,
    };
    ledger.merge([forged(&ledger, 2, 1, claim)]);
    ledger.signer(&key(1), 50).expel(id(3)).unwrap();
    ledger
        .signer(&key(1), 60)
        .admit(id(3), name(3), false)
        .unwrap();
    assert_eq!(owner(&ledger, "docs"), None);
}

#[test]
fn a_fresh_secret_follows_the_complete_removal_of_a_node_that_had_rotated() {
    for rotations in 0..4 {
        let mut ledger = cluster();
        for number in 1..=rotations {
            let epoch = EpochId([6; 8]);
            ledger.merge([forged(&ledger, 2, 1, Claim::Rotate { epoch, number })]);
        }
        for last in 30..33 {
            ledger
                .signer(&key(1), 40)
                .rotate(EpochId([last; 8]))
                .unwrap();
            own(&mut ledger, 1, "docs", Some(3)).unwrap();
        }
        ledger
            .signer(&key(1), 50)
            .expel_with_admitted(id(2))
            .unwrap();
        for last in 40..50 {
            ledger
                .signer(&key(1), 60)
                .rotate(EpochId([last; 8]))
                .unwrap();
            assert_eq!(ledger.epoch(), Some(EpochId([last; 8])), "{rotations}");
            let owner_now = if last % 2 == 0 { 1 } else { 3 };
            own(&mut ledger, 1, "docs", Some(owner_now)).unwrap();
            assert_eq!(owner(&ledger, "docs"), Some(id(owner_now)));
        }
    }
}

#[test]
fn a_planted_number_wins_nothing_when_two_expel_its_author_at_once() {
    let (path, planted) = (b"docs".to_vec(), EpochId([6; 8]));
    let mut ledger = cluster();
    ledger
        .signer(&key(1), 40)
        .admit(id(4), name(4), true)
        .unwrap();
    for number in 2..6 {
        let epoch = planted;
        ledger.merge([forged(&ledger, 4, 1, Claim::Rotate { epoch, number })]);
        let (path, node, term) = (path.clone(), Some(id(4)), 1);
        let claim = Claim::Own {
            path,
            node,
            term,
            number,
        };
        ledger.merge([forged(&ledger, 4, 1, claim)]);
    }
    let (mut a, mut b) = (ledger.clone(), ledger.clone());
    for (apart, by) in [(&mut a, 1), (&mut b, 2)] {
        apart.signer(&key(by), 50).expel(id(4)).unwrap();
        apart.signer(&key(by), 50).rotate(EpochId([by; 8])).unwrap();
        own(apart, by, "docs", Some(3)).unwrap();
    }
    for both in [merged(&a, &b), merged(&b, &a)] {
        assert_eq!(both.epoch(), Some(EpochId([1; 8])));
        assert_eq!(owner(&both, "docs"), Some(id(3)));
    }
    // The same holds if other nodes than the expelling ones make statements at the same time.
    ledger
        .signer(&key(1), 50)
        .admit(id(5), name(5), true)
        .unwrap();
    ledger.signer(&key(1), 50).expel(id(4)).unwrap();
    let (mut a, mut b) = (ledger.clone(), ledger);
    own(&mut a, 2, "docs", Some(3)).unwrap();
    own(&mut b, 5, "docs", Some(2)).unwrap();
    assert_eq!(owner(&merged(&a, &b), "docs"), Some(id(3)));
}

#[test]
fn a_leaving_node_withdraws_no_last_word() {
    for by in [1, 2] {
        let (mut one, mut other) = (cluster(), cluster());
        one.signer(&key(1), 50).rotate(EpochId([1; 8])).unwrap();
        other.signer(&key(2), 50).rotate(EpochId([2; 8])).unwrap();
        let mut both = merged(&one, &other);
        assert_eq!(both.epoch(), Some(EpochId([1; 8])));
        both.signer(&key(by), 60).expel(id(by)).unwrap();
        assert_eq!(both.epoch(), Some(EpochId([1; 8])), "{by}");
    }
    // It leaves no room for an expelled node.
    let mut ledger = cluster();
    ledger
        .signer(&key(1), 40)
        .admit(id(4), name(4), true)
        .unwrap();
    let (epoch, number) = (EpochId([6; 8]), 2);
    ledger.merge([forged(&ledger, 2, 1, Claim::Rotate { epoch, number })]);
    ledger.signer(&key(1), 50).expel(id(2)).unwrap();
    ledger.signer(&key(4), 60).rotate(EpochId([4; 8])).unwrap();
    ledger.signer(&key(4), 70).expel(id(4)).unwrap();
    assert_eq!(ledger.epoch(), Some(EpochId([4; 8])));
}

#[test]
fn a_named_owner_stays_when_another_that_spoke_of_the_path_is_expelled() {
    for with_admitted in [true, false] {
        let expel = |ledger: &mut Ledger| {
            if with_admitted {
                ledger.signer(&key(1), 60).expel_with_admitted(id(2))
            } else {
                ledger.signer(&key(1), 60).expel(id(2))
            }
        };
        // The founder revoked the claims of node 2.
        let mut ledger = cluster();
        own(&mut ledger, 2, "docs", Some(2)).unwrap();
        own(&mut ledger, 1, "docs", Some(3)).unwrap();
        ledger.signer(&key(2), 50).rotate(EpochId([6; 8])).unwrap();
        ledger.signer(&key(1), 50).rotate(EpochId([7; 8])).unwrap();
        expel(&mut ledger).unwrap();
        assert_eq!(owner(&ledger, "docs"), Some(id(3)), "{with_admitted}");
        assert_eq!(ledger.epoch(), Some(EpochId([7; 8])), "{with_admitted}");
        // The last claims of node 2 are lost only if all its statements are void.
        let mut ledger = cluster();
        own(&mut ledger, 1, "docs", Some(1)).unwrap();
        own(&mut ledger, 2, "docs", Some(3)).unwrap();
        ledger.signer(&key(1), 50).rotate(EpochId([7; 8])).unwrap();
        ledger.signer(&key(2), 50).rotate(EpochId([8; 8])).unwrap();
        expel(&mut ledger).unwrap();
        let (last, epoch) = if with_admitted { (1, 7) } else { (3, 8) };
        assert_eq!(owner(&ledger, "docs"), Some(id(last)));
        assert_eq!(ledger.epoch(), Some(EpochId([epoch; 8])));
    }
}

#[test]
fn paths_that_a_node_assigned_to_itself_are_free_after_its_expulsion() {
    let mut ledger = cluster();
    own(&mut ledger, 1, "docs", Some(3)).unwrap();
    own(&mut ledger, 2, "docs", Some(2)).unwrap();
    ledger.signer(&key(1), 60).expel(id(2)).unwrap();
    assert_eq!(owner(&ledger, "docs"), None);
}

#[test]
fn a_released_path_stays_free_when_its_releaser_is_removed() {
    let mut ledger = cluster();
    own(&mut ledger, 1, "docs", Some(3)).unwrap();
    own(&mut ledger, 2, "docs", Some(2)).unwrap();
    own(&mut ledger, 1, "docs", None).unwrap();
    ledger
        .signer(&key(1), 60)
        .expel_with_admitted(id(2))
        .unwrap();
    assert_eq!(owner(&ledger, "docs"), None);
}

#[test]
fn a_node_expelled_by_a_junior_of_its_first_membership_speaks_in_that_one() {
    let mut ledger = Ledger::found(&key(1), name(1), 10);
    ledger
        .signer(&key(1), 20)
        .admit(id(2), name(2), true)
        .unwrap();
    ledger
        .signer(&key(1), 30)
        .admit(id(3), name(3), true)
        .unwrap();
    own(&mut ledger, 3, "docs", Some(3)).unwrap();
    own(&mut ledger, 2, "docs", Some(1)).unwrap();
    ledger.signer(&key(2), 40).expel(id(2)).unwrap();
    ledger
        .signer(&key(1), 50)
        .admit(id(2), name(2), true)
        .unwrap();
    ledger.merge([forged(&ledger, 3, 1, expulsion(2, 2))]);
    assert_eq!(members(&ledger), [1, 3]);
    assert_eq!(owner(&ledger, "docs"), Some(id(1)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn when_two_expel_a_node_at_once_their_statements_are_the_last_word(
        said in prop::collection::vec(any_word(), 0..16),
        with_admitted in any::<bool>(),
    ) {
        let mut ledger = cluster();
        ledger.signer(&key(1), 40).admit(id(4), name(4), true).unwrap();
        for (_, by_term, claim) in said {
            ledger.merge([forged(&ledger, 4, by_term, claim)]);
        }
        prop_assume!(ledger.certificate(&id(4)).is_some());
        let (mut a, mut b) = (ledger.clone(), ledger);
        a.signer(&key(1), 50).expel(id(4)).unwrap();
        a.signer(&key(1), 50).rotate(EpochId([1; 8])).unwrap();
        if with_admitted { drop(b.signer(&key(2), 50).expel_with_admitted(id(4)).unwrap()) } else { drop(b.signer(&key(2), 50).expel(id(4)).unwrap()) }
        b.signer(&key(2), 50).rotate(EpochId([2; 8])).unwrap();
        for both in [merged(&a, &b), merged(&b, &a)] {
            let last = both.epoch();
            prop_assert!([1, 2].map(|n| Some(EpochId([n; 8]))).contains(&last), "{last:?}");
        }
    }
}

#[test]
fn naming_the_first_epoch_undoes_no_fresh_secret() {
    let [first, fresh, next] = [1, 2, 3].map(|n| EpochId([n; 8]));
    // The senior was away.
    let (mut away, mut ledger) = (cluster(), cluster());
    ledger.signer(&key(2), 40).rotate(fresh).unwrap();
    away.signer(&key(1), 50).name_epoch(first).unwrap();
    assert_eq!(away.epoch(), Some(first));
    let mut both = merged(&ledger, &away);
    assert_eq!(both.epoch(), Some(fresh));
    assert_eq!(both.signer(&key(1), 60).name_epoch(first).unwrap(), []);
    both.signer(&key(2), 70).rotate(next).unwrap();
    assert_eq!(both.epoch(), Some(next));
    let refused = cluster().signer(&key(3), 50).name_epoch(first);
    assert!(matches!(refused, Err(TrustError::NotAdmin)));
}
