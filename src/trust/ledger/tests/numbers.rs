//! Promises about the last word: whose a path is, and which secret is the cluster's, whatever was
//! planted.

use super::forged::{admission, forged};
use super::*;

#[test]
fn a_number_beyond_all_others_keeps_nobody_from_the_last_word() {
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
    ledger.rotate(&key(1), EpochId([7; 8]), 50).unwrap();
    assert_eq!(ledger.epoch(), Some(EpochId([7; 8])));
    own(&mut ledger, 1, "docs", Some(3)).unwrap();
    assert_eq!(owner(&ledger, "docs"), Some(id(3)));
    ledger.expel(&key(1), id(2), 60).unwrap();
    ledger.rotate(&key(1), EpochId([8; 8]), 60).unwrap();
    assert_eq!(ledger.epoch(), Some(EpochId([8; 8])));
}

#[test]
fn numbers_that_were_planted_before_do_not_undo_what_is_said_at_an_expulsion() {
    for planted in 2..6 {
        let mut ledger = cluster();
        ledger.rotate(&key(1), EpochId([1; 8]), 40).unwrap();
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
        ledger.expel(&key(1), id(2), 50).unwrap();
        ledger.rotate(&key(1), EpochId([2; 8]), 50).unwrap();
        own(&mut ledger, 1, "docs", Some(3)).unwrap();
        assert_eq!(ledger.epoch(), Some(EpochId([2; 8])), "{planted}");
        assert_eq!(owner(&ledger, "docs"), Some(id(3)), "{planted}");
    }
}

#[test]
fn words_of_one_that_is_out_make_no_room_for_a_number_that_it_planted() {
    let mut ledger = cluster();
    let (old, path) = (EpochId([1; 8]), b"docs".to_vec());
    ledger.rotate(&key(1), old, 40).unwrap();
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
    ledger.expel(&key(1), id(2), 50).unwrap();
    ledger.rotate(&key(1), EpochId([2; 8]), 50).unwrap();
    own(&mut ledger, 1, "docs", Some(3)).unwrap();
    for number in 3..20 {
        let epoch = EpochId([6; 8]);
        ledger.merge([forged(&ledger, 2, 1, Claim::Rotate { epoch, number })]);
        ledger.merge([forged(&ledger, 2, 1, nobody(number))]);
        assert_eq!(ledger.epoch(), Some(EpochId([2; 8])));
        assert_eq!(owner(&ledger, "docs"), Some(id(3)));
    }
    for last in 10..24 {
        ledger.rotate(&key(1), EpochId([last; 8]), 60).unwrap();
        own(&mut ledger, 1, "docs", Some(1 + 2 * (last % 2))).unwrap();
        assert_eq!(ledger.epoch(), Some(EpochId([last; 8])));
        assert_eq!(owner(&ledger, "docs"), Some(id(1 + 2 * (last % 2))));
    }
}

#[test]
fn a_certificate_for_later_takes_no_path_from_its_owner() {
    let mut ledger = cluster();
    own(&mut ledger, 1, "docs", Some(3)).unwrap();
    ledger.merge([forged(&ledger, 2, 1, admission(3, true, None, 2))]);
    assert_eq!(owner(&ledger, "docs"), Some(id(3)));
}

#[test]
fn an_owner_named_for_a_later_membership_is_none() {
    let mut ledger = cluster();
    let claim = Claim::Own {
        path: b"docs".to_vec(),
        node: Some(id(3)),
        term: 99,
        number: 1,
    };
    ledger.merge([forged(&ledger, 2, 1, claim)]);
    ledger.expel(&key(1), id(3), 50).unwrap();
    ledger.admit(&key(1), id(3), name(3), false, 60).unwrap();
    assert_eq!(owner(&ledger, "docs"), None);
}

#[test]
fn after_one_that_had_rotated_went_with_all_it_said_a_fresh_secret_is_the_clusters() {
    for rotations in 0..4 {
        let mut ledger = cluster();
        for number in 1..=rotations {
            let epoch = EpochId([6; 8]);
            ledger.merge([forged(&ledger, 2, 1, Claim::Rotate { epoch, number })]);
        }
        for last in 30..33 {
            ledger.rotate(&key(1), EpochId([last; 8]), 40).unwrap();
            own(&mut ledger, 1, "docs", Some(3)).unwrap();
        }
        ledger.expel_with_admitted(&key(1), id(2), 50).unwrap();
        for last in 40..50 {
            ledger.rotate(&key(1), EpochId([last; 8]), 60).unwrap();
            assert_eq!(ledger.epoch(), Some(EpochId([last; 8])), "{rotations}");
            let owner_now = if last % 2 == 0 { 1 } else { 3 };
            own(&mut ledger, 1, "docs", Some(owner_now)).unwrap();
            assert_eq!(owner(&ledger, "docs"), Some(id(owner_now)));
        }
    }
}
