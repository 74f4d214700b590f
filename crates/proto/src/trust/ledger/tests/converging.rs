//! Tests that ledgers agree whatever the order of arrival, also about a node that signed more
//! statements than a ledger stores.

use super::admitted::crowd;
use super::forged::{admission, expulsion};
use super::*;

/// Maximum number of exchanges after which two ledgers must agree.
const EXCHANGES_MAX: usize = 2;

/// Returns this many different farewells of node 3 that end its membership `term`. None of them
/// continues another.
fn farewells(ledger: &Ledger, term: u32, count: u64) -> Vec<SignedStatement> {
    let farewell = |at_s| {
        let statement = Statement {
            cluster: ledger.cluster(),
            by: id(3),
            by_term: 1,
            at_s,
            before: None,
            claim: expulsion(3, term),
        };
        statement.sign(&key(3))
    };
    (100..100 + count).map(farewell).collect()
}

/// Returns all orders of these statements.
fn orders(all: &[SignedStatement]) -> Vec<Vec<SignedStatement>> {
    let mut orders = vec![Vec::new()];
    for signed in all {
        let longer = orders.iter().flat_map(|order: &Vec<SignedStatement>| {
            (0..=order.len()).map(|place| {
                let mut longer = order.clone();
                longer.insert(place, signed.clone());
                longer
            })
        });
        orders = longer.collect();
    }
    orders
}

/// Exchanges all statements as two members do: only while the digests differ.
fn exchange(one: &mut Ledger, other: &mut Ledger) {
    for _ in 0..EXCHANGES_MAX {
        if one.digest() != other.digest() {
            one.merge(other.statements().cloned());
            other.merge(one.statements().cloned());
        }
    }
}

/// What a ledger says of its members and of node 3.
fn outcome(ledger: &Ledger) -> (Vec<u8>, bool, u32) {
    let over = ledger.evaluation.over_up_to(&id(3));
    (
        members(ledger),
        ledger.departed().has_resigned(&id(3)),
        over,
    )
}

#[test]
fn ledgers_agree_on_a_member_that_leaves_without_end_in_any_order() {
    let ledger = cluster();
    let all = farewells(&ledger, 1, 6);
    let mut first: Option<Ledger> = None;
    for order in orders(&all) {
        let mut heard = ledger.clone();
        for signed in order {
            heard.merge([signed]);
            assert_eq!(outcome(&heard), (vec![1, 2], true, 1));
        }
        let first = first.get_or_insert_with(|| heard.clone());
        assert_eq!(heard.digest(), first.digest());
        assert_eq!(outcome(&heard), outcome(first));
        assert_eq!(
            heard.statements.by(&id(3)).count(),
            FAREWELLS_PER_MEMBERSHIP_MAX
        );
        let anew = Ledger::of(heard.statements().cloned().collect()).unwrap();
        assert_eq!(anew.digest(), first.digest(), "after a restart");
    }
}

#[test]
fn ledgers_that_heard_any_farewells_agree_after_their_exchange() {
    let mut ledger = cluster();
    ledger.signer(&key(1), 40).expel(id(3)).unwrap();
    ledger
        .signer(&key(1), 50)
        .admit(id(3), name(3), false)
        .unwrap();
    let certificate = ledger.certificate(&id(3)).unwrap().id;
    let certificate = ledger.statements.get(&certificate).unwrap().clone();
    let mut all = farewells(&ledger, 1, 3);
    all.extend(farewells(&ledger, 2, 3));
    all.extend(farewells(&ledger, u32::MAX, 1));
    // One node knows of the second membership only by the exchange.
    let mut early = cluster();
    early.signer(&key(1), 40).expel(id(3)).unwrap();
    for heard_by_one in 0..1u32 << all.len() {
        for heard_by_other in [0, 1, 7, 127, !heard_by_one] {
            let part = |which: u32| {
                let some = all.iter().enumerate();
                let some = some.filter(move |(at, _)| which & (1 << at) != 0);
                some.map(|(_, signed)| signed.clone())
            };
            let (mut one, mut other) = (ledger.clone(), early.clone());
            one.merge(part(heard_by_one));
            other.merge(part(heard_by_other));
            exchange(&mut one, &mut other);
            let what = format!("{heard_by_one:b} {heard_by_other:b}");
            assert!(other.statements.contains(&certificate.id()), "{what}");
            assert_eq!(one.digest(), other.digest(), "{what}");
            assert_eq!(outcome(&one), outcome(&other), "{what}");
        }
    }
}

#[test]
fn a_member_that_leaves_without_end_is_named_and_one_that_leaves_once_is_not() {
    let ledger = cluster();
    let all = farewells(&ledger, 1, 3);
    let mut heard = ledger.clone();
    let two = heard.take_in(all[..2].iter().cloned());
    assert_eq!((two.over, two.new.len()), (None, 2));
    let third = heard.take_in([all[2].clone()]);
    assert_eq!((third.over, third.new.len()), (Some(id(3)), 0));
    // The sender of a farewell that node 3 did not sign is named instead of node 3.
    let mut forged = all[2].clone();
    forged.signature[0][0] ^= 1;
    let forged = heard.take_in([forged]);
    assert_eq!((forged.over, forged.is_forged), (None, true));
}

#[test]
fn different_single_farewells_make_ledgers_exchange_them() {
    let ledger = cluster();
    let both = farewells(&ledger, 1, 2);
    let (mut one, mut other) = (ledger.clone(), ledger);
    one.merge([both[0].clone()]);
    other.merge([both[1].clone()]);
    assert_ne!(one.digest(), other.digest());
    exchange(&mut one, &mut other);
    assert_eq!(one.digest(), other.digest());
    assert_eq!(one.statements, other.statements);
}

#[test]
fn farewells_of_a_member_that_becomes_an_administrator_are_exchanged() {
    let ledger = cluster();
    let all = farewells(&ledger, 1, 4);
    let (mut one, mut other) = (ledger.clone(), ledger.clone());
    one.merge(all[..2].iter().cloned());
    other.merge(all[2..].iter().cloned());
    assert_eq!(one.digest(), other.digest());
    // Which statements of an administrator stand depends on each of its farewells.
    let mut apart = ledger;
    let certificate = apart
        .signer(&key(1), 60)
        .state(admission(3, true, None, 2))
        .unwrap();
    one.merge([certificate]);
    exchange(&mut one, &mut other);
    assert_eq!(one.statements, other.statements);
    assert_eq!(one.statements.by(&id(3)).count(), all.len());
    assert!(one.is_admin(&id(3), 99));
}

fn rotation(ledger: &Ledger, by: u8, number: u64) -> SignedStatement {
    let statement = Statement {
        cluster: ledger.cluster(),
        by: id(by),
        by_term: 1,
        at_s: 0,
        before: None,
        claim: Claim::Rotate {
            epoch: EpochId(number.to_be_bytes()),
            number: 0,
        },
    };
    statement.sign(&key(by))
}

#[test]
fn ledgers_stop_their_exchange_about_an_administrator_at_its_limit() {
    let ledger = cluster();
    let most = STATEMENTS_PER_ADMIN_MAX as u64;
    let all: Vec<_> = (0..most + 10).map(|it| rotation(&ledger, 2, it)).collect();
    let (mut one, mut other) = (ledger.clone(), ledger.clone());
    one.merge(all.iter().cloned());
    other.merge(all.iter().rev().cloned());
    assert_ne!(one.statements, other.statements);
    exchange(&mut one, &mut other);
    assert_eq!(one.digest(), other.digest());
    assert_eq!(
        one.take_in(all[all.len() - 5..].iter().cloned()).over,
        Some(id(2))
    );
}

/// The nodes heard different statements of it, so their members differ for good. One statement
/// ends that.
#[test]
fn ledgers_that_differ_about_an_administrator_agree_after_it_is_expelled_with_its_members() {
    let ledger = cluster();
    let statement = Statement {
        cluster: ledger.cluster(),
        by: id(2),
        by_term: 1,
        at_s: 40,
        before: None,
        claim: expulsion(3, 1),
    };
    let mut all = vec![statement.sign(&key(2))];
    all.extend(crowd(&ledger, STATEMENTS_PER_ADMIN_MAX + 10));
    let everyone = |ledger: &Ledger| {
        let members = ledger.members().map(|it| it.node);
        members.collect::<Vec<_>>()
    };
    for at_first in [true, false] {
        let (mut one, mut other) = (ledger.clone(), ledger.clone());
        one.merge(all.iter().cloned());
        other.merge(all.iter().rev().cloned());
        exchange(&mut one, &mut other);
        assert_ne!(everyone(&one), everyone(&other));
        let expelling = if at_first { &mut one } else { &mut other };
        let founder = key(1);
        let mut signer = expelling.signer(&founder, 50);
        signer.expel_with_admitted(id(2)).unwrap();
        exchange(&mut one, &mut other);
        assert_eq!(one.digest(), other.digest());
        assert_eq!(everyone(&one), everyone(&other));
        // The expulsion that only the first one heard holds if that one expelled the administrator.
        let left = if at_first { vec![1] } else { vec![1, 3] };
        assert_eq!(members(&one), left);
    }
}

#[test]
fn ledgers_that_expelled_administrators_filled_in_another_order_agree() {
    let mut ledger = cluster();
    for bad in [2, 4] {
        if bad != 2 {
            ledger
                .signer(&key(1), 40)
                .admit(id(bad), name(bad), true)
                .unwrap();
        }
        ledger.signer(&key(1), 50).expel(id(bad)).unwrap();
    }
    let most = STATEMENTS_PER_ADMIN_MAX as u64;
    let parts = [2, 4].map(|by| {
        let all = (0..most).map(|number| rotation(&ledger, by, number));
        all.collect::<Vec<_>>()
    });
    let (mut one, mut other) = (ledger.clone(), ledger);
    one.merge(parts.concat());
    other.merge(parts.into_iter().rev().flatten());
    assert_eq!(one.statements.len(), STATEMENTS_OF_OTHERS_MAX);
    assert_ne!(one.statements, other.statements);
    exchange(&mut one, &mut other);
    assert_eq!(one.digest(), other.digest());
    // A statement that counts still makes them differ, and reaches the other one.
    one.signer(&key(3), 60).expel(id(3)).unwrap();
    assert_ne!(one.digest(), other.digest());
    exchange(&mut one, &mut other);
    assert_eq!(one.digest(), other.digest());
    assert_eq!((members(&one), members(&other)), (vec![1], vec![1]));
}
